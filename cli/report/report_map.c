/* SPDX-License-Identifier: GPL-3.0-or-later
 * report_map.c: the map of bits and pruning: a table a plan, a row a block, a column a linear, with radio buttons (no script) to choose. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/report/report_internal.h"

typedef struct map {
    const char       *plan;
    const bb_scored  *score; /* or NULL */
    int64_t           n_blocks;
    const bb_choice **cell; /* [n_blocks * BB_COL_COUNT], NULL where layers.csv says nothing */
    const bb_choice  *embd, *output;
} map;

/* ---- how many KV groups and channels a block has when nothing is cut ---- */

typedef struct full {
    int64_t  n_blocks;
    int64_t *count; /* [n_blocks * 2]: KV, FFN; 0 unknown */
} full;

static void note_full(full *f, const bb_choice *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int64_t count;
        if ((c[i].column != BB_COL_KV && c[i].column != BB_COL_FFN) || bb_parse_int(c[i].option, &count, NULL) != BB_OK) continue;
        int64_t *at = &f->count[c[i].block * 2 + (c[i].column == BB_COL_FFN)];
        if (count > *at) *at = count;
    }
}

static bb_status find_full(const bb_artefacts *a, full *f, bb_err *err)
{
    f->n_blocks = 0;
    for (size_t i = 0; i < a->n_layers; i++)
        if (a->layers[i].block >= f->n_blocks) f->n_blocks = a->layers[i].block + 1;
    for (size_t i = 0; i < a->n_sensitivity; i++)
        if (a->sensitivity[i].block >= f->n_blocks) f->n_blocks = a->sensitivity[i].block + 1;
    if (!(f->count = BB_NEW0((size_t)f->n_blocks * 2, int64_t, err))) return BB_NOMEM;
    note_full(f, a->layers, a->n_layers);
    note_full(f, a->sensitivity, a->n_sensitivity);
    return BB_OK;
}

/* ---- cells ---- */

/* b1 (about a bit) .. b8 (eight and more), by half powers of two in between; b0 for what is no format. */
static int shade(double bits)
{
    static const double limits[] = { 1.75, 2.3, 2.9, 3.7, 4.4, 5.2, 7.0 };
    int                 s = 1;
    if (isnan(bits)) return 0;
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) s += bits > limits[i];
    return s;
}

static void add_format_cell(bb_text *out, const bb_choice *c, bool dropped)
{
    if (dropped) {
        bb_text_add(out, "<td class=\"gone\">dropped</td>");
        return;
    }
    if (!c) {
        bb_text_add(out, "<td class=\"none\" title=\"as in the source model\">&#8211;</td>");
        return;
    }
    double bits = bb_option_bits(c->option);
    bb_text_addf(out, "<td class=\"b%d\" title=\"", shade(bits));
    bb_html_text(out, c->unit);
    bb_text_addf(out, ": %lld bytes", (long long)c->bytes);
    if (isfinite(c->value)) bb_text_addf(out, ", relative error %.3g", c->value);
    bb_text_add(out, "\">");
    bb_html_text(out, c->option);
    if (!isnan(bits)) bb_text_addf(out, "<small>%.4g</small>", bits);
    bb_text_add(out, "</td>");
}

/* "3 of 4" over a bar of that length. */
static void add_count_cell(bb_text *out, const bb_choice *c, int64_t whole)
{
    int64_t kept;
    if (!c || bb_parse_int(c->option, &kept, NULL) != BB_OK) {
        bb_text_add(out, "<td class=\"none\">&#8211;</td>");
        return;
    }
    double share = whole > 0 ? 100.0 * (double)kept / (double)whole : 100;
    if (kept < whole)
        bb_text_addf(out, "<td class=\"kept cut\"><span style=\"width:%.1f%%\"></span><b>%lld</b> of %lld</td>", fmin(fmax(share, 0), 100), (long long)kept,
                     (long long)whole);
    else bb_text_addf(out, "<td class=\"kept\">%lld</td>", (long long)kept);
}

static bool is_zero(const bb_choice *c) { return c && strcmp(c->option, "0") == 0; }

