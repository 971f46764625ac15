/* SPDX-License-Identifier: GPL-3.0-or-later
 * rng.c: see rng.h. D. Blackman, S. Vigna. Scrambled linear pseudorandom number generators. ACM TOMS 47(4), 2021. */
#include "base/rng.h"

#include <math.h>
#include <string.h>

#include "base/hash.h"

static uint64_t splitmix(uint64_t *x)
{
    uint64_t z = *x += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

void bb_rng_init(bb_rng *r, uint64_t seed, const char *stream)
{
    uint64_t x = bb_hash64(stream, strlen(stream), seed);
    for (int i = 0; i < 4; i++) r->s[i] = splitmix(&x); /* splitmix never gives four zeros in a row */
}

static uint64_t rotl(uint64_t x, unsigned n) { return x << n | x >> (64 - n); }

uint64_t bb_rng_u64(bb_rng *r)
{
    uint64_t *s = r->s, out = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return out;
}

uint64_t bb_rng_below(bb_rng *r, uint64_t n)
{
    /* 2^64 mod n values are refused, so that each residue is equally likely. */
    uint64_t least = (0 - n) % n, x;
    do x = bb_rng_u64(r);
    while (x < least);
    return x % n;
}

double bb_rng_uniform(bb_rng *r) { return (double)(bb_rng_u64(r) >> 11) * 0x1p-53; }

double bb_rng_normal(bb_rng *r)
{
    const double two_pi = 6.283185307179586476925287;
    double       u = 1.0 - bb_rng_uniform(r); /* (0, 1]: the logarithm stays finite */
    double       v = bb_rng_uniform(r);
    return sqrt(-2.0 * log(u)) * cos(two_pi * v);
}
