/* SPDX-License-Identifier: GPL-3.0-or-later
 * file.h: files as the rest of the program needs them: mapped read-only, read whole, written atomically, locked.
 *
 * A good file is never replaced by half a file: bb_writer writes to a temporary name in the same folder, and
 * bb_writer_commit flushes, fsyncs and renames it; bb_writer_abort (or a crash) leaves the old file as it was. Temporaries are
 * called NAME.bbtmp-PID-SERIAL and are locked by their writer; what a killed process left behind is removed when the next one
 * writes into the folder. Every failure names the path and the system's reason.
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

bb_status bb_map_open(const char *path, bb_map *map, bb_err *err); /* BB_BAD_FILE when absent, a folder, a pipe, unreadable */
void      bb_map_close(bb_map *map);
/* Gives the resident pages back to the system; what is read again comes from the file. For maps that are read once, or block by block. */
void bb_map_release(const bb_map *map);

/* Memory that is a file: of so many bytes, zero, in a folder, and mapped for writing (*data is map->data). It has no name, so nothing of it is left behind
 * whatever happens, and its room on the disk is taken at once: BB_IO where there is none. Who else has it given back (bb_map_release) loses nothing. */
bb_status bb_map_unnamed(const char *folder, size_t bytes, bb_map *map, void **data, bb_err *err);

/* From now on the pages of all maps are given back (bb_map_release) whenever the process has about `bytes` of memory resident: what is mapped does not
 * add to what it must hold. A thread of its own watches; 0: it ends. */
void bb_map_limit(uint64_t bytes);
/* Bytes of memory resident now; and the most since bb_memory_peak_reset, or, where the system has no such thing, since the process began. 0: unknown. */
uint64_t bb_memory_resident(void);
uint64_t bb_memory_peak(void);
void     bb_memory_peak_reset(void);

/* From now on the process ends with one sentence that names the file, and exit code 5, when a mapped file has become shorter than it was (SIGBUS). */
void bb_map_watch(void);

/* Reads a whole file; *data is NUL-terminated (the NUL is not counted) and freed with bb_free. */
bb_status bb_file_read(const char *path, char **data, size_t *size, bb_err *err);
bb_status bb_file_write(const char *path, const void *data, size_t size, bb_err *err); /* atomic */
bool      bb_file_exists(const char *path);
bool      bb_folder_has(const char *folder, const char *name);
bb_status bb_file_size(const char *path, uint64_t *bytes, bb_err *err);
bool      bb_file_same(const char *a, const char *b);                    /* both exist and are one file, whatever they are called */
bb_status bb_file_rename(const char *from, const char *to, bb_err *err); /* within one folder, durable */
bb_status bb_make_dirs(const char *path, bb_err *err);                   /* like mkdir -p */

/* Whether bb_writer_open would succeed at path, as far as can be seen without writing: refuses a folder, a device, a file or folder without
 * permission, a folder that does not exist. */
bb_status bb_file_check_output(const char *path, bb_err *err);
/* The same for a folder whose files will be written; it and the folders above it need not exist yet. */
bb_status bb_folder_check_output(const char *path, bb_err *err);
/* Bytes that a process of this user may still write where path is or would be; BB_IO when the system does not say. */
bb_status bb_free_space(const char *path, uint64_t *bytes, bb_err *err);
/* Removes the temporaries of killed processes from a folder; an absent one is fine. bb_writer_open does it on the first write into a folder. */
void bb_folder_clean(const char *path);

/* A file that one process at a time holds: its content is the holder's PID. BB_FAILED names a living holder. Where the file system knows no
 * locks, it is taken without one. The file stays when the lock is released. */
typedef struct bb_lock {
    bool held;
    int  fd;
} bb_lock; /* all zero: not held */
bb_status bb_lock_take(bb_lock *lock, const char *path, bb_err *err);
void      bb_lock_release(bb_lock *lock); /* harmless when it is not held */

/* For files that are looked at before they get their name: a name of that pattern beside path (bb_free), and a hold on the file behind it, which
 * bb_lock_release ends. */
char *bb_temporary_name(const char *path, bb_err *err);
void  bb_temporary_hold(bb_lock *lock, const char *path);

typedef struct bb_writer_state bb_writer_state;
typedef struct bb_writer {
    FILE            *stream; /* write here with stdio; errors are found at commit */
    char            *path, *temporary;
    bb_writer_state *state;
} bb_writer;

bb_status bb_writer_open(bb_writer *w, const char *path, bb_err *err);
bb_status bb_writer_commit(bb_writer *w, bb_err *err);
void      bb_writer_abort(bb_writer *w); /* harmless after commit */

/* For tests: n further operations of this file succeed, then `times` of them fail with errno `reason`; n -1: none fails any more.
 * Operations are opening, reading, mapping, making folders, writing, syncing, closing and renaming. */
void bb_file_fail_after(long n, long times, int reason);
long bb_file_operations(void);            /* so far */
void bb_free_space_limit(uint64_t bytes); /* bb_free_space says this at most; UINT64_MAX: what is */

#endif
