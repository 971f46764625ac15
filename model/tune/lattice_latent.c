/* SPDX-License-Identifier: GPL-3.0-or-later
 * lattice_latent.c: see lattice_latent.h. */
#include "model/tune/lattice_latent.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

enum { DIM = BB_LATTICE_DIM, PIECE = 64 };
static const double scale_share = 0.3, map_share = 0.03; /* of the rate of fields */

typedef struct bb_lattice_latent lattice;

static size_t         n_side(const bb_latent *l) { return bb_lattice_side_numbers(l->rows, l->cols); }
static unsigned char *side_bytes(const bb_latent *l) { return l->packed + bb_lattice_code_bytes(l->rows, l->cols); }
static float         *in_of(const bb_latent *l, float *side)
{
    (void)l;
    return side + BB_LATTICE_MAP;
}
static float *out_of(const bb_latent *l, float *side) { return side + BB_LATTICE_MAP + l->cols; }

/* ---- life ---- */

void bb_lattice_latent_done(bb_latent *l)
{
    lattice *k = l->lattice;
    if (!k) return;
    bb_lattice_frame_done(&k->frame);
    bb_free(k->d);
    bb_free(k->sums);
    bb_free(k->side);
    bb_free(k->g_side);
    bb_free(k->stored);
    bb_free(k);
    l->lattice = NULL;
}

bb_status bb_lattice_latent_create(const bb_matrix *m, bb_latent *l, bb_err *err)
{
    const size_t n = (size_t)m->rows * m->cols;
    lattice     *k = BB_NEW0(1, lattice, err);
    bb_status    status = BB_NOMEM;
    if (!k) return BB_NOMEM;
    l->lattice = k;
    BB_TRY(bb_lattice_frame_init(&k->frame, m->rows, m->cols, err));
    status = BB_NOMEM;
    k->d = BB_NEW(n, double, err);
    k->sums = BB_NEW((size_t)m->rows * BB_LATTICE_MAP, double, err);
    k->side = BB_NEW(n_side(l), float, err);
    k->g_side = BB_NEW0(n_side(l), float, err);
    k->stored = BB_NEW(n_side(l), float, err);
    l->q = BB_NEW(n, float, err);
    l->w = BB_NEW(n, float, err);
    l->g_w = BB_NEW0(n, float, err);
    if (!k->d || !k->sums || !k->side || !k->g_side || !k->stored || !l->q || !l->w || !l->g_w) goto done;
    l->unit = 1; /* latents are in steps */
    bb_lattice_latent_decode(l);
    status = BB_OK;
done:
    return status; /* bb_latent_create ends what is there */
}

static double root_mean_square(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum / (double)n);
}

/* What more weights hear moves less: the scales, of whole rows and columns, by a third of `fields`, A and b, of all, by a tenth of that ([1] of lattice.h has the
 * same tenth), in fractions of a step: the root mean square of a row of A. */
void bb_lattice_latent_params(const bb_latent *l, double weights, double fields, bb_param *out)
{
    lattice     *k = l->lattice;
    float *const s = k->side, *const g = k->g_side;
    const double step = root_mean_square(s, DIM * DIM) * sqrt(DIM);
    out[0] = (bb_param) { l->w, l->g_w, (size_t)l->rows * l->cols, (float)(weights * l->unit), 0 };
    out[1] = (bb_param) { s, g, DIM * DIM, (float)(map_share * fields * step), 0 };
    out[2] = (bb_param) { s + DIM * DIM, g + DIM * DIM, DIM, (float)(map_share * fields * step), 0 };
    out[3] = (bb_param) { in_of(l, s), in_of(l, g), l->cols, (float)(scale_share * fields * root_mean_square(in_of(l, s), l->cols)), 0 };
    out[4] = (bb_param) { out_of(l, s), out_of(l, g), l->rows, (float)(scale_share * fields * root_mean_square(out_of(l, s), l->rows)), 0 };
}

/* ---- bytes to numbers and back ---- */

void bb_lattice_latent_refresh(bb_latent *l)
{
    lattice *k = l->lattice;
    bb_lattice_side_read(side_bytes(l), n_side(l), k->stored);
    bb_lattice_weights(&k->frame, l->packed, k->stored, in_of(l, k->stored), out_of(l, k->stored), k->d, l->q);
    if (k->shown) memcpy(k->shown, l->q, (size_t)l->rows * l->cols * sizeof *l->q);
}

