/* SPDX-License-Identifier: GPL-3.0-or-later
 * file.h: files as the rest of the program needs them: mapped read-only, read whole, written atomically.
 *
 * A good file is never replaced by half a file: bb_writer writes to a temporary name in the same folder, and
 * bb_writer_commit flushes, fsyncs and renames it; bb_writer_abort (or a crash) leaves the old file as it was.
 */
#ifndef BB_BASE_FILE_H
#define BB_BASE_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

typedef struct bb_map {
    const unsigned char *data; /* borrowed until bb_map_close; NULL when size is 0 */
    size_t               size;
} bb_map;

bb_status bb_map_open(const char *path, bb_map *map, bb_err *err); /* BB_BAD_FILE when absent, a folder, unreadable */
void      bb_map_close(bb_map *map);
/* Gives the resident pages back to the system; what is read again comes from the file. For maps that are read once, or block by block. */
void      bb_map_release(const bb_map *map);

/* Reads a whole file; *data is NUL-terminated (the NUL is not counted) and freed with bb_free. */
bb_status bb_file_read(const char *path, char **data, size_t *size, bb_err *err);
bb_status bb_file_write(const char *path, const void *data, size_t size, bb_err *err); /* atomic */
bool      bb_file_exists(const char *path);
bb_status bb_file_size(const char *path, uint64_t *bytes, bb_err *err);
bb_status bb_make_dirs(const char *path, bb_err *err); /* like mkdir -p */

typedef struct bb_writer {
    FILE *stream;   /* write here with stdio; errors are found at commit */
    char *path, *temporary;
} bb_writer;

bb_status bb_writer_open(bb_writer *w, const char *path, bb_err *err);
bb_status bb_writer_commit(bb_writer *w, bb_err *err);
void      bb_writer_abort(bb_writer *w); /* harmless after commit */

#endif
