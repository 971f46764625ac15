/* SPDX-License-Identifier: GPL-3.0-or-later
 * lattice_fit.c: see lattice_fit.h.
 *
 * With random signs, the weights are turned on both sides and H on the side of the inputs: tr((W - V) H (W - V)') stays what it is. There
 * 1. A = s I, b = -1.5 s 1, s = 1.078 times the root mean square of the turned weights [2];
 * 2. error feedback from the first group of 4 columns to the last: with H + damping = U D U' in blocks of 4, each group takes of all 256 points the nearest, under
 *    D of its block, to its weights plus what the errors before it ask for ([2] rounds in the plain metric);
 * 3. passes over the groups: each takes the best point with all others fixed, under its block of H ([2]: 10 passes); after each pass s is what least squares wants
 *    for the codes;
 * 4. back in the basis of the weights s_out gets the least-squares factor of each row: bytes that training needs anyway.
 * [2] UniSVQ, arXiv 2606.10520. */
#include "model/compress/lattice_fit.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/blas.h"
#include "model/compress/factor.h"

enum { DIM = BB_LATTICE_DIM, POINTS = BB_LATTICE_POINTS, BAND = 64, SPAN = 32 /* columns between two products of errors and factors */ };
static const double start_step = 1.078, middle = 1.5;

typedef struct fit {
    uint32_t         rows, cols, n_groups;
    bb_lattice_frame frame;
    float            map[BB_LATTICE_MAP];
    double           points[POINTS][DIM];
    float           *w, *wh, *e; /* (rows, cols) turned weights; times H; errors */
    bb_hessian       h;          /* (cols, cols) in the turned basis; owned, damped once it is factored */
    bb_factor        factor;
    float           *coordinates, *costs; /* [n_groups] tables of nearest(): (DIM, POINTS), [POINTS] */
    double          *sums;                /* [n_bands][2] */
    unsigned char   *codes;
    bool             no_memory; /* of a thread */
} fit;

/* ---- nearest points ---- */

/* The point x, by its code, of least cost(x) - t y(x), y its coordinates; the first of equal ones. */
static unsigned char nearest(const float *restrict y, const float *restrict cost, const float t[DIM])
{
    float    value[POINTS], least;
    unsigned at = 0;
    for (unsigned k = 0; k < POINTS; k++) value[k] = cost[k] - ((t[0] * y[k] + t[1] * y[POINTS + k]) + (t[2] * y[2 * POINTS + k] + t[3] * y[3 * POINTS + k]));
    least = value[0];
    for (unsigned k = 1; k < POINTS; k++) least = value[k] < least ? value[k] : least;
    while (at < POINTS - 1 && value[at] > least) at++;
    return (unsigned char)at;
}

/* y = 2 x M, or 2 x where only the costs are in the metric; cost = x M x'. */
static void tabulate(const fit *f, double m[DIM][DIM], bool plain, float *y, float *costs)
{
    for (unsigned k = 0; k < POINTS; k++) {
        double cost = 0;
        for (unsigned j = 0; j < DIM; j++) {
            double sum = 0;
            for (unsigned i = 0; i < DIM; i++) sum += f->points[k][i] * m[i][j];
            if (y) y[j * POINTS + k] = (float)(2 * (plain ? f->points[k][j] : sum));
            cost += sum * f->points[k][j];
        }
        costs[k] = (float)cost;
    }
}

static void block_of(const fit *f, size_t at, double m[DIM][DIM])
{
    for (size_t i = 0; i < DIM; i++)
        for (size_t j = 0; j < DIM; j++) m[i][j] = (double)f->h.h[(at + i) * f->cols + at + j];
}

/* D of a block: u diag(d) u' of its own unit upper factor. */
static void metric_of(const fit *f, size_t at, double m[DIM][DIM])
{
    for (size_t i = 0; i < DIM; i++)
        for (size_t j = 0; j < DIM; j++) {
            m[i][j] = 0;
            for (size_t k = i > j ? i : j; k < DIM; k++) {
                const float *u = f->factor.u + at + k;
                const double a = k == i ? 1 : (double)u[(at + i) * f->cols], b = k == j ? 1 : (double)u[(at + j) * f->cols];
                m[i][j] += a * (double)f->factor.d[at + k] * b;
            }
        }
}

