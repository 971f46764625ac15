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
#include "model/compress/compress.h"

enum { MAX_TILE = 128 };

/* sum[i0.., j0..] += X' X of every chunk of `chunk` tokens, for one tile. product: MAX_TILE^2 floats. */
static void add_tile(bb_hessian *h, const float *x, size_t n_tokens, size_t chunk, size_t i0, size_t j0, size_t tile, float *product)
{
    size_t n = h->n_cols, ni = n - i0 < tile ? n - i0 : tile, nj = n - j0 < tile ? n - j0 : tile;
    for (size_t t = 0; t < n_tokens; t += chunk) {
        size_t k = n_tokens - t < chunk ? n_tokens - t : chunk;
        bb_sgemm_tn(ni, nj, k, 1, x + t * n + i0, n, x + t * n + j0, n, 0, product, nj);
        for (size_t i = 0; i < ni; i++)
            for (size_t j = 0; j < nj; j++) h->sum[(i0 + i) * n + j0 + j] += (double)product[i * nj + j];
    }
}

static bb_status add_inputs(bb_hessian *h, const float *x, size_t n_tokens, size_t chunk, bb_err *err)
{
    size_t tile = h->n_cols >= 1024 ? MAX_TILE : MAX_TILE / 2, n_tiles = (h->n_cols + tile - 1) / tile;
    bool   no_memory = false;
    #pragma omp parallel
    {
        float *product = BB_NEW((size_t)MAX_TILE * MAX_TILE, float, NULL);
        #pragma omp for schedule(dynamic)
        for (size_t p = 0; p < n_tiles * n_tiles; p++) {
            size_t i = p / n_tiles, j = p % n_tiles;
            if (!product) {
                #pragma omp atomic write
                no_memory = true;
            } else if (i <= j) {
                add_tile(h, x, n_tokens, chunk, i * tile, j * tile, tile, product);
            }
        }
        bb_free(product);
    }
    if (no_memory) return BB_FAIL(err, BB_NOMEM, "out of memory in the sum of second moments");
    h->n_tokens += n_tokens;
    return BB_OK;
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
    return add_inputs(h, x, n_tokens, chunk, err);
}

bb_status bb_hessian_finish(bb_hessian *h, bb_err *err)
{
    size_t n = h->n_cols;
    double scale = h->n_tokens ? 1.0 / (double)h->n_tokens : 0;
    if (!h->sum) return BB_OK;
    h->h = BB_NEW(n * n, float, err);
    if (!h->h) return BB_NOMEM;
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++) {
            float v = (float)(h->sum[i * n + j] * scale);
            if (!isfinite(v))
                return BB_FAIL(err, BB_NUMERIC, "the second moment of inputs %zu and %zu is not finite; the model overflows", i, j);
            h->h[i * n + j] = h->h[j * n + i] = v;
        }
    bb_free(h->sum);
    h->sum = NULL;
    return BB_OK;
}

bb_status bb_hessians_finish(bb_hessians *h, bb_err *err)
{
    bb_status status = BB_OK;
    for (int i = 0; i < 4; i++) BB_TRY(bb_hessian_finish(&h->in[i], err));
done:
    return status;
}

void bb_hessian_done(bb_hessian *h)
{
    bb_free(h->h);
    bb_free(h->sum);
    *h = (bb_hessian){ 0 };
}

void bb_hessians_done(bb_hessians *h)
{
    for (int i = 0; i < 4; i++) bb_hessian_done(&h->in[i]);
}

bb_status bb_hessian_subset(const bb_hessian *h, const uint32_t *kept, uint32_t n_kept, bb_hessian *out, bb_err *err)
{
    *out = (bb_hessian){ .n_cols = n_kept, .n_tokens = h->n_tokens };
    out->h = BB_NEW((size_t)n_kept * n_kept, float, err);
    if (!out->h) return BB_NOMEM;
    for (uint32_t i = 0; i < n_kept; i++)
        for (uint32_t j = 0; j < n_kept; j++) out->h[(size_t)i * n_kept + j] = h->h[(size_t)kept[i] * h->n_cols + kept[j]];
    return BB_OK;
}
