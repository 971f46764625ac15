/* SPDX-License-Identifier: GPL-3.0-or-later
 * file.c: see file.h. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

static bb_status open_regular(const char *path, int *fd, struct stat *st, bb_err *err)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC);
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
        p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            status = BB_FAIL(err, BB_IO, "%s: cannot be mapped (%lld bytes): %s", path, (long long)st.st_size, strerror(errno));
            p = NULL;
        }
    }
    close(fd);
    if (status == BB_OK) {
        map->data = p;
        map->size = (size_t)st.st_size;
    }
    return status;
}

/* munmap and madvise take a plain pointer; the map was never writable. */
static void *address_of(const bb_map *map)
{
    union { const unsigned char *c; void *p; } data = { .c = map->data };
    return data.p;
}

void bb_map_close(bb_map *map)
{
    if (map->data) munmap(address_of(map), map->size);
    map->data = NULL;
    map->size = 0;
}

void bb_map_release(const bb_map *map)
{
    if (map->data) madvise(address_of(map), map->size, MADV_DONTNEED);
}

static bb_status read_all(int fd, const char *path, char *data, size_t size, bb_err *err)
{
    size_t at = 0;
    while (at < size) {
        ssize_t n = read(fd, data + at, size - at);
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
    bb_writer w = { 0 };
    bb_status status = bb_writer_open(&w, path, err);
    if (status != BB_OK) return status;
    if (size > 0) fwrite(data, 1, size, w.stream); /* a short write sets the stream's error, which commit finds */
    return bb_writer_commit(&w, err);
}

bool bb_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
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

static bb_status make_dir(const char *path, bb_err *err)
{
    struct stat st;
    if (mkdir(path, 0777) == 0) return BB_OK;
    int reason = errno;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return BB_OK;
    return BB_FAIL(err, BB_IO, "%s: the folder cannot be made: %s", path, strerror(reason));
}

bb_status bb_make_dirs(const char *path, bb_err *err)
{
    char *p = bb_strdup(path, err);
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

static void forget(bb_writer *w)
{
    bb_free(w->path);
    bb_free(w->temporary);
    memset(w, 0, sizeof *w);
}

bb_status bb_writer_open(bb_writer *w, const char *path, bb_err *err)
{
    static atomic_ulong serial;
    struct stat st;
    int fd = -1;
    memset(w, 0, sizeof *w);
    /* rename() over a device or a folder would fail late, or, for root, destroy a device node. */
    if (lstat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
        return BB_FAIL(err, BB_IO, "%s: exists and is not a regular file, so it is not replaced", path);
    if (!(w->path = bb_strdup(path, err))) return BB_NOMEM;
    for (int attempt = 0; fd < 0 && attempt < 100; attempt++) {
        bb_free(w->temporary);
        w->temporary = bb_asprintf(err, "%s.tmp-%ld-%lu", path, (long)getpid(), atomic_fetch_add(&serial, 1));
        if (!w->temporary) {
            forget(w);
            return BB_NOMEM;
        }
        fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST) break;
    }
    if (fd >= 0) w->stream = fdopen(fd, "wb");
    if (!w->stream) {
        int reason = errno;
        if (fd >= 0) {
            close(fd);
            unlink(w->temporary);
        }
        forget(w);
        return BB_FAIL(err, BB_IO, "%s: cannot be written: %s", path, strerror(reason));
    }
    return BB_OK;
}

/* Makes the rename itself durable. Some file systems refuse fsync on folders; the data is safe then as well. */
static void sync_folder(const char *path)
{
    char folder[4096];
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (n >= sizeof folder) return;
    memcpy(folder, path, n);
    folder[n] = '\0';
    int fd = open(n ? folder : slash ? "/" : ".", O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (fd < 0) return;
    (void)fsync(fd);
    close(fd);
}

bb_status bb_writer_commit(bb_writer *w, bb_err *err)
{
    BB_ASSERT(w->stream);
    errno = 0;
    bool good = fflush(w->stream) == 0 && !ferror(w->stream) && fsync(fileno(w->stream)) == 0;
    int reason = errno;
    good = (fclose(w->stream) == 0) && good;
    w->stream = NULL;
    if (good && rename(w->temporary, w->path) != 0) {
        good = false;
        reason = errno;
    }
    bb_status status = BB_OK;
    if (good) {
        sync_folder(w->path);
    } else {
        status = BB_FAIL(err, BB_IO, "%s: could not be written: %s", w->path, reason ? strerror(reason) : "short write");
        unlink(w->temporary);
    }
    forget(w);
    return status;
}

void bb_writer_abort(bb_writer *w)
{
    if (!w->stream) return;
    fclose(w->stream);
    unlink(w->temporary);
    forget(w);
}