static void set_code(const fit *f, size_t r, size_t at, unsigned char code)
{
    const size_t place = r * f->cols + at;
    f->codes[r * f->n_groups + at / DIM] = code;
    for (size_t j = 0; j < DIM; j++) f->e[place + j] = (float)((double)f->w[place + j] - f->points[code][j]);
}

/* ---- error feedback ---- */

/* One group of one row; asked: what the errors of the spans before ask of it, from: where its own span begins. */
static void feed_group(const fit *f, size_t r, size_t from, size_t at, const float *asked)
{
    const size_t n = f->cols, g = at / DIM;
    const float *e = f->e + r * n, *u = f->factor.u;
    float        t[DIM];
    for (size_t j = 0; j < DIM; j++) {
        t[j] = asked[j];
        for (size_t i = from; i < at; i++) t[j] += e[i] * u[i * n + at + j];
        for (size_t i = 0; i < j; i++) t[j] -= t[i] * u[(at + i) * n + at + j]; /* by the block's own factor */
    }
    for (size_t j = 0; j < DIM; j++) t[j] += f->w[r * n + at + j];
    set_code(f, r, at, nearest(f->coordinates + g * DIM * POINTS, f->costs + g * POINTS, t));
}

/* s (n_rows, cols): scratch. */
static void feed_band(const fit *f, size_t first, size_t n_rows, float *s)
{
    const size_t n = f->cols;
    memset(s, 0, n_rows * n * sizeof *s);
    for (size_t from = 0, end; from < n; from = end) {
        end = from + SPAN < n ? from + SPAN : n;
        for (size_t at = from; at < end; at += DIM)
            for (size_t r = 0; r < n_rows; r++) feed_group(f, first + r, from, at, s + r * n + at);
        if (end < n) bb_sgemm_nn(n_rows, n - end, end - from, 1, f->e + first * n + from, n, f->factor.u + from * n + end, n, 1, s + end, n);
    }
}

/* ---- passes ---- */

/* One group of one row with all others fixed: x M x' - 2 x (v M + (e H)_group) is the error but for a constant, M the block of H. eh: e H of the row. */
static void refine_group(const fit *f, size_t r, size_t at, double m[DIM][DIM], const float *plain, float *eh)
{
    const size_t        n = f->cols, g = at / DIM;
    const float        *h = f->h.h + at * n;
    const unsigned char old = f->codes[r * f->n_groups + g];
    float               t[DIM], d[DIM];
    for (size_t j = 0; j < DIM; j++) {
        double sum = (double)eh[at + j];
        for (size_t i = 0; i < DIM; i++) sum += f->points[old][i] * m[i][j];
        t[j] = (float)sum;
    }
    const unsigned char best = nearest(plain, f->costs + g * POINTS, t);
    if (best == old) return;
    set_code(f, r, at, best);
    for (size_t j = 0; j < DIM; j++) d[j] = (float)(f->points[best][j] - f->points[old][j]);
    for (size_t c = 0; c < n; c++) eh[c] -= (d[0] * h[c] + d[1] * h[n + c]) + (d[2] * h[2 * n + c] + d[3] * h[3 * n + c]);
}

/* sums: of v H w' and v H v' of the rows as they then are. */
static void refine_band(const fit *f, size_t first, size_t n_rows, const float *plain, float *eh, double sums[2])
{
    const size_t n = f->cols;
    bb_sgemm_nn(n_rows, n, n, 1, f->e + first * n, n, f->h.h, n, 0, eh, n);
    for (size_t at = n; at > 0; at -= DIM) {
        double m[DIM][DIM];
        block_of(f, at - DIM, m);
        for (size_t r = 0; r < n_rows; r++) refine_group(f, first + r, at - DIM, m, plain, eh + r * n);
    }
    sums[0] = sums[1] = 0;
    for (size_t i = 0; i < n_rows * n; i++) {
        const size_t k = first * n + i;
        const double v = (double)f->w[k] - (double)f->e[k];
        sums[0] += v * (double)f->wh[k];
        sums[1] += v * ((double)f->wh[k] - (double)eh[i]);
    }
}

