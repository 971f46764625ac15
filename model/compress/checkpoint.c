/* SPDX-License-Identifier: GPL-3.0-or-later
 * checkpoint.c: see checkpoint.h. A file is the matrix's bytes and, behind them, their 64-bit hash. */
#include "model/compress/checkpoint.h"

#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"

static char *path_of(const bb_checkpoint *c, uint32_t i, bb_err *err) { return bb_asprintf(err, "%s/" BB_CHECKPOINT_PREFIX "%s-%u.bin", c->dir, c->key, i); }

bb_status bb_checkpoint_open(const char *dir, const char *key, uint32_t n, bb_checkpoint *c, bb_err *err)
{
    *c = (bb_checkpoint) { .n = n };
    memcpy(c->key, key, sizeof c->key - 1);
    c->dir = bb_strdup(dir, err);
    return c->dir ? bb_make_dirs(dir, err) : BB_NOMEM;
}

bb_status bb_checkpoint_map(const bb_checkpoint *c, uint32_t i, size_t bytes, bb_map *map, bool *found, bb_err *err)
{
    char     *path = NULL;
    uint64_t  hash;
    bb_err    why = BB_ERR_INIT;
    bb_status status = BB_OK;
    *found = false;
    *map = (bb_map) { 0 };
    if (!c->dir) return BB_OK;
    if (!(path = path_of(c, i, err))) return BB_NOMEM;
    if (!bb_file_exists(path)) goto done;
    if (bb_map_open(path, map, &why) != BB_OK) { /* unless another process has just removed it */
        if (bb_file_exists(path)) status = BB_FAIL(err, why.status, "%s", why.msg);
        goto done;
    }
    if (map->size == bytes + sizeof hash) {
        memcpy(&hash, map->data + bytes, sizeof hash);
        *found = hash == bb_hash64(map->data, bytes, 0);
    }
    if (*found) bb_map_release(map); /* what was looked at need not stay */
    else bb_map_close(map);
done:
    bb_free(path);
    return status;
}

bb_status bb_checkpoint_load(const bb_checkpoint *c, uint32_t i, void *data, size_t bytes, bool *found, bb_err *err)
{
    bb_map          map;
    const bb_status status = bb_checkpoint_map(c, i, bytes, &map, found, err);
    if (status != BB_OK || !*found) return status;
    memcpy(data, map.data, bytes);
    bb_map_close(&map);
    return BB_OK;
}

bb_status bb_checkpoint_save(const bb_checkpoint *c, uint32_t i, const void *data, size_t bytes, bb_err *err)
{
    const uint64_t hash = bb_hash64(data, bytes, 0);
    bb_writer      w = { 0 };
    char          *path = NULL;
    bb_status      status = BB_OK;
    if (!c->dir) return BB_OK;
    if (!(path = path_of(c, i, err))) return BB_NOMEM;
    BB_TRY(bb_writer_open(&w, path, err));
    fwrite(data, 1, bytes, w.stream); /* errors are found at commit */
    fwrite(&hash, sizeof hash, 1, w.stream);
    BB_TRY(bb_writer_commit(&w, err));
done:
    bb_free(path);
    return status;
}

bb_status bb_checkpoint_keep(const bb_checkpoint *c, uint32_t i, const void *data, size_t bytes, bb_map *map, bb_err *err)
{
    enum { TRIALS = 8 };
    bool      found = false;
    bb_status status = BB_OK;
    for (int k = 0; k < TRIALS && !found; k++) {
        BB_TRY(bb_checkpoint_save(c, i, data, bytes, err));
        BB_TRY(bb_checkpoint_map(c, i, bytes, map, &found, err));
    }
    if (!found) status = BB_FAIL(err, BB_IO, "%s: a matrix that was just written cannot be read back", c->dir ? c->dir : "no folder");
done:
    return status;
}

void bb_checkpoint_remove(const bb_checkpoint *c)
{
    for (uint32_t i = 0; c->dir && i < c->n; i++) {
        char *path = path_of(c, i, NULL);
        if (path) unlink(path);
        bb_free(path);
    }
}

void bb_checkpoint_close(bb_checkpoint *c)
{
    bb_free(c->dir);
    *c = (bb_checkpoint) { 0 };
}
