/* SPDX-License-Identifier: GPL-3.0-or-later
 * file.c: see file.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* fopencookie */
#endif
#include "base/file.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"

/* ---- failures on command ---- */

static atomic_long n_operations, first_failing = -1, last_failing = -1;
static atomic_int  failing_reason;

void bb_file_fail_after(long n, long times, int reason)
{
    long at = atomic_load(&n_operations);
    atomic_store(&failing_reason, reason);
    atomic_store(&last_failing, n < 0 ? -1 : at + n + times - 1);
    atomic_store(&first_failing, n < 0 ? -1 : at + n);
}

long bb_file_operations(void) { return atomic_load(&n_operations); }

/* Stands before each operation: true, with errno set, when it is to fail. */
static bool fails(void)
{
    long at = atomic_fetch_add(&n_operations, 1), first = atomic_load(&first_failing);
    if (first < 0 || at < first || at > atomic_load(&last_failing)) return false;
    errno = atomic_load(&failing_reason);
    return true;
}

/* ---- reading ---- */

static void watch(const bb_map *map, const char *path);

static bb_status open_regular(const char *path, int *fd, struct stat *st, bb_err *err)
{
    /* NONBLOCK: a named pipe without a writer would be waited for, deaf to signals. It means nothing for a regular file. */
    *fd = fails() ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) return BB_FAIL(err, BB_BAD_FILE, "%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(*fd, st) != 0 || !S_ISREG(st->st_mode)) {
        close(*fd);
        *fd = -1;
        return BB_FAIL(err, BB_BAD_FILE, "%s: is not a regular file", path);
    }
    return BB_OK;
}

bb_status bb_map_open(const char *path, bb_map *map, bb_err *err)
{
    struct stat st;
    int         fd;
    void       *p = NULL;
    bb_status   status = open_regular(path, &fd, &st, err);
    map->data = NULL;
    map->size = 0;
    if (status != BB_OK) return status;
    if (st.st_size > 0) {
        p = fails() ? MAP_FAILED : mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            status = BB_FAIL(err, BB_IO, "%s: cannot be mapped (%lld bytes): %s", path, (long long)st.st_size, strerror(errno));
            p = NULL;
        }
    }
    close(fd);
    if (status == BB_OK) {
        map->data = p;
        map->size = (size_t)st.st_size;
        if (p) watch(map, path);
    }
    return status;
}

static bb_status map_new(int fd, const char *path, size_t bytes, bb_map *map, void **data, bb_err *err)
{
    int reason;
    do reason = fails() ? errno : posix_fallocate(fd, 0, (off_t)bytes); /* what is written to a hole of a full disk ends the process */
    while (reason == EINTR);
    if (reason)
        return BB_FAIL(err, BB_IO, "%s: there is no room for %zu bytes of hidden states: %s; make room, or allow more memory (--max-ram)", path, bytes,
                       strerror(reason));
    void *p = fails() ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return BB_FAIL(err, BB_IO, "%s: cannot be mapped (%zu bytes): %s", path, bytes, strerror(errno));
    *map = (bb_map) { p, bytes };
    *data = p;
    return BB_OK;
}

bb_status bb_map_unnamed(const char *folder, size_t bytes, bb_map *map, void **data, bb_err *err)
{
    char     *whole = bb_asprintf(err, "%s/states", folder), *path = whole ? bb_temporary_name(whole, err) : NULL;
    bb_status status = path ? BB_OK : BB_NOMEM;
    int       fd = -1;
    *map = (bb_map) { NULL, 0 };
    *data = NULL;
    BB_ASSERT(bytes > 0);
    if (path && (fd = fails() ? -1 : open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) < 0)
        status = BB_FAIL(err, BB_IO, "%s: cannot be written: %s", path, strerror(errno));
    if (fd >= 0) {
        unlink(path); /* where it is not gone, or we are killed before, the next writer into the folder finds it by its name */
        status = map_new(fd, whole, bytes, map, data, err);
        close(fd);
    }
    if (map->data) watch(map, whole);
    bb_free(path);
    bb_free(whole);
    return status;
}

