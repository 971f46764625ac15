/* SPDX-License-Identifier: GPL-3.0-or-later
 * detail.c: scores by place and by document. See detail.h.
 *
 * Documents are found in the text that the tokens stand for, so token files have them too, and the tokens stay those of the whole text. A token that holds the end of one
 * document and the beginning of the next belongs to the first.
 */
#include "eval/detail.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/text.h"

/* ---- by place ---- */

static bb_place_span span_of(const bb_scores *s, const bb_windows *w, uint32_t from, uint32_t to)
{
    bb_place_span p = { .first = w->first + from, .last = w->first + to - 1, .n_tokens = (uint64_t)s->n_windows * (to - from) };
    double        n = (double)p.n_tokens, nll = 0, ref = 0, kl = 0, same = 0, squares = 0;
    for (size_t i = 0; i < s->n_windows; i++)
        for (size_t k = i * s->n_scored + from; k < i * s->n_scored + to; k++) {
            nll += s->nll[k];
            if (!s->kl) continue;
            ref += s->nll_ref[k];
            kl += s->kl[k];
            same += s->same[k];
        }
    p.nll = nll / n;
    p.ppl = exp(p.nll);
    p.ppl_ref = p.kl = p.kl_se = p.top1 = (double)NAN;
    if (!s->kl) return p;
    p.ppl_ref = exp(ref / n);
    p.kl = kl / n;
    p.top1 = same / n;
    for (size_t i = 0; i < s->n_windows; i++)
        for (size_t k = i * s->n_scored + from; k < i * s->n_scored + to; k++) squares += (s->kl[k] - p.kl) * (s->kl[k] - p.kl);
    p.kl_se = n > 1 ? sqrt(squares / n / (n - 1)) : 0;
    return p;
}

uint32_t bb_scores_by_place(const bb_scores *s, const bb_windows *w, bb_place_span out[BB_PLACE_SPANS])
{
    uint32_t n = s->n_scored < BB_PLACE_SPANS ? s->n_scored : BB_PLACE_SPANS;
    BB_ASSERT(s->n_scored == w->n_scored && s->n_windows <= w->n);
    for (uint32_t i = 0; i < n; i++) out[i] = span_of(s, w, (uint32_t)((uint64_t)i * s->n_scored / n), (uint32_t)((uint64_t)(i + 1) * s->n_scored / n));
    return n;
}

/* ---- documents ---- */

typedef struct line {
    const char *at; /* without its newline */
    size_t      n;
    bool        behind_empty; /* the line before it is empty, and it is not */
} line;

static bool begins(const line *l, const char *with)
{
    size_t n = strlen(with);
    return l->n >= n && memcmp(l->at, with, n) == 0;
}

/* " = Title = ": one sign on each side. */
static bool is_title(const line *l, const char *mark)
{
    const char *p = l->at, *end = l->at + l->n;
    (void)mark;
    while (p < end && *p == ' ') p++;
    while (end > p && (end[-1] == ' ' || end[-1] == '\r')) end--;
    return end - p >= 5 && p[0] == '=' && p[1] == ' ' && p[2] != '=' && end[-1] == '=' && end[-2] == ' ' && end[-3] != '=';
}

static bool is_separator(const line *l, const char *mark)
{
    (void)mark;
    return begins(l, "<|endoftext|>") || begins(l, "<|im_start|>system");
}

static bool is_behind_empty(const line *l, const char *mark)
{
    (void)mark;
    return l->behind_empty;
}

static bool has_mark(const line *l, const char *mark) { return begins(l, mark); }

static const struct rule {
    const char *name;
    bool (*begins_document)(const line *l, const char *mark);
} rules[] = {
    { "title lines", is_title },
    { "separators", is_separator },
    { "empty lines", is_behind_empty },
};
static const struct rule marked = { "marked lines", has_mark };

static bool is_empty(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != ' ' && p[i] != '\r' && p[i] != '\t') return false;
    return true;
}

