/* SPDX-License-Identifier: GPL-3.0-or-later
 * mem.h: the heap, as everything here uses it: 64-byte aligned, overflow-checked, countable, and able to fail on command.
 *
 * bb_alloc/bb_calloc/bb_realloc give memory that the caller frees with bb_free. n*size overflow is BB_NOMEM.
 * Tests call bb_mem_fail_after(n): n further allocations succeed, then all fail until bb_mem_fail_after(-1).
 * Thread-safe.
 *
 * bb_spill gives memory for what grows with the number of tokens and is passed through a piece at a time, such as the hidden states of many windows: that of
 * bb_alloc, or, from bb_spill_to on, a file of a folder (bb_map_unnamed), whose pages come and go as those of all maps do (bb_map_limit). bb_free either.
 */
#ifndef BB_BASE_MEM_H
#define BB_BASE_MEM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

void     *bb_alloc(size_t n, size_t size, bb_err *err);            /* NULL (and err) on failure; n*size == 0 gives 1 byte */
void     *bb_calloc(size_t n, size_t size, bb_err *err);           /* zeroed */
void     *bb_realloc(void *p, size_t n, size_t size, bb_err *err); /* contents kept; p may be NULL; p stays valid on failure */
void      bb_shrink(void *p, size_t n, size_t size);               /* what lies behind goes back to the system; p stays where it is */
void      bb_free(void *p);                                        /* NULL is allowed */
char     *bb_strdup(const char *s, bb_err *err);
char     *bb_asprintf(bb_err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
void     *bb_spill(size_t n, size_t size, bb_err *err); /* as bb_alloc; not for bb_shrink */
bb_status bb_spill_to(const char *folder, bb_err *err); /* for all that is asked for from now on; NULL: memory again */
bool      bb_spills(void);                              /* to a folder? */
size_t    bb_spilled_bytes(void);                       /* in files now */
bool      bb_mul_size(size_t a, size_t b, size_t *out); /* false on overflow */
void      bb_mem_trim(void);                            /* what was freed goes back to the system, where the C library can */
size_t    bb_mem_live_bytes(void);
size_t    bb_mem_peak_bytes(void);
void      bb_mem_peak_restart(void); /* counts the peak from what is live now on; while nobody else allocates */
void      bb_mem_fail_after(long n);

/* Typed forms for the usual case: p = BB_NEW(n, float, err). */
#define BB_NEW(n, type, err) ((type *)bb_alloc((n), sizeof(type), (err)))
#define BB_SPILL(n, type, err) ((type *)bb_spill((n), sizeof(type), (err)))
#define BB_NEW0(n, type, err) ((type *)bb_calloc((n), sizeof(type), (err)))

#endif