/* ---- maps whose file shrinks ---- */

/* Maps that are open, for the handler of SIGBUS, which may only read: a slot is filled last by its address and emptied first by it. Maps beyond the
 * table are open all the same; their file is then not named. */
enum { WATCHED = 1024, WATCHED_PATH = 512 };
static struct {
    _Atomic(const unsigned char *) data;
    size_t                         size;
    char                           path[WATCHED_PATH];
} watched[WATCHED];
static pthread_mutex_t watching = PTHREAD_MUTEX_INITIALIZER;

/* All that are open, for those who give their pages back; maps beyond the table keep theirs. Under the lock. */
enum { LISTED = 1 << 16 };
static bb_map open_maps[LISTED];
static size_t n_open;

static void list_map(const bb_map *map)
{
    if (n_open < LISTED) open_maps[n_open++] = *map;
}

static void unlist_map(const bb_map *map)
{
    for (size_t i = n_open; i-- > 0;)
        if (open_maps[i].data == map->data) {
            open_maps[i] = open_maps[--n_open];
            return;
        }
}

static void watch(const bb_map *map, const char *path)
{
    size_t i = 0;
    pthread_mutex_lock(&watching);
    list_map(map);
    while (i < WATCHED && atomic_load(&watched[i].data)) i++;
    if (i < WATCHED) {
        size_t n = strlen(path);
        if (n >= WATCHED_PATH) path += n - WATCHED_PATH + 1; /* the end of a path tells more */
        memcpy(watched[i].path, path, strlen(path) + 1);
        watched[i].size = map->size;
        atomic_store(&watched[i].data, map->data);
    }
    pthread_mutex_unlock(&watching);
}

static void unwatch(const bb_map *map)
{
    pthread_mutex_lock(&watching);
    unlist_map(map);
    for (size_t i = 0; i < WATCHED; i++)
        if (atomic_load(&watched[i].data) == map->data) atomic_store(&watched[i].data, NULL);
    pthread_mutex_unlock(&watching);
}

static size_t append(char *to, size_t n, const char *text)
{
    const size_t more = strlen(text);
    memcpy(to + n, text, more);
    return n + more;
}

/* Nothing but write and _exit: any lock may be held. */
static void on_bus_error(int signal_number, siginfo_t *info, void *context)
{
    const uintptr_t   at = (uintptr_t)info->si_addr;
    static const char why[] = ": cannot be read any more: it became shorter while it was in use, or its disk fails; leave it unchanged and start again\n";
    const char       *path = NULL;
    char              line[WATCHED_PATH + 32 + sizeof why];
    size_t            n;
    (void)signal_number, (void)context;
    for (size_t i = 0; i < WATCHED && !path; i++) {
        const uintptr_t from = (uintptr_t)atomic_load(&watched[i].data);
        if (from && at >= from && at - from < watched[i].size) path = watched[i].path;
    }
    n = append(line, 0, "bitbudget: ");
    n = append(line, n, path ? path : "a mapped file");
    n = append(line, n, why);
    if (write(STDERR_FILENO, line, n) < 0) n = 0; /* there is nobody to tell */
    _exit(bb_status_exit_code(BB_BAD_FILE));
}

void bb_map_watch(void)
{
    struct sigaction action = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO };
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

/* munmap and madvise take a plain pointer. */
static void *address_of(const bb_map *map)
{
    union {
        const unsigned char *c;
        void                *p;
    } data = { .c = map->data };
    return data.p;
}

void bb_map_close(bb_map *map)
{
    if (map->data) {
        unwatch(map);
        munmap(address_of(map), map->size);
    }
    map->data = NULL;
    map->size = 0;
}

void bb_map_release(const bb_map *map)
{
    if (map->data) madvise(address_of(map), map->size, MADV_DONTNEED);
}

/* ---- memory ---- */

