/* SPDX-License-Identifier: GPL-3.0-or-later
 * sensitivity.h: what each option of each unit does at the end of the network, measured by true propagation.
 *
 * Around an anchor plan (empty: the full-precision model) each (unit, option) is put in alone, the network is run from the first changed
 * block to the end, and two things are kept: the KL of the final logits to full precision, and the signed sketch psi of the change:
 *   psi[t*k+j] = s_tj . (n(h'_t) - n(h_t)) / sqrt(k T),   s_tj = W[v_j] - E_p[W],  v_j ~ p_t = softmax(W n(h_t)) of full precision,
 * n the output norm, W the head. To second order KL = 1/2 dz'(diag p - pp')dz, of which 1/2 |psi|^2 is an unbiased estimate; sums of psi
 * over units therefore score whole plans with all pairwise interactions (design: global error propagation, level 1).
 */
#ifndef BB_EVAL_SENSITIVITY_H
#define BB_EVAL_SENSITIVITY_H

#include "base/store.h"
#include "eval/evaluator.h"
#include "model/compress/database.h"

typedef struct bb_change {
    const char *unit, *option;   /* borrowed names */
    double      kl, kl_se;       /* nats a token, of anchor + this change */
    float      *psi;             /* [sketch dimension] owned by the sensitivity; change against full precision */
} bb_change;

typedef struct bb_sensitivity {
    size_t     n;                /* changes, in the order given */
    bb_change *changes;
    size_t     dim;              /* of psi: scored tokens x probes */
    double     anchor_kl;        /* KL of the anchor itself */
    float     *anchor_psi;       /* [dim] */
    double     n_forwarded;      /* tokens spent */
    float     *memory;           /* owned: all psi */
} bb_sensitivity;

typedef struct bb_sensitivity_options {
    uint32_t        level;       /* of the evaluator; must have a boundary cache */
    uint32_t        probes;      /* k */
    uint64_t        seed;
    const bb_plan  *anchor;      /* NULL: full precision */
    bb_store       *store;       /* finished changes are read from and written to table "sensitivity"; NULL: none */
    const char     *key;         /* identity of everything above and of the data: prefix of the store keys */
} bb_sensitivity_options;

/* Measures all changes (unit and option filled in; order is kept), last block first inside, so that prefixes are shared. Resumable through the
 * store; shows progress. */
bb_status bb_sensitivity_measure(bb_net_evaluator *e, const bb_model *model, bb_database *db, const bb_windows *windows,
                                 const bb_sensitivity_options *o, bb_change *changes, size_t n, bb_sensitivity *out, bb_err *err);
void      bb_sensitivity_done(bb_sensitivity *s);

/* G (n+1, n+1) float32 row-major, G[i][j] = psi_i . psi_j; the last row and column belong to the anchor's psi. */
bb_status bb_sensitivity_gram(const bb_sensitivity *s, float *gram, bb_err *err);

#endif
