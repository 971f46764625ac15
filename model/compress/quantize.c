/* SPDX-License-Identifier: GPL-3.0-or-later
 * quantize.c: one matrix into one format by one of three methods (compress.h); the error of what comes out.
 *
 * Rows are independent in every format, so a matrix is worked on in tiles of rows by OpenMP. With error feedback the
 * importance-weighted encoding, which costs many times as much a row, is only made where feedback may have failed: of the first row of each
 * CHECKED_ROWS, to see that it is beaten there under H itself (undamped); of rows whose relative error is far above the median of
 * their tile; and of all rows of a tile whose first row did not beat it. Row by row the better one is kept.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "kernels/blas.h"
#include "model/compress/coupling.h"
#include "model/compress/feedback.h"
#include "model/compress/statistics.h"

enum { SUM_ERROR, SUM_ENERGY, N_SUMS };
enum { PIECE = 256 }; /* columns of a product with H */
enum { CHECKED_ROWS = 128 };

/* One call of bb_quantize, shared by its tiles. */
typedef struct job {
    const bb_format        *format;
    const bb_quant_options *options;
    const bb_hessian       *h;          /* NULL: identity */
    float                  *importance; /* [cols] diagonal of h, or NULL */
    const bb_feedback      *feedback;   /* NULL: not that method */
    const float            *w;
    uint32_t                rows, cols, band; /* band: rows of a tile */
    uint32_t                place;            /* of the first row among those of the whole matrix */
    unsigned char          *packed;
    double                 *sums; /* [n_tiles][N_SUMS]; NULL: not wanted */
} job;

/* Scratch of one thread. */
typedef struct work {
    float         *w, *e, *eh; /* [band][cols] weights without what cannot matter, errors, errors times H */
    unsigned char *packed;     /* of a band */
    bb_band       *band;       /* with feedback */
} work;

static bool work_init(const job *j, work *k)
{
    size_t n = (size_t)j->band * j->cols;
    *k = (work) { 0 };
    k->w = BB_NEW(n, float, NULL);
    k->e = BB_NEW(n, float, NULL);
    k->eh = BB_NEW(n, float, NULL);
    k->packed = BB_NEW(j->band * bb_format_row_bytes(j->format, j->cols), unsigned char, NULL);
    if (j->feedback) k->band = bb_band_create(j->feedback, j->band);
    return k->w && k->e && k->eh && k->packed && (k->band || !j->feedback);
}

static void work_done(work *k)
{
    bb_free(k->w);
    bb_free(k->e);
    bb_free(k->eh);
    bb_free(k->packed);
    bb_band_destroy(k->band);
}

/* forms[r] = x_r H x_r' of n_rows rows of k->e: with the columns of each piece those before it, twice, for H is symmetric. */
static void row_forms(const job *j, work *k, uint32_t n_rows, double *forms)
{
    const size_t n = j->cols;
    for (size_t i = 0; i < n && j->h; i += PIECE) {
        const size_t m = n - i < PIECE ? n - i : PIECE;
        bb_sgemm_nn(n_rows, m, m, 1, k->e + i, n, j->h->h + i * n + i, n, 0, k->eh + i, n);
        if (i) bb_sgemm_nn(n_rows, m, i, 2, k->e, n, j->h->h + i, n, 1, k->eh + i, n);
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        const float *e = k->e + r * n, *eh = j->h ? k->eh + r * n : e;
        forms[r] = 0;
        for (size_t i = 0; i < n; i++) forms[r] += (double)e[i] * (double)eh[i];
    }
}

/* Of the rows of k->w as they are written in packed. */
static void row_errors(const job *j, work *k, const unsigned char *packed, uint32_t n_rows, double *errors)
{
    const size_t n = j->cols, bytes = bb_format_row_bytes(j->format, n);
    for (uint32_t r = 0; r < n_rows; r++) {
        float *e = k->e + r * n;
        j->format->decode(packed + r * bytes, e, n);
        for (size_t i = 0; i < n; i++) e[i] = k->w[r * n + i] - e[i];
    }
    row_forms(j, k, n_rows, errors);
}