static void set_map(fit *f, double step, double shift)
{
    unsigned char half[2];
    for (size_t i = 0; i < BB_LATTICE_MAP; i++) {
        const float x = (float)(i >= DIM * DIM ? shift : i % (DIM + 1) == 0 ? step : 0);
        bb_lattice_side_write(&x, 1, half);
        bb_lattice_side_read(half, 1, &f->map[i]); /* as it will be read */
    }
    bb_lattice_points(f->map, f->points);
}

/* pass 0: error feedback; later ones refine. */
static bb_status run_pass(fit *f, unsigned pass, bb_err *err)
{
    const size_t n = f->cols, n_bands = (f->rows + BAND - 1) / BAND;
    float        plain[DIM * POINTS];
    double       unit[DIM][DIM] = { { 0 } };
    f->no_memory = false;
    tabulate(f, unit, true, plain, f->costs);
#pragma omp parallel for schedule(static)
    for (size_t g = 0; g < f->n_groups; g++) {
        double m[DIM][DIM];
        if (pass) block_of(f, g * DIM, m);
        else metric_of(f, g * DIM, m);
        tabulate(f, m, false, pass ? NULL : f->coordinates + g * DIM * POINTS, f->costs + g * POINTS);
    }
#pragma omp parallel
    {
        float *scratch = BB_NEW(BAND * n, float, NULL);
#pragma omp for schedule(dynamic)
        for (size_t k = 0; k < n_bands; k++) {
            const size_t first = k * BAND, n_rows = f->rows - first < BAND ? f->rows - first : BAND;
            if (!scratch) {
#pragma omp atomic write
                f->no_memory = true;
            } else if (pass) refine_band(f, first, n_rows, plain, scratch, f->sums + 2 * k);
            else feed_band(f, first, n_rows, scratch);
        }
        bb_free(scratch);
    }
    return f->no_memory ? BB_FAIL(err, BB_NOMEM, "out of memory while a %u x %u matrix was encoded", f->rows, f->cols) : BB_OK;
}

/* The step that least squares wants for the codes as they are. */
static void rescale(fit *f)
{
    double sums[2] = { 0, 0 };
    for (size_t k = 0; k < (f->rows + BAND - 1) / BAND; k++)
        for (int i = 0; i < 2; i++) sums[i] += f->sums[2 * k + (size_t)i];
    if (!(sums[0] > 0 && sums[1] > 0)) return;
    const double step = (double)f->map[0] * fmin(fmax(sums[0] / sums[1], 0.5), 2);
    set_map(f, step, -middle * step);
    for (size_t r = 0; r < f->rows; r++)
        for (size_t g = 0; g < f->n_groups; g++) set_code(f, r, g * DIM, f->codes[r * f->n_groups + g]);
}

/* ---- into the turned basis and back ---- */

static void random_signs(float *s, size_t n, bb_rng *rng)
{
    for (size_t i = 0; i < n; i++) s[i] = bb_rng_below(rng, 2) ? 1 : -1;
}

/* f->w, and the mean square of it. */
static bb_status turn_weights(fit *f, const float *w, const float *s_in, const float *s_out, double *mean, bb_err *err)
{
    const size_t n = (size_t)f->rows * f->cols;
    double      *d = BB_NEW(n, double, err), sum = 0;
    bool         any = false;
    if (!d) return BB_NOMEM;
    for (size_t i = 0; i < n; i++) {
        any |= isfinite(w[i]) != 0;
        d[i] = isfinite(w[i]) ? (double)w[i] * (double)s_out[i / f->cols] * (double)s_in[i % f->cols] : 0;
    }
    bb_lattice_turn(&f->frame, d, true);
    for (size_t i = 0; i < n; i++) {
        f->w[i] = (float)d[i];
        sum += d[i] * d[i];
    }
    bb_free(d);
    *mean = sum / (double)n;
    return any ? BB_OK : BB_FAIL(err, BB_NUMERIC, "a %u x %u matrix has no finite weight", f->rows, f->cols);
}

