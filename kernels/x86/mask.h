/* SPDX-License-Identifier: GPL-3.0-or-later
 * mask.h: masks of AVX-512, for the files of its levels. */
#ifndef BB_KERNELS_X86_MASK_H
#define BB_KERNELS_X86_MASK_H

#include <immintrin.h>
#include <stddef.h>

/* The lanes of the last vector: `left` of 16, all where there are more. */
static inline __mmask16 bb_tail(size_t left) { return left >= 16 ? (__mmask16)0xFFFF : (__mmask16)((1u << left) - 1); }

#endif