/* Non-finite weights and weights of columns that were never excited become 0: as small as the format can write. */
static void load_rows(const job *j, work *k, const float *w, uint32_t n_rows)
{
    for (size_t i = 0; i < (size_t)n_rows * j->cols; i++) {
        bool dead = j->importance && !(j->importance[i % j->cols] > 0);
        k->w[i] = isfinite(w[i]) && !dead ? w[i] : 0;
    }
}

static void encode_row(const job *j, const work *k, uint32_t r, bool weighted, unsigned char *packed)
{
    const size_t n = j->cols, bytes = bb_format_row_bytes(j->format, n);
    if (weighted) j->format->encode(k->w + r * n, j->importance, packed + r * bytes, n);
    else j->format->encode_rtn(k->w + r * n, packed + r * bytes, n);
}

/* Rows of packed, with their errors, replaced by the weighted encoding where that is better; made for rows that `wanted` marks. */
static void guard_rows(const job *j, work *k, uint32_t n_rows, const bool *wanted, unsigned char *packed, double *errors)
{
    const size_t bytes = bb_format_row_bytes(j->format, j->cols);
    double       other[BB_BAND];
    memcpy(k->packed, packed, n_rows * bytes);
    for (uint32_t r = 0; r < n_rows; r++)
        if (wanted[r]) encode_row(j, k, r, true, k->packed);
    row_errors(j, k, k->packed, n_rows, other);
    for (uint32_t r = 0; r < n_rows; r++)
        if (wanted[r] && other[r] <= errors[r]) {
            memcpy(packed + r * bytes, k->packed + r * bytes, bytes);
            errors[r] = other[r];
        }
}

