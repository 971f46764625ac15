/* SPDX-License-Identifier: GPL-3.0-or-later
 * bench_lattice.c: levels of an affine lattice without a rotation, d sc (q - 1.5), in Q2_K (mn = sc, dmin = 1.5 d): how much worse than Q2_K's free minima they are, and
 * what Q2_K's own encoder makes of them. Relative squared errors over the matrices of every fourth block of a model, no importance.
 * usage: bench_lattice MODEL.gguf */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "kernels/half.h"
#include "model/compress/lattice_fit.h"
#include "model/compress/statistics.h"
#include "model/model.h"

enum { BLOCK = 256, GROUP = 16, GROUPS = BLOCK / GROUP, TRIES = 9 };

static double squares(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += ((double)a[i] - (b ? (double)b[i] : 0)) * ((double)a[i] - (b ? (double)b[i] : 0));
    return sum;
}

static double quantized(const float *w, double s, float *v)
{
    for (int i = 0; i < GROUP; i++) v[i] = s > 0 ? (float)(s * (fmin(fmax(floor((double)w[i] / s + 2), 0), 3) - 1.5)) : 0;
    return squares(w, v, GROUP);
}

/* Of a group the best multiple 0 .. 15 of d. */
static double best_multiple(const float *w, double d, float *v)
{
    double least = INFINITY;
    int    best = 0;
    for (int sc = 0; sc < 16; sc++) {
        const double e = quantized(w, d * sc, v);
        if (e < least) {
            least = e;
            best = sc;
        }
    }
    return quantized(w, d * best, v);
}

/* A block in levels between, over d in steps of a twelfth, one bit of its mantissa spared. */
static void encode_between(const float *w, float *v)
{
    float  try[BLOCK];
    double most = 0, least = INFINITY;
    for (int i = 0; i < BLOCK; i++) most = fmax(most, fabs((double)w[i]));
    for (int k = 0; k < TRIES; k++) {
        const double d = (double)bb_half_to_float(bb_float_to_half((float)(most / 15 / 1.5 * exp2(-k / 8.0))) & 0xFFFE);
        double       e = 0;
        for (int g = 0; g < GROUPS; g++) e += best_multiple(w + GROUP * g, d, try + GROUP * g);
        if (e >= least) continue;
        least = e;
        memcpy(v, try, sizeof try);
    }
}

int main(int argc, char **argv)
{
    const bb_format         *f = bb_format_get(BB_Q2_K);
    const bb_lattice_options o = { 1, 0.01, 0 };
    double                   energy = 0, error[5] = { 0 };
    bb_model                 m = { 0 };
    bb_err                   err = BB_ERR_INIT;
    if (argc != 2 || bb_model_open(argv[1], &m, &err) != BB_OK) {
        fprintf(stderr, "usage: bench_lattice MODEL.gguf\n%s\n", err.msg);
        return 2;
    }
    for (uint32_t b = 0; b < m.net.n_layer; b += 4)
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *w = &m.net.blocks[b].w[p];
            const size_t     n = (size_t)w->rows * w->cols;
            if (!w->rows || w->cols % BLOCK) continue;
            float          *x = bb_matrix_decode(w, NULL), *v = BB_NEW(n, float, NULL), *between = BB_NEW(n, float, NULL);
            unsigned char  *bytes = bb_alloc(w->rows, bb_format_row_bytes(f, w->cols), NULL);
            bb_lattice_box *box = bb_lattice_box_new(w->rows, w->cols, NULL);
            bb_quant_stats  stats;
            if (!x || !v || !between || !bytes || !box || bb_lattice_fit(x, w->rows, w->cols, NULL, &o, "bench", box->bytes, &stats, NULL) != BB_OK) return 1;
            const double all = squares(x, NULL, n);
            energy += all;
            f->encode(x, NULL, bytes, n);
            f->decode(bytes, v, n);
            error[0] += squares(x, v, n);
#pragma omp parallel for
            for (size_t i = 0; i < n; i += BLOCK) encode_between(x + i, between + i);
            error[1] += squares(x, between, n);
            f->encode(between, NULL, bytes, n);
            f->decode(bytes, v, n);
            error[2] += squares(between, v, n);
            error[3] += squares(x, v, n);
            error[4] += stats.error * all;
            bb_free(x);
            bb_free(v);
            bb_free(between);
            bb_free(bytes);
            bb_free(box);
        }
    printf(
        "of,relative_squared_error\nQ2_K free,%.6f\nQ2_K with levels between,%.6f\nthese by the encoder of Q2_K from themselves,%.6f\nfrom the weights,%.6f\n"
        "LC2 rounded,%.6f\n",
        error[0] / energy, error[1] / energy, error[2] / energy, error[3] / energy, error[4] / energy);
    bb_model_close(&m);
    return 0;
}
