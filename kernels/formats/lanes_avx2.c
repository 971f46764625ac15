/* SPDX-License-Identifier: GPL-3.0-or-later
 * lanes_avx2.c: the inner loops of a fit, compiled for AVX2. */
#if defined(__x86_64__)
#define BB_LANES bb_lanes_avx2
#include "kernels/formats/lanes.inc"
#else
typedef int bb_lanes_avx2_unused;
#endif