/* starts[i] := text byte i begins a document. Returns how many documents the text has then. */
static uint32_t mark_starts(const struct rule *rule, const char *text, size_t size, const char *mark, unsigned char *starts)
{
    uint32_t documents = 0;
    bool     empty = false, any = false; /* the line before; whether anything but empty lines was there */
    memset(starts, 0, size);
    for (size_t at = 0, n; at < size; at += n + 1) {
        const char *end = memchr(text + at, '\n', size - at);
        n = end ? (size_t)(end - text) - at : size - at;
        line l = { text + at, n, false };
        bool nothing = is_empty(l.at, n);
        l.behind_empty = empty && !nothing;
        if (any && rule->begins_document(&l, mark)) {
            starts[at] = 1;
            documents++;
        }
        any |= !nothing;
        empty = nothing;
    }
    return documents + 1;
}

/* The text of all tokens and where each one's begins: at[n + 1]. A token's text is what it adds behind the one before it: alone, some lose a space. */
static bb_status text_of(const bb_tokenizer *k, const int32_t *ids, size_t n, bb_text *text, size_t *at, bb_err *err)
{
    for (size_t i = 0; i < n; i++) {
        char     *pair, *before = NULL;
        size_t    size, less = 0;
        bb_status status = bb_detokenize(k, ids + (i ? i - 1 : 0), i ? 2 : 1, &pair, &size, err);
        if (status == BB_OK && i) status = bb_detokenize(k, ids + i - 1, 1, &before, &less, err);
        at[i] = text->size;
        if (status == BB_OK && size > less) bb_text_addn(text, pair + less, size - less);
        bb_free(pair);
        bb_free(before);
        if (status != BB_OK) return status;
    }
    at[n] = text->size;
    return text->status == BB_OK ? BB_OK : BB_FAIL(err, BB_NOMEM, "out of memory while the text of %zu tokens was put together", n);
}

static bb_status find(const bb_model *m, const bb_tokens *t, const char *mark, bb_documents *d, bb_err *err)
{
    bb_status      status = BB_OK;
    bb_tokenizer  *k = NULL;
    bb_text        text = { 0 };
    size_t        *at = bb_alloc(d->n + 1, sizeof *at, err), byte = 0;
    unsigned char *starts = NULL;
    uint32_t       now = 0;
    if (!at) return BB_NOMEM;
    BB_TRY(bb_tokenizer_create(&m->source, &k, err));
    BB_TRY(text_of(k, t->ids, d->n, &text, at, err));
    if (!(starts = bb_alloc(text.size + 1, 1, err))) {
        status = BB_NOMEM;
        goto done;
    }
    for (size_t i = 0; i < (mark ? 1 : sizeof rules / sizeof *rules); i++) {
        const struct rule *r = mark ? &marked : &rules[i];
        d->count = mark_starts(r, text.data ? text.data : "", text.size, mark, starts);
        if (d->count < 2) continue;
        d->rule = r->name;
        break;
    }
    for (size_t i = 0; i < d->n; i++) { /* a start inside a token counts from the next token on */
        for (; byte <= at[i] && byte < text.size; byte++) now += starts[byte];
        d->of[i] = now;
    }
done:
    bb_tokenizer_destroy(k);
    bb_text_done(&text);
    bb_free(at);
    bb_free(starts);
    return status;
}

bb_status bb_documents_find(const bb_model *m, const bb_tokens *t, size_t n, const char *mark, bb_documents *out, bb_err *err)
{
    bb_status status = BB_OK;
    *out = (bb_documents) { .n = n, .count = 1, .rule = "none" };
    BB_ASSERT(n <= t->n);
    if (!(out->of = bb_calloc(n, sizeof *out->of, err))) return BB_NOMEM;
    if (n && bb_source_find(&m->source, "tokenizer.ggml.tokens")) status = find(m, t, mark, out, err);
    if (status != BB_OK) bb_documents_done(out);
    return status;
}

void bb_documents_done(bb_documents *d)
{
    bb_free(d->of);
    *d = (bb_documents) { 0 };
}

