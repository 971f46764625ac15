/* SPDX-License-Identifier: GPL-3.0-or-later
 * hash.c: see hash.h.
 *
 * SHA-256 as FIPS 180-4 section 6.2 writes it; the constants K are the first 32 bits of the fractional parts of the cube
 * roots of the first 64 primes (4.2.2), the initial state those of the square roots of the first 8 (5.3.3). */
#include "base/hash.h"

#include <string.h>

#include "base/file.h"

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74,
    0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d,
    0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e,
    0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5,
    0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotr(uint32_t x, unsigned n) { return x >> n | x << (32 - n); }

/* One round: of the working variables a to h only d and h change, so the caller turns the names instead of moving the values. */
#define ROUND(a, b, c, d, e, f, g, h, t) \
    do { \
        const uint32_t t1 = h + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + (g ^ (e & (f ^ g))) + K[t] + w[t]; \
        d += t1; \
        h = t1 + (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) | (c & (a | b))); \
    } while (0)

static void compress(uint32_t state[8], const unsigned char *block)
{
    uint32_t w[64], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 16; t++) w[t] = (uint32_t)block[4 * t] << 24 | (uint32_t)block[4 * t + 1] << 16 | (uint32_t)block[4 * t + 2] << 8 | block[4 * t + 3];
    for (int t = 16; t < 64; t++) {
        uint32_t s0 = rotr(w[t - 15], 7) ^ rotr(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t s1 = rotr(w[t - 2], 17) ^ rotr(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = s1 + w[t - 7] + s0 + w[t - 16];
    }
    for (int t = 0; t < 64; t += 8) {
        ROUND(a, b, c, d, e, f, g, h, t);
        ROUND(h, a, b, c, d, e, f, g, t + 1);
        ROUND(g, h, a, b, c, d, e, f, t + 2);
        ROUND(f, g, h, a, b, c, d, e, t + 3);
        ROUND(e, f, g, h, a, b, c, d, t + 4);
        ROUND(d, e, f, g, h, a, b, c, t + 5);
        ROUND(c, d, e, f, g, h, a, b, t + 6);
        ROUND(b, c, d, e, f, g, h, a, t + 7);
    }
    const uint32_t add[8] = { a, b, c, d, e, f, g, h };
    for (int i = 0; i < 8; i++) state[i] += add[i];
}

void bb_sha256_init(bb_sha256 *s)
{
    static const uint32_t start[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
    memcpy(s->state, start, sizeof start);
    s->n_bytes = 0;
}

void bb_sha256_update(bb_sha256 *s, const void *data, size_t size)
{
    const unsigned char *p = data;
    size_t               held = (size_t)(s->n_bytes % 64);
    s->n_bytes += size;
    if (held > 0) {
        size_t take = size < 64 - held ? size : 64 - held;
        if (take > 0) memcpy(s->buffer + held, p, take);
        p += take;
        size -= take;
        if (held + take < 64) return;
        compress(s->state, s->buffer);
    }
    for (; size >= 64; p += 64, size -= 64) compress(s->state, p);
    if (size > 0) memcpy(s->buffer, p, size);
}

void bb_sha256_text(bb_sha256 *s, const char *text) { bb_sha256_update(s, text, strlen(text) + 1); }

void bb_sha256_hex(bb_sha256 *s, char hex[65])
{
    static const char          digits[] = "0123456789abcdef";
    static const unsigned char padding[64] = { 0x80 };
    unsigned char              length[8];
    uint64_t                   bits = s->n_bytes * 8;
    size_t                     held = (size_t)(s->n_bytes % 64);
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)(bits >> (56 - 8 * i));
    bb_sha256_update(s, padding, held < 56 ? 56 - held : 120 - held);
    bb_sha256_update(s, length, sizeof length);
    for (int i = 0; i < 64; i++) hex[i] = digits[s->state[i / 8] >> (28 - 4 * (i % 8)) & 15];
    hex[64] = '\0';
}

bb_status bb_sha256_file(const char *path, char hex[65], bb_err *err)
{
    bb_sha256 s;
    bb_map    map;
    bb_status status = bb_map_open(path, &map, err);
    hex[0] = '\0';
    if (status != BB_OK) return status;
    bb_sha256_init(&s);
    if (map.size > 0) bb_sha256_update(&s, map.data, map.size);
    bb_sha256_hex(&s, hex);
    bb_map_close(&map);
    return BB_OK;
}

/* The finaliser of splitmix64: a bijection in which each input bit moves about half of the output bits. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

uint64_t bb_hash64(const void *data, size_t size, uint64_t seed)
{
    const unsigned char *p = data;
    uint64_t             h = mix(seed + 0x9e3779b97f4a7c15u);
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word = 0;
        for (size_t i = 0; i < 8 && at + i < size; i++) word |= (uint64_t)p[at + i] << (8 * i);
        h = mix(h + word) + 0x9e3779b97f4a7c15u;
    }
    return mix(h ^ (uint64_t)size);
}
