/* SPDX-License-Identifier: GPL-3.0-or-later
 * coupling.c: see coupling.h. */
#include "model/compress/coupling.h"

#include <string.h>

#include "base/mem.h"
#include "kernels/blas.h"

/* Rows of a tile lose what they could have told each other: as few as leaves the vectors, and cores where there are many rows, something to do. */
enum { LEAST_TILE = 8, MOST_TILE = 128, TILES = 24 };

uint32_t bb_coupling_tile(uint32_t rows)
{
    const uint32_t n = (rows / TILES + LEAST_TILE - 1) / LEAST_TILE * LEAST_TILE;
    return n < LEAST_TILE ? LEAST_TILE : n > MOST_TILE ? MOST_TILE : n;
}

bb_status bb_coupling_init(const float *g, uint32_t rows, double damping, bb_coupling *c, bb_err *err)
{
    const uint32_t tile = bb_coupling_tile(rows);
    uint32_t       at = 0;
    bb_status      status = BB_NOMEM;
    *c = (bb_coupling) { .rows = rows, .n_tiles = (rows + tile - 1) / tile };
    c->row = BB_NEW(rows, uint32_t, err);
    c->first = BB_NEW((size_t)c->n_tiles + 1, uint32_t, err);
    c->metric = BB_NEW((size_t)rows * rows, float, err);
    if (!c->row || !c->first || !c->metric) goto done;
    for (uint32_t t = 0; t < c->n_tiles; t++) {
        c->first[t] = at;
        for (uint32_t r = t; r < rows; r += c->n_tiles) c->row[at++] = r;
    }
    c->first[c->n_tiles] = at;
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t k = 0; k < rows; k++) c->metric[(size_t)i * rows + k] = g[(size_t)c->row[i] * rows + c->row[k]];
    const bb_hessian h = { .n_cols = rows, .h = c->metric };
    status = bb_factor_make(&h, damping, &c->g, err);
done:
    if (status != BB_OK) bb_coupling_done(c);
    return status;
}

void bb_coupling_done(bb_coupling *c)
{
    bb_free(c->row);
    bb_free(c->first);
    bb_free(c->metric);
    bb_factor_done(&c->g);
    *c = (bb_coupling) { 0 };
}

void bb_coupling_shift(const bb_coupling *c, uint32_t tile, const float *e, uint32_t cols, float *coef, float *shift)
{
    const uint32_t first = c->first[tile], m = c->first[tile + 1] - first;
    const size_t   ld = c->rows;
    const float   *own = c->g.u + first * ld + first;
    if (!first) {
        memset(shift, 0, (size_t)m * cols * sizeof *shift);
        return;
    }
    /* coef := U[before, tile] U[tile, tile]^-1: the scalar factor counts what a tile's own rows tell each other, the block LDL does not. */
#pragma omp parallel for schedule(static)
    for (uint32_t p = 0; p < first; p++) {
        const float *u = c->g.u + p * ld + first;
        float       *x = coef + (size_t)p * m;
        for (uint32_t i = 0; i < m; i++) {
            x[i] = u[i];
            for (uint32_t k = 0; k < i; k++) x[i] -= x[k] * own[k * ld + i];
        }
    }
    bb_sgemm_tn(m, cols, first, 1, coef, m, e, cols, 0, shift, cols);
}