uint64_t bb_memory_resident(void)
{
    unsigned long size, resident = 0;
    FILE         *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%lu %lu", &size, &resident) != 2) resident = 0;
    if (f) fclose(f);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t bb_memory_peak(void)
{
    struct rusage      usage;
    unsigned long long kib = 0;
    char               line[256];
    FILE              *f = fopen("/proc/self/status", "re");
    while (f && kib == 0 && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %llu", &kib) != 1) kib = 0;
    if (f) fclose(f);
    if (kib == 0 && getrusage(RUSAGE_SELF, &usage) == 0) kib = (unsigned long long)usage.ru_maxrss;
    return (uint64_t)kib << 10;
}

void bb_memory_peak_reset(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "we");
    if (!f) return;
    fputs("5", f);
    fclose(f);
}

static pthread_mutex_t limiting = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t  limit_ends = PTHREAD_COND_INITIALIZER;
static pthread_t       limiter;
static bool            has_limiter;
static uint64_t        limit_bytes; /* under the lock, as has_limiter; 0 tells the thread to end */

static void release_all(void)
{
    pthread_mutex_lock(&watching);
    for (size_t i = 0; i < n_open; i++) bb_map_release(&open_maps[i]);
    pthread_mutex_unlock(&watching);
}

/* Looks as often as it takes for pages not to come in unseen: some GB a second. What is in use is read again from the system's cache, at little cost, and
 * what was freed goes too; where nothing more is to be had it looks seldom. */
static void *keep_below(void *unused)
{
    const double rate = 4e9, shortest = 0.002, longest = 0.25;
    pthread_mutex_lock(&limiting);
    while (limit_bytes) {
        const uint64_t margin = limit_bytes / 8 < 64u << 20 ? limit_bytes / 8 : 64u << 20, most = limit_bytes - margin;
        uint64_t       now = bb_memory_resident();
        double         wait;
        if (now > most) {
            release_all();
            bb_mem_trim();
            now = bb_memory_resident();
            wait = now > most ? longest : shortest;
        } else wait = (double)(most - now) / rate;
        wait = wait < shortest ? shortest : wait > longest ? longest : wait;
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += (long)(wait * 1e9);
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&limit_ends, &limiting, &until);
    }
    pthread_mutex_unlock(&limiting);
    return unused;
}

