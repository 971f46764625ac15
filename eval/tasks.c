/* SPDX-License-Identifier: GPL-3.0-or-later
 * tasks.c: log-likelihoods of the options of a task, and what follows from them. See tasks.h.
 *
 * Every option of every item is one sequence. Sequences go through the network in batches of about equal length, longest first, filled up
 * at the right, where a causal network does not look; a window's bits do not depend on its batch (forward.h). What sequences of a batch have in
 * common at their beginning, the context above all, goes through once. */
#include "eval/tasks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "kernels/kernels.h"
#include "model/io/tokenizer.h"
#include "model/net/host.h"
#include "model/net/shared.h"

enum { BATCH_TOKENS = 8192, BATCH_ROWS = 2048, /* tokens of a batch, and those of them that are computed */ LOGITS = 1 << 21 /* at once: 8 MiB */ };

/* One option: ids pool[at .. at + n - 1]; those from n_prefix on are the continuation. */
typedef struct sequence {
    size_t   at;
    uint32_t n, n_prefix;
    bool     skipped, cut;
} sequence;

typedef struct runner {
    const bb_backend *backend;
    const bb_net     *net;
    const bb_task    *t;
    uint32_t          max_tokens;
    int32_t           bos;
    int32_t          *pool;
    size_t            n_pool, room;
    sequence         *s;      /* [n_options] */
    size_t           *order;  /* [n_options] see rank */
    bb_task_score    *scores; /* [n_options] */
    bb_forward       *f;
    float            *h, *rows, *logits;
    size_t            rows_at_once, n_rows;
    int32_t          *ids;        /* of the rows of a batch */
    uint32_t         *of, *place; /* of a batch, as in bb_shared_rows */
    struct {
        size_t  i;
        int32_t target;
    } * row; /* [rows_at_once] the sequence and the token that a row predicts */
} runner;

/* ---- tokens ---- */

static bb_status pool_grow(runner *r, size_t n, bb_err *err)
{
    int32_t *more;
    size_t   room = r->room ? r->room : 4096;
    if (r->n_pool + n <= r->room) return BB_OK;
    while (room < r->n_pool + n) room *= 2;
    if (!(more = bb_realloc(r->pool, room, sizeof *more, err))) return BB_NOMEM;
    r->pool = more;
    r->room = room;
    return BB_OK;
}

/* Tokens of context and continuation into the pool, BOS in front; *n_shared of them are those of the context alone. */
static bb_status add_sequence(runner *r, const bb_tokenizer *tokenizer, const bb_task_option *o, sequence *s, bb_err *err)
{
    const char *text = r->t->text.data + o->context;
    int32_t    *context = NULL, *whole = NULL;
    size_t      n_context, n_whole, bos = r->bos >= 0, shared = 0;
    bb_status   status = BB_OK;
    BB_TRY(bb_tokenize(tokenizer, text, o->n_context, false, false, &context, &n_context, err));
    BB_TRY(bb_tokenize(tokenizer, text, o->n_context + o->n_continuation, false, false, &whole, &n_whole, err));
    BB_TRY(pool_grow(r, n_whole + bos, err));
    while (shared < n_context && shared < n_whole && context[shared] == whole[shared]) shared++;
    *s = (sequence) { .at = r->n_pool, .n = (uint32_t)(n_whole + bos), .n_prefix = (uint32_t)(shared + bos) };
    if (bos) r->pool[r->n_pool] = r->bos;
    memcpy(r->pool + r->n_pool + bos, whole, n_whole * sizeof *whole);
    r->n_pool += n_whole + bos;
done:
    bb_free(context);
    bb_free(whole);
    return status;
}

/* At least one token on each side of the prefix's end, and a length that fits into the window: dropped from the left, but for BOS. */
static void fit(const runner *r, sequence *s)
{
    uint32_t drop = s->n > r->max_tokens ? s->n - r->max_tokens : 0;
    if (s->n >= 2 && s->n_prefix >= s->n) s->n_prefix = s->n - 1;
    if (s->n_prefix == 0) s->n_prefix = 1;
    s->skipped = s->n < 2 || drop >= s->n_prefix;
    if (s->skipped || drop == 0) return;
    s->cut = true;
    if (r->bos >= 0) r->pool[s->at + drop] = r->bos;
    s->at += drop;
    s->n -= drop;
    s->n_prefix -= drop;
}

