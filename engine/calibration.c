/* SPDX-License-Identifier: GPL-3.0-or-later
 * calibration.c: see calibration.h. */
#include "engine/calibration.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/text.h"
#include "kernels/kernels.h"
#include "model/net/sample.h"

static bb_status sample(const bb_model *m, uint32_t n_windows, uint32_t ctx, uint64_t seed, const char *path, bb_err *err)
{
    int32_t     bos, *ids = BB_NEW((size_t)n_windows * ctx, int32_t, err);
    bb_sampling s = { .n_sequences = n_windows, .length = ctx, .temperature = 1, .seed = seed, .rough = true };
    bb_status   status = BB_NOMEM;
    if (!ids) goto done;
    BB_TRY(bb_tokens_bos(m, &bos, err));
    s.prompt = &bos;
    s.n_prompt = bos >= 0;
    BB_TRY(bb_sample_ids(&m->net, &s, "sample calibration text", ids, err));
    BB_TRY(bb_file_write(path, ids, (size_t)n_windows * ctx * sizeof *ids, err));
done:
    bb_free(ids);
    return status;
}

/* Named by what the ids depend on. */
static char *samples_path(const bb_model *m, const char *dir, uint32_t n_windows, uint32_t ctx, uint64_t seed, bb_err *err)
{
    bb_sha256 s;
    char      hex[65], text[128];
    bb_sha256_init(&s);
    bb_sha256_text(&s, "bitbudget samples 1");
    bb_sha256_text(&s, bb_kernels_bits());
    if (bb_kernels_fast_rough()) bb_sha256_text(&s, "rough");
    bb_sha256_text(&s, bb_model_sha256(m));
    snprintf(text, sizeof text, "%u windows of %u, seed %llu", n_windows, ctx, (unsigned long long)seed);
    bb_sha256_text(&s, text);
    bb_sha256_hex(&s, hex);
    return bb_asprintf(err, "%s/calib-self-%.32s.u32", dir, hex);
}

static bb_status load_self(const bb_model *m, const char *dir, uint32_t n_windows, uint32_t ctx, uint64_t seed, bb_tokens *out, bb_err *err)
{
    const uint64_t whole = (uint64_t)n_windows * ctx * sizeof(int32_t);
    uint64_t       bytes = 0;
    bb_status      status = BB_OK;
    char          *samples;
    if (!(samples = samples_path(m, dir, n_windows, ctx, seed, err))) return BB_NOMEM;
    if (bb_file_size(samples, &bytes, NULL) != BB_OK || bytes != whole) BB_TRY(sample(m, n_windows, ctx, seed, samples, err));
    BB_TRY(bb_tokens_load(m, samples, false, out, err));
done:
    bb_free(samples);
    return status;
}

/* ---- what is named ---- */

static bb_status add_source(bb_calibration_source *s, size_t *n, bb_item item, bb_err *err)
{
    if (bb_item_is(item, "mixture")) {
        for (size_t i = 0; i < BB_N_SHIPPED_MIXTURE; i++) s[(*n)++] = (bb_calibration_source) { NULL, &bb_shipped_mixture[i] };
        return BB_OK;
    }
    s[*n] = (bb_calibration_source) { NULL, NULL };
    if (!bb_item_is(item, "self") && !(s[*n].path = bb_item_text(item, err))) return BB_NOMEM;
    (*n)++;
    return BB_OK;
}

bb_status bb_calibration_sources(const char *calib, bb_calibration_source **out, size_t *n, bb_err *err)
{
    const char *rest = calib;
    bb_item     item = { calib, strlen(calib) };
    bb_status   status = BB_NOMEM;
    *n = 0;
    if (!(*out = BB_NEW0(bb_list_length(calib) * BB_N_SHIPPED_MIXTURE + 1, bb_calibration_source, err))) return BB_NOMEM;
    if (bb_file_exists(calib)) BB_TRY(add_source(*out, n, item, err)); /* whose name may hold a comma */
    else
        while (bb_list_next(&rest, &item)) {
            if (item.n == 0) {
                status = BB_FAIL(err, BB_USAGE, "--calib %s: a name is empty; it is a file, or a list as in wiki.txt,code.txt,self", calib);
                goto done;
            }
            BB_TRY(add_source(*out, n, item, err));
        }
    status = BB_OK;
done:
    if (status != BB_OK) {
        bb_calibration_sources_done(*out, *n);
        *out = NULL;
        *n = 0;
    }
    return status;
}

