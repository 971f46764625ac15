/* SPDX-License-Identifier: GPL-3.0-or-later
 * moments.h: an optimizer's two moments in a byte each, in blocks [1], for what does not fit otherwise (adamw.h).
 *
 * A block has the largest |m| and the largest v as floats, every entry its share of them on a scale of equal ratios: m a sign and 127 levels, 6 an octave; v
 * 255 levels, 8 an octave; 0 apart. Between two levels the choice is random with the mean at the number, so that small changes add up over the steps; v is
 * never 0 but where it is 0, as it divides. The draw depends on the seed and the entry alone: the same bytes for any number of threads, and in a resumed run.
 * [1] Dettmers et al. 8-bit optimizers via block-wise quantization. ICLR 2022. arXiv 2110.02861 (their code of levels is another).
 */
#ifndef BB_MODEL_TUNE_MOMENTS_H
#define BB_MODEL_TUNE_MOMENTS_H

#include <stddef.h>
#include <stdint.h>

enum { BB_MOMENTS_BLOCK = 256 };

/* Largest of a block. */
typedef struct bb_moments_scale {
    float m, v;
} bb_moments_scale;

/* m, v [n] of a block of n <= BB_MOMENTS_BLOCK entries. */
void bb_moments_get(const bb_moments_scale *s, const uint8_t *m8, const uint8_t *v8, size_t n, float *m, float *v);
/* v >= 0. seed: another for every block and step. */
void bb_moments_put(const float *m, const float *v, size_t n, uint64_t seed, bb_moments_scale *s, uint8_t *m8, uint8_t *v8);

#endif
