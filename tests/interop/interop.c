/* SPDX-License-Identifier: GPL-3.0-or-later
 * interop.c: do the files that we write mean to llama.cpp what they mean to us? See run.sh, which runs the parts in order.
 *
 *   interop make DIR DATA     writes for each case DIR/NAME.gguf, .txt (a text), .tokens (its ids by our tokenizer, u32),
 *                             .ours (our logits at each position, f32, n x V); prints the names
 *   interop files DIR TEXT MODEL.gguf...  the same for files that are there already, as a run exported them
 *   interop compare DIR NAME  reads .tokens, .ours, .theirs (llama.cpp's logits), .theirs_tokens; prints one line; exits with 1
 *                             when they disagree
 *
 * Cases: wiki8m of DATA in every format that has an encoder; the same pruned in all the ways that the exporter knows; random tiny
 * models of every architecture in F32, where nothing but rounding may differ. Pruning keeps the first heads and channels: what is
 * tested is the file, not the choice. llama.cpp multiplies quantized weights with activations rounded to 8 bits, hence the bounds.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/plan.h"
#include "base/text.h"
#include "kernels/blas.h"
#include "model/compress/database.h"
#include "model/export/export.h"
#include "model/io/tokenizer.h"
#include "model/net/forward.h"
#include "tests/support/tiny_model.h"

enum { TEXT_BYTES = 1200, MAX_TOKENS = 200, MAX_OWNED = 4096 };

static bb_err err = BB_ERR_INIT;

static void must_at(bool ok, int line)
{
    if (ok) return;
    fprintf(stderr, "interop.c:%d: %s\n", line, err.msg);
    exit(2);
}
#define must(x) must_at((x), __LINE__)

static const char *in_dir(const char *dir, const char *name, const char *suffix)
{
    static char path[8][512];
    static int  at;
    char       *p = path[at++ % 8];
    snprintf(p, sizeof path[0], "%s/%s%s", dir, name, suffix);
    return p;
}

/* ---- make ---- */

typedef struct copy {
    bb_model source;
    bb_net   net;
    bb_block blocks[64];
    void    *owned[MAX_OWNED];
    size_t   n_owned;
} copy;

/* The first rows and columns of `from`, encoded in the type of `to`. */
static void fill(copy *c, const bb_matrix *from, bb_matrix *to)
{
    const bb_format *f = bb_format_get(from->type), *g = bb_format_get(to->type);
    size_t           from_row, to_row;
    float           *w; /* (rows, cols) of from */
    char            *data;
    if (!to->rows) return;
    must(f && g && g->encode);
    from_row = bb_format_row_bytes(f, from->cols);
    to_row = bb_format_row_bytes(g, to->cols);
    w = BB_NEW((size_t)to->rows * from->cols, float, &err);
    data = bb_alloc(to->rows, to_row, &err);
    must(w && data && c->n_owned < MAX_OWNED);
#pragma omp parallel for schedule(dynamic, 8)
    for (uint32_t r = 0; r < to->rows; r++) {
        f->decode((const char *)from->data + r * from_row, w + (size_t)r * from->cols, from->cols);
        g->encode(w + (size_t)r * from->cols, NULL, data + r * to_row, to->cols);
    }
    bb_free(w);
    to->data = c->owned[c->n_owned++] = data;
}

static void apply(copy *c, const char *plan_text)
{
    bb_plan plan = { 0, NULL };
    must(bb_plan_parse(plan_text, strlen(plan_text), &plan, &err) == BB_OK);
    must(c->source.net.n_layer <= 64 && bb_plan_shape(&c->source, &plan, &c->net, c->blocks, &err) == BB_OK);
    fill(c, &c->source.net.embd, &c->net.embd);
    if (c->net.head.rows) fill(c, &c->source.net.head, &c->net.head);
    for (uint32_t i = 0; i < c->net.n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) fill(c, &c->source.net.blocks[i].w[p], &c->blocks[i].w[p]);
    bb_plan_done(&plan);
}

static void done(copy *c)
{
    for (size_t i = 0; i < c->n_owned; i++) bb_free(c->owned[i]);
    bb_model_close(&c->source);
    bb_free(c);
}