void bb_calibration_sources_done(bb_calibration_source *s, size_t n)
{
    for (size_t i = 0; s && i < n; i++) bb_free(s[i].path);
    bb_free(s);
}

static bool is_self(const bb_calibration_source *s) { return !s->path && !s->shipped; }

bool bb_calibration_samples(const char *calib) { return bb_list_has(calib, "self") && (strcmp(calib, "self") == 0 || !bb_file_exists(calib)); }

bb_status bb_calibration_choose(const bb_model *m, char **calib, bb_err *err)
{
    bb_tokens t = { 0 };
    bb_err    why = BB_ERR_INIT;
    char     *chosen;
    if (**calib) return BB_OK;
    const bool reads = bb_source_find(&m->source, "tokenizer.ggml.tokens") && bb_tokens_from_text(m, "a text", false, "a", 1, &t, &why) == BB_OK;
    if (why.status != BB_OK) bb_info("calibrated on what the model writes alone: of the texts that ship with the program it reads none (%s)", why.msg);
    bb_tokens_done(&t);
    if (!(chosen = bb_strdup(reads ? "mixture,self" : "self", err))) return BB_NOMEM;
    bb_free(*calib);
    *calib = chosen;
    return BB_OK;
}

/* ---- several ---- */

/* A window of a source: `place` orders the windows of all of them. */
typedef struct slot {
    double   place;
    uint32_t source, window;
} slot;

static int by_place(const void *a, const void *b)
{
    const slot *x = a, *y = b;
    if (x->place != y->place) return x->place < y->place ? -1 : 1;
    return x->source != y->source ? (x->source < y->source ? -1 : 1) : (x->window > y->window) - (x->window < y->window);
}

/* share[i] of the have[i] windows of each source: as many of each as of the others, `wanted` in all; what one has not, the others give. */
static void fill(const uint32_t *have, size_t n, uint32_t wanted, uint32_t *share)
{
    memset(share, 0, n * sizeof *share);
    for (bool more = true; more && wanted > 0;) {
        more = false;
        for (size_t i = 0; i < n && wanted > 0; i++) {
            if (share[i] == have[i]) continue;
            share[i]++;
            wanted--;
            more = true;
        }
    }
}

/* Then more, up to MORE times as many, for who wants more text (tuning), as long as the shares stay what they are. */
enum { MORE = 8 };
static void shares(const uint32_t *have, size_t n, uint32_t wanted, uint32_t *share)
{
    uint32_t full = 0;
    double   times = MORE;
    fill(have, n, wanted, share);
    for (size_t i = 0; i < n; i++) full = share[i] > full ? share[i] : full;
    for (size_t i = 0; i < n; i++)
        if (share[i] > 0 && share[i] + 1 >= full) times = fmin(times, (double)have[i] / share[i]); /* the others gave all that they have */
    for (size_t i = 0; i < n; i++)
        if (share[i] < have[i]) share[i] = (uint32_t)(share[i] * times);
}

static uint32_t windows_of(const bb_tokens *t, size_t n, uint32_t ctx) { return (uint32_t)(t->n / ctx < UINT32_MAX / n ? t->n / ctx : UINT32_MAX / n); }

/* What the model writes has no end, so it gives what the other texts lack: t has those. */
static bb_status add_self(const bb_model *m, const bb_calibration_source *s, size_t n, const char *dir, uint32_t n_windows, uint32_t ctx, uint64_t seed,
                          bb_tokens *t, bb_err *err)
{
    uint32_t *have = BB_NEW0(2 * n, uint32_t, err), *share = have + n;
    bb_status status = BB_NOMEM;
    if (!have) return BB_NOMEM;
    for (size_t i = 0; i < n; i++) have[i] = is_self(&s[i]) ? n_windows : windows_of(&t[i], n, ctx);
    fill(have, n, n_windows, share);
    status = BB_OK;
    for (size_t i = 0; i < n; i++)
        if (is_self(&s[i])) BB_TRY(load_self(m, dir, share[i] ? share[i] : 1, ctx, seed, &t[i], err));
done:
    bb_free(have);
    return status;
}

