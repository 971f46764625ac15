/* SPDX-License-Identifier: GPL-3.0-or-later
 * turn.c: see turn.h. */
#include "model/net/turn.h"

#include <math.h>

#include "base/mem.h"

enum { MAX_ODD = 255, PIECE = 64 };

static uint32_t odd_factor(uint32_t n)
{
    while (n && n % 2 == 0) n /= 2;
    return n;
}

bool bb_turn_can(uint32_t n) { return n && odd_factor(n) <= MAX_ODD; }

void bb_turn_done(bb_turn *t)
{
    bb_free(t->cosine);
    *t = (bb_turn) { 0 };
}

bb_status bb_turn_init(bb_turn *t, uint32_t n, bb_err *err)
{
    const uint32_t m = odd_factor(n);
    *t = (bb_turn) { .n = n, .m = m, .p = m ? n / m : 1 };
    if (!bb_turn_can(n)) return BB_FAIL(err, BB_UNSUPPORTED, "%u numbers cannot be rotated: %u, their odd factor, is above %d", n, m, MAX_ODD);
    if (m == 1) return BB_OK;
    if (!(t->cosine = BB_NEW((size_t)m * m, double, err))) return BB_NOMEM;
    for (uint32_t q = 0; q < m; q++)
        for (uint32_t r = 0; r < m; r++) t->cosine[q * m + r] = sqrt((r ? 2.0 : 1.0) / m) * cos(3.14159265358979323846 * (2 * q + 1) * r / (2.0 * m));
    return BB_OK;
}

/* Mixes places k, p + k, 2 p + k, ... of one vector. */
static void mix(const bb_turn *t, double *x, size_t step, uint32_t k, bool back)
{
    const uint32_t m = t->m, by_q = back ? 1 : m, by_r = back ? m : 1;
    double         v[MAX_ODD];
    for (uint32_t q = 0; q < m; q++) v[q] = x[((size_t)q * t->p + k) * step];
    for (uint32_t r = 0; r < m; r++) {
        double sum = 0;
        for (uint32_t q = 0; q < m; q++) sum += v[q] * t->cosine[q * by_q + r * by_r];
        x[((size_t)r * t->p + k) * step] = sum;
    }
}

/* n numbers of a and of b become their sums and differences. */
static void butterfly(double *restrict a, double *restrict b, size_t n)
{
    for (size_t c = 0; c < n; c++) {
        const double sum = a[c] + b[c], difference = a[c] - b[c];
        a[c] = sum;
        b[c] = difference;
    }
}

void bb_turn_apply(const bb_turn *t, double *x, size_t step, size_t inner, bool back)
{
    const bool whole = step == inner; /* then the numbers of neighbouring entries lie side by side */
    for (size_t half = 1; half < t->p; half *= 2)
        for (size_t i = 0; i < t->n; i += 2 * half) {
            double *a = x + i * step, *b = a + half * step;
            if (whole) butterfly(a, b, half * inner);
            for (size_t k = 0; k < half && !whole; k++) butterfly(a + k * step, b + k * step, inner);
        }
    for (uint32_t k = 0; t->cosine && k < t->p; k++)
        for (size_t c = 0; c < inner; c++) mix(t, x + c, step, k, back);
}

void bb_turn_rows(const bb_turn *t, double *d, size_t rows, bool back)
{
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < rows; r++) bb_turn_apply(t, d + r * t->n, 1, 1, back);
}

void bb_turn_columns(const bb_turn *t, double *d, size_t cols, bool back)
{
#pragma omp parallel for schedule(static)
    for (size_t c = 0; c < cols; c += PIECE) bb_turn_apply(t, d + c, cols, cols - c < PIECE ? cols - c : PIECE, back);
}
