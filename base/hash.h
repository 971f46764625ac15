/* SPDX-License-Identifier: GPL-3.0-or-later
 * hash.h: SHA-256 (FIPS 180-4) for provenance and content keys; a 64-bit mix for seeds and tables. */
#ifndef BB_BASE_HASH_H
#define BB_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct bb_sha256 {
    uint32_t      state[8];
    uint64_t      n_bytes;
    unsigned char buffer[64];
} bb_sha256;

void      bb_sha256_init(bb_sha256 *s);
void      bb_sha256_update(bb_sha256 *s, const void *data, size_t size);
void      bb_sha256_text(bb_sha256 *s, const char *text); /* adds text and its NUL, so that fields cannot run together */
void      bb_sha256_hex(bb_sha256 *s, char hex[65]);      /* finishes; lower case, NUL-terminated */
bb_status bb_sha256_file(const char *path, char hex[65], bb_err *err);

uint64_t bb_hash64(const void *data, size_t size, uint64_t seed); /* not cryptographic; stable between releases */

#endif