static void write_logits(const bb_net *net, const int32_t *ids, uint32_t n, const char *path)
{
    float      *h = BB_NEW((size_t)n * net->n_embd, float, &err), *z = BB_NEW((size_t)n * net->n_vocab, float, &err);
    bb_forward *f = NULL;
    must(h && z && bb_forward_create(&bb_backend_cpu, net, 1, n, &f, &err) == BB_OK);
    must(bb_forward_embed(f, net, ids, 1, n, bb_on_cpu(h), &err) == BB_OK);
    for (uint32_t i = 0; i < net->n_layer; i++) must(bb_forward_block(f, net, &net->blocks[i], 1, n, bb_on_cpu(h), NULL, NULL, &err) == BB_OK);
    must(bb_forward_logits(f, net, bb_on_cpu(h), n, z, &err) == BB_OK);
    must(bb_file_write(path, z, (size_t)n * net->n_vocab * sizeof *z, &err) == BB_OK);
    bb_forward_destroy(f);
    bb_free(h);
    bb_free(z);
}

/* Is name one of the words of $INTEROP_CASES? All are when it is empty. */
static bool wanted(const char *name)
{
    const char *list = getenv("INTEROP_CASES");
    char        padded[4096], word[128];
    if (!list || !*list) return true;
    snprintf(padded, sizeof padded, " %s ", list);
    snprintf(word, sizeof word, " %s ", name);
    return strstr(padded, word) != NULL;
}

/* The rest of a case whose .gguf is written: the text, its ids by our tokenizer, our logits of net. */
static void write_case(const char *dir, const char *name, const bb_source *vocabulary, const bb_net *net, const char *text)
{
    bb_tokenizer *t;
    int32_t      *ids;
    size_t        n;
    must(bb_tokenizer_create(vocabulary, &t, &err) == BB_OK);
    must(bb_tokenize(t, text, strlen(text), true, false, &ids, &n, &err) == BB_OK);
    if (n > MAX_TOKENS) n = MAX_TOKENS;
    must(bb_file_write(in_dir(dir, name, ".txt"), text, strlen(text), &err) == BB_OK);
    must(bb_file_write(in_dir(dir, name, ".tokens"), ids, n * sizeof *ids, &err) == BB_OK);
    write_logits(net, ids, (uint32_t)n, in_dir(dir, name, ".ours"));
    bb_free(ids);
    bb_tokenizer_destroy(t);
    puts(name);
}

/* plan applied to the model at path, exported; our logits are those of the net that was sent (not of the file). */
static void make_case(const char *dir, const char *name, const char *model, const char *plan, const char *text)
{
    copy *c = BB_NEW0(1, copy, &err);
    if (!wanted(name)) {
        bb_free(c);
        return;
    }
    must(c && bb_model_open(model, &c->source, &err) == BB_OK);
    apply(c, plan);
    must(bb_export_write(&c->source, &c->net, NULL, in_dir(dir, name, ".gguf"), &err) == BB_OK);
    write_case(dir, name, &c->source.source, &c->net, text);
    done(c);
}

/* A file that is there already, as a run exported it; our logits are those of the file. */
static void make_file(const char *dir, const char *path, const char *text)
{
    bb_model    m;
    bb_map      map;
    char        name[128];
    const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(base, "."), base);
    must(bb_model_open(path, &m, &err) == BB_OK);
    must(bb_map_open(path, &map, &err) == BB_OK);
    must(bb_file_write(in_dir(dir, name, ".gguf"), map.data, map.size, &err) == BB_OK);
    bb_map_close(&map);
    write_case(dir, name, &m.source, &m.net, text);
    bb_model_close(&m);
}

/* One format for all linears; the embedding, where llama.cpp and its users want more, in Q8_0. */
static void make_uniform(const char *dir, const char *model, const bb_format *f, const char *text)
{
    bb_text plan = { .data = NULL };
    char    name[64];
    bb_text_add(&plan, "token_embd=Q8_0\n");
    for (int i = 0; i < 8; i++)
        for (int p = 0; p <= BB_PART_DOWN; p++) bb_text_addf(&plan, "blk.%d.%s=%s\n", i, bb_parts[p].name, f->name);
    must(plan.status == BB_OK);
    snprintf(name, sizeof name, "wiki8m-%s", f->name);
    make_case(dir, name, model, plan.data, text);
    bb_text_done(&plan);
}