static void add_block(bb_text *out, const map *m, const full *f, int64_t block)
{
    const bb_choice *const *row = &m->cell[block * BB_COL_COUNT];
    bool                    no_attention = is_zero(row[BB_COL_KV]), no_ffn = is_zero(row[BB_COL_FFN]);
    bb_text_addf(out, "<tr><th scope=\"row\">%lld</th>", (long long)block);
    for (int c = BB_COL_Q; c <= BB_COL_O; c++) add_format_cell(out, row[c], no_attention);
    add_count_cell(out, row[BB_COL_KV], f->count[block * 2]);
    for (int c = BB_COL_GATE; c <= BB_COL_DOWN; c++) add_format_cell(out, row[c], no_ffn);
    add_count_cell(out, row[BB_COL_FFN], f->count[block * 2 + 1]);
    bb_text_add(out, "</tr>\n");
}

static void add_outer(bb_text *out, const char *name, const bb_choice *c)
{
    if (!c) return;
    bb_text_addf(out, "<table class=\"map outer\"><tr><th scope=\"row\">%s</th>", name);
    add_format_cell(out, c, false);
    bb_text_add(out, "</tr></table>\n");
}

static void add_map(bb_text *out, const map *m, const full *f)
{
    add_outer(out, "token_embd", m->embd);
    add_outer(out, "output", m->output);
    bb_text_add(out,
                "<div class=\"wide\"><table class=\"map\"><thead><tr><th scope=\"col\">block</th><th scope=\"col\">attn_q</th><th scope=\"col\">attn_k</th>"
                "<th scope=\"col\">attn_v</th><th scope=\"col\">attn_output</th><th scope=\"col\">KV groups</th><th scope=\"col\">ffn_gate</th>"
                "<th scope=\"col\">ffn_up</th><th scope=\"col\">ffn_down</th><th scope=\"col\">FFN width</th></tr></thead><tbody>\n");
    for (int64_t b = 0; b < m->n_blocks; b++) add_block(out, m, f, b);
    bb_text_add(out, "</tbody></table></div>\n");
}

/* ---- plans ---- */

static void fill(map *m, const bb_choice *c)
{
    if (c->column == BB_COL_EMBD) m->embd = c;
    else if (c->column == BB_COL_OUTPUT) m->output = c;
    else if (c->block >= 0) m->cell[c->block * BB_COL_COUNT + (int64_t)c->column] = c;
}

static const bb_scored *score_of(const bb_artefacts *a, const char *plan)
{
    for (size_t i = 0; i < a->n_front; i++)
        if (strcmp(a->front[i].name, plan) == 0) return &a->front[i];
    return NULL;
}

static void add_label(bb_text *out, const map *m, size_t i)
{
    char size[32];
    bb_text_addf(out, "<label for=\"p%zu\" class=\"l%zu\">", i, i);
    if (m->score) {
        bb_format_size(m->score->size_bytes > 0 ? (uint64_t)m->score->size_bytes : 0, size);
        bb_text_addf(out, "<b>%s</b> KL %.4g ", size, m->score->kl);
    }
    bb_text_add(out, "<code>");
    bb_html_text(out, m->plan);
    bb_text_add(out, "</code></label>\n");
}

typedef struct group {
    const char *plan;
    size_t      row;
} group;

static int by_plan(const void *a, const void *b)
{
    const group *x = a, *y = b;
    int          order = strcmp(x->plan, y->plan);
    return order ? order : (x->row > y->row) - (x->row < y->row);
}

static int by_score(const void *a, const void *b)
{
    const map *x = a, *y = b;
    if (!x->score != !y->score) return x->score ? -1 : 1;
    if (x->score && x->score != y->score) return x->score < y->score ? -1 : 1; /* the front is sorted by size */
    return strcmp(x->plan, y->plan);
}