void bb_map_limit(uint64_t bytes)
{
    sigset_t all, before;
    bool     ends;
    pthread_mutex_lock(&limiting);
    limit_bytes = bytes;
    ends = has_limiter && !bytes;
    if (ends) has_limiter = false;
    if (!has_limiter && bytes) {
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for those who work */
        has_limiter = pthread_create(&limiter, NULL, keep_below, NULL) == 0;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_cond_signal(&limit_ends);
    pthread_mutex_unlock(&limiting);
    if (ends) pthread_join(limiter, NULL);
}

static bb_status read_all(int fd, const char *path, char *data, size_t size, bb_err *err)
{
    size_t at = 0;
    while (at < size) {
        ssize_t n = fails() ? -1 : read(fd, data + at, size - at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return BB_FAIL(err, BB_IO, "%s: cannot be read: %s", path, strerror(errno));
        if (n == 0) return BB_FAIL(err, BB_IO, "%s: ended after %zu bytes while it was read, expected %zu", path, at, size);
        at += (size_t)n;
    }
    return BB_OK;
}

bb_status bb_file_read(const char *path, char **data, size_t *size, bb_err *err)
{
    struct stat st;
    int         fd;
    bb_status   status = open_regular(path, &fd, &st, err);
    *data = NULL;
    *size = 0;
    if (status != BB_OK) return status;
    char *p = bb_alloc((size_t)st.st_size + 1, 1, err);
    status = p ? read_all(fd, path, p, (size_t)st.st_size, err) : BB_NOMEM;
    close(fd);
    if (status != BB_OK) {
        bb_free(p);
        return status;
    }
    p[st.st_size] = '\0';
    *data = p;
    *size = (size_t)st.st_size;
    return BB_OK;
}

bb_status bb_file_write(const char *path, const void *data, size_t size, bb_err *err)
{
    bb_writer w = { .stream = NULL };
    bb_status status = bb_writer_open(&w, path, err);
    if (status != BB_OK) return status;
    if (size > 0) fwrite(data, 1, size, w.stream); /* a failure is found at commit */
    return bb_writer_commit(&w, err);
}

/* ---- names ---- */

bool bb_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool bb_folder_has(const char *folder, const char *name)
{
    char path[4096]; /* Linux takes none that is longer; no allocation that could fail */
    return snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path && bb_file_exists(path);
}

bb_status bb_file_size(const char *path, uint64_t *bytes, bb_err *err)
{
    struct stat st;
    *bytes = 0;
    if (stat(path, &st) != 0) return BB_FAIL(err, BB_BAD_FILE, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return BB_FAIL(err, BB_BAD_FILE, "%s: is not a regular file", path);
    *bytes = (uint64_t)st.st_size;
    return BB_OK;
}

bool bb_file_same(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static bb_status make_dir(const char *path, bb_err *err)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return BB_OK;
    if (!fails() && mkdir(path, 0777) == 0) return BB_OK;
    int reason = errno;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return BB_OK; /* another process was faster */
    return BB_FAIL(err, BB_IO, "%s: the folder cannot be made: %s", path, strerror(reason));
}

bb_status bb_make_dirs(const char *path, bb_err *err)
{
    char     *p = bb_strdup(path, err);
    bb_status status = p ? BB_OK : BB_NOMEM;
    if (!p) return status;
    for (char *at = p; *at && status == BB_OK; at++) {
        if (*at != '/' || at == p) continue;
        *at = '\0';
        status = make_dir(p, err);
        *at = '/';
    }
    if (status == BB_OK && *p) status = make_dir(p, err);
    bb_free(p);
    return status;
}

/* The folder that path lies in; bb_free. */
static char *folder_of(const char *path, bb_err *err)
{
    const char *slash = strrchr(path, '/');
    return slash ? bb_asprintf(err, "%.*s", slash == path ? 1 : (int)(slash - path), path) : bb_strdup(".", err);
}

/* Where a file of that name would be written: behind the links that path is, there or not; bb_free. */
static char *behind_links(const char *path, bb_err *err)
{
    enum { MOST = 40 }; /* as many as Linux follows: more are a ring */
    char  to[4096];
    char *at = bb_strdup(path, err);
    for (int i = 0; at && i < MOST; i++) {
        const ssize_t n = readlink(at, to, sizeof to - 1);
        if (n <= 0 || (size_t)n == sizeof to - 1) break; /* no link */
        to[n] = '\0';
        char *folder = folder_of(at, err), *next = !folder ? NULL : *to == '/' ? bb_strdup(to, err) : bb_asprintf(err, "%s/%s", folder, to);
        bb_free(folder);
        bb_free(at);
        at = next;
    }
    return at;
}

/* Makes a rename itself durable. Some file systems refuse fsync on folders; the data is safe then as well. */
static void sync_folder(const char *path)
{
    char *folder = folder_of(path, NULL);
    int   fd = folder ? open(folder, O_RDONLY | O_CLOEXEC | O_DIRECTORY) : -1;
    bb_free(folder);
    if (fd < 0) return;
    (void)fsync(fd);
    close(fd);
}

bb_status bb_file_rename(const char *from, const char *to, bb_err *err)
{
    if (fails() || rename(from, to) != 0) return BB_FAIL(err, BB_IO, "%s: %s cannot be renamed to it: %s", to, from, strerror(errno));
    sync_folder(to);
    return BB_OK;
}

/* ---- what can be known before writing ---- */

static bb_status check_folder(const char *path, const char *folder, bb_err *err)
{
    struct stat st;
    if (stat(folder, &st) != 0) return BB_FAIL(err, BB_IO, "%s: cannot be written: the folder %s: %s", path, folder, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return BB_FAIL(err, BB_IO, "%s: cannot be written: %s is no folder", path, folder);
    if (access(folder, W_OK | X_OK) != 0) return BB_FAIL(err, BB_IO, "%s: cannot be written: the folder %s: %s", path, folder, strerror(errno));
    return BB_OK;
}

bb_status bb_file_check_output(const char *path, bb_err *err)
{
    struct stat st;
    size_t      n = strlen(path);
    if (n == 0) return BB_FAIL(err, BB_USAGE, "the name of the file to write is empty");
    if (path[n - 1] == '/' || (stat(path, &st) == 0 && S_ISDIR(st.st_mode)))
        return BB_FAIL(err, BB_IO, "%s: is a folder; the name of a file to write is expected", path);
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) return BB_FAIL(err, BB_IO, "%s: exists and is not a regular file, so it is not replaced", path);
    if (bb_file_exists(path) && access(path, W_OK) != 0) return BB_FAIL(err, BB_IO, "%s: cannot be written: %s", path, strerror(errno));
    char     *target = behind_links(path, err), *folder = target ? folder_of(target, err) : NULL;
    bb_status status = folder ? check_folder(path, folder, err) : BB_NOMEM;
    bb_free(folder);
    bb_free(target);
    return status;
}

/* The nearest of path and the folders above it that exists; bb_free. */
static char *nearest_existing(const char *path, bb_err *err)
{
    char *at = bb_strdup(*path ? path : ".", err);
    while (at && !bb_file_exists(at) && strcmp(at, ".") != 0 && strcmp(at, "/") != 0) {
        size_t n = strlen(at);
        while (n > 1 && at[n - 1] == '/') at[--n] = '\0';
        char *up = folder_of(at, err);
        bb_free(at);
        at = up;
    }
    return at;
}

bb_status bb_folder_check_output(const char *path, bb_err *err)
{
    if (!*path) return BB_FAIL(err, BB_USAGE, "the name of the folder to write is empty");
    char     *folder = nearest_existing(path, err);
    bb_status status = folder ? check_folder(path, folder, err) : BB_NOMEM;
    bb_free(folder);
    return status;
}

static _Atomic uint64_t most_space = UINT64_MAX;

void bb_free_space_limit(uint64_t bytes) { atomic_store(&most_space, bytes); }

bb_status bb_free_space(const char *path, uint64_t *bytes, bb_err *err)
{
    struct statvfs v;
    char          *target = behind_links(path, err), *at = target ? nearest_existing(target, err) : NULL;
    bb_status      status = BB_OK;
    const uint64_t most = atomic_load(&most_space);
    *bytes = 0;
    bb_free(target);
    if (!at) return BB_NOMEM;
    if (statvfs(at, &v) != 0) status = BB_FAIL(err, BB_IO, "%s: the free space is not known: %s", at, strerror(errno));
    else if (__builtin_mul_overflow((uint64_t)v.f_bavail, (uint64_t)v.f_frsize, bytes)) *bytes = UINT64_MAX;
    if (*bytes > most) *bytes = most;
    bb_free(at);
    return status;
}

/* ---- locks ---- */

typedef enum held { HELD, BY_ANOTHER, NO_LOCKS } held;

static held hold(int fd)
{
    int code;
    do code = flock(fd, LOCK_EX | LOCK_NB);
    while (code != 0 && errno == EINTR);
    return code == 0 ? HELD : errno == EWOULDBLOCK ? BY_ANOTHER : NO_LOCKS;
}

static void read_pid(int fd, char *pid, size_t size)
{
    ssize_t n = pread(fd, pid, size - 1, 0);
    pid[n > 0 ? n : 0] = '\0';
    pid[strspn(pid, "0123456789")] = '\0';
}

/* A killed process holds its lock until the system has taken its memory back: the command that follows at once waits that long, 1 s in all. */
enum { LOCK_TRIES = 20, LOCK_PAUSE_NS = 50000000 };

bb_status bb_lock_take(bb_lock *lock, const char *path, bb_err *err)
{
    char text[32];
    int  fd = fails() ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (fd < 0) return BB_FAIL(err, BB_IO, "%s: cannot be opened: %s", path, strerror(errno));
    held state = hold(fd);
    for (int i = 0; i < LOCK_TRIES && state == BY_ANOTHER; i++) {
        nanosleep(&(struct timespec) { .tv_nsec = LOCK_PAUSE_NS }, NULL);
        state = hold(fd);
    }
    if (state == BY_ANOTHER) {
        read_pid(fd, text, sizeof text);
        close(fd);
        return BB_FAIL(err, BB_FAILED, "%s: another process%s%s works here: wait for its end, or stop it", path, *text ? " with PID " : "", text);
    }
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)n, 0) != n) {
        int reason = errno;
        close(fd);
        return BB_FAIL(err, BB_IO, "%s: cannot be written: %s", path, strerror(reason));
    }
    *lock = (bb_lock) { true, fd };
    return BB_OK;
}

