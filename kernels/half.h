/* SPDX-License-Identifier: GPL-3.0-or-later
 * half.h: IEEE binary16 and bfloat16 conversions, bit-exact, round to nearest even; the same result on every CPU level. */
#ifndef BB_KERNELS_HALF_H
#define BB_KERNELS_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t bb_float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float bb_bits_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline float bb_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3FFu;
    if (exponent == 31) return bb_bits_float(sign | 0x7F800000u | mantissa << 13);
    if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24, exact in float */
        float f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    return bb_bits_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

static inline uint16_t bb_float_to_half(float f)
{
    uint32_t u = bb_float_bits(f), sign = u >> 16 & 0x8000u, a = u & 0x7FFFFFFFu;
    if (a >= 0x7F800000u) return (uint16_t)(sign | 0x7C00u | (a > 0x7F800000u ? 0x200u : 0)); /* Inf, NaN */
    if (a >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u);                                  /* rounds to Inf */
    if (a < 0x38800000u) { /* subnormal half: adding 0.5 aligns the mantissa to 2^-24 and rounds to even */
        float r = bb_bits_float(a) + 0.5f;
        return (uint16_t)(sign | (bb_float_bits(r) - 0x3F000000u));
    }
    a += 0xFFFu + (a >> 13 & 1u);
    return (uint16_t)(sign | (a - 0x38000000u) >> 13);
}

static inline float    bb_bf16_to_float(uint16_t h) { return bb_bits_float((uint32_t)h << 16); }
static inline uint16_t bb_float_to_bf16(float f)
{
    uint32_t u = bb_float_bits(f);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(u >> 16 | 64u); /* NaN stays NaN */
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1u)) >> 16);
}

static inline uint16_t bb_load_u16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static inline uint32_t bb_load_u32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static inline void bb_store_u16(void *p, uint16_t v) { memcpy(p, &v, 2); }
static inline void bb_store_u32(void *p, uint32_t v) { memcpy(p, &v, 4); }

#endif