static int ascending(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

/* The median of the rows' relative errors; 0 where none has a number. */
static double usual_error(const double *errors, const double *energies, uint32_t n_rows)
{
    double   relative[BB_BAND];
    uint32_t n = 0;
    for (uint32_t r = 0; r < n_rows; r++)
        if (isfinite(errors[r]) && energies[r] > 0) relative[n++] = errors[r] / energies[r];
    qsort(relative, n, sizeof *relative, ascending);
    return n ? relative[n / 2] : 0;
}

/* Error feedback, checked against the weighted encoding as said above. energies: w H w' of every row. checked: the first row's. */
static void feedback_rows(const job *j, work *k, uint32_t n_rows, bool checked, const double *energies, unsigned char *packed, double *errors)
{
    static const double margin = 0.9, outlier = 2;
    bool                wanted[BB_BAND] = { true };
    double              first = HUGE_VAL;
    bool                any = false;
    bb_feedback_rows(j->feedback, k->band, k->w, n_rows, packed);
    row_errors(j, k, packed, n_rows, errors);
    if (checked) {
        encode_row(j, k, 0, true, k->packed);
        row_errors(j, k, k->packed, 1, &first);
    }
    const double usual = usual_error(errors, energies, n_rows);
    for (uint32_t r = 0; r < n_rows; r++) {
        wanted[r] = !(errors[0] <= margin * first) || !(errors[r] <= outlier * usual * energies[r]);
        any |= wanted[r];
    }
    if (any) guard_rows(j, k, n_rows, wanted, packed, errors);
}

static double sum_of(const double *x, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += x[i];
    return sum;
}

static void quantize_tile(const job *j, work *k, uint32_t tile)
{
    const uint32_t first = tile * j->band, n_rows = j->rows - first < j->band ? j->rows - first : j->band;
    const size_t   n = j->cols;
    unsigned char *packed = j->packed + first * bb_format_row_bytes(j->format, n);
    double         errors[BB_BAND] = { 0 }, energies[BB_BAND] = { 0 }, *sums = j->sums ? j->sums + N_SUMS * (size_t)tile : NULL;
    load_rows(j, k, j->w + first * n, n_rows);
    if (sums || j->feedback) {
        memcpy(k->e, k->w, n_rows * n * sizeof *k->e);
        row_forms(j, k, n_rows, energies);
    }
    if (j->feedback) {
        const uint32_t place = j->place + first;
        feedback_rows(j, k, n_rows, place == 0 || (place + n_rows - 1) / CHECKED_ROWS > (place - 1) / CHECKED_ROWS, energies, packed, errors);
    } else {
        for (uint32_t r = 0; r < n_rows; r++) encode_row(j, k, r, j->options->method != BB_METHOD_RTN, packed);
        if (sums) row_errors(j, k, packed, n_rows, errors);
    }
    if (!sums) return;
    sums[SUM_ENERGY] = sum_of(energies, n_rows);
    sums[SUM_ERROR] = sum_of(errors, n_rows);
}

static bb_status run(const job *j, bb_err *err)
{
    const uint32_t n_tiles = (j->rows + j->band - 1) / j->band;
    bool           no_memory = false;
#pragma omp parallel
    {
        work k;
        bool ready = work_init(j, &k);
#pragma omp for schedule(dynamic)
        for (uint32_t tile = 0; tile < n_tiles; tile++) {
            if (ready) {
                quantize_tile(j, &k, tile);
            } else {
#pragma omp atomic write
                no_memory = true;
            }
        }
        work_done(&k);
    }
    return no_memory ? BB_FAIL(err, BB_NOMEM, "out of memory while a %u x %u matrix was quantized", j->rows, j->cols) : BB_OK;
}

/* Rows of a tile: many make the products with H fast, few give every core something to do. */
static uint32_t band_of(uint32_t rows, uint32_t cols) { return cols < 512 || rows < 256 ? BB_FORMAT_ROWS : rows < 2048 ? BB_BAND / 2 : BB_BAND; }

static bb_status check_shape(uint32_t rows, uint32_t cols, const bb_hessian *h, bb_type type, bb_err *err)
{
    const bb_format *f = bb_format_get(type);
    if (!f) return BB_FAIL(err, BB_UNSUPPORTED, "weight format %d is unknown", (int)type);
    if (rows == 0 || cols == 0 || cols % f->block != 0)
        return BB_FAIL(err, BB_UNSUPPORTED, "%s stores %u weights a block: rows of %u weights do not divide into them", f->name, f->block, cols);
    BB_ASSERT(!h || h->n_cols == cols);
    return BB_OK;
}

static bool is_any_finite(const float *w, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (isfinite(w[i])) return true;
    return false;
}

static bb_status none_is_finite(uint32_t rows, uint32_t cols, bb_err *err)
{
    return BB_FAIL(err, BB_NUMERIC, "a %u x %u matrix has no finite weight", rows, cols);
}

static bb_status check(const float *w, uint32_t rows, uint32_t cols, const bb_hessian *h, bb_type type, bb_err *err)
{
    bb_status status = check_shape(rows, cols, h, type, err);
    return status != BB_OK || is_any_finite(w, (size_t)rows * cols) ? status : none_is_finite(rows, cols, err);
}

static void add_up(const double *sums, uint32_t n_tiles, bb_quant_stats *stats)
{
    double total[N_SUMS] = { 0 };
    for (uint32_t t = 0; t < n_tiles; t++)
        for (int i = 0; i < N_SUMS; i++) total[i] += sums[N_SUMS * (size_t)t + (size_t)i];
    stats->error = total[SUM_ENERGY] > 0 ? total[SUM_ERROR] / total[SUM_ENERGY] : 0;
}

/* What all rows of a matrix share; rows: how many are encoded at a time. */
static bb_status prepare(job *j, uint32_t rows, bb_type type, const bb_factor *factor, bb_feedback *feedback, bb_err *err)
{
    float    *importance = NULL;
    bb_status status = BB_OK;
    j->format = bb_format_get(type);
    j->band = band_of(rows, j->cols);
    if (j->h) {
        if (!(importance = BB_NEW(j->cols, float, err))) return BB_NOMEM;
        for (size_t i = 0; i < j->cols; i++) importance[i] = j->h->h[i * j->cols + i] > 0 ? j->h->h[i * j->cols + i] : 0;
        j->importance = importance;
    }
    if (factor && j->options->method == BB_METHOD_FEEDBACK && j->format->vec > 0) {
        BB_TRY(bb_feedback_init(feedback, j->format, factor, importance, j->options->sweeps, err));
        j->feedback = feedback;
    }
done:
    return status;
}

bb_status bb_quantize_prepared(const float *w, uint32_t rows, uint32_t cols, const bb_hessian *h, const bb_factor *factor, bb_type type,
                               const bb_quant_options *o, void *packed, bb_quant_stats *stats, bb_err *err)
{
    bb_feedback  feedback = { 0 };
    job          j = { .options = o, .h = h, .w = w, .rows = rows, .cols = cols, .packed = packed };
    const double started = bb_now_s();
    bb_status    status = check(w, rows, cols, h, type, err);
    if (status != BB_OK) return status;
    BB_TRY(prepare(&j, rows, type, factor, &feedback, err));
    const uint32_t n_tiles = (rows + j.band - 1) / j.band;
    if (stats) {
        j.sums = BB_NEW0(N_SUMS * (size_t)n_tiles, double, err);
        if (!j.sums) {
            status = BB_NOMEM;
            goto done;
        }
    }
    BB_TRY(run(&j, err));
    if (stats) {
        add_up(j.sums, n_tiles, stats);
        stats->seconds = bb_now_s() - started;
    }
done:
    bb_free(j.importance);
    bb_free(j.sums);
    bb_feedback_done(&feedback);
    return status;
}

/* ---- coupled rows ---- */

/* Scratch of bb_quantize_coupled. */
typedef struct coupled {
    float         *e;      /* (rows, cols) errors of the rows that are encoded, by place */
    float         *target; /* (tile, cols) */
    float         *coef;   /* (rows, tile) */
    unsigned char *packed; /* of a tile */
} coupled;

/* The rows of a tile: own weights where the errors will be, and those plus what the rows before them ask for as targets. */
static void load_tile(const job *j, const bb_coupling *c, uint32_t tile, const float *w, coupled *k)
{
    const size_t   n = j->cols;
    const uint32_t first = c->first[tile], m = c->first[tile + 1] - first;
    bb_coupling_shift(c, tile, k->e, j->cols, k->coef, k->target);
    for (uint32_t i = 0; i < m; i++)
        for (size_t x = 0; x < n; x++) {
            const float own = w[c->row[first + i] * n + x];
            k->e[(first + i) * n + x] = isfinite(own) ? own : 0;
            k->target[i * n + x] += k->e[(first + i) * n + x];
        }
}

/* Where they belong, and what they are off. */
static void take_tile(const job *j, const bb_coupling *c, uint32_t tile, coupled *k, unsigned char *packed)
{
    const size_t   n = j->cols, bytes = bb_format_row_bytes(j->format, n);
    const uint32_t first = c->first[tile], m = c->first[tile + 1] - first;
    for (uint32_t i = 0; i < m; i++) {
        float *e = k->e + (first + i) * n;
        j->format->decode(k->packed + i * bytes, k->target, n);
        for (size_t x = 0; x < n; x++) e[x] -= k->target[x];
        memcpy(packed + c->row[first + i] * bytes, k->packed + i * bytes, bytes);
    }
}

bb_status bb_quantize_coupled(const float *w, uint32_t rows, uint32_t cols, const bb_hessian *h, const bb_factor *factor, const float *g, double g_damping,
                              bb_type type, const bb_quant_options *o, void *packed, bb_err *err)
{
    const uint32_t tile = bb_coupling_tile(rows);
    bb_coupling    c = { 0 };
    bb_feedback    feedback = { 0 };
    job            j = { .options = o, .h = h, .cols = cols };
    coupled        k = { 0 };
    bb_status      status = check(w, rows, cols, h, type, err);
    if (status != BB_OK) return status;
    BB_TRY(prepare(&j, tile, type, factor, &feedback, err));
    BB_TRY(bb_coupling_init(g, rows, g_damping, &c, err));
    k.e = BB_NEW((size_t)rows * cols, float, err);
    k.target = BB_NEW((size_t)tile * cols, float, err);
    k.coef = BB_NEW((size_t)rows * tile, float, err);
    k.packed = BB_NEW(tile * bb_format_row_bytes(j.format, cols), unsigned char, err);
    if (!k.e || !k.target || !k.coef || !k.packed) {
        status = BB_NOMEM;
        goto done;
    }
    j.w = k.target;
    j.packed = k.packed;
    for (uint32_t t = 0; t < c.n_tiles; t++) {
        load_tile(&j, &c, t, w, &k);
        j.place = c.first[t];
        j.rows = c.first[t + 1] - j.place;
        BB_TRY(run(&j, err));
        take_tile(&j, &c, t, &k, packed);
    }
done:
    bb_free(k.e);
    bb_free(k.target);
    bb_free(k.coef);
    bb_free(k.packed);
    bb_coupling_done(&c);
    bb_free(j.importance);
    bb_feedback_done(&feedback);
    return status;
}

bb_status bb_quantize(const float *w, uint32_t rows, uint32_t cols, const bb_hessian *h, bb_type type, const bb_quant_options *o, void *packed,
                      bb_quant_stats *stats, bb_err *err)
{
    bb_factor factor = { 0 };
    bb_status status;
    bool      factored = false;
    if (h && o->method == BB_METHOD_FEEDBACK) {
        status = bb_factor_make(h, o->damping, &factor, NULL);
        if (status == BB_NOMEM) return BB_FAIL(err, BB_NOMEM, "out of memory for the factors of a %u x %u Hessian", h->n_cols, h->n_cols);
        factored = status == BB_OK;
    }
    status = bb_quantize_prepared(w, rows, cols, h, factored ? &factor : NULL, type, o, packed, stats, err);
    bb_factor_done(&factor);
    return status;
}

bb_status bb_quantize_matrix(const bb_matrix *from, const bb_hessian *h, const bb_factor *factor, bb_type type, const bb_quant_options *o, void *packed,
                             bb_quant_stats *stats, bb_err *err)
{
    bb_feedback  feedback = { 0 };
    job          j = { .options = o, .h = h, .cols = from->cols };
    double      *sums = NULL;
    bool         any = false;
    const double started = bb_now_s();
    bb_status    status = check_shape(from->rows, from->cols, h, type, err);
    if (status != BB_OK) return status;
    BB_TRY(prepare(&j, from->rows, type, factor, &feedback, err));
    const size_t   in = bb_format_row_bytes(bb_format_get(from->type), from->cols), out = bb_format_row_bytes(j.format, from->cols);
    const uint32_t n_tiles = (from->rows + j.band - 1) / j.band, fit = BB_QUANTIZE_FLOATS / from->cols / j.band * j.band, step = fit ? fit : j.band;
    if (stats && !(sums = BB_NEW0(N_SUMS * (size_t)n_tiles, double, err))) {
        status = BB_NOMEM;
        goto done;
    }
    for (; j.place < from->rows && status == BB_OK; j.place += step) {
        bb_matrix piece = *from;
        float    *w;
        piece.data = (const char *)from->data + j.place * in;
        piece.rows = j.rows = from->rows - j.place < step ? from->rows - j.place : step;
        if (!(w = bb_matrix_decode(&piece, err))) status = BB_NOMEM;
        if (status != BB_OK) break;
        any |= is_any_finite(w, (size_t)piece.rows * piece.cols);
        j.w = w;
        j.packed = (unsigned char *)packed + j.place * out;
        j.sums = sums ? sums + N_SUMS * (size_t)(j.place / j.band) : NULL;
        status = run(&j, err);
        bb_free(w);
    }
    if (status == BB_OK && !any) status = none_is_finite(from->rows, from->cols, err);
    if (status == BB_OK && stats) {
        add_up(sums, n_tiles, stats);
        stats->seconds = bb_now_s() - started;
    }
done:
    bb_free(j.importance);
    bb_free(sums);
    bb_feedback_done(&feedback);
    return status;
}
