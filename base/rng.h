/* SPDX-License-Identifier: GPL-3.0-or-later
 * rng.h: seeded random numbers; no clock, no global state. splitmix64 seeding, xoshiro256** stream
 * (Blackman & Vigna 2018, public domain algorithm). A stream is a plain struct: copy it to save it. */
#ifndef BB_BASE_RNG_H
#define BB_BASE_RNG_H

#include <stdint.h>

typedef struct bb_rng {
    uint64_t s[4];
} bb_rng;

void     bb_rng_init(bb_rng *r, uint64_t seed, const char *stream); /* one stream a (seed, name) */
uint64_t bb_rng_u64(bb_rng *r);
uint64_t bb_rng_below(bb_rng *r, uint64_t n); /* uniform in 0..n-1, n >= 1, without modulo bias */
double   bb_rng_uniform(bb_rng *r);           /* [0,1), 53 bits */
double   bb_rng_normal(bb_rng *r);            /* N(0,1), Box-Muller, two draws each call */

#endif