bool bb_documents_blocks(const bb_documents *d, const bb_tokens *t, const bb_windows *w, bool spread, uint32_t *blocks)
{
    size_t n = (size_t)w->n * w->n_scored;
    for (uint32_t i = 0; i < w->n; i++) {
        size_t from = bb_window_at(t, w, spread, i) + w->first + 1;
        BB_ASSERT(from + w->n_scored <= d->n);
        for (uint32_t k = 0; k < w->n_scored; k++) blocks[(size_t)i * w->n_scored + k] = d->of[from + k];
    }
    if (n && blocks[0] != blocks[n - 1]) return true;
    for (size_t i = 0; i < n; i++) blocks[i] = (uint32_t)(i / w->n_scored);
    return false;
}

/* ---- block bootstrap ---- */

typedef struct sums {
    double n, nll, kl, ratio;
} sums;

static void add_token(sums *to, const bb_scores *s, size_t i)
{
    to->n++;
    to->nll += s->nll[i];
    if (!s->kl) return;
    to->kl += s->kl[i];
    to->ratio += s->nll[i] - s->nll_ref[i];
}

static uint32_t block_sums(const bb_scores *s, const uint32_t *blocks, sums *out)
{
    size_t   n = (size_t)s->n_windows * s->n_scored;
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || blocks[i] != blocks[i - 1]) out[count++] = (sums) { 0 };
        add_token(&out[count - 1], s, i);
    }
    return count;
}

static double deviation(const double *x, size_t n)
{
    double mean = 0, squares = 0;
    for (size_t i = 0; i < n; i++) mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    return sqrt(squares / (double)(n - 1));
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of sorted values, linear between the order statistics at q (n - 1). */
static double quantile(const double *sorted, size_t n, double q)
{
    double place = q * (double)(n - 1);
    size_t k = (size_t)place;
    return k + 1 < n ? sorted[k] + (place - (double)k) * (sorted[k + 1] - sorted[k]) : sorted[n - 1];
}

bb_status bb_scores_bootstrap(const bb_scores *s, const uint32_t *blocks, uint64_t seed, bb_bootstrap *out, bb_err *err)
{
    enum { B = BB_BOOTSTRAP_SAMPLES };
    bb_status status = BB_OK;
    bb_rng    rng;
    sums     *of = bb_alloc((size_t)s->n_windows * s->n_scored, sizeof *of, err);
    double   *nll = bb_alloc(B, sizeof *nll, err), *kl = bb_alloc(B, sizeof *kl, err), *ratio = bb_alloc(B, sizeof *ratio, err);
    *out = (bb_bootstrap) { .nll_se = (double)NAN, .kl_se = (double)NAN, .kl_low = (double)NAN, .kl_high = (double)NAN, .ln_ratio_se = (double)NAN };
    if (!of || !nll || !kl || !ratio) {
        status = BB_NOMEM;
        goto done;
    }
    out->n_blocks = block_sums(s, blocks, of);
    if (out->n_blocks < 2) goto done;
    bb_rng_init(&rng, seed, "bootstrap");
    for (size_t b = 0; b < B; b++) {
        sums sample = { 0 };
        for (uint32_t i = 0; i < out->n_blocks; i++) {
            const sums *drawn = &of[bb_rng_below(&rng, out->n_blocks)];
            sample.n += drawn->n;
            sample.nll += drawn->nll;
            sample.kl += drawn->kl;
            sample.ratio += drawn->ratio;
        }
        nll[b] = sample.nll / sample.n;
        kl[b] = sample.kl / sample.n;
        ratio[b] = sample.ratio / sample.n;
    }
    out->nll_se = deviation(nll, B);
    if (s->kl) {
        out->kl_se = deviation(kl, B);
        out->ln_ratio_se = deviation(ratio, B);
        qsort(kl, B, sizeof *kl, ascending);
        out->kl_low = quantile(kl, B, 0.025);
        out->kl_high = quantile(kl, B, 0.975);
    }
done:
    bb_free(of);
    bb_free(nll);
    bb_free(kl);
    bb_free(ratio);
    return status;
}
