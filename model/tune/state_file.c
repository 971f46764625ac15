/* SPDX-License-Identifier: GPL-3.0-or-later
 * state_file.c: see state_file.h. */
#include "model/tune/state_file.h"

#include <string.h>

#include "base/file.h"
#include "base/hash.h"

static const char magic[8] = { 'b', 'b', 't', 'u', 'n', 'e', '0', '1' };
enum { IDENTITY = 64, SUM = 64, HEAD = sizeof magic + IDENTITY };

static size_t size_of(const bb_state_part *parts, size_t n)
{
    size_t size = HEAD + SUM;
    for (size_t i = 0; i < n; i++) size += parts[i].size;
    return size;
}

static void put(bb_writer *w, bb_sha256 *s, const void *data, size_t size)
{
    if (size) fwrite(data, 1, size, w->stream); /* errors are found at commit */
    bb_sha256_update(s, data, size);
}

bb_status bb_state_save(const char *path, const char identity[65], const bb_state_part *parts, size_t n, bb_err *err)
{
    bb_writer w = { .stream = NULL };
    bb_sha256 s;
    char      sum[65];
    bb_status status;
    BB_TRY(bb_writer_open(&w, path, err));
    bb_sha256_init(&s);
    put(&w, &s, magic, sizeof magic);
    put(&w, &s, identity, IDENTITY);
    for (size_t i = 0; i < n; i++) put(&w, &s, parts[i].at, parts[i].size);
    bb_sha256_hex(&s, sum);
    fwrite(sum, 1, SUM, w.stream);
    BB_TRY(bb_writer_commit(&w, err));
done:
    bb_writer_abort(&w);
    return status;
}

bb_status bb_state_load(const char *path, const char identity[65], const bb_state_part *parts, size_t n, bool *found, bb_err *err)
{
    bb_map    map = { NULL, 0 };
    bb_sha256 s;
    char      sum[65];
    size_t    at = HEAD;
    bb_status status = BB_OK;
    *found = false;
    if (!bb_file_exists(path)) return BB_OK;
    BB_TRY(bb_map_open(path, &map, err));
    if (map.size < HEAD + SUM || memcmp(map.data, magic, sizeof magic) != 0) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s is no saved state of training", path);
        goto done;
    }
    if (memcmp(map.data + sizeof magic, identity, IDENTITY) != 0 || map.size != size_of(parts, n)) {
        status = BB_FAIL(err, BB_BAD_FILE,
                         "%s belongs to a training with another model, other texts or options, or on another CPU level; remove it to start anew", path);
        goto done;
    }
    bb_sha256_init(&s);
    bb_sha256_update(&s, map.data, map.size - SUM);
    bb_sha256_hex(&s, sum);
    if (memcmp(map.data + map.size - SUM, sum, SUM) != 0) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s is damaged: its checksum does not agree; remove it to start anew", path);
        goto done;
    }
    for (size_t i = 0; i < n; at += parts[i++].size)
        if (parts[i].size) memcpy(parts[i].at, map.data + at, parts[i].size);
    *found = true;
done:
    bb_map_close(&map);
    return status;
}
