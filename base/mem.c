/* SPDX-License-Identifier: GPL-3.0-or-later
 * mem.c: see mem.h. A 64-byte header before each block holds its size, so that live bytes can be counted, and that of its map, where it is a file. */
#include "base/mem.h"

#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"

enum { HEADER = 64 };

typedef struct header {
    size_t bytes, mapped; /* mapped: of the file with the header; 0: it is on the heap */
} header;

static _Alignas(64) atomic_size_t live_bytes; /* written by every call: on a line of its own */
static _Alignas(64) atomic_size_t peak_bytes;
static _Alignas(64) atomic_long countdown = -1;
static atomic_size_t spilled_bytes;

bool bb_mul_size(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }

static bool told_to_fail(void)
{
    long left = atomic_load(&countdown);
    if (left < 0) return false;
    if (left == 0) return true;
    atomic_store(&countdown, left - 1);
    return false;
}

void   bb_mem_fail_after(long n) { atomic_store(&countdown, n); }
size_t bb_mem_live_bytes(void) { return atomic_load(&live_bytes); }
size_t bb_mem_peak_bytes(void) { return atomic_load(&peak_bytes); }
void   bb_mem_peak_restart(void) { atomic_store(&peak_bytes, atomic_load(&live_bytes)); }

static void count(size_t bytes)
{
    size_t now = atomic_fetch_add(&live_bytes, bytes) + bytes, peak = atomic_load(&peak_bytes);
    while (now > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, now)) {}
}

void *bb_alloc(size_t n, size_t size, bb_err *err)
{
    size_t bytes, total;
    char  *p;
    if (!bb_mul_size(n, size, &bytes) || bytes > SIZE_MAX - 2 * HEADER) {
        BB_FAIL(err, BB_NOMEM, "out of memory: %zu x %zu bytes overflows", n, size);
        return NULL;
    }
    if (bytes == 0) bytes = 1;
    total = (bytes + HEADER + HEADER - 1) / HEADER * HEADER;
    p = told_to_fail() ? NULL : aligned_alloc(HEADER, total);
    if (!p) {
        BB_FAIL(err, BB_NOMEM, "out of memory: %zu bytes were asked for", bytes);
        return NULL;
    }
    *(header *)(void *)p = (header) { bytes, 0 };
    count(bytes);
    return p + HEADER;
}

void *bb_calloc(size_t n, size_t size, bb_err *err)
{
    void *p = bb_alloc(n, size, err);
    if (p) memset(p, 0, n * size > 0 ? n * size : 1);
    return p;
}

static header *header_of(void *p) { return (header *)(void *)((char *)p - HEADER); }

void *bb_realloc(void *p, size_t n, size_t size, bb_err *err)
{
    void *q = bb_alloc(n, size, err);
    if (q && p) {
        size_t old = header_of(p)->bytes, now = n * size;
        memcpy(q, p, old < now ? old : now);
        bb_free(p);
    }
    return q;
}

void bb_shrink(void *p, size_t n, size_t size)
{
    const size_t old = header_of(p)->bytes, now = n * size > 0 ? n * size : 1, page = (size_t)sysconf(_SC_PAGESIZE);
    BB_ASSERT(now <= old && !header_of(p)->mapped);
    char *const first = (char *)(((uintptr_t)p + now + page - 1) / page * page), *const end = (char *)(((uintptr_t)p + old) / page * page);
    if (first < end) madvise(first, (size_t)(end - first), MADV_DONTNEED);
    header_of(p)->bytes = now;
    atomic_fetch_sub(&live_bytes, old - now);
}

void bb_free(void *p)
{
    if (!p) return;
    header *h = header_of(p);
    if (h->mapped) {
        bb_map map = { (const unsigned char *)h, h->mapped };
        atomic_fetch_sub(&spilled_bytes, h->mapped);
        bb_map_close(&map);
        return;
    }
    atomic_fetch_sub(&live_bytes, h->bytes);
    free(h);
}

/* ---- files as memory ---- */

static pthread_mutex_t spilling = PTHREAD_MUTEX_INITIALIZER;
static char           *spill_folder; /* under the lock; NULL: memory */

bb_status bb_spill_to(const char *folder, bb_err *err)
{
    char *copy = folder ? bb_strdup(folder, err) : NULL;
    if (folder && !copy) return BB_NOMEM;
    pthread_mutex_lock(&spilling);
    bb_free(spill_folder);
    spill_folder = copy;
    pthread_mutex_unlock(&spilling);
    return BB_OK;
}

bool bb_spills(void)
{
    pthread_mutex_lock(&spilling);
    const bool is = spill_folder != NULL;
    pthread_mutex_unlock(&spilling);
    return is;
}

size_t bb_spilled_bytes(void) { return atomic_load(&spilled_bytes); }

/* *folder: a copy of the folder's name, or NULL where there is none. */
static bb_status folder_now(char **folder, bb_err *err)
{
    bb_status status = BB_OK;
    pthread_mutex_lock(&spilling);
    *folder = spill_folder ? bb_strdup(spill_folder, err) : NULL;
    if (spill_folder && !*folder) status = BB_NOMEM;
    pthread_mutex_unlock(&spilling);
    return status;
}

void *bb_spill(size_t n, size_t size, bb_err *err)
{
    char  *folder;
    bb_map map;
    void  *p = NULL;
    size_t bytes;
    if (folder_now(&folder, err) != BB_OK) return NULL;
    if (!folder || !bb_mul_size(n, size, &bytes) || bytes > PTRDIFF_MAX - HEADER) {
        bb_free(folder);
        return bb_alloc(n, size, err); /* which says what is too much */
    }
    if (bb_map_unnamed(folder, HEADER + (bytes ? bytes : 1), &map, &p, err) == BB_OK) {
        *(header *)p = (header) { bytes, map.size };
        atomic_fetch_add(&spilled_bytes, map.size);
    }
    bb_free(folder);
    return p ? (char *)p + HEADER : NULL;
}

void bb_mem_trim(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

char *bb_strdup(const char *s, bb_err *err)
{
    size_t n = strlen(s) + 1;
    char  *p = bb_alloc(n, 1, err);
    if (p) memcpy(p, s, n);
    return p;
}

char *bb_asprintf(bb_err *err, const char *format, ...)
{
    va_list args;
    int     n;
    char   *p;
    va_start(args, format);
    n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || !(p = bb_alloc((size_t)n + 1, 1, err))) return NULL;
    va_start(args, format);
    vsnprintf(p, (size_t)n + 1, format, args);
    va_end(args);
    return p;
}