static void unit_hessian(fit *f)
{
    memset(f->h.h, 0, (size_t)f->cols * f->cols * sizeof *f->h.h);
    for (size_t i = 0; i < f->cols; i++) f->h.h[i * f->cols + i] = 1;
}

static bb_status turn_hessian(fit *f, const bb_hessian *h, const float *s_in, bb_err *err)
{
    const size_t n = f->cols;
    double      *d = h ? BB_NEW(n * n, double, err) : NULL;
    if (h && !d) return BB_NOMEM;
    if (!h) unit_hessian(f);
    for (size_t i = 0; d && i < n * n; i++) d[i] = (double)h->h[i] * (double)s_in[i / n] * (double)s_in[i % n] / (double)f->frame.of_cols.p;
    if (d) {
        bb_turn_rows(&f->frame.of_cols, d, n, false);
        bb_turn_columns(&f->frame.of_cols, d, n, false);
    }
    for (size_t i = 0; d && i < n; i++)
        for (size_t j = i; j < n; j++) f->h.h[i * n + j] = f->h.h[j * n + i] = (float)d[i * n + j];
    bb_free(d);
    return BB_OK;
}

static bb_status factor(fit *f, double damping, bb_err *err)
{
    bb_status status = bb_factor_make(&f->h, damping, &f->factor, NULL);
    if (status != BB_OK && status != BB_NOMEM) {
        bb_warn("a %u x %u matrix is rounded to nearest: the second moments of its inputs are not positive definite", f->rows, f->cols);
        unit_hessian(f);
        status = bb_factor_make(&f->h, damping, &f->factor, NULL);
    }
    if (status != BB_OK) return BB_FAIL(err, status, "out of memory for the factors of a %u x %u Hessian", f->cols, f->cols);
    for (size_t i = 0; i < f->cols; i++) f->h.h[i * f->cols + i] += f->factor.damp[i];
    return BB_OK;
}

/* dot products of rows of a and b. */
static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* The factor of each row that least squares wants, under H itself; then the error. w: weights as given, v: decoded, wh, vh: scratch. */
static void rescale_rows(const fit *f, const float *w, const bb_hessian *h, float *s_out, const float *v, float *wh, float *vh, bb_quant_stats *stats)
{
    const size_t n = f->cols;
    double       error = 0, energy = 0;
#pragma omp parallel for schedule(static)
    for (size_t first = 0; first < f->rows; first += BAND) {
        const size_t m = f->rows - first < BAND ? f->rows - first : BAND;
        if (!h) {
            memcpy(wh + first * n, w + first * n, m * n * sizeof *w);
            memcpy(vh + first * n, v + first * n, m * n * sizeof *v);
            continue;
        }
        bb_sgemm_nn(m, n, n, 1, w + first * n, n, h->h, n, 0, wh + first * n, n);
        bb_sgemm_nn(m, n, n, 1, v + first * n, n, h->h, n, 0, vh + first * n, n);
    }
    for (size_t r = 0; r < f->rows; r++) {
        const size_t  at = r * n;
        const double  vw = dot(v + at, wh + at, n), vv = dot(v + at, vh + at, n), ww = dot(w + at, wh + at, n);
        const double  factor = vw > 0 && vv > 0 ? fmin(fmax(vw / vv, 0.5), 2) : 1;
        unsigned char half[2];
        float         before = s_out[r], x = before * (float)factor;
        bb_lattice_side_write(&x, 1, half);
        bb_lattice_side_read(half, 1, &s_out[r]);
        const double a = (double)s_out[r] / (double)before;
        error += ww - 2 * a * vw + a * a * vv;
        energy += ww;
    }
    if (stats) stats->error = energy > 0 ? fmax(error, 0) / energy : 0;
}