/* One map a plan of layers.csv; *cells owns the cells of all. */
static bb_status make_maps(const bb_artefacts *a, map **maps, size_t *n, const bb_choice ***cells, bb_err *err)
{
    group    *g = BB_NEW(a->n_layers, group, err);
    int64_t   n_blocks = 0;
    size_t    n_plans = 0, each, total;
    bb_status status = g ? BB_OK : BB_NOMEM;
    if (!g) return status;
    for (size_t i = 0; i < a->n_layers; i++) {
        g[i] = (group) { a->layers[i].plan, i };
        if (a->layers[i].block >= n_blocks) n_blocks = a->layers[i].block + 1;
    }
    qsort(g, a->n_layers, sizeof *g, by_plan);
    for (size_t i = 0; i < a->n_layers; i++) n_plans += i == 0 || strcmp(g[i].plan, g[i - 1].plan) != 0;
    each = (size_t)n_blocks * BB_COL_COUNT;
    *maps = BB_NEW0(n_plans, map, err);
    *cells = bb_mul_size(each, n_plans, &total) ? bb_calloc(total, sizeof **cells, err) : NULL;
    if (!*maps || !*cells) {
        status = BB_FAIL(err, BB_NOMEM, "out of memory: %zu plans of %lld blocks", n_plans, (long long)n_blocks);
        goto done;
    }
    for (size_t i = 0; i < a->n_layers; i++) {
        if (i == 0 || strcmp(g[i].plan, g[i - 1].plan) != 0) {
            (*maps)[*n] = (map) { g[i].plan, score_of(a, g[i].plan), n_blocks, *cells + *n * each, NULL, NULL };
            ++*n;
        }
        fill(&(*maps)[*n - 1], &a->layers[g[i].row]);
    }
    qsort(*maps, *n, sizeof **maps, by_score);
done:
    bb_free(g);
    return status;
}

static void add_legend(bb_text *out)
{
    static const char *const names[] = { "&#8804; 1.75", "&#8804; 2.3", "&#8804; 2.9", "&#8804; 3.7", "&#8804; 4.4", "&#8804; 5.2", "&#8804; 7", "more" };
    bb_text_add(out, "<p class=\"legend\">bits per weight ");
    for (int i = 0; i < 8; i++) bb_text_addf(out, "<span class=\"b%d\">%s</span>", i + 1, names[i]);
    bb_text_add(out, "<span class=\"gone\">dropped</span></p>\n");
}

bb_status bb_map_html(bb_text *out, const bb_artefacts *a, bb_err *err)
{
    bb_status         status = BB_OK;
    map              *maps = NULL;
    const bb_choice **cells = NULL;
    full              f = { 0, NULL };
    size_t            n = 0, chosen = 0;
    const char       *plan = bb_chosen_plan(a);
    if (a->n_layers == 0) return BB_OK;
    BB_TRY(find_full(a, &f, err));
    BB_TRY(make_maps(a, &maps, &n, &cells, err));
    for (size_t i = 0; plan && i < n; i++)
        if (strcmp(maps[i].plan, plan) == 0) chosen = i;
    bb_section_begin(out, "map", "Layers", "Bits and pruning by layer");
    bb_text_add(out, "<div class=\"maps\">\n<style>");
    for (size_t i = 0; i < n; i++)
        bb_text_addf(out, "#p%zu:checked~#m%zu{display:block}#p%zu:checked~.chips .l%zu{background:var(--accent);color:var(--on-accent)}\n", i, i, i, i);
    bb_text_add(out, "</style>\n");
    for (size_t i = 0; i < n; i++) bb_text_addf(out, "<input type=\"radio\" name=\"plan\" id=\"p%zu\"%s/>\n", i, i == chosen ? " checked=\"checked\"" : "");
    bb_text_add(out, "<div class=\"chips\">\n");
    for (size_t i = 0; i < n; i++) add_label(out, &maps[i], i);
    bb_text_add(out, "</div>\n");
    add_legend(out);
    for (size_t i = 0; i < n; i++) {
        bb_text_addf(out, "<div class=\"one\" id=\"m%zu\">\n", i);
        add_map(out, &maps[i], &f);
        bb_text_add(out, "</div>\n");
    }
    bb_text_add(out, "</div></section>\n");
done:
    bb_free(maps);
    bb_free(cells);
    bb_free(f.count);
    return status;
}
