/* SPDX-License-Identifier: GPL-3.0-or-later
 * format.c: the list of weight formats, and the few functions that need the whole list. */
#include "kernels/format.h"

#include <strings.h>

#include "base/status.h"

/* Ascending bits a weight; formats of equal size in the order of their type id. One line a format. */
static const bb_format *const rows[] = {
    &bb_format_q1_0,
    &bb_format_iq1_s,
    &bb_format_tq1_0,
    &bb_format_iq1_m,
    &bb_format_iq2_xxs,
    &bb_format_tq2_0,
    &bb_format_q2_0,
    &bb_format_iq2_xs,
    &bb_format_iq2_s,
    &bb_format_q2_k,
    &bb_format_iq3_xxs,
    &bb_format_q3_k,
    &bb_format_iq3_s,
    &bb_format_iq4_xs,
    &bb_format_mxfp4,
    &bb_format_q4_0,
    &bb_format_q4_k,
    &bb_format_iq4_nl,
    &bb_format_nvfp4,
    &bb_format_q4_1,
    &bb_format_q5_0,
    &bb_format_q5_k,
    &bb_format_q5_1,
    &bb_format_q6_k,
    &bb_format_q8_0,
    &bb_format_f16,
    &bb_format_bf16,
    &bb_format_f32,
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

const bb_format *bb_format_at(size_t i) { return i < N_ROWS ? rows[i] : NULL; }

const bb_format *bb_format_get(bb_type type)
{
    for (size_t i = 0; i < N_ROWS; i++)
        if (rows[i]->type == type) return rows[i];
    return NULL;
}

const bb_format *bb_format_find(const char *name)
{
    for (size_t i = 0; name && i < N_ROWS; i++)
        if (strcasecmp(rows[i]->name, name) == 0) return rows[i];
    return NULL;
}

size_t bb_format_row_bytes(const bb_format *f, size_t n_weights)
{
    BB_ASSERT(n_weights % f->block == 0);
    return n_weights / f->block * f->block_bytes;
}

double bb_format_bpw(const bb_format *f) { return 8.0 * f->block_bytes / f->block; }