static bb_status encode(fit *f, const float *w, const bb_hessian *h, const bb_lattice_options *o, const char *name, float *side, bb_quant_stats *stats,
                        bb_err *err)
{
    const size_t n = f->cols, all = (size_t)f->rows * n;
    float       *s_in = side + BB_LATTICE_MAP, *s_out = s_in + n, *v = NULL, *clean = NULL;
    double      *d = NULL, mean;
    bb_rng       rng;
    bb_status    status;
    bb_rng_init(&rng, o->seed, name);
    random_signs(s_in, n, &rng);
    random_signs(s_out, f->rows, &rng);
    BB_TRY(turn_weights(f, w, s_in, s_out, &mean, err));
    BB_TRY(turn_hessian(f, h, s_in, err));
    BB_TRY(factor(f, o->damping, err));
    set_map(f, start_step * sqrt(mean), -middle * start_step * sqrt(mean));
    for (size_t first = 0; first < f->rows; first += BAND)
        bb_sgemm_nn(f->rows - first < BAND ? f->rows - first : BAND, n, n, 1, f->w + first * n, n, f->h.h, n, 0, f->wh + first * n, n);
    for (unsigned pass = 0; pass <= o->passes; pass++) {
        BB_TRY(run_pass(f, pass, err));
        if (pass) rescale(f);
    }
    status = BB_NOMEM;
    v = BB_NEW(all, float, err);
    clean = BB_NEW(all, float, err);
    d = BB_NEW(all, double, err);
    if (!v || !clean || !d) goto done;
    bb_lattice_weights(&f->frame, f->codes, f->map, s_in, s_out, d, v);
    for (size_t i = 0; i < all; i++) clean[i] = isfinite(w[i]) ? w[i] : 0;
    rescale_rows(f, clean, h, s_out, v, f->wh, f->e, stats);
    memcpy(side, f->map, sizeof f->map);
    status = BB_OK;
done:
    bb_free(v);
    bb_free(clean);
    bb_free(d);
    return status;
}

static void fit_done(fit *f)
{
    bb_lattice_frame_done(&f->frame);
    bb_factor_done(&f->factor);
    bb_hessian_done(&f->h);
    void *const owned[] = { f->w, f->wh, f->e, f->coordinates, f->costs, f->sums };
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) bb_free(owned[i]);
}

bb_status bb_lattice_fit(const float *w, uint32_t rows, uint32_t cols, const bb_hessian *h, const bb_lattice_options *o, const char *name, unsigned char *bytes,
                         bb_quant_stats *stats, bb_err *err)
{
    fit          f = { .rows = rows, .cols = cols, .n_groups = cols / DIM, .h = { .n_cols = cols }, .codes = bytes };
    const size_t all = (size_t)rows * cols;
    const double started = bb_now_s();
    float       *side = NULL;
    bb_status    status;
    if (!bb_lattice_can(rows, cols))
        return BB_FAIL(err, BB_UNSUPPORTED, "%u x %u weights cannot be of type LC2: rows of a multiple of 4 and no odd factor above 255 on either side can",
                       cols, rows);
    BB_ASSERT(!h || h->n_cols == cols);
    BB_TRY(bb_lattice_frame_init(&f.frame, rows, cols, err));
    status = BB_NOMEM;
    f.w = BB_NEW(all, float, err);
    f.wh = BB_NEW(all, float, err);
    f.e = BB_NEW(all, float, err);
    f.h.h = BB_NEW((size_t)cols * cols, float, err);
    f.coordinates = BB_NEW((size_t)f.n_groups * DIM * POINTS, float, err);
    f.costs = BB_NEW((size_t)f.n_groups * POINTS, float, err);
    f.sums = BB_NEW0(2 * ((size_t)rows + BAND - 1) / BAND + 2, double, err);
    side = BB_NEW(bb_lattice_side_numbers(rows, cols), float, err);
    if (!f.w || !f.wh || !f.e || !f.h.h || !f.coordinates || !f.costs || !f.sums || !side) goto done;
    BB_TRY(encode(&f, w, h, o, name, side, stats, err));
    bb_lattice_side_write(side, bb_lattice_side_numbers(rows, cols), bytes + bb_lattice_code_bytes(rows, cols));
    if (stats) stats->seconds = bb_now_s() - started;
done:
    fit_done(&f);
    bb_free(side);
    return status;
}
