/* SPDX-License-Identifier: GPL-3.0-or-later
 * hyper.c: see hyper.h. The recurrent part is small and runs on one thread; the matrices of the masks are independent of each other. */
#include "model/tune/hyper.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

enum { IN = BB_HYPER_IN, H = BB_HYPER_HIDDEN, OUT = BB_HYPER_OUT, GATES = 3 * H, LANES = 4 };

static const double norm_eps = 1e-5;

/* Weights of one direction, as offsets into all of them. */
typedef struct direction {
    size_t wi, wh, bi, bh; /* (GATES, IN), (GATES, H), [GATES] each */
} direction;

/* What the backward pass needs of one step of one direction. */
typedef struct cell {
    double r[H], z[H], n[H], un[H], h[H]; /* un: Un h + cn; h: after the step */
} cell;

struct bb_hyper {
    uint32_t  n;
    uint32_t *length;
    size_t   *at;   /* [n] of its logits */
    size_t   *head; /* [n] of its matrix (length, OUT) among the weights */
    direction way[2];
    size_t    gain, bias; /* [OUT] of the norm */
    size_t    n_weights;
    float    *w, *g;
    double   *x;                /* (n, IN) */
    cell     *cell[2];          /* [n], by mask */
    double   *unit, *pre, *act; /* (n, OUT): normed, before and after GELU */
    double   *scale;            /* [n] 1 / deviation */
    double   *d_act;            /* (n, OUT) */
};

/* ---- life ---- */

static size_t take(bb_hyper *h, size_t n)
{
    const size_t at = h->n_weights;
    h->n_weights += n;
    return at;
}

static void lay(bb_hyper *h)
{
    for (int w = 0; w < 2; w++) {
        direction *d = &h->way[w];
        d->wi = take(h, (size_t)GATES * IN);
        d->wh = take(h, (size_t)GATES * H);
        d->bi = take(h, GATES);
        d->bh = take(h, GATES);
    }
    h->gain = take(h, OUT);
    h->bias = take(h, OUT);
    for (uint32_t i = 0, at = 0; i < h->n; at += h->length[i++]) {
        h->at[i] = at;
        h->head[i] = take(h, (size_t)h->length[i] * OUT);
    }
}

static void draw(float *w, size_t n, double bound, bb_rng *r)
{
    for (size_t i = 0; i < n; i++) w[i] = (float)(bound * (2 * bb_rng_uniform(r) - 1));
}

static void first_weights(bb_hyper *h, uint64_t seed)
{
    bb_rng r;
    bb_rng_init(&r, seed, "hypernetwork inputs");
    for (size_t i = 0; i < (size_t)h->n * IN; i++) h->x[i] = bb_rng_normal(&r);
    bb_rng_init(&r, seed, "hypernetwork weights");
    draw(h->w, h->gain, 1 / sqrt(H), &r);
    for (int i = 0; i < OUT; i++) h->w[h->gain + (size_t)i] = 1;
    if (h->n) draw(h->w + h->head[0], h->n_weights - h->head[0], 1 / sqrt(OUT), &r);
}

bb_status bb_hyper_create(const uint32_t *length, uint32_t n, uint64_t seed, bb_hyper **out, bb_err *err)
{
    bb_hyper *h = BB_NEW0(1, bb_hyper, err);
    bb_status status = BB_NOMEM;
    *out = NULL;
    if (!h) return BB_NOMEM;
    h->n = n;
    h->length = BB_NEW(n, uint32_t, err);
    h->at = BB_NEW(n, size_t, err);
    h->head = BB_NEW(n, size_t, err);
    h->x = BB_NEW((size_t)n * IN, double, err);
    for (int w = 0; w < 2; w++) h->cell[w] = BB_NEW(n, cell, err);
    h->unit = BB_NEW((size_t)n * OUT, double, err);
    h->pre = BB_NEW((size_t)n * OUT, double, err);
    h->act = BB_NEW((size_t)n * OUT, double, err);
    h->d_act = BB_NEW((size_t)n * OUT, double, err);
    h->scale = BB_NEW(n, double, err);
    if (!h->length || !h->at || !h->head || !h->x || !h->cell[0] || !h->cell[1] || !h->unit || !h->pre || !h->act || !h->d_act || !h->scale) goto done;
    memcpy(h->length, length, n * sizeof *length);
    lay(h);
    h->w = BB_NEW0(h->n_weights, float, err);
    h->g = BB_NEW0(h->n_weights, float, err);
    if (!h->w || !h->g) goto done;
    first_weights(h, seed);
    *out = h;
    status = BB_OK;
done:
    if (status != BB_OK) bb_hyper_destroy(h);
    return status;
}