void bb_lock_release(bb_lock *lock)
{
    if (lock->held) close(lock->fd);
    lock->held = false;
}

/* ---- temporaries ---- */

#define MARK ".bbtmp-"

/* NAME.bbtmp-PID-SERIAL; *pid. */
static bool is_temporary(const char *name, long *pid)
{
    const char *at = NULL;
    char       *end;
    for (const char *p = name; (p = strstr(p, MARK)) != NULL; p++) at = p;
    if (!at || at == name) return false;
    at += strlen(MARK);
    if (!isdigit((unsigned char)*at)) return false;
    *pid = strtol(at, &end, 10);
    if (*end != '-' || !isdigit((unsigned char)end[1])) return false;
    return end[1 + strspn(end + 1, "0123456789")] == '\0';
}

/* Its writer holds a lock on it from just behind its birth to just behind its renaming; a writer that loses its file to us in between sees that
 * it has no name any more and begins again. Where there are no locks, a PID that lives protects. */
static void remove_stale(int folder, const char *name, long pid)
{
    struct stat st;
    int         fd = openat(folder, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid()) {
        held h = hold(fd);
        bool dead = h == HELD || (h == NO_LOCKS && kill((pid_t)pid, 0) != 0 && errno == ESRCH);
        if (dead && unlinkat(folder, name, 0) == 0) bb_info("removed %s, which a process that was killed had left behind", name);
    }
    close(fd);
}

