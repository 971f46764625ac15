/* SPDX-License-Identifier: GPL-3.0-or-later
 * two_part.c: see two_part.h. */
#include "model/compress/two_part.h"

#include <string.h>

#include "base/mem.h"
#include "kernels/blas.h"
#include "kernels/half.h"

/* ---- shape ---- */

static uint32_t padded(const bb_two_part *t, int part)
{
    const uint32_t block = bb_format_get(t->type[part])->block;
    return (t->n[part] + block - 1) / block * block;
}

static size_t row_bytes(const bb_two_part *t, int part) { return bb_format_row_bytes(bb_format_get(t->type[part]), padded(t, part)); }

/* The columns of a part, as places in the row. */
static const uint32_t *columns(const bb_two_part *t, int part) { return t->column + (part == BB_LOW ? 0 : t->n[BB_LOW]); }

static bb_status begin(bb_two_part *t, uint32_t rows, uint32_t cols, const unsigned char *high, bb_type low_type, bb_type high_type, bb_err *err)
{
    uint32_t at[BB_TWO] = { 0 };
    *t = (bb_two_part) { .rows = rows, .cols = cols, .mixed = high != NULL, .type = { low_type, high_type } };
    if (!(t->column = BB_NEW(cols, uint32_t, err))) return BB_NOMEM;
    for (uint32_t i = 0; i < cols; i++) t->n[high && high[i] ? BB_HIGH : BB_LOW]++;
    at[BB_HIGH] = t->n[BB_LOW];
    for (uint32_t i = 0; i < cols; i++) t->column[at[high && high[i] ? BB_HIGH : BB_LOW]++] = i;
    for (int part = 0; part < BB_TWO; part++)
        if (t->n[part] && !(t->packed[part] = BB_NEW0(rows * row_bytes(t, part), unsigned char, err))) return BB_NOMEM;
    return BB_OK;
}

void bb_two_part_done(bb_two_part *t)
{
    bb_free(t->column);
    for (int part = 0; part < BB_TWO; part++) bb_free(t->packed[part]);
    *t = (bb_two_part) { 0 };
}

/* ---- quantizing ---- */

typedef struct work {
    const float *w;
    bb_two_part *t;
    double      *pull;         /* (n_low, n_high) H_lh H_hh^-1 */
    float       *part[BB_TWO]; /* (rows, padded) what each part is quantized from; zeros in columns that are not there */
    bb_hessian   h[BB_TWO];    /* of padded columns; zeros there */
} work;

/* H of the part, in the place for it. */
static bb_status take_moments(work *k, int part, const bb_hessian *h, bb_err *err)
{
    const uint32_t  n = k->t->n[part], wide = padded(k->t, part);
    const uint32_t *at = columns(k->t, part);
    bb_hessian     *to = &k->h[part];
    *to = (bb_hessian) { .n_cols = wide, .n_tokens = h->n_tokens, .h = BB_NEW0((size_t)wide * wide, float, err) };
    if (!to->h) return BB_NOMEM;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) to->h[(size_t)i * wide + j] = h->h[(size_t)at[i] * h->n_cols + at[j]];
    return BB_OK;
}

/* pull := H_lh (H_hh + damping)^-1, and the low part's moments become the Schur complement. */
static bb_status complement(work *k, const bb_hessian *h, double damping, bb_err *err)
{
    const uint32_t  nl = k->t->n[BB_LOW], nh = k->t->n[BB_HIGH], wide = padded(k->t, BB_LOW);
    const uint32_t *low = columns(k->t, BB_LOW), *high = columns(k->t, BB_HIGH);
    double         *a = BB_NEW((size_t)nh * nh, double, err), *cross = BB_NEW((size_t)nh * nl, double, err), *product = BB_NEW((size_t)nl * nl, double, err);
    double         *lh = BB_NEW((size_t)nl * nh, double, err), mean = 0;
    bb_status       status = BB_NOMEM;
    if (!a || !cross || !lh || !product || !(k->pull = BB_NEW((size_t)nl * nh, double, err))) goto done;
    for (uint32_t i = 0; i < h->n_cols; i++) mean += (double)h->h[(size_t)i * h->n_cols + i] / h->n_cols;
    for (uint32_t i = 0; i < nh; i++) {
        for (uint32_t j = 0; j < nh; j++) a[(size_t)i * nh + j] = (double)h->h[(size_t)high[i] * h->n_cols + high[j]];
        a[(size_t)i * nh + i] += mean > 0 ? damping * mean : 1;
        for (uint32_t j = 0; j < nl; j++) lh[(size_t)j * nh + i] = cross[(size_t)i * nl + j] = (double)h->h[(size_t)high[i] * h->n_cols + low[j]];
    }
    BB_TRY(bb_cholesky(a, nh, err));
    BB_TRY(bb_cholesky_solve(a, nh, cross, nl, err)); /* H_hh^-1 H_hl */
    for (uint32_t i = 0; i < nh; i++)
        for (uint32_t j = 0; j < nl; j++) k->pull[(size_t)j * nh + i] = cross[(size_t)i * nl + j];
    bb_dgemm_nn(nl, nl, nh, 1, lh, nh, cross, nl, 0, product, nl);
    for (uint32_t i = 0; i < nl; i++)
        for (uint32_t j = i; j < nl; j++) {
            const float s = (float)((double)k->h[BB_LOW].h[(size_t)i * wide + j] - 0.5 * (product[(size_t)i * nl + j] + product[(size_t)j * nl + i]));
            k->h[BB_LOW].h[(size_t)i * wide + j] = k->h[BB_LOW].h[(size_t)j * wide + i] = i == j && s < 0 ? 0 : s;
        }
    status = BB_OK;
done:
    bb_free(a);
    bb_free(cross);
    bb_free(lh);
    bb_free(product);
    return status;
}

