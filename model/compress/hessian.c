/* SPDX-License-Identifier: GPL-3.0-or-later
 * hessian.c: second moments of inputs, added up and finished (compress.h).
 *
 * Each window of T tokens is one chunk: a float32 product X' X by square tiles, added to float64 sums in window order. Tiles
 * are the parallel pieces, so neither the number of threads nor of windows a call changes a bit of the result.
 */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/blas.h"
#include "model/compress/factor.h"

enum { MAX_TILE = 128 };

/* One product of many: sum (na, nb) += A' B, or its upper tiles only. */
typedef struct moment {
    double      *sum;
    const float *a, *b;
    size_t       na, nb, n_tokens, chunk, tile;
    bool         upper;
} moment;

/* The tile at (i0, j0), chunk after chunk. product: MAX_TILE^2 floats. */
static void add_tile(const moment *m, size_t i0, size_t j0, float *product)
{
    const size_t ni = m->na - i0 < m->tile ? m->na - i0 : m->tile, nj = m->nb - j0 < m->tile ? m->nb - j0 : m->tile;
    for (size_t t = 0; t < m->n_tokens; t += m->chunk) {
        size_t k = m->n_tokens - t < m->chunk ? m->n_tokens - t : m->chunk;
        bb_sgemm_tn(ni, nj, k, 1, m->a + t * m->na + i0, m->na, m->b + t * m->nb + j0, m->nb, 0, product, nj);
        for (size_t i = 0; i < ni; i++)
            for (size_t j = 0; j < nj; j++) m->sum[(i0 + i) * m->nb + j0 + j] += (double)product[i * nj + j];
    }
}

static bb_status add_moment(const moment *m, bb_err *err)
{
    const size_t rows = (m->na + m->tile - 1) / m->tile, cols = (m->nb + m->tile - 1) / m->tile;
    bool         no_memory = false;
#pragma omp parallel
    {
        float *product = BB_NEW((size_t)MAX_TILE * MAX_TILE, float, NULL);
#pragma omp for schedule(dynamic)
        for (size_t p = 0; p < rows * cols; p++) {
            size_t i = p / cols, j = p % cols;
            if (!product) {
#pragma omp atomic write
                no_memory = true;
            } else if (i <= j || !m->upper) {
                add_tile(m, i * m->tile, j * m->tile, product);
            }
        }
        bb_free(product);
    }
    return no_memory ? BB_FAIL(err, BB_NOMEM, "out of memory in the sum of second moments") : BB_OK;
}

static size_t tile_of(size_t n) { return n >= 256 ? MAX_TILE : MAX_TILE / 2; }

bb_status bb_cross_add(double *sum, const float *a, uint32_t na, const float *b, uint32_t nb, size_t n_tokens, uint32_t chunk, bb_err *err)
{
    const moment m = { sum, a, b, na, nb, n_tokens, chunk, tile_of(nb), false };
    return add_moment(&m, err);
}

bb_status bb_hessian_add(bb_hessian *h, const float *x, size_t n_tokens, uint32_t cols, uint32_t chunk, bb_err *err)
{
    if (!h->sum) {
        h->sum = BB_NEW0((size_t)cols * cols, double, err);
        if (!h->sum) return BB_NOMEM;
        h->n_cols = cols;
        h->n_tokens = 0;
    }
    BB_ASSERT(h->n_cols == cols);
    const moment m = { h->sum, x, x, cols, cols, n_tokens, chunk, tile_of(cols), true };
    bb_status    status = add_moment(&m, err);
    h->n_tokens += n_tokens;
    return status;
}

/* The floats take the place of the sums: entry k ends before the sum behind it begins, so that those of the upper half can be made in ascending order. */
bb_status bb_hessian_finish(bb_hessian *h, bb_err *err)
{
    const size_t   n = h->n_cols;
    const double   scale = h->n_tokens ? 1.0 / (double)h->n_tokens : 0;
    unsigned char *bytes = (unsigned char *)h->sum;
    if (!h->sum) return BB_OK;
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++) {
            double sum;
            memcpy(&sum, bytes + (i * n + j) * sizeof sum, sizeof sum);
            const float v = (float)(sum * scale);
            if (!isfinite(v)) return BB_FAIL(err, BB_NUMERIC, "the second moment of inputs %zu and %zu is not finite; the model overflows", i, j);
            memcpy(bytes + (i * n + j) * sizeof v, &v, sizeof v);
        }
    h->h = (float *)(void *)bytes;
    h->sum = NULL;
    for (size_t i = 0; i < n; i++)
        for (size_t j = i + 1; j < n; j++) h->h[j * n + i] = h->h[i * n + j];
    bb_shrink(h->h, n * n, sizeof *h->h);
    return BB_OK;
}

bb_status bb_hessians_finish(bb_hessians *h, bb_err *err)
{
    bb_status status = BB_OK;
    for (int i = 0; i < BB_N_FEEDS; i++) BB_TRY(bb_hessian_finish(&h->in[i], err));
done:
    return status;
}

void bb_hessian_done(bb_hessian *h)
{
    bb_free(h->h);
    bb_free(h->sum);
    *h = (bb_hessian) { 0 };
}

void bb_hessians_done(bb_hessians *h)
{
    for (int i = 0; i < BB_N_FEEDS; i++) bb_hessian_done(&h->in[i]);
}

bb_status bb_hessian_subset(const bb_hessian *h, const uint32_t *kept, uint32_t n_kept, bb_hessian *out, bb_err *err)
{
    *out = (bb_hessian) { .n_cols = n_kept, .n_tokens = h->n_tokens };
    out->h = BB_NEW((size_t)n_kept * n_kept, float, err);
    if (!out->h) return BB_NOMEM;
    for (uint32_t i = 0; i < n_kept; i++)
        for (uint32_t j = 0; j < n_kept; j++) out->h[(size_t)i * n_kept + j] = h->h[(size_t)kept[i] * h->n_cols + kept[j]];
    return BB_OK;
}
