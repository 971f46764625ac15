/* SPDX-License-Identifier: GPL-3.0-or-later
 * pack.h: bb_pack_panels by 8 x 8 transposes in AVX registers, for the levels that include it (AVX is in all of them). */
#ifndef BB_KERNELS_X86_PACK_H
#define BB_KERNELS_X86_PACK_H

#include <immintrin.h>
#include <stddef.h>

/* out[l * ldo + i] = w[i * ldw + l], i, l = 0 .. 7. */
static inline void bb_turn_8x8(const float *w, size_t ldw, float *out, size_t ldo)
{
    __m256 r[8], t[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(w + (size_t)i * ldw);
    for (int i = 0; i < 4; i++) { /* pairs of rows interleaved */
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int h = 0; h < 2; h++) /* rows 4h .. 4h+3: each 128-bit half holds one column of four rows */
        for (int i = 0; i < 2; i++) {
            r[4 * h + 2 * i] = _mm256_shuffle_ps(t[4 * h + i], t[4 * h + 2 + i], _MM_SHUFFLE(1, 0, 1, 0));
            r[4 * h + 2 * i + 1] = _mm256_shuffle_ps(t[4 * h + i], t[4 * h + 2 + i], _MM_SHUFFLE(3, 2, 3, 2));
        }
    for (int l = 0; l < 4; l++) {
        _mm256_storeu_ps(out + (size_t)l * ldo, _mm256_permute2f128_ps(r[l], r[4 + l], 0x20));
        _mm256_storeu_ps(out + (size_t)(4 + l) * ldo, _mm256_permute2f128_ps(r[l], r[4 + l], 0x31));
    }
}

/* Whole panels of `panel` rows (a multiple of 8); returns how many rows that were: the caller packs the rest plainly. */
static inline size_t bb_pack_whole_panels(const float *w, size_t ldw, size_t n, size_t k, size_t panel, float *out)
{
    size_t j = 0;
    for (; j + panel <= n; j += panel, out += k * panel) {
        const float *rows = w + j * ldw;
        size_t       c = 0;
        for (; c + 8 <= k; c += 8)
            for (size_t i = 0; i < panel; i += 8) bb_turn_8x8(rows + i * ldw + c, ldw, out + c * panel + i, panel);
        for (; c < k; c++)
            for (size_t i = 0; i < panel; i++) out[c * panel + i] = rows[i * ldw + c];
    }
    return j;
}

#endif