/* Moves the errors of the low part, which is packed, into the high part's weights. */
static bb_status correct(work *k, bb_err *err)
{
    const bb_two_part *t = k->t;
    const bb_format   *f = bb_format_get(t->type[BB_LOW]);
    const uint32_t     nl = t->n[BB_LOW], nh = t->n[BB_HIGH], wide = padded(t, BB_LOW), wide_high = padded(t, BB_HIGH);
    float             *row = BB_NEW(wide, float, err);
    double            *d = BB_NEW(nl, double, err), *change = BB_NEW(nh, double, err);
    const bool         ok = row && d && change;
    for (uint32_t r = 0; ok && r < t->rows; r++) {
        f->decode(t->packed[BB_LOW] + r * row_bytes(t, BB_LOW), row, wide);
        for (uint32_t i = 0; i < nl; i++) d[i] = (double)row[i] - (double)k->part[BB_LOW][(size_t)r * wide + i];
        bb_dgemm_nn(1, nh, nl, 1, d, nl, k->pull, nh, 0, change, nh);
        for (uint32_t i = 0; i < nh; i++) k->part[BB_HIGH][(size_t)r * wide_high + i] -= (float)change[i];
    }
    bb_free(row);
    bb_free(d);
    bb_free(change);
    return ok ? BB_OK : BB_NOMEM;
}

static bb_status take_weights(work *k, int part, bb_err *err)
{
    const uint32_t  n = k->t->n[part], wide = padded(k->t, part);
    const uint32_t *at = columns(k->t, part);
    if (!(k->part[part] = BB_NEW0((size_t)k->t->rows * wide, float, err))) return BB_NOMEM;
    for (uint32_t r = 0; r < k->t->rows; r++)
        for (uint32_t i = 0; i < n; i++) k->part[part][(size_t)r * wide + i] = k->w[(size_t)r * k->t->cols + at[i]];
    return BB_OK;
}

bb_status bb_two_part_quantize(const float *w, uint32_t rows, uint32_t cols, const unsigned char *high, const bb_hessian *h, bb_type low_type,
                               bb_type high_type, const bb_quant_options *o, bb_two_part *out, bb_err *err)
{
    work      k = { .w = w, .t = out };
    bb_status status = bb_part_format_check(low_type, err);
    *out = (bb_two_part) { 0 };
    BB_TRY(status);
    BB_TRY(bb_part_format_check(high_type, err));
    BB_TRY(begin(out, rows, cols, high, low_type, high_type, err));
    for (int part = 0; part < BB_TWO; part++) {
        if (!out->n[part] || !rows) continue;
        BB_TRY(take_weights(&k, part, err));
        if (h) BB_TRY(take_moments(&k, part, h, err));
    }
    if (h && rows && out->n[BB_LOW] && out->n[BB_HIGH]) BB_TRY(complement(&k, h, o->damping, err));
    for (int part = 0; part < BB_TWO; part++) {
        if (!out->n[part] || !rows) continue;
        if (part == BB_HIGH && k.pull) BB_TRY(correct(&k, err));
        BB_TRY(bb_quantize(k.part[part], rows, padded(out, part), h ? &k.h[part] : NULL, out->type[part], o, out->packed[part], NULL, err));
    }
done:
    for (int part = 0; part < BB_TWO; part++) {
        bb_free(k.part[part]);
        bb_hessian_done(&k.h[part]);
    }
    bb_free(k.pull);
    if (status != BB_OK) bb_two_part_done(out);
    return status;
}

void bb_two_part_decode(const bb_two_part *t, float *w, size_t ld)
{
    for (int part = 0; part < BB_TWO; part++) {
        const bb_format *f = bb_format_get(t->type[part]);
        const uint32_t  *at = columns(t, part);
        float            block[BB_MAX_BLOCK];
        for (uint32_t r = 0; r < t->rows && t->n[part]; r++)
            for (uint32_t i = 0; i < t->n[part]; i += f->block) {
                f->decode(t->packed[part] + r * row_bytes(t, part) + i / f->block * f->block_bytes, block, f->block);
                for (uint32_t j = 0; j < f->block && i + j < t->n[part]; j++) w[(size_t)r * ld + at[i + j]] = block[j];
            }
    }
}

