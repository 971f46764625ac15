/* SPDX-License-Identifier: GPL-3.0-or-later
 * format.c: the list of weight formats, and the few functions that need the whole list. */
#include "kernels/format.h"

#include <strings.h>

#include "base/status.h"

/* Ascending bits a weight; formats of equal size in the order of their type id. One line a format. */
static const bb_format *const rows[] = {
    &bb_format_q1_0,   &bb_format_iq1_s, &bb_format_tq1_0, &bb_format_iq1_m,   &bb_format_iq2_xxs, &bb_format_tq2_0, &bb_format_q2_0,   &bb_format_iq2_xs,
    &bb_format_iq2_nl, &bb_format_iq2_s, &bb_format_q2_k,  &bb_format_iq3_xxs, &bb_format_q3_k,    &bb_format_iq3_s, &bb_format_iq3_nl, &bb_format_iq4_xs,
    &bb_format_mxfp4,  &bb_format_q4_0,  &bb_format_q4_k,  &bb_format_iq4_nl,  &bb_format_nvfp4,   &bb_format_q4_1,  &bb_format_q5_0,   &bb_format_q5_k,
    &bb_format_q5_1,   &bb_format_q6_k,  &bb_format_q8_0,  &bb_format_f16,     &bb_format_bf16,    &bb_format_f32,
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

const bb_format *bb_format_at(size_t i) { return i < N_ROWS ? rows[i] : NULL; }

const bb_format *bb_format_get(bb_type type)
{
    for (size_t i = 0; i < N_ROWS; i++)
        if (rows[i]->type == type) return rows[i];
    return type == BB_LC2 ? &bb_format_lc2 : NULL;
}

const bb_format *bb_format_find(const char *name)
{
    for (size_t i = 0; name && i < N_ROWS; i++)
        if (strcasecmp(rows[i]->name, name) == 0) return rows[i];
    return NULL;
}

const bb_format *bb_format_for_row(const bb_format *f, size_t n_weights)
{
    static const struct {
        bb_type type, other;
    } fallback[] = {
        { BB_IQ1_S, BB_IQ4_NL }, { BB_IQ1_M, BB_IQ4_NL },   { BB_IQ2_XXS, BB_IQ4_NL }, { BB_IQ2_XS, BB_IQ4_NL },
        { BB_IQ2_S, BB_IQ4_NL }, { BB_IQ3_XXS, BB_IQ4_NL }, { BB_IQ3_S, BB_IQ4_NL },   { BB_IQ4_XS, BB_IQ4_NL },
        { BB_TQ1_0, BB_Q4_0 },   { BB_TQ2_0, BB_Q4_0 },     { BB_Q2_0, BB_Q4_0 },      { BB_Q2_K, BB_Q4_0 },
        { BB_Q3_K, BB_Q4_0 },    { BB_Q4_K, BB_Q5_0 },      { BB_Q5_K, BB_Q5_1 },      { BB_Q6_K, BB_Q8_0 },
    };
    if (n_weights % f->block == 0) return f;
    for (size_t i = 0; i < sizeof fallback / sizeof *fallback; i++) {
        if (fallback[i].type != f->type) continue;
        const bb_format *other = bb_format_get(fallback[i].other);
        return bb_format_get(n_weights % other->block == 0 ? other->type : BB_F16);
    }
    return NULL;
}

size_t bb_format_row_bytes(const bb_format *f, size_t n_weights)
{
    BB_ASSERT(n_weights % f->block == 0);
    return n_weights / f->block * f->block_bytes;
}

double bb_format_bpw(const bb_format *f) { return 8.0 * f->block_bytes / f->block; }