static bb_status add_item(runner *r, const bb_tokenizer *tokenizer, const bb_task_item *item, bb_err *err)
{
    bb_status status = BB_OK;
    sequence *s = r->s + item->first;
    bool      skipped = false, cut = false;
    for (uint32_t i = 0; i < item->n; i++) BB_TRY(add_sequence(r, tokenizer, &r->t->options[item->first + i], &s[i], err));
    for (uint32_t i = 0; i < item->n && r->t->kind == BB_TASK_CHOICE; i++) /* the same tokens of context for all */
        for (uint32_t j = 0; j < item->n; j++)
            if (s[j].n_prefix < s[i].n_prefix) s[i].n_prefix = s[j].n_prefix;
    for (uint32_t i = 0; i < item->n; i++) {
        fit(r, &s[i]);
        skipped |= s[i].skipped;
        cut |= s[i].cut;
    }
    for (uint32_t i = 0; i < item->n; i++) {
        s[i].skipped = skipped;
        s[i].cut = cut;
    }
done:
    return status;
}

static bb_status check_vocabulary(const runner *r, bb_err *err)
{
    for (size_t i = 0; i < r->n_pool; i++)
        if (r->pool[i] < 0 || (uint32_t)r->pool[i] >= r->net->n_vocab)
            return BB_FAIL(err, BB_BAD_FILE, "the tokenizer gives id %d, outside the network's vocabulary of %u", r->pool[i], r->net->n_vocab);
    return BB_OK;
}

static bb_status tokenize(runner *r, const bb_model *m, bb_err *err)
{
    bb_tokenizer *tokenizer = NULL;
    bb_status     status = BB_OK;
    BB_TRY(bb_tokenizer_create(&m->source, &tokenizer, err));
    r->bos = bb_tokenizer_adds_bos(tokenizer) ? bb_tokenizer_bos(tokenizer) : -1;
    for (size_t i = 0; i < r->t->n_items; i++) BB_TRY(add_item(r, tokenizer, &r->t->items[i], err));
    BB_TRY(check_vocabulary(r, err));
done:
    bb_tokenizer_destroy(tokenizer);
    return status;
}

/* ---- scores ---- */

/* A sequence; group: how long the longest of its item is, roughly, so that options of an item stay together. */
typedef struct ranked {
    uint32_t        group;
    size_t          i;
    const sequence *s;
    const int32_t  *ids;
} ranked;

/* Longest group first, in a group by their tokens: those that begin alike are neighbours. */
static int in_order(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->group != y->group) return x->group < y->group ? 1 : -1;
    for (uint32_t t = 0; t < x->s->n && t < y->s->n; t++)
        if (x->ids[t] != y->ids[t]) return x->ids[t] < y->ids[t] ? -1 : 1;
    if (x->s->n != y->s->n) return x->s->n < y->s->n ? -1 : 1;
    return (x->i > y->i) - (x->i < y->i);
}

/* Lengths up to 1, 2, 3, 4, 6, 8, 12, 16 ... have groups 0, 1, 2 ... */
static uint32_t length_group(uint32_t n)
{
    uint32_t group = 0;
    for (uint64_t limit = 1; limit < n; group++) limit = limit & (limit - 1) ? limit / 3 * 4 : limit > 1 ? limit / 2 * 3 : 2;
    return group;
}

/* r->order := the sequences that are not skipped. */
static bb_status rank(runner *r, size_t *n_out, bb_err *err)
{
    ranked *all = bb_alloc(r->t->n_options, sizeof *all, err);
    size_t  n = 0;
    if (!all) return BB_NOMEM;
    for (size_t k = 0; k < r->t->n_items; k++) {
        const bb_task_item *item = &r->t->items[k];
        uint32_t            longest = 0;
        for (size_t i = item->first; i < item->first + item->n; i++) longest = r->s[i].n > longest ? r->s[i].n : longest;
        for (size_t i = item->first; i < item->first + item->n; i++)
            if (!r->s[i].skipped) all[n++] = (ranked) { length_group(longest), i, &r->s[i], r->pool + r->s[i].at };
    }
    qsort(all, n, sizeof *all, in_order);
    for (size_t i = 0; i < n; i++) r->order[i] = all[i].i;
    bb_free(all);
    *n_out = n;
    return BB_OK;
}