static void make_wiki8m(const char *dir, const char *data)
{
    static const struct {
        const char *name, *plan;
    } pruned[] = {
        { "wiki8m-same", "" },
        { "wiki8m-dropped-block", "blk.3.kv=0\nblk.3.ffn=0\n" },
        { "wiki8m-uniform-ffn", "blk.0.ffn=512\nblk.1.ffn=512\nblk.2.ffn=512\nblk.3.ffn=512\nblk.4.ffn=512\nblk.5.ffn=512\nblk.6.ffn=512\n"
                                "blk.7.ffn=512\n" },
        { "wiki8m-uniform-kv", "blk.0.kv=2\nblk.1.kv=2\nblk.2.kv=2\nblk.3.kv=2\nblk.4.kv=2\nblk.5.kv=2\nblk.6.kv=2\nblk.7.kv=2\n" },
        { "wiki8m-deci", "blk.1.kv=3\nblk.2.ffn=512\nblk.5.kv=1\nblk.6.ffn=100\n" },
        { "wiki8m-deci-no-first-attention", "blk.0.kv=0\n" },
        { "wiki8m-deci-no-middle-attention", "blk.4.kv=0\n" },
        { "wiki8m-deci-no-last-attention", "blk.7.kv=0\n" },
        { "wiki8m-deci-no-middle-ffn", "blk.4.ffn=0\n" },
        { "wiki8m-deci-no-last-ffn", "blk.7.ffn=0\n" },
        { "wiki8m-deci-no-first-block-and-more", "blk.0.ffn=0\nblk.0.kv=0\nblk.1.kv=0\nblk.7.ffn=0\nblk.5.kv=2\n" },
        { "wiki8m-deci-mixed", "blk.0.ffn=0\nblk.1.kv=2\nblk.2.ffn=512\nblk.3.kv=0\nblk.1.attn_q=Q4_K\nblk.1.attn_output=Q2_0\n"
                               "blk.2.ffn_down=Q3_K\nblk.2.ffn_up=TQ2_0\nblk.3.ffn_gate=Q1_0\nblk.5.ffn_down=Q6_K\ntoken_embd=Q6_K\n" },
    };
    char   model[512], *text;
    size_t n;
    snprintf(model, sizeof model, "%s/models/wiki8m/wiki8m-f16.gguf", data);
    if (!bb_file_exists(model)) return;
    must(bb_file_read(in_dir(data, "corpora/wikitext-2-raw/wiki.test.raw", ""), &text, &n, &err) == BB_OK && n > TEXT_BYTES);
    text[TEXT_BYTES] = '\0';
    for (size_t i = 0; i < sizeof pruned / sizeof *pruned; i++) make_case(dir, pruned[i].name, model, pruned[i].plan, text);
    for (size_t i = 0; bb_format_at(i); i++)
        if (bb_format_at(i)->encode && !bb_format_at(i)->experimental) make_uniform(dir, model, bb_format_at(i), text);
    bb_free(text);
}

