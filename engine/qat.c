/* SPDX-License-Identifier: GPL-3.0-or-later
 * qat.c: see qat.h. */
#include "engine/qat.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/calibration.h"

enum { AT_ONCE_TOKENS = 2048, CHECKS = 8 };

static void add_bits(const bb_matrix *w, double *bits, double *n)
{
    const double weights = (double)w->rows * w->cols;
    if (weights > 0) *bits += weights * bb_format_bpw(bb_format_get(w->type));
    *n += weights;
}

/* docs/finalise.md, low-bit training, has what these are from. */
static const double FINE_BITS = 3;

/* What was found for four windows a step, for another number: noise in the gradient then moves a weight as far in as many tokens. */
static double of_batch(int64_t batch) { return sqrt((double)batch / 4); }

double bb_qat_rate(const bb_qat *q, double bits)
{
    static const double most = 0.03, fine = 0.01, enough = 0.25;
    if (q->rate > 0) return q->rate;
    const double by_tokens = q->tokens > enough ? most * sqrt(enough / q->tokens) : most;
    return (bits < FINE_BITS ? by_tokens : fmin(by_tokens, fine)) * of_batch(q->batch);
}

double bb_qat_scale_rate(const bb_qat *q, double bits)
{
    if (q->scale_rate > 0) return q->scale_rate;
    return (bits < FINE_BITS ? 0.005 : 0.002) * of_batch(q->batch);
}

double bb_qat_bits(const bb_net *net)
{
    const bb_matrix *tables[] = { &net->embd, &net->head };
    double           bits = 0, n = 0;
    for (uint32_t l = 0; l < net->n_layer; l++)
        for (int p = 0; p < BB_N_PARTS; p++) add_bits(&net->blocks[l].w[p], &bits, &n);
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) add_bits(tables[i], &bits, &n);
    return n > 0 ? bits / n : 0;
}

bb_tune_options bb_qat_options(const bb_qat *q, const bb_net *net, uint32_t ctx)
{
    const double    bits = bb_qat_bits(net), scales = bb_qat_scale_rate(q, bits);
    const double    steps = q->tokens * 1e6 / ((double)q->batch * ctx);
    bb_tune_options o = { .loss = strcmp(q->loss, "labels") == 0 ? BB_TUNE_LABELS : BB_TUNE_KL,
                          .last = net->n_layer - 1,
                          .embedding = true,
                          .steps = steps < 1     ? 1
                                   : steps > 1e8 ? 100000000
                                                 : (uint32_t)steps,
                          .batch = (uint32_t)q->batch,
                          .at_once = ctx >= AT_ONCE_TOKENS ? 1 : AT_ONCE_TOKENS / ctx,
                          .checks = CHECKS,
                          .weights = bb_qat_rate(q, bits),
                          .fields = scales,
                          .norms = scales / 2,
                          .clip = 2,
                          .label_share = strcmp(q->loss, "mix") == 0 ? 0.5 : 0,
                          .estimator = strcmp(q->estimator, "differentiable") == 0 ? BB_TUNE_DIFFERENTIABLE : BB_TUNE_STRAIGHT,
                          .schedule = strcmp(q->schedule, "wsd") == 0 ? BB_TUNE_WSD : BB_TUNE_COSINE,
                          .decay = 0.3,
                          .trial = q->rate > 0 || q->scale_rate > 0 ? 0 : BB_RATE_TRIAL,
                          .patience = 5,
                          .save_every_s = 600,
                          .seed = q->seed };
    return o;
}

void bb_qat_say_rates(const bb_tune_options *o, const bb_net *net)
{
    bb_info("rates of training: %.3g of weights, %.3g of scales; %.2f bits a weight", (double)o->weights, (double)o->fields, bb_qat_bits(net));
}

/* ---- texts ---- */

typedef struct source {
    bb_windows w;
    bool       whole; /* borrowed, and none is held out */
    uint32_t   n_train, n_held;
} source;

static bb_status load_source(const bb_model *m, const char *path, const char *dir, uint32_t ctx, uint32_t n, int32_t bos, uint64_t seed, bool parse_special,
                             source *s, bb_sha256 *hash, size_t *n_tokens, bb_err *err)
{
    bb_tokens t = { 0 };
    bb_status status;
    BB_TRY(bb_calibration_tokens(m, path, dir, n, ctx, seed, parse_special, &t, err));
    BB_TRY(bb_windows_make(&t, BB_PROTOCOL_GGUF, ctx, bos, 0, false, &s->w, err));
    bb_sha256_text(hash, t.sha256);
    *n_tokens += t.n;
done:
    bb_tokens_done(&t);
    return status;
}

/* n windows from the texts in equal shares, and more where others have too few. have: what each has; take: of each. */
static void share(const uint32_t *have, uint32_t *take, size_t n_sources, uint32_t n)
{
    memset(take, 0, n_sources * sizeof *take);
    for (bool more = true; more && n;) {
        size_t open = 0;
        for (size_t i = 0; i < n_sources; i++) open += take[i] < have[i];
        more = open > 0;
        const uint32_t part = more ? (uint32_t)(n / open) : 0;
        for (size_t i = 0; i < n_sources && n; i++) {
            uint32_t left = have[i] - take[i], k = left < (part ? part : 1) ? left : part ? part : 1;
            if (k > n) k = n;
            take[i] += k;
            n -= k;
        }
    }
}