/* longest: tokens of the longest sequence. */
static bb_status make_room(runner *r, uint32_t longest, bb_err *err)
{
    const size_t tokens = longest > BATCH_TOKENS ? longest : BATCH_TOKENS, rows = longest > BATCH_ROWS ? longest : BATCH_ROWS;
    r->rows_at_once = LOGITS / r->net->n_vocab + 1;
    r->h = bb_alloc(rows, bb_row_width(r->net) * sizeof *r->h, err);
    r->ids = bb_alloc(rows, sizeof *r->ids, err);
    r->of = bb_alloc(tokens, sizeof *r->of, err);
    r->place = bb_alloc(rows, sizeof *r->place, err);
    r->rows = bb_alloc(r->rows_at_once, r->net->n_embd * sizeof *r->rows, err);
    r->row = bb_alloc(r->rows_at_once, sizeof *r->row, err);
    r->logits = bb_alloc(r->rows_at_once, r->net->n_vocab * sizeof *r->logits, err);
    if (!r->h || !r->ids || !r->of || !r->place || !r->rows || !r->row || !r->logits) return BB_NOMEM;
    return bb_forward_create(r->backend, r->net, (uint32_t)tokens /* a batch of shortest sequences */, longest, &r->f, err);
}

/* Scores the rows that are waiting. */
static bb_status flush(runner *r, bb_err *err)
{
    const bb_kernels *k = bb_kernels_get();
    size_t            V = r->net->n_vocab;
    bb_status         status = bb_host_logits(r->f, r->net, r->rows, r->n_rows, r->logits, err);
    for (size_t i = 0; i < r->n_rows && status == BB_OK; i++) {
        bb_logsum      sum = { 0 };
        const float   *z = r->logits + i * V;
        bb_task_score *s = &r->scores[r->row[i].i];
        bb_logsum_add(k, &sum, z, V);
        s->log_p += (double)z[r->row[i].target] - bb_logsum_value(&sum);
        s->greedy &= sum.arg_max == (size_t)r->row[i].target;
        if (!isfinite(s->log_p)) status = BB_FAIL(err, BB_NUMERIC, "%s: a log-likelihood is no finite number", r->t->name);
    }
    r->n_rows = 0;
    return status;
}

/* Hands the rows that predict the continuation of sequence i to scoring. of: the row of each of its tokens. */
static bb_status take_rows(runner *r, size_t i, const uint32_t *of, bb_err *err)
{
    const sequence *s = &r->s[i];
    size_t          C = r->net->n_embd;
    bb_status       status = BB_OK;
    r->scores[i].log_p = 0;
    r->scores[i].greedy = true;
    for (uint32_t t = s->n_prefix - 1; t + 1 < s->n; t++) {
        bb_host_streams(r->net, r->h + of[t] * bb_row_width(r->net), 1, r->rows + r->n_rows * C);
        r->row[r->n_rows].i = i;
        r->row[r->n_rows++].target = r->pool[s->at + t + 1];
        if (r->n_rows == r->rows_at_once) BB_TRY(flush(r, err));
    }
done:
    return status;
}

/* Tokens that sequence b has in common with a at the beginning. */
static uint32_t shared_tokens(const runner *r, const sequence *a, const sequence *b)
{
    uint32_t t = 0;
    while (t < a->n && t < b->n && r->pool[a->at + t] == r->pool[b->at + t]) t++;
    return t;
}

typedef struct batch {
    size_t   first; /* place in the order */
    uint32_t S, T, n_rows;
} batch;

/* As many sequences from place b->first on as there is room for, at least one. */
static void choose_batch(const runner *r, size_t n, batch *b)
{
    const sequence *before = NULL;
    b->S = b->T = b->n_rows = 0;
    for (size_t at = b->first; at < n; at++) {
        const sequence *s = &r->s[r->order[at]];
        const uint32_t  T = s->n > b->T ? s->n : b->T, more = s->n - (before ? shared_tokens(r, before, s) : 0);
        if (before && ((uint64_t)(b->S + 1) * T > BATCH_TOKENS || b->n_rows + more > BATCH_ROWS)) break;
        b->T = T, b->n_rows += more, b->S++;
        before = s;
    }
}

