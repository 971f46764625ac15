/* SPDX-License-Identifier: GPL-3.0-or-later
 * moments.c: see moments.h. Levels are 2^(-(top - c) / octave) of the largest, c = 1 .. top. */
#include "model/tune/moments.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

enum { M_TOP = 127, M_OCTAVE = 6, V_TOP = 255, V_OCTAVE = 8, SIGN = 128 };

/* 2^(k / 6), 2^(k / 8) */
static const float m_steps[M_OCTAVE] = { 1, 1.12246205f, 1.25992105f, 1.41421356f, 1.58740105f, 1.78179744f };
static const float v_steps[V_OCTAVE] = { 1, 1.09050773f, 1.18920712f, 1.29683955f, 1.41421356f, 1.54221083f, 1.68179283f, 1.83400809f };

static float          m_levels[M_TOP + 1], v_levels[V_TOP + 1];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill(float *levels, int top, int octave, const float *steps)
{
    levels[0] = 0;
    for (int c = 1; c <= top; c++) {
        const int down = (top - c + octave - 1) / octave; /* octaves */
        levels[c] = ldexpf(steps[(c - top + octave * down) % octave], -down);
    }
}

static void fill_levels(void)
{
    fill(m_levels, M_TOP, M_OCTAVE, m_steps);
    fill(v_levels, V_TOP, V_OCTAVE, v_steps);
}

/* The highest level that is not above x, 0 <= x <= 1. */
static int level_below(float x, int top, int octave, const float *steps)
{
    uint32_t bits;
    float    mantissa;
    int      k = 0;
    memcpy(&bits, &x, sizeof bits);
    const int power = (int)(bits >> 23) - 127;
    bits = (bits & 0x7FFFFF) | 0x3F800000;
    memcpy(&mantissa, &bits, sizeof bits);
    for (int i = 1; i < octave; i++) k += mantissa >= steps[i];
    const int c = top + octave * power + k;
    return c < 0 ? 0 : c > top ? top : c;
}

/* u: 0 <= u < 1 */
static int drawn_level(float x, float u, int top, int octave, const float *steps, const float *levels)
{
    const int c = level_below(x, top, octave, steps);
    return c < top && x - levels[c] > u * (levels[c + 1] - levels[c]) ? c + 1 : c;
}

void bb_moments_get(const bb_moments_scale *s, const uint8_t *m8, const uint8_t *v8, size_t n, float *m, float *v)
{
    pthread_once(&once, fill_levels);
    for (size_t i = 0; i < n; i++) {
        m[i] = s->m * (m8[i] & SIGN ? -m_levels[m8[i] & M_TOP] : m_levels[m8[i]]);
        v[i] = s->v * v_levels[v8[i]];
    }
}

static uint64_t mixed(uint64_t x)
{
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

void bb_moments_put(const float *m, const float *v, size_t n, uint64_t seed, bb_moments_scale *s, uint8_t *m8, uint8_t *v8)
{
    *s = (bb_moments_scale) { 0 };
    pthread_once(&once, fill_levels);
    for (size_t i = 0; i < n; i++) {
        s->m = fmaxf(s->m, fabsf(m[i]));
        s->v = fmaxf(s->v, v[i]);
    }
    for (size_t i = 0; i < n; i++) {
        const uint64_t draw = mixed(seed + (i + 1) * 0x9E3779B97F4A7C15u);
        const float    um = (float)(draw & 0xFFFFFF) * 0x1p-24f, uv = (float)(draw >> 40) * 0x1p-24f;
        m8[i] = v8[i] = 0;
        if (s->m > 0) m8[i] = (uint8_t)(drawn_level(fabsf(m[i]) / s->m, um, M_TOP, M_OCTAVE, m_steps, m_levels) | (m[i] < 0 ? SIGN : 0));
        if (v[i] > 0) v8[i] = (uint8_t)drawn_level(v[i] / s->v, uv, V_TOP, V_OCTAVE, v_steps, v_levels);
        if (v[i] > 0 && v8[i] == 0) v8[i] = 1;
    }
}