static void put_window(const bb_windows *from, uint32_t i, bb_windows *to)
{
    const size_t T = from->ctx;
    memcpy(to->tokens + to->n * T, from->tokens + i * T, T * sizeof *to->tokens);
    memcpy(to->targets + to->n * T, from->targets + i * T, T * sizeof *to->targets);
    to->n++;
}

static bb_status room(bb_windows *w, uint32_t n, uint32_t ctx, bb_err *err)
{
    *w = (bb_windows) { .ctx = ctx };
    w->tokens = BB_NEW((size_t)n * ctx, int32_t, err);
    w->targets = BB_NEW((size_t)n * ctx, int32_t, err);
    return w->tokens && w->targets ? BB_OK : BB_NOMEM;
}

/* The held-out windows are evenly spaced over each text; the others are taken evenly spaced from what remains. */
static void split_source(const source *s, bb_qat_texts *out)
{
    const uint32_t n = s->w.n, n_rest = n - s->n_held;
    uint32_t       held = 0, rest = 0, taken = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (held < s->n_held && i == (uint32_t)(((uint64_t)held * 2 + 1) * n / (2 * s->n_held))) {
            put_window(&s->w, i, &out->held_windows);
            held++;
            continue;
        }
        if (taken < s->n_train && rest == (uint32_t)((uint64_t)taken * n_rest / s->n_train)) {
            put_window(&s->w, i, &out->train_windows);
            taken++;
        }
        rest++;
    }
}

static bb_status divide(source *s, size_t n, uint32_t ctx, uint32_t n_train, uint32_t n_held, bb_qat_texts *out, bb_err *err)
{
    uint32_t *have = BB_NEW(2 * n, uint32_t, err), all = 0, held = 0;
    bb_status status = have ? BB_OK : BB_NOMEM;
    BB_TRY(status);
    for (size_t i = 0; i < n; i++) have[i] = s[i].whole ? 0 : s[i].w.n / 4;
    share(have, have + n, n, n_held);
    for (size_t i = 0; i < n; i++) {
        s[i].n_held = have[n + i];
        have[i] = s[i].w.n - s[i].n_held;
        held += s[i].n_held;
    }
    share(have, have + n, n, n_train);
    for (size_t i = 0; i < n; i++) all += s[i].n_train = have[n + i];
    if (all == 0 || (n_held && held == 0)) {
        status = BB_FAIL(err, BB_BAD_FILE, "the texts to train on have too few windows of %u tokens: at least 4 are needed; give more text or a smaller --ctx",
                         ctx);
        goto done;
    }
    BB_TRY(room(&out->train_windows, all, ctx, err));
    BB_TRY(room(&out->held_windows, held, ctx, err));
    for (size_t i = 0; i < n; i++) split_source(&s[i], out);
done:
    bb_free(have);
    return status;
}

bool bb_qat_adds_self(const char *calib) { return !bb_calibration_samples(calib); }

bb_status bb_qat_texts_make(const bb_model *m, const char *list, const bb_windows *also, const char *dir, uint32_t ctx, uint32_t n_train, uint32_t n_held,
                            uint64_t seed, bool parse_special, bb_qat_texts *out, bb_err *err)
{
    const size_t most = bb_list_length(list) + 2;
    source      *s = BB_NEW0(most, source, err);
    size_t       n = 0;
    int32_t      bos;
    bb_sha256    hash;
    bb_status    status;
    memset(out, 0, sizeof *out);
    if (!s) return BB_NOMEM;
    bb_sha256_init(&hash);
    BB_TRY(bb_tokens_bos(m, &bos, err));
    if (also) s[n++] = (source) { .w = *also, .whole = true };
    for (bb_item item; bb_list_next(&list, &item);) {
        char *path = item.n ? bb_item_text(item, err) : NULL;
        if (!path && item.n) status = BB_NOMEM;
        if (path) status = load_source(m, path, dir, ctx, n_train + n_held, bos, seed, parse_special, &s[n++], &hash, &out->tokens.n, err);
        bb_free(path);
        BB_TRY(status);
    }
    bb_sha256_hex(&hash, out->tokens.sha256);
    BB_TRY(divide(s, n, ctx, n_train, n_held, out, err));
    out->train = (bb_tune_set) { out->train_windows.tokens, out->train_windows.targets, out->train_windows.n, ctx, 0, ctx - 1 };
    out->held = (bb_tune_set) { out->held_windows.tokens, out->held_windows.targets, out->held_windows.n, ctx, ctx / 8, ctx - 1 - ctx / 8 };
done:
    for (size_t i = 0; i < n; i++)
        if (!s[i].whole) bb_windows_done(&s[i].w);
    bb_free(s);
    if (status != BB_OK) bb_qat_texts_done(out);
    return status;
}

void bb_qat_texts_done(bb_qat_texts *t)
{
    bb_windows_done(&t->train_windows);
    bb_windows_done(&t->held_windows);
    memset(t, 0, sizeof *t);
}

void bb_qat_hash_texts(const char *list, bb_sha256 *s)
{
    for (bb_item item; bb_list_next(&list, &item);) {
        char *path = bb_item_text(item, NULL), hex[65] = "";
        if (path && !bb_item_is(item, "self") && bb_sha256_file(path, hex, NULL) != BB_OK) *hex = '\0';
        bb_sha256_text(s, path && bb_item_is(item, "self") ? path : hex);
        bb_free(path);
    }
}
