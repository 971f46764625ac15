/* SPDX-License-Identifier: GPL-3.0-or-later
 * checkpoint.h: the finished matrices of a long computation, a file each in a folder, so that the same computation goes on after it was stopped.
 * A checkpoint is named by a hash of all that its matrices depend on; a damaged file counts as absent. */
#ifndef BB_MODEL_COMPRESS_CHECKPOINT_H
#define BB_MODEL_COMPRESS_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/file.h"
#include "base/status.h"

typedef struct bb_checkpoint {
    char    *dir; /* owned; NULL: nothing is kept */
    char     key[33];
    uint32_t n; /* matrices: 0 .. n-1 */
} bb_checkpoint;

#define BB_CHECKPOINT_PREFIX "rebuilt-" /* of the files' names */

/* key: at least 32 characters, of which the first 32 are used. */
bb_status bb_checkpoint_open(const char *dir, const char *key, uint32_t n, bb_checkpoint *c, bb_err *err);
bb_status bb_checkpoint_load(const bb_checkpoint *c, uint32_t i, void *data, size_t bytes, bool *found, bb_err *err);
/* The same without a copy: map.data are the matrix's bytes until bb_map_close, also when the files are removed. *found false: map is closed. */
bb_status bb_checkpoint_map(const bb_checkpoint *c, uint32_t i, size_t bytes, bb_map *map, bool *found, bb_err *err);
bb_status bb_checkpoint_save(const bb_checkpoint *c, uint32_t i, const void *data, size_t bytes, bb_err *err);
/* Saves and maps, again where a process that has come to its end with the same matrices in the same folder removes the file in between. */
bb_status bb_checkpoint_keep(const bb_checkpoint *c, uint32_t i, const void *data, size_t bytes, bb_map *map, bb_err *err);
void      bb_checkpoint_remove(const bb_checkpoint *c); /* the files: the result is safe elsewhere */
void      bb_checkpoint_close(bb_checkpoint *c);        /* the files stay */

#endif
