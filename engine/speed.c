/* SPDX-License-Identifier: GPL-3.0-or-later
 * speed.c: see speed.h. */
#include "engine/speed.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "base/mem.h"
#include "model/compress/plan_units.h"
#include "base/text.h"
#include "kernels/format.h"
#include "model/net/lattice.h"

/* Picoseconds a weight; NaN when the profile lacks the format. */
static bb_status find_format(const bb_csv *t, const char *format, double *decode, double *prefill, bb_err *err)
{
    bb_status status = BB_OK;
    *decode = *prefill = (double)NAN;
    for (size_t i = 0; i < t->n_rows; i++) {
        if (strcmp(bb_csv_text(t, i, 0), format) != 0) continue;
        BB_TRY(bb_csv_double(t, i, 1, decode, err));
        BB_TRY(bb_csv_double(t, i, 2, prefill, err));
        if (!(*decode > 0) || !(*prefill > 0))
            return BB_FAIL(err, BB_BAD_FILE, "%s: %s takes %g and %g ps a weight, should be above 0", t->path, format, *decode, *prefill);
    }
done:
    return status;
}

/* Weights of a matrix from its bytes in the source's format, the last option of every unit. */
static double weights_at(const bb_model_space *space, uint32_t unit, size_t row)
{
    const bb_unit *u = &bb_model_space_problem(space)->units[unit];
    const int64_t  bytes = u->bytes[row * u->n_options + u->n_options - 1];
    return bytes > 0 && !bb_is_forbidden(bytes) ? 8.0 * (double)bytes / bb_format_bpw(bb_model_space_format(space, unit, u->n_options - 1)) : 0;
}

/* A tied embedding is the head as well; beside a head of its own it is only looked up, which takes no time. */
static double uses(const bb_problem *p, uint32_t unit)
{
    bool has_head = false;
    for (uint32_t u = 0; u < p->n_units; u++) has_head |= p->plans->units[u].what == BB_UNIT_HEAD;
    return p->plans->units[unit].what == BB_UNIT_TABLE || (has_head && p->plans->units[unit].what == BB_UNIT_EMBD) ? 0 : 1;
}

static bb_status fill_unit(bb_speed *s, const bb_model_space *space, uint32_t unit, const bb_csv *t, size_t *found, bb_err *err)
{
    const bb_unit *u = &s->problem->units[unit];
    const size_t   rows = bb_problem_rows(s->problem, unit);
    bb_status      status = BB_OK;
    s->decode[unit] = BB_NEW0(rows * u->n_options, double, err);
    s->prefill[unit] = BB_NEW0(rows * u->n_options, double, err);
    if (!s->decode[unit] || !s->prefill[unit]) return BB_NOMEM;
    if (!bb_model_space_is_format(space, unit)) return BB_OK;
    for (uint32_t o = 0; o < u->n_options; o++) {
        double decode, prefill;
        BB_TRY(find_format(t, bb_model_space_format(space, unit, o)->name, &decode, &prefill, err));
        *found += isnan(decode) ? 0 : 1;
        for (size_t row = 0; row < rows; row++) {
            double weights = weights_at(space, unit, row) * uses(s->problem, unit);
            s->decode[unit][row * u->n_options + o] = weights > 0 ? weights * decode * 1e-12 : 0;
            s->prefill[unit][row * u->n_options + o] = weights > 0 && s->problem->plans->units[unit].what < BB_N_PARTS ? weights * prefill * 1e-12 : 0;
        }
    }
done:
    return status;
}

bb_status bb_speed_load(const bb_model_space *space, const char *path, bb_speed *out, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(space);
    bb_csv            t = { 0 };
    size_t            found = 0;
    bb_status         status;
    *out = (bb_speed) { .problem = p };
    BB_TRY(bb_csv_read(path, &t, err));
    if (t.n_cols != 3 || bb_csv_column(&t, "format") != 0 || bb_csv_column(&t, "decode_ps") != 1 || bb_csv_column(&t, "prefill_ps") != 2) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s: the columns should be format,decode_ps,prefill_ps", path);
        goto done;
    }
    status = BB_NOMEM;
    if (!(out->decode = BB_NEW0(p->n_units, double *, err)) || !(out->prefill = BB_NEW0(p->n_units, double *, err))) goto done;
    status = BB_OK;
    for (uint32_t u = 0; u < p->n_units; u++) BB_TRY(fill_unit(out, space, u, &t, &found, err));
    if (found == 0) status = BB_FAIL(err, BB_USAGE, "%s holds none of the formats that a plan may use", path);
done:
    bb_csv_done(&t);
    if (status != BB_OK) bb_speed_done(out);
    return status;
}