/* Which rows the batch has, and their tokens. The order has sequences that begin alike behind each other, so the one before says all. */
static void lay_out(runner *r, const batch *b)
{
    const uint32_t *above = NULL;
    uint32_t        n = 0;
    for (uint32_t i = 0; i < b->S; i++) {
        const sequence *s = &r->s[r->order[b->first + i]];
        uint32_t       *of = r->of + (size_t)i * b->T;
        const uint32_t  shared = i ? shared_tokens(r, &r->s[r->order[b->first + i - 1]], s) : 0;
        for (uint32_t t = 0; t < shared; t++) of[t] = above[t];
        for (uint32_t t = shared; t < s->n; t++) {
            r->ids[n] = r->pool[s->at + t];
            r->place[n] = i * b->T + t;
            of[t] = n++;
        }
        for (uint32_t t = s->n; t < b->T; t++) of[t] = of[s->n - 1];
        above = of;
    }
}

static bb_status run_batch(runner *r, const batch *b, bb_err *err)
{
    const bb_shared_rows rows = { .n = b->n_rows, .of = r->of, .place = r->place };
    bb_status            status;
    lay_out(r, b);
    BB_TRY(bb_host_embed(r->f, r->net, r->ids, b->n_rows, 1, r->h, err));
    for (uint32_t k = 0; k < r->net->n_layer; k++) BB_TRY(bb_host_shared(r->f, r->net, &r->net->blocks[k], b->S, b->T, &rows, r->h, err));
    for (size_t i = 0; i < b->S; i++) BB_TRY(take_rows(r, r->order[b->first + i], r->of + i * b->T, err));
done:
    return status;
}

static bb_status run_all(runner *r, size_t n, bb_progress *progress, bb_err *err)
{
    bb_status status = BB_OK;
    uint32_t  longest = 0;
    for (size_t i = 0; i < n; i++) longest = r->s[r->order[i]].n > longest ? r->s[r->order[i]].n : longest;
    BB_TRY(make_room(r, longest, err));
    for (batch b = { 0 }; b.first < n; b.first += b.S) {
        if (bb_interrupted()) {
            status = BB_FAIL(err, BB_INTERRUPTED, "interrupted in task %s", r->t->name);
            goto done;
        }
        choose_batch(r, n, &b);
        BB_TRY(run_batch(r, &b, err));
        if (progress) bb_progress_add(progress, b.S);
    }
    BB_TRY(flush(r, err));
done:
    return status;
}

/* ---- results ---- */

typedef struct sums {
    double sum, squares;
} sums;

static void add(sums *s, double x)
{
    s->sum += x;
    s->squares += x * x;
}

static void finish(const sums *s, size_t n, double *mean, double *error)
{
    double m = s->sum / (double)n, variance = s->squares / (double)n - m * m;
    *mean = m;
    *error = n > 1 && variance > 0 ? sqrt(variance / (double)(n - 1)) : 0;
}

static size_t characters(const char *s, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)s[i] & 0xC0) != 0x80;
    return count ? count : 1; /* what is not UTF-8 */
}

/* What is known of the options before they are run. */
static void prepare_scores(const runner *r)
{
    for (size_t i = 0; i < r->t->n_options; i++) {
        const bb_task_option *o = &r->t->options[i];
        const sequence       *s = &r->s[i];
        r->scores[i] = (bb_task_score) { .log_p = (double)NAN };
        if (s->skipped) continue;
        r->scores[i].n_tokens = s->n - s->n_prefix;
        r->scores[i].n_characters = (uint32_t)characters(r->t->text.data + o->continuation + o->n_delimiter, o->n_continuation - o->n_delimiter);
    }
}

/* The likeliest option, by log-likelihood per character or in all; first of equals. */
static uint32_t best_option(const runner *r, const bb_task_item *item, bool per_character)
{
    uint32_t best = 0;
    double   best_value = -(double)INFINITY;
    for (uint32_t i = 0; i < item->n; i++) {
        const bb_task_score *s = &r->scores[item->first + i];
        const double         value = per_character ? s->log_p / (double)s->n_characters : s->log_p;
        if (value > best_value) best = i, best_value = value;
    }
    return best;
}

static double gold_nll(const runner *r, const bb_task_item *item)
{
    const bb_task_score *s = r->scores + item->first;
    double               max = s[0].log_p, sum = 0;
    if (r->t->kind == BB_TASK_CLOZE) return -s[0].log_p;
    for (uint32_t i = 1; i < item->n; i++) max = s[i].log_p > max ? s[i].log_p : max;
    for (uint32_t i = 0; i < item->n; i++) sum += exp(s[i].log_p - max);
    return max + log(sum) - s[item->gold].log_p;
}