void bb_hyper_destroy(bb_hyper *h)
{
    if (!h) return;
    void *all[] = { h->length, h->at, h->head, h->w, h->g, h->x, h->cell[0], h->cell[1], h->unit, h->pre, h->act, h->scale, h->d_act, h };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bb_free(all[i]);
}

bb_param bb_hyper_param(bb_hyper *h, double decay) { return (bb_param) { .w = h->w, .g = h->g, .n = h->n_weights, .rate_factor = 1, .decay = (float)decay }; }

/* ---- the recurrent unit ---- */

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* y[i] = row i of (rows, cols) times x, and its bias. */
static void affine(const float *w, const float *bias, const double *x, int rows, int cols, double *y)
{
    for (int i = 0; i < rows; i++) {
        double sum = (double)bias[i];
        for (int j = 0; j < cols; j++) sum += (double)w[i * cols + j] * x[j];
        y[i] = sum;
    }
}

/* The masks of a direction in the order in which it meets them: t = 0 .. n - 1. */
static uint32_t mask_of(const bb_hyper *h, int way, uint32_t t) { return way == 0 ? t : h->n - 1 - t; }

static const double *state_before(const bb_hyper *h, int way, uint32_t t)
{
    static const double zero[H];
    return t == 0 ? zero : h->cell[way][mask_of(h, way, t - 1)].h;
}

static void run_way(bb_hyper *h, int way)
{
    const direction *d = &h->way[way];
    for (uint32_t t = 0; t < h->n; t++) {
        const uint32_t m = mask_of(h, way, t);
        const double  *before = state_before(h, way, t);
        cell          *c = &h->cell[way][m];
        double         from_x[GATES], from_h[GATES];
        affine(h->w + d->wi, h->w + d->bi, h->x + (size_t)m * IN, GATES, IN, from_x);
        affine(h->w + d->wh, h->w + d->bh, before, GATES, H, from_h);
        for (int i = 0; i < H; i++) {
            c->r[i] = sigmoid(from_x[i] + from_h[i]);
            c->z[i] = sigmoid(from_x[H + i] + from_h[H + i]);
            c->un[i] = from_h[2 * H + i];
            c->n[i] = tanh(from_x[2 * H + i] + c->r[i] * c->un[i]);
            c->h[i] = (1 - c->z[i]) * c->n[i] + c->z[i] * before[i];
        }
    }
}

/* Gradients of an affine map into float arrays, and of its input (NULL: not wanted), added to. */
static void back_affine(const float *w, float *dw, float *db, const double *x, const double *dy, int rows, int cols, double *dx)
{
    for (int i = 0; i < rows; i++) {
        db[i] += (float)dy[i];
        for (int j = 0; j < cols; j++) {
            dw[i * cols + j] += (float)(dy[i] * x[j]);
            if (dx) dx[j] += dy[i] * (double)w[i * cols + j];
        }
    }
}

/* d_out (n, OUT): dL/dh of both directions side by side. */
static void back_way(bb_hyper *h, int way, const double *d_out)
{
    const direction *d = &h->way[way];
    double           dh[H] = { 0 };
    for (uint32_t t = h->n; t-- > 0;) {
        const uint32_t m = mask_of(h, way, t);
        const double  *before = state_before(h, way, t);
        const cell    *c = &h->cell[way][m];
        double         dx[GATES], du[GATES], d_before[H];
        for (int i = 0; i < H; i++) {
            const double g = dh[i] + d_out[(size_t)m * OUT + (size_t)(way * H + i)], dn = g * (1 - c->z[i]) * (1 - c->n[i] * c->n[i]);
            dx[i] = du[i] = dn * c->un[i] * c->r[i] * (1 - c->r[i]);
            dx[H + i] = du[H + i] = g * (before[i] - c->n[i]) * c->z[i] * (1 - c->z[i]);
            dx[2 * H + i] = dn;
            du[2 * H + i] = dn * c->r[i];
            d_before[i] = g * c->z[i];
        }
        back_affine(h->w + d->wi, h->g + d->wi, h->g + d->bi, h->x + (size_t)m * IN, dx, GATES, IN, NULL);
        back_affine(h->w + d->wh, h->g + d->wh, h->g + d->bh, before, du, GATES, H, d_before);
        memcpy(dh, d_before, sizeof dh);
    }
}