void bb_speed_done(bb_speed *s)
{
    for (uint32_t u = 0; s->problem && u < s->problem->n_units; u++) {
        if (s->decode) bb_free(s->decode[u]);
        if (s->prefill) bb_free(s->prefill[u]);
    }
    bb_free(s->decode);
    bb_free(s->prefill);
    memset(s, 0, sizeof *s);
}

static double tokens_a_second(const bb_speed *s, double *const *seconds, const uint16_t *x)
{
    double sum = 0;
    for (uint32_t u = 0; u < s->problem->n_units; u++) sum += seconds[u][bb_problem_row(s->problem, x, u) + x[u]];
    return sum > 0 ? 1 / sum : (double)NAN;
}

double bb_speed_decode(const bb_speed *s, const uint16_t *x) { return tokens_a_second(s, s->decode, x); }
double bb_speed_prefill(const bb_speed *s, const uint16_t *x) { return tokens_a_second(s, s->prefill, x); }

void bb_speed_price(const bb_speed *s, double price, bb_variant *v)
{
    for (uint32_t u = 0; u < s->problem->n_units; u++)
        for (size_t i = 0; i < bb_problem_rows(s->problem, u) * s->problem->units[u].n_options; i++) {
            if (isnan(s->decode[u][i])) v->bytes[u][i] = BB_FORBIDDEN;
            else v->cost[u][i] = s->problem->units[u].cost[i] + price * s->decode[u][i];
        }
}

/* What llama.cpp has no x86 kernel for (3f545becc, August 2026), and how many times as long as for a format of about its size with one a weight
 * takes: configs/profiles/llamacpp-x86-2core.csv, decoding and prompt, Q2_0 to TQ2_0. Q1_0 has a kernel. */
static const struct {
    bb_type type, other;
    double  decode, prefill;
} slow[] = { { BB_Q2_0, BB_TQ2_0, 13, 25 } };
enum { N_SLOW = sizeof slow / sizeof *slow };

static double matrix_weights(const bb_matrix *w, bb_type type) { return bb_matrix_stored(w) == type ? (double)w->rows * w->cols : 0; }

/* Weights of one type that every token is multiplied with. */
static double product_weights(const bb_net *net, bb_type type)
{
    double sum = matrix_weights(net->head.rows ? &net->head : &net->embd, type);
    for (uint32_t b = 0; b < net->n_layer; b++)
        for (int p = 0; p < BB_N_PARTS; p++) sum += matrix_weights(&net->blocks[b].w[p], type);
    return sum;
}

bb_status bb_speed_note(const bb_net *net, char **note, bb_err *err)
{
    double    all = 0;
    bb_text   t = { 0 };
    bb_status status = BB_OK;
    *note = NULL;
    for (int k = 0; k < BB_TYPE_COUNT; k++) all += product_weights(net, (bb_type)k);
    for (int i = 0; i < N_SLOW; i++) {
        const double share = all > 0 ? product_weights(net, slow[i].type) / all : 0;
        if (share < 0.01) continue;
        bb_text_addf(
            &t,
            "%s%.0f %% of the weights are %s, for which it has no x86 kernel: they take %.0f times as long as %s when it decodes and %.0f times when it "
            "reads a prompt",
            t.size ? "; " : "small, slow in llama.cpp of August 2026: ", 100 * share, bb_format_get(slow[i].type)->name, slow[i].decode,
            bb_format_get(slow[i].other)->name, slow[i].prefill);
    }
    for (int k = 0; k < BB_TYPE_COUNT; k++) {
        const bb_format *f = bb_format_get((bb_type)k);
        const double     weights = f && f->experimental ? product_weights(net, f->type) + (net->head.rows ? matrix_weights(&net->embd, f->type) : 0) : 0;
        if (weights > 0 && k == BB_LC2)
            bb_text_addf(&t, "%s%.4g million weights are LC2, a type of bitbudget alone: llama.cpp does not read this file", t.size ? "; " : "", weights / 1e6);
        else if (weights > 0)
            bb_text_addf(&t, "%s%.4g million weights are %s, which is under review in llama.cpp (pull request 27325): stock llama.cpp does not read this file",
                         t.size ? "; " : "", weights / 1e6, f->name);
    }
    if (t.status != BB_OK) status = BB_NOMEM;
    else if (t.data && !(*note = bb_strdup(t.data, err))) status = BB_NOMEM;
    bb_text_done(&t);
    return status;
}

bool bb_speed_allows(void *speed, const uint16_t *x)
{
    const bb_speed *s = speed;
    return !(s->min_tps > 0) || bb_speed_decode(s, x) >= s->min_tps;
}