void bb_lattice_latent_decode(bb_latent *l)
{
    lattice     *k = l->lattice;
    const size_t n = (size_t)l->rows * l->cols;
    bb_lattice_latent_refresh(l);
    memcpy(k->side, k->stored, n_side(l) * sizeof *k->side);
    for (size_t i = 0; i < n; i++) l->w[i] = (float)(l->packed[i / DIM] >> 2 * (i % DIM) & 3);
}

void bb_lattice_latent_encode(bb_latent *l)
{
    const size_t n = bb_lattice_code_bytes(l->rows, l->cols);
#pragma omp parallel for schedule(static)
    for (size_t g = 0; g < n; g++) {
        unsigned byte = 0;
        for (unsigned j = 0; j < DIM; j++) byte |= (unsigned)(fminf(fmaxf(l->w[DIM * g + j] + 0.5f, 0), 3)) << 2 * j;
        l->packed[g] = (unsigned char)byte;
    }
    bb_lattice_side_write(l->lattice->side, n_side(l), side_bytes(l));
    bb_lattice_latent_refresh(l);
}

/* ---- gradients ---- */

/* dL/d log of a scale is the sum of G W over what it multiplies; of a scale that is stored as 0 it says nothing. */
static float by_scale(double sum, float scale) { return scale < 0 || scale > 0 ? (float)(sum / (double)scale) : 0; }

static void scale_gradients(bb_latent *l)
{
    lattice     *k = l->lattice;
    const size_t cols = l->cols, rows = l->rows;
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t c = 0; c < cols; c++) sum += (double)l->g_w[r * cols + c] * (double)l->q[r * cols + c];
        out_of(l, k->g_side)[r] = by_scale(sum, out_of(l, k->stored)[r]);
    }
#pragma omp parallel for schedule(static)
    for (size_t from = 0; from < cols; from += PIECE) {
        const size_t n = cols - from < PIECE ? cols - from : PIECE;
        double       sum[PIECE] = { 0 };
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < n; c++) sum[c] += (double)l->g_w[r * cols + from + c] * (double)l->q[r * cols + from + c];
        for (size_t c = 0; c < n; c++) in_of(l, k->g_side)[from + c] = by_scale(sum[c], in_of(l, k->stored)[from + c]);
    }
}

/* Sums over the groups of dy and of dy z', row by row; d is dy. */
static void map_gradients(bb_latent *l)
{
    lattice     *k = l->lattice;
    const size_t groups = l->cols / DIM, rows = l->rows;
    double       total[BB_LATTICE_MAP] = { 0 };
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < rows; r++) {
        double sum[BB_LATTICE_MAP] = { 0 };
        for (size_t g = r * groups; g < (r + 1) * groups; g++)
            for (size_t i = 0; i < DIM; i++) {
                const double dy = k->d[DIM * g + i];
                for (size_t j = 0; j < DIM; j++) sum[DIM * i + j] += dy * (double)(l->packed[g] >> 2 * j & 3);
                sum[DIM * DIM + i] += dy;
            }
        memcpy(k->sums + r * BB_LATTICE_MAP, sum, sizeof sum);
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < BB_LATTICE_MAP; i++) total[i] += k->sums[r * BB_LATTICE_MAP + i];
    for (size_t i = 0; i < BB_LATTICE_MAP; i++) k->g_side[i] = (float)total[i];
}

/* Slope of the smooth rounding at v (tune.h): past the ends as at a level. */
static float slope_at(float v)
{
    const float power = 5, most = 3;
    if (!(v > 0 && v < 3)) return 1 / power;
    const float m = fabsf(2 * (v - floorf(v)) - 1);
    return m > 0x1p-20f ? fminf(most, powf(m, 1 / power - 1) / power) : most;
}

void bb_lattice_latent_gradients(bb_latent *l, bool differentiable)
{
    lattice     *k = l->lattice;
    const size_t cols = l->cols, n = (size_t)l->rows * cols;
    const float *s_in = in_of(l, k->stored), *s_out = out_of(l, k->stored), *a = k->stored;
    scale_gradients(l);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) k->d[i] = (double)s_out[i / cols] * (double)l->g_w[i] * (double)s_in[i % cols];
    bb_lattice_turn(&k->frame, k->d, true);
    map_gradients(l);
#pragma omp parallel for schedule(static)
    for (size_t g = 0; g < n / DIM; g++)
        for (size_t j = 0; j < DIM; j++) {
            double sum = 0;
            for (size_t i = 0; i < DIM; i++) sum += (double)a[DIM * i + j] * k->d[DIM * g + i];
            l->g_w[DIM * g + j] = (float)sum * (differentiable ? slope_at(l->w[DIM * g + j]) : 1);
        }
}