static void make_tiny(const char *dir)
{
    static const struct {
        const char *name, *arch, *plan;
        bool        tied;
    } rows[] = {
        { "tiny-llama-separate", "llama", "", false },
        { "tiny-llama-bias-deci", "llama", "blk.1.kv=1\nblk.2.ffn=0\n", true },
        { "tiny-llama-rope-factors", "llama", "blk.1.kv=1\n", false },
        { "tiny-llama-rope-linear", "llama", "", true },
        { "tiny-qwen2", "qwen2", "blk.0.ffn=64\nblk.1.ffn=64\nblk.2.ffn=64\n", false },
        { "tiny-qwen2-deci", "qwen2", "blk.0.kv=1\nblk.1.ffn=0\nblk.2.kv=0\n", true },
        { "tiny-qwen3", "qwen3", "blk.0.kv=1\nblk.1.kv=1\nblk.2.kv=1\n", false },
        { "tiny-qwen3-openelm", "qwen3", "blk.0.kv=1\nblk.1.ffn=0\nblk.2.kv=0\n", true },
        { "tiny-deci", "deci", "", false },
        { "tiny-smollm3", "smollm3", "blk.0.kv=1\nblk.1.kv=1\nblk.2.kv=1\nblk.3.kv=1\nblk.4.kv=1\n", false },
        { "tiny-granite", "granite", "blk.0.kv=1\nblk.1.kv=1\nblk.2.kv=1\n", true },
        { "tiny-granite-bias", "granite", "", false },
        { "tiny-phi3-long", "phi3", "blk.0.ffn=64\nblk.1.ffn=64\nblk.2.ffn=64\n", false },
        { "tiny-phi3-short", "phi3", "", true },
        { "tiny-phi3-partial", "phi3", "", true },
        { "tiny-phi3-types-deci", "phi3", "blk.0.ffn_gate=F16\nblk.1.attn_k=F16\n", false },
        { "tiny-phi3-long-deci", "phi3", "blk.1.kv=1\nblk.2.ffn=0\n", true },
        { "tiny-mistral3", "mistral3", "blk.0.kv=1\nblk.1.kv=1\nblk.2.kv=1\n", false },
        { "tiny-mistral3-bias", "mistral3", "", true },
        { "tiny-olmo2", "olmo2", "blk.0.ffn=64\nblk.1.ffn=64\nblk.2.ffn=64\n", false },
        { "tiny-olmo2-bias", "olmo2", "blk.1.kv=0\nblk.1.ffn=0\n", false },
        { "tiny-llama-yarn", "llama", "", true },
        { "tiny-qwen2-yarn-deci", "qwen2", "blk.0.kv=1\nblk.1.ffn=0\n", true },
        { "tiny-qwen3-yarn-openelm", "qwen3", "blk.0.kv=1\nblk.1.ffn=0\n", true },
        { "tiny-gemma3", "gemma3", "blk.0.kv=1\nblk.1.kv=1\nblk.2.kv=1\nblk.3.kv=1\n", true },
        { "tiny-gemma3-capped", "gemma3", "", false },
        { "tiny-gemma4", "gemma4", "", true },
        { "tiny-gemma4-pruned", "gemma4", "blk.0.kv=1\nblk.1.ffn=0\nblk.2.kv=0\nblk.3.ffn=64\n", false },
        { "tiny-gemma4-dropped", "gemma4", "blk.0.kv=0\nblk.0.ffn=0\nblk.3.kv=0\nblk.3.ffn=0\n", true },
        { "tiny-gemma3-short", "gemma3", "blk.1.kv=0\nblk.1.ffn=0\n", false }, /* the others keep their windows: each third has none */
    };
    static const char text[] = "the quick brown fox jumps over a lazy dog and once more abcdefghijklmnopqrstuvwxyz zyxwvutsrqponmlkjihgfedcba";
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tiny_spec s = tiny_default(rows[i].arch);
        char      path[512];
        snprintf(path, sizeof path, "%s/%s.source", dir, rows[i].name);
        if (s.n_layer < 3) s.n_layer = 3;
        s.n_embd = 128;
        s.head_dim = 32;
        for (uint32_t k = 0; k < s.n_layer; k++) s.n_ff[k] = 96;
        s.tied = rows[i].tied;
        s.qkv_bias |= strstr(rows[i].name, "bias") != NULL;
        s.rope_factors |= strstr(rows[i].name, "factors") != NULL;
        if (strstr(rows[i].name, "linear")) s.rope_scaling = 2;
        if (strstr(rows[i].name, "yarn")) {
            s.rope_scaling = 4;
            s.rope_type = "yarn";
            s.rope_context = 32;
        }
        if (strstr(rows[i].name, "phi3")) s.rope_context = strstr(rows[i].name, "long") ? 16 : 1000; /* contexts of llama.cpp are whole 256 */
        if (strstr(rows[i].name, "partial")) s.n_rot = 16;
        if (strstr(rows[i].name, "capped")) s.logit_cap = 3;
        if (s.local_head_dim) s.local_head_dim = 16;
        if (strstr(rows[i].name, "mistral3")) s.rope_context = 8;
        if (strcmp(rows[i].name, "tiny-deci") == 0) s.n_head[1] = s.n_kv[1] = 0;
        tiny_write(&s, path);
        make_case(dir, rows[i].name, path, rows[i].plan, text);
        remove(path);
    }
}

/* ---- compare ---- */

static void *read_array(const char *path, size_t item, size_t *n)
{
    char  *data;
    size_t size;
    must(bb_file_read(path, &data, &size, &err) == BB_OK && size % item == 0);
    *n = size / item;
    return data;
}