void bb_folder_clean(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        long pid;
        if (is_temporary(e->d_name, &pid)) remove_stale(dirfd(d), e->d_name, pid);
    }
    if (d) closedir(d);
}

/* Once a folder and process. */
static void clean_once(const char *folder)
{
    enum { N = 64 };
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static struct {
        dev_t device;
        ino_t node;
    } seen[N];
    static size_t n_seen;
    struct stat   st;
    bool          known = false;
    if (stat(folder, &st) != 0) return;
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < n_seen && i < N; i++) known |= seen[i].device == st.st_dev && seen[i].node == st.st_ino;
    if (!known) {
        seen[n_seen % N].device = st.st_dev;
        seen[n_seen++ % N].node = st.st_ino;
    }
    pthread_mutex_unlock(&mutex);
    if (!known) bb_folder_clean(folder);
}

/* ---- writing ---- */

/* fd is written; lock is the same open file, so that the lock outlives fd until the file has its name. reason: errno of the first failure. */
struct bb_writer_state {
    int fd, lock, reason;
};

static ssize_t put_bytes(void *cookie, const char *data, size_t size)
{
    bb_writer_state *s = cookie;
    size_t           at = 0;
    while (at < size && !s->reason) {
        ssize_t n = fails() ? -1 : write(s->fd, data + at, size - at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) s->reason = errno;
        else at += (size_t)n;
    }
    return (ssize_t)at; /* fewer than size: the stream's error is set */
}

static void forget(bb_writer *w)
{
    if (w->state && w->state->fd >= 0) close(w->state->fd);
    if (w->state && w->state->lock >= 0) close(w->state->lock);
    bb_free(w->state);
    bb_free(w->path);
    bb_free(w->temporary);
    memset(w, 0, sizeof *w);
}

char *bb_temporary_name(const char *path, bb_err *err)
{
    static atomic_ulong serial;
    return bb_asprintf(err, "%s" MARK "%ld-%lu", path, (long)getpid(), atomic_fetch_add(&serial, 1));
}

