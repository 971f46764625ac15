/* SPDX-License-Identifier: GPL-3.0-or-later
 * integer_ref.c: what the rows integer_vector and integer_product of table.inc mean. */
#include <math.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/integer.h"
#include "kernels/kernels.h"

static void round_group(const float *x, int8_t *q, float *scale, int32_t *sum)
{
    float most = 0;
    bool  finite = true;
    for (int i = 0; i < BB_INTEGER_GROUP; i++) {
        most = fmaxf(most, fabsf(x[i]));
        finite &= (bool)isfinite(x[i]);
    }
    const bool  zero = !finite || most < BB_INTEGER_LEAST;
    const float inverse = zero ? 0 : 127 / most;
    *scale = finite ? zero ? 0 : most / 127 : NAN;
    sum[0] = sum[1] = 0;
    for (int i = 0; i < BB_INTEGER_GROUP; i++) {
        q[i] = (int8_t)(zero ? 0 : lrintf(x[i] * inverse));
        sum[i / BB_INTEGER_HALF] += q[i];
    }
}

void bb_integer_vector_ref(const float *x, size_t n, int8_t *q, float *scale, int32_t *sum)
{
    for (size_t i = 0; i < n; i += BB_INTEGER_GROUP) round_group(x + i, q + i, scale + i / BB_INTEGER_GROUP, sum + i / BB_INTEGER_HALF);
}

static int level_at(const bb_integers *w, const unsigned char *panel, size_t r, size_t c)
{
    const unsigned byte = panel[bb_integer_codes(w, c) + bb_integer_at(w->bits, r, c % BB_INTEGER_GROUP)];
    if (w->bits == 8) return (int)byte - 128;
    return w->table[byte >> bb_integer_shift(w->bits, c % BB_INTEGER_GROUP) & ((1u << w->bits) - 1)];
}

static void product_of_one(const bb_integers *w, size_t from, size_t to, const int8_t *q, const float *scale, const int32_t *sum, const float *bias, bool add,
                           float *y)
{
    const size_t width = BB_INTEGER_GROUP / w->groups;
    for (size_t j = from * BB_INTEGER_ROWS; j < to * BB_INTEGER_ROWS && j < w->rows; j++) {
        const unsigned char *panel = w->panels + j / BB_INTEGER_ROWS * w->panel_bytes;
        const size_t         r = j % BB_INTEGER_ROWS;
        float                unit, t = 0, start = add ? y[j] : 0;
        memcpy(&unit, panel + sizeof unit * r, sizeof unit);
        if (bias) start += bias[j];
        for (size_t c = 0; c < w->cols; c += width) {
            const size_t at = (c % BB_INTEGER_GROUP / width * BB_INTEGER_ROWS + r) * sizeof(uint16_t);
            const float  s = scale[c / BB_INTEGER_GROUP], a = bb_half_to_float(bb_load_u16(panel + bb_integer_fields(w, c, 0) + at));
            int32_t      dot = 0, all = 0;
            for (size_t i = c; i < c + width; i++) dot += level_at(w, panel, r, i) * q[i];
            for (size_t i = c; i < c + width; i += BB_INTEGER_HALF) all += sum[i / BB_INTEGER_HALF];
            t = fmaf((float)dot * s, a, t);
            if (w->offsets) t = fmaf((float)all * s, bb_half_to_float(bb_load_u16(panel + bb_integer_fields(w, c, 1) + at)), t);
        }
        y[j] = fmaf(unit, t, start);
    }
}

void bb_integer_product_ref(const bb_integers *w, size_t from, size_t to, size_t m, const int8_t *q, const float *scale, const int32_t *sum, const float *bias,
                            bool add, float *y)
{
    for (size_t i = 0; i < m; i++)
        product_of_one(w, from, to, q + i * w->cols, scale + i * w->cols / BB_INTEGER_GROUP, sum + i * w->cols / BB_INTEGER_HALF, bias, add, y + i * w->rows);
}

void bb_peak_integer_ref(const uint8_t *z, const int8_t *q, uint32_t *sum, size_t n)
{
    for (size_t l = 0; l < n; l++)
        for (size_t i = 0; i < BB_PEAK_CHAINS; i++)
            for (size_t c = i % 16 * 4; c < i % 16 * 4 + 4; c++) sum[i] += (uint32_t)(z[c] * q[c]);
}