/* ---- behind it ---- */

static double gelu(double x) { return 0.5 * x * (1 + erf(x * M_SQRT1_2)); }
static double gelu_slope(double x) { return 0.5 * (1 + erf(x * M_SQRT1_2)) + x * exp(-0.5 * x * x) / sqrt(2 * M_PI); }

static void run_norm(bb_hyper *h, uint32_t m)
{
    const size_t at = (size_t)m * OUT;
    double       x[OUT], mean = 0, square = 0;
    for (int i = 0; i < H; i++) {
        x[i] = h->cell[0][m].h[i];
        x[H + i] = h->cell[1][m].h[i];
    }
    for (int i = 0; i < OUT; i++) mean += x[i] / OUT;
    for (int i = 0; i < OUT; i++) square += (x[i] - mean) * (x[i] - mean) / OUT;
    h->scale[m] = 1 / sqrt(square + norm_eps);
    for (int i = 0; i < OUT; i++) {
        const size_t k = at + (size_t)i;
        h->unit[k] = (x[i] - mean) * h->scale[m];
        h->pre[k] = h->unit[k] * (double)h->w[h->gain + (size_t)i] + (double)h->w[h->bias + (size_t)i];
        h->act[k] = gelu(h->pre[k]);
    }
}

/* d_act of mask m becomes dL/d of what the norm reads. */
static void back_norm(bb_hyper *h, uint32_t m)
{
    double *d = h->d_act + (size_t)m * OUT, mean = 0, along = 0;
    for (int i = 0; i < OUT; i++) {
        const size_t k = (size_t)m * OUT + (size_t)i;
        const double g = d[i] * gelu_slope(h->pre[k]);
        h->g[h->gain + (size_t)i] += (float)(g * h->unit[k]);
        h->g[h->bias + (size_t)i] += (float)g;
        d[i] = g * (double)h->w[h->gain + (size_t)i];
        mean += d[i] / OUT;
        along += d[i] * h->unit[k] / OUT;
    }
    for (int i = 0; i < OUT; i++) d[i] = h->scale[m] * (d[i] - mean - along * h->unit[(size_t)m * OUT + (size_t)i]);
}

void bb_hyper_forward(bb_hyper *h, double *logits)
{
    for (int way = 0; way < 2; way++) run_way(h, way);
    for (uint32_t m = 0; m < h->n; m++) run_norm(h, m);
#pragma omp parallel for schedule(static)
    for (uint32_t m = 0; m < h->n; m++) {
        const double *act = h->act + (size_t)m * OUT;
        for (uint32_t i = 0; i < h->length[m]; i++) {
            const float *w = h->w + h->head[m] + (size_t)i * OUT;
            double       sum[LANES] = { 0 };
            for (int j = 0; j < OUT; j += LANES) {
#pragma omp simd
                for (int k = 0; k < LANES; k++) sum[k] += (double)w[j + k] * act[j + k];
            }
            logits[h->at[m] + i] = (sum[0] + sum[2]) + (sum[1] + sum[3]);
        }
    }
}

void bb_hyper_backward(bb_hyper *h, const double *d_logits)
{
    memset(h->g, 0, (h->n ? h->head[0] : h->n_weights) * sizeof *h->g); /* those of the last matrices are written */
    memset(h->d_act, 0, (size_t)h->n * OUT * sizeof *h->d_act);
#pragma omp parallel for schedule(static)
    for (uint32_t m = 0; m < h->n; m++) {
        const double *act = h->act + (size_t)m * OUT;
        double       *d = h->d_act + (size_t)m * OUT;
        for (uint32_t i = 0; i < h->length[m]; i++) {
            const size_t at = h->head[m] + (size_t)i * OUT;
            const double g = d_logits[h->at[m] + i];
            const float *w = h->w + at;
            float       *dw = h->g + at;
#pragma omp simd
            for (int j = 0; j < OUT; j++) {
                dw[j] = (float)(g * act[j]);
                d[j] += g * (double)w[j];
            }
        }
    }
    for (uint32_t m = 0; m < h->n; m++) back_norm(h, m);
    for (int way = 0; way < 2; way++) back_way(h, way, h->d_act);
}
