/* SPDX-License-Identifier: GPL-3.0-or-later
 * kernels_ref.c: the reference level: the arithmetic of kernels.h written down in plain C. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/exp.h"
#include "kernels/half.h"
#include "kernels/kernels.h"

static float exp_one(float x)
{
    float a = x > BB_EXP_HIGH ? BB_EXP_HIGH : x, t = fmaf(a, BB_EXP_LOG2E, BB_EXP_ROUND), k = t - BB_EXP_ROUND;
    float r = fmaf(k, -BB_EXP_LN2_LO, fmaf(k, -BB_EXP_LN2_HI, a));
    float q = fmaf(fmaf(fmaf(fmaf(BB_EXP_Q4, r, BB_EXP_Q3), r, BB_EXP_Q2), r, BB_EXP_Q1), r, BB_EXP_Q0);
    float e = fmaf(r * r, q, r) + 1;
    if (a < BB_EXP_LOW) return 0;
    return e * bb_bits_float((bb_float_bits(t) + 127u) << 23);
}

static float max_of(const float *x, size_t n)
{
    float m = -INFINITY;
    for (size_t i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

void bb_exp_ref(const float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = exp_one(x[i]);
}

void bb_rms_norm_ref(const float *x, const float *weight, float eps, float *y, size_t n)
{
    double lane[16] = { 0 };
    for (size_t i = 0; i < n; i++) lane[i % 16] += (double)x[i] * (double)x[i];
    float s = 1 / sqrtf((float)(bb_lane_sum(lane) / (double)(n ? n : 1)) + eps);
    for (size_t i = 0; i < n; i++) y[i] = x[i] * s * weight[i];
}

void bb_swiglu_ref(float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) gate[i] = gate[i] / (1 + exp_one(-gate[i])) * up[i];
}

void bb_softmax_ref(float *x, float scale, size_t n)
{
    double lane[16] = { 0 };
    float  m = max_of(x, n);
    for (size_t i = 0; i < n; i++) {
        x[i] = exp_one((x[i] - m) * scale);
        lane[i % 16] += (double)x[i];
    }
    float inverse = (float)(1 / bb_lane_sum(lane));
    for (size_t i = 0; i < n; i++) x[i] *= inverse;
}

size_t bb_arg_max_ref(const float *x, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best] || (x[best] != x[best] && x[i] == x[i])) best = i;
    return best;
}

double bb_sum_exp_ref(const float *x, float shift, size_t n)
{
    double lane[16] = { 0 };
    for (size_t i = 0; i < n; i++) lane[i % 16] += (double)exp_one(x[i] - shift);
    return bb_lane_sum(lane);
}

double bb_sum_exp_cross_ref(const float *x, float shift, const float *z, size_t n, double *cross)
{
    double lane[16] = { 0 }, lane2[16] = { 0 };
    for (size_t i = 0; i < n; i++) {
        float e = exp_one(x[i] - shift);
        lane[i % 16] += (double)e;
        lane2[i % 16] += (double)e * (double)(x[i] - z[i]);
    }
    *cross = bb_lane_sum(lane2);
    return bb_lane_sum(lane);
}

void bb_half_to_float_ref(const uint16_t *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = bb_half_to_float(x[i]);
}

void bb_peak_fma_ref(float *x, float a, float b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (int c = 0; c < BB_PEAK_CHAINS; c++) x[c] = fmaf(x[c], a, b);
}

enum { PANEL = BB_PANEL_REF };

void bb_pack_ref(const float *w, size_t ldw, size_t n, size_t k, float *out) { bb_pack_panels(w, ldw, n, k, PANEL, out); }

void bb_product_ref(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *panels, const float *bias, bool add, float *y, size_t ldy)
{
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j += PANEL) {
            const float *w = panels + j * k;
            float        sum[PANEL] = { 0 };
            size_t       columns = n - j < PANEL ? n - j : PANEL;
            for (size_t l = 0; l < columns; l++) {
                sum[l] = add ? y[i * ldy + j + l] : 0;
                if (bias) sum[l] += bias[j + l];
            }
            for (size_t c = 0; c < k; c++)
                for (size_t l = 0; l < PANEL; l++) sum[l] = fmaf(x[i * ldx + c], w[c * PANEL + l], sum[l]);
            memcpy(y + i * ldy + j, sum, columns * sizeof *sum);
        }
}