static bb_task_answer answer_of(const runner *r, const bb_task_item *item)
{
    bb_task_answer a = { .option = UINT32_MAX };
    if (r->s[item->first].skipped) return a;
    a.option = r->t->kind == BB_TASK_CLOZE ? r->scores[item->first].greedy : best_option(r, item, false);
    a.right = r->t->kind == BB_TASK_CLOZE ? a.option : a.option == item->gold;
    a.right_norm = r->t->kind == BB_TASK_CHOICE && best_option(r, item, true) == item->gold;
    a.gold_nll = gold_nll(r, item);
    return a;
}

static void results(const runner *r, bb_task_result *out, bb_task_answer *answers)
{
    sums acc = { 0, 0 }, norm = { 0, 0 }, nll = { 0, 0 };
    *out = (bb_task_result) { .n = 0 };
    for (size_t i = 0; i < r->t->n_items; i++) {
        const bb_task_item  *item = &r->t->items[i];
        const bb_task_answer a = answer_of(r, item);
        bool                 skipped = a.option == UINT32_MAX;
        if (answers) answers[i] = a;
        out->n += !skipped;
        out->n_skipped += skipped;
        out->n_cut += !skipped && r->s[item->first].cut;
        if (skipped) continue;
        add(&acc, a.right);
        add(&norm, a.right_norm);
        add(&nll, a.gold_nll);
    }
    if (out->n == 0) return;
    finish(&acc, out->n, &out->acc, &out->acc_se);
    finish(&nll, out->n, &out->gold_nll, &out->gold_nll_se);
    out->acc_norm = out->acc_norm_se = (double)NAN;
    if (r->t->kind == BB_TASK_CHOICE) finish(&norm, out->n, &out->acc_norm, &out->acc_norm_se);
}

bb_task_difference bb_task_compare(bb_task_kind kind, const bb_task_answer *a, const bb_task_answer *b, size_t n)
{
    sums               changed = { 0, 0 }, acc = { 0, 0 }, norm = { 0, 0 }, nll = { 0, 0 };
    bb_task_difference d = { 0 };
    size_t             both = 0;
    double             ignored;
    for (size_t i = 0; i < n; i++) {
        if (a[i].option == UINT32_MAX || b[i].option == UINT32_MAX) continue;
        both++;
        add(&changed, a[i].option != b[i].option);
        add(&acc, (double)a[i].right - (double)b[i].right);
        add(&norm, (double)a[i].right_norm - (double)b[i].right_norm);
        add(&nll, a[i].gold_nll - b[i].gold_nll);
    }
    if (both == 0) return d;
    finish(&changed, both, &d.changed, &ignored);
    finish(&acc, both, &d.acc, &d.acc_se);
    finish(&nll, both, &d.gold_nll, &d.gold_nll_se);
    d.acc_norm = d.acc_norm_se = (double)NAN;
    if (kind == BB_TASK_CHOICE) finish(&norm, both, &d.acc_norm, &d.acc_norm_se);
    return d;
}

bb_status bb_task_run(const bb_backend *backend, const bb_model *m, const bb_net *net, const bb_task *t, uint32_t max_tokens, const char *label,
                      bb_task_result *out, bb_task_answer *answers, bb_task_score *scores, bb_err *err)
{
    runner      r = { .backend = backend, .net = net, .t = t, .max_tokens = max_tokens };
    bb_progress progress;
    size_t      n = 0;
    bb_status   status = BB_OK;
    BB_ASSERT(max_tokens >= 2);
    r.s = bb_calloc(t->n_options, sizeof *r.s, err);
    r.order = bb_alloc(t->n_options, sizeof *r.order, err);
    r.scores = bb_calloc(t->n_options, sizeof *r.scores, err);
    if (!r.s || !r.order || !r.scores) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(tokenize(&r, m, err));
    prepare_scores(&r);
    BB_TRY(rank(&r, &n, err));
    if (n == 0) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s: no item fits into windows of %u tokens", t->name, max_tokens);
        goto done;
    }
    if (label) bb_progress_start(&progress, label, n);
    status = run_all(&r, n, label ? &progress : NULL, err);
    if (label) bb_progress_end(&progress);
    if (status == BB_OK) results(&r, out, answers);
    if (status == BB_OK && scores) memcpy(scores, r.scores, t->n_options * sizeof *scores);
done:
    bb_forward_destroy(r.f);
    void *all[] = { r.pool, r.s, r.order, r.scores, r.h, r.ids, r.of, r.place, r.rows, r.row, r.logits };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bb_free(all[i]);
    return status;
}