static bb_status mix(const bb_tokens *t, size_t n, uint32_t n_windows, uint32_t ctx, uint64_t seed, bb_tokens *out, bb_err *err)
{
    uint32_t *have = BB_NEW0(2 * n, uint32_t, err), *share = have + n, total = 0;
    slot     *slots = NULL;
    int32_t  *ids = NULL;
    bb_rng    rng;
    bb_status status = BB_NOMEM;
    if (!have) goto done;
    for (size_t i = 0; i < n; i++) have[i] = windows_of(&t[i], n, ctx);
    shares(have, n, n_windows, share);
    for (size_t i = 0; i < n; i++) total += share[i];
    if (!(slots = BB_NEW(total + 1, slot, err)) || !(ids = BB_NEW((size_t)total * ctx + 1, int32_t, err))) goto done;
    bb_rng_init(&rng, seed, "calibration mixture");
    total = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < share[i]; k++)
            slots[total++] = (slot) { (k + bb_rng_uniform(&rng)) / share[i], i, (uint32_t)((uint64_t)k * have[i] / share[i]) };
    qsort(slots, total, sizeof *slots, by_place);
    for (uint32_t k = 0; k < total; k++) memcpy(ids + (size_t)k * ctx, t[slots[k].source].ids + (size_t)slots[k].window * ctx, ctx * sizeof *ids);
    BB_TRY(bb_tokens_from_ids(ids, (size_t)total * ctx, out, err));
done:
    bb_free(have);
    bb_free(slots);
    bb_free(ids);
    return status;
}

bb_status bb_calibration_tokens(const bb_model *m, const char *calib, const char *dir, uint32_t n_windows, uint32_t ctx, uint64_t seed, bool parse_special,
                                bb_tokens *out, bb_err *err)
{
    bb_calibration_source *s = NULL;
    bb_tokens             *t = NULL;
    size_t                 n = 0;
    bb_status              status;
    *out = (bb_tokens) { 0 };
    BB_TRY(bb_calibration_sources(calib, &s, &n, err));
    if (n == 1) { /* no source is shipped alone */
        BB_TRY(s->path ? bb_tokens_load(m, s->path, parse_special, out, err) : load_self(m, dir, n_windows, ctx, seed, out, err));
        goto done;
    }
    status = BB_NOMEM;
    if (!(t = BB_NEW0(n + 1, bb_tokens, err))) goto done;
    for (size_t i = 0; i < n; i++) {
        if (s[i].path) BB_TRY(bb_tokens_load(m, s[i].path, parse_special, &t[i], err));
        else if (s[i].shipped) BB_TRY(bb_shipped_tokens(m, s[i].shipped, &t[i], err));
        if (s[i].path && t[i].n / ctx < 1) bb_warn("%s: its %zu tokens are less than one window of %u: it has no share", s[i].path, t[i].n, ctx);
    }
    BB_TRY(add_self(m, s, n, dir, n_windows, ctx, seed, t, err));
    BB_TRY(mix(t, n, n_windows, ctx, seed, out, err));
    status = BB_NOMEM;
    if (!(out->path = bb_strdup(calib, err))) goto done;
    status = BB_OK;
done:
    for (size_t i = 0; t && i < n; i++) bb_tokens_done(&t[i]);
    bb_free(t);
    bb_calibration_sources_done(s, n);
    return status;
}

bb_method bb_calibration_method(const char *name)
{
    return strcmp(name, "rtn") == 0 ? BB_METHOD_RTN : strcmp(name, "weighted") == 0 ? BB_METHOD_WEIGHTED : BB_METHOD_FEEDBACK;
}

uint32_t bb_calibration_ffn_step(const bb_net *net)
{
    uint32_t widest = 0;
    for (uint32_t b = 0; b < net->n_layer; b++)
        if (net->blocks[b].n_ff > widest) widest = net->blocks[b].n_ff;
    return widest / 96 + 1;
}