static double log_sum(const float *z, size_t n)
{
    double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) top = fmax(top, (double)z[i]);
    for (size_t i = 0; i < n; i++) sum += exp((double)z[i] - top);
    return top + log(sum);
}

/* Do both tokenizers agree? llama.cpp's ids may come without BOS. */
static bool same_tokens(const int32_t *a, size_t n_a, const int32_t *b, size_t n_b)
{
    if (n_b && n_a && a[0] != b[0]) a++, n_a--;
    if (n_b < n_a) return false;
    return memcmp(a, b, n_a * sizeof *a) == 0;
}

static int compare(const char *dir, const char *name)
{
    size_t   n, n_theirs, n_a, n_b;
    int32_t *ids = read_array(in_dir(dir, name, ".tokens"), 4, &n), *their_ids = read_array(in_dir(dir, name, ".theirs_tokens"), 4, &n_theirs);
    float   *a = read_array(in_dir(dir, name, ".ours"), 4, &n_a), *b = read_array(in_dir(dir, name, ".theirs"), 4, &n_b);
    double   nll_a = 0, nll_b = 0, worst = 0, worst_p = 0, kl = 0, ratio;
    size_t   v = n ? n_a / n : 0, top_same = 0;
    bool     exact = strncmp(name, "tiny-", 5) == 0, good;
    must(n > 1 && n_a == n_b && v * n == n_a);
    for (size_t i = 0; i < n; i++) {
        const float *x = a + i * v, *y = b + i * v;
        double       sa = log_sum(x, v), sb = log_sum(y, v);
        size_t       top_a = 0, top_b = 0;
        for (size_t j = 0; j < v; j++) {
            double la = (double)x[j] - sa, lb = (double)y[j] - sb, d = fabs(exp(la) - exp(lb));
            worst = fmax(worst, fabs((double)x[j] - (double)y[j]));
            worst_p = fmax(worst_p, isnan(d) ? (double)INFINITY : d);
            kl += exp(la) * (la - lb);
            if (x[j] > x[top_a]) top_a = j;
            if (y[j] > y[top_b]) top_b = j;
        }
        top_same += top_a == top_b;
        if (i + 1 == n) continue;
        nll_a += sa - (double)x[ids[i + 1]];
        nll_b += sb - (double)y[ids[i + 1]];
    }
    ratio = exp((nll_b - nll_a) / (double)(n - 1)) - 1;
    good = same_tokens(ids, n, their_ids, n_theirs) && (exact ? worst_p < 1e-4 && fabs(ratio) < 1e-3 : worst_p < 1e-2 || fabs(ratio) < 5e-3);
    printf("%-38s %s  ppl ours %10.4f  theirs %10.4f  %+8.4f%%  max |dp| %.1e  max |dlogit| %.1e  KL %.1e  same top %zu/%zu%s\n", name, good ? "ok  " : "FAIL",
           exp(nll_a / (double)(n - 1)), exp(nll_b / (double)(n - 1)), 100 * ratio, worst_p, worst, kl / (double)n, top_same, n,
           same_tokens(ids, n, their_ids, n_theirs) ? "" : "  TOKENS DIFFER");
    bb_free(ids);
    bb_free(their_ids);
    bb_free(a);
    bb_free(b);
    return good ? 0 : 1;
}

int main(int argc, char **argv)
{
    bb_blas_init();
    if (argc == 4 && strcmp(argv[1], "make") == 0) {
        make_tiny(argv[2]);
        make_wiki8m(argv[2], argv[3]);
        return 0;
    }
    if (argc > 4 && strcmp(argv[1], "files") == 0) {
        char  *text;
        size_t n;
        must(bb_file_read(argv[3], &text, &n, &err) == BB_OK);
        if (n > TEXT_BYTES) text[TEXT_BYTES] = '\0';
        for (int i = 4; i < argc; i++) make_file(argv[2], argv[i], text);
        bb_free(text);
        return 0;
    }
    if (argc == 4 && strcmp(argv[1], "compare") == 0) return compare(argv[2], argv[3]);
    fputs("usage: interop make DIR DATA | interop files DIR TEXT MODEL.gguf... | interop compare DIR NAME\n", stderr);
    return 2;
}