void bb_temporary_hold(bb_lock *lock, const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    *lock = (bb_lock) { fd >= 0, fd };
    if (fd >= 0) (void)hold(fd);
}

/* Opens a new, locked temporary beside w->path. */
static bb_status open_temporary(bb_writer *w, bb_err *err)
{
    bb_writer_state *s = w->state;
    for (int attempt = 0; attempt < 100; attempt++) {
        struct stat st;
        bb_free(w->temporary);
        if (!(w->temporary = bb_temporary_name(w->path, err))) return BB_NOMEM;
        s->fd = fails() ? -1 : open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (s->fd < 0 && errno == EEXIST) continue;
        if (s->fd < 0) break;
        if ((s->lock = fcntl(s->fd, F_DUPFD_CLOEXEC, 0)) < 0) {
            int reason = errno;
            unlink(w->temporary);
            errno = reason;
            break;
        }
        while (flock(s->fd, LOCK_EX) != 0 && errno == EINTR) {}
        if (fstat(s->fd, &st) == 0 && st.st_nlink > 0) return BB_OK;
        close(s->fd); /* taken for a dead process's before it was locked */
        close(s->lock);
        s->fd = s->lock = -1;
    }
    return BB_FAIL(err, BB_IO, "%s: cannot be written: %s", w->path, strerror(errno));
}

bb_status bb_writer_open(bb_writer *w, const char *path, bb_err *err)
{
    static const cookie_io_functions_t functions = { .write = put_bytes };
    enum { BUFFER = 1 << 16 };
    struct stat st;
    char       *folder = NULL;
    bb_status   status = BB_NOMEM;
    memset(w, 0, sizeof *w);
    /* rename() over a device or a folder would fail late, or, for root, destroy a device node. */
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) return BB_FAIL(err, BB_IO, "%s: exists and is not a regular file, so it is not replaced", path);
    w->path = behind_links(path, err); /* what a link points to is written, not the link */
    if (!w->path || !(w->state = BB_NEW(1, bb_writer_state, err))) goto done;
    *w->state = (bb_writer_state) { -1, -1, 0 }; /* before anything can fail: forget() closes what it says */
    if (!(folder = folder_of(w->path, err))) goto done;
    clean_once(folder);
    BB_TRY(open_temporary(w, err));
    if (!(w->stream = fopencookie(w->state, "w", functions))) {
        status = BB_FAIL(err, BB_NOMEM, "%s: cannot be written: %s", path, strerror(errno));
        unlink(w->temporary);
        goto done;
    }
    setvbuf(w->stream, NULL, _IOFBF, BUFFER);
done:
    bb_free(folder);
    if (status != BB_OK) forget(w);
    return status;
}

bb_status bb_writer_commit(bb_writer *w, bb_err *err)
{
    bb_writer_state *s = w->state;
    bb_status        status = BB_OK;
    BB_ASSERT(w->stream);
    errno = 0;
    bool good = fflush(w->stream) == 0 && !ferror(w->stream);
    if (!good && !s->reason) s->reason = errno ? errno : EIO;
    if (fclose(w->stream) != 0 && !s->reason) s->reason = errno ? errno : EIO;
    w->stream = NULL;
    if (!s->reason && (fails() || fsync(s->fd) != 0)) s->reason = errno;
    bool failed = fails();
    int  reason = errno;
    if (close(s->fd) != 0) {
        failed = true;
        reason = errno;
    }
    s->fd = -1;
    if (failed && !s->reason) s->reason = reason;
    if (!s->reason && (fails() || rename(w->temporary, w->path) != 0)) s->reason = errno;
    if (s->reason) {
        status = BB_FAIL(err, BB_IO, "%s: could not be written: %s", w->path, strerror(s->reason));
        unlink(w->temporary);
    } else {
        sync_folder(w->path);
    }
    forget(w);
    return status;
}

void bb_writer_abort(bb_writer *w)
{
    if (!w->stream) return;
    w->state->reason = w->state->reason ? w->state->reason : ECANCELED; /* what is buffered need not be written any more */
    fclose(w->stream);
    unlink(w->temporary);
    forget(w);
}