/* ---- bytes ---- */

size_t bb_two_part_bytes(const bb_two_part *t)
{
    return (t->mixed ? ((size_t)t->cols + 7) / 8 : 0) +
           t->rows * (bb_part_row_bytes(t->type[BB_LOW], t->n[BB_LOW]) + bb_part_row_bytes(t->type[BB_HIGH], t->n[BB_HIGH]));
}

/* A row of a part: its scales, then its codes, the first in the lowest bits. */
static unsigned char *write_row(const bb_two_part *t, int part, const unsigned char *packed, unsigned char *to)
{
    const bb_format *f = bb_format_get(t->type[part]);
    const uint32_t   n = t->n[part], bits = bb_part_format_bits(t->type[part]);
    unsigned char   *codes = to + 2 * (((size_t)n + f->block - 1) / f->block), *end = to + bb_part_row_bytes(t->type[part], n);
    memset(to, 0, (size_t)(end - to));
    for (uint32_t i = 0; i < n; i += f->block) {
        bb_code c;
        f->unpack(packed + i / f->block * f->block_bytes, &c);
        bb_store_u16(to + 2 * (i / f->block), bb_float_to_half(c.d));
        for (uint32_t j = 0; j < f->block && i + j < n; j++)
            for (uint32_t b = 0; b < bits; b++) {
                const size_t at = (size_t)(i + j) * bits + b;
                codes[at / 8] = (unsigned char)(codes[at / 8] | (c.q[j] >> b & 1u) << at % 8);
            }
    }
    return end;
}

void bb_two_part_write(const bb_two_part *t, unsigned char *bytes)
{
    if (t->mixed) {
        memset(bytes, 0, ((size_t)t->cols + 7) / 8);
        for (uint32_t i = 0; i < t->n[BB_HIGH]; i++) {
            const uint32_t c = columns(t, BB_HIGH)[i];
            bytes[c / 8] = (unsigned char)(bytes[c / 8] | 1u << c % 8);
        }
        bytes += ((size_t)t->cols + 7) / 8;
    }
    for (int part = 0; part < BB_TWO; part++)
        for (uint32_t r = 0; r < t->rows && t->n[part]; r++) bytes = write_row(t, part, t->packed[part] + r * row_bytes(t, part), bytes);
}

static const unsigned char *read_row(const bb_two_part *t, int part, const unsigned char *from, unsigned char *packed)
{
    const bb_format     *f = bb_format_get(t->type[part]);
    const uint32_t       n = t->n[part], bits = bb_part_format_bits(t->type[part]);
    const unsigned char *codes = from + 2 * (((size_t)n + f->block - 1) / f->block);
    for (uint32_t i = 0; i < n; i += f->block) {
        bb_code c = { .d = bb_half_to_float(bb_load_u16(from + 2 * (i / f->block))) };
        for (uint32_t j = 0; j < f->block && i + j < n; j++)
            for (uint32_t b = 0; b < bits; b++) {
                const size_t at = (size_t)(i + j) * bits + b;
                c.q[j] |= ((uint32_t)codes[at / 8] >> at % 8 & 1u) << b;
            }
        f->pack(&c, packed + i / f->block * f->block_bytes);
    }
    return from + bb_part_row_bytes(t->type[part], n);
}

bb_status bb_two_part_read(const unsigned char *bytes, size_t n_bytes, uint32_t rows, uint32_t cols, bool mixed, bb_type low_type, bb_type high_type,
                           bb_two_part *out, bb_err *err)
{
    const size_t   of_mask = mixed ? ((size_t)cols + 7) / 8 : 0;
    unsigned char *high = BB_NEW0(cols, unsigned char, err);
    bb_status      status = high ? BB_OK : BB_NOMEM;
    *out = (bb_two_part) { 0 };
    BB_TRY(status);
    if (n_bytes < of_mask) {
        status = BB_FAIL(err, BB_BAD_FILE, "a matrix of %u columns has %zu bytes, fewer than its bits of precision", cols, n_bytes);
        goto done;
    }
    for (uint32_t i = 0; mixed && i < cols; i++) high[i] = bytes[i / 8] >> i % 8 & 1u;
    BB_TRY(bb_part_format_check(low_type, err));
    BB_TRY(bb_part_format_check(high_type, err));
    BB_TRY(begin(out, rows, cols, mixed ? high : NULL, low_type, high_type, err));
    if (bb_two_part_bytes(out) != n_bytes) {
        status = BB_FAIL(err, BB_BAD_FILE, "a matrix of %u x %u has %zu bytes, and its bits of precision say %zu", rows, cols, n_bytes, bb_two_part_bytes(out));
        goto done;
    }
    bytes += of_mask;
    for (int part = 0; part < BB_TWO; part++)
        for (uint32_t r = 0; r < rows && out->n[part]; r++) bytes = read_row(out, part, bytes, out->packed[part] + r * row_bytes(out, part));
done:
    bb_free(high);
    if (status != BB_OK) bb_two_part_done(out);
    return status;
}
