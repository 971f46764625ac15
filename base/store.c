/* SPDX-License-Identifier: GPL-3.0-or-later
 * store.c: see store.h. One SQL table holds all spaces; PRAGMA application_id tells our files from other databases. */
#include "base/store.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sqlite3.h>
#include <string.h>

#include "base/mem.h"

enum { APPLICATION_ID = 0x62626264 }; /* "bbbd" */

struct bb_store {
    sqlite3        *db;
    sqlite3_stmt   *put, *get, *each, *count;
    pthread_mutex_t lock; /* recursive: a visitor may read */
    char           *path;
};

/* errno of what SQLite's I/O error was about, 0 when unknown: it is kept apart from SQLite's own sentence, by the connection or by the file. */
static int reason_of(bb_store *s, int kind)
{
    sqlite3_file *journal = NULL;
    int           reason;
    if (kind == SQLITE_FULL) return ENOSPC;
    if (!s->db || (kind != SQLITE_IOERR && kind != SQLITE_CANTOPEN)) return 0;
    if ((reason = sqlite3_system_errno(s->db))) return reason;
    if (sqlite3_file_control(s->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &journal) == SQLITE_OK && journal && journal->pMethods)
        journal->pMethods->xFileControl(journal, SQLITE_FCNTL_LAST_ERRNO, &reason);
    if (!reason) sqlite3_file_control(s->db, "main", SQLITE_FCNTL_LAST_ERRNO, &reason);
    return reason;
}

static bb_status fail(bb_store *s, int code, const char *what, bb_err *err)
{
    int kind = code & 0xff;
    if (kind == SQLITE_NOMEM) return BB_FAIL(err, BB_NOMEM, "%s: out of memory while %s", s->path, what);
    if (kind == SQLITE_BUSY || kind == SQLITE_LOCKED) return BB_FAIL(err, BB_IO, "%s: is in use by another process (%s)", s->path, what);
    if (kind == SQLITE_NOTADB || kind == SQLITE_CORRUPT)
        return BB_FAIL(err, BB_BAD_FILE, "%s: is not a store of bitbudget or is damaged (%s)", s->path, sqlite3_errmsg(s->db));
    int reason = reason_of(s, kind);
    return BB_FAIL(err, BB_IO, "%s: %s: %s%s%s", s->path, what, s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(code), reason ? ": " : "",
                   reason ? strerror(reason) : "");
}

static bb_status run(bb_store *s, const char *sql, bb_err *err)
{
    int code = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? BB_OK : fail(s, code, "opening", err);
}

static bb_status read_number(bb_store *s, const char *sql, int64_t *value, bb_err *err)
{
    sqlite3_stmt *q = NULL;
    int           code = sqlite3_prepare_v2(s->db, sql, -1, &q, NULL);
    if (code == SQLITE_OK) code = sqlite3_step(q);
    bb_status status = code == SQLITE_ROW ? BB_OK : fail(s, code, "opening", err);
    *value = status == BB_OK ? sqlite3_column_int64(q, 0) : 0;
    sqlite3_finalize(q);
    return status;
}

static bb_status prepare(bb_store *s, const char *sql, sqlite3_stmt **out, bb_err *err)
{
    int code = sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL);
    return code == SQLITE_OK ? BB_OK : fail(s, code, "opening", err);
}

/* An empty database becomes ours; a foreign one is refused before anything is written to it. */
static bb_status claim(bb_store *s, bb_err *err)
{
    bb_status status;
    int64_t   id = 0, n_tables = 0;
    BB_TRY(read_number(s, "PRAGMA application_id", &id, err));
    BB_TRY(read_number(s, "SELECT count(*) FROM sqlite_master", &n_tables, err));
    if (id != APPLICATION_ID && (id != 0 || n_tables != 0)) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s: is an SQLite database of another program", s->path);
        goto done;
    }
    BB_TRY(run(s, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL", err));
    if (id != APPLICATION_ID || n_tables == 0)
        BB_TRY(run(s,
                   "BEGIN IMMEDIATE; PRAGMA application_id=1650614884;"
                   "CREATE TABLE IF NOT EXISTS kv(space TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY(space, key));"
                   "COMMIT",
                   err));
done:
    return status;
}

bb_status bb_store_open(const char *path, bb_store **store, bb_err *err)
{
    _Static_assert(APPLICATION_ID == 1650614884, "the number in the SQL text of claim()");
    bb_status           status;
    pthread_mutexattr_t attr;
    *store = NULL;
    bb_store *s = BB_NEW0(1, bb_store, err);
    if (!s) return BB_NOMEM;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&s->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    if (!(s->path = bb_strdup(path, err))) {
        status = BB_NOMEM;
        goto done;
    }
    int code = sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, NULL);
    if (code != SQLITE_OK) {
        status = fail(s, code, "opening", err);
        goto done;
    }
    sqlite3_busy_timeout(s->db, 10000);
    BB_TRY(claim(s, err));
    BB_TRY(prepare(s, "INSERT OR REPLACE INTO kv(space, key, value) VALUES(?1, ?2, ?3)", &s->put, err));
    BB_TRY(prepare(s, "SELECT value FROM kv WHERE space = ?1 AND key = ?2", &s->get, err));
    BB_TRY(prepare(s, "SELECT key, value FROM kv WHERE space = ?1 ORDER BY key", &s->each, err));
    BB_TRY(prepare(s, "SELECT count(*) FROM kv WHERE space = ?1", &s->count, err));
    *store = s;
done:
    if (status != BB_OK) bb_store_close(s);
    return status;
}

void bb_store_close(bb_store *s)
{
    if (!s) return;
    sqlite3_finalize(s->put);
    sqlite3_finalize(s->get);
    sqlite3_finalize(s->each);
    sqlite3_finalize(s->count);
    sqlite3_close(s->db);
    pthread_mutex_destroy(&s->lock);
    bb_free(s->path);
    bb_free(s);
}

static void bind_text(sqlite3_stmt *q, int at, const char *text)
{
    /* STATIC: the text outlives the step; a failed bind leaves NULL, which NOT NULL refuses and WHERE never matches. */
    sqlite3_bind_text(q, at, text, -1, SQLITE_STATIC);
}

static void release(sqlite3_stmt *q)
{
    sqlite3_reset(q);
    sqlite3_clear_bindings(q);
}

bb_status bb_store_put(bb_store *s, const char *table, const char *key, const void *value, size_t size, bb_err *err)
{
    if (size > INT_MAX / 2) return BB_FAIL(err, BB_UNSUPPORTED, "%s: a value of %zu bytes for %s/%s is too large for the store", s->path, size, table, key);
    pthread_mutex_lock(&s->lock);
    bind_text(s->put, 1, table);
    bind_text(s->put, 2, key);
    if (size == 0) sqlite3_bind_zeroblob(s->put, 3, 0);
    else sqlite3_bind_blob(s->put, 3, value, (int)size, SQLITE_STATIC);
    int       code = sqlite3_step(s->put);
    bb_status status = code == SQLITE_DONE ? BB_OK : fail(s, code, "writing", err);
    release(s->put);
    pthread_mutex_unlock(&s->lock);
    return status;
}

bb_status bb_store_get(bb_store *s, const char *table, const char *key, void **value, size_t *size, bool *found, bb_err *err)
{
    bb_status status = BB_OK;
    *value = NULL;
    *size = 0;
    *found = false;
    pthread_mutex_lock(&s->lock);
    bind_text(s->get, 1, table);
    bind_text(s->get, 2, key);
    int code = sqlite3_step(s->get);
    if (code == SQLITE_ROW) {
        size_t n = (size_t)sqlite3_column_bytes(s->get, 0);
        *value = bb_alloc(n, 1, err);
        if (!*value) {
            status = BB_NOMEM;
        } else {
            if (n > 0) memcpy(*value, sqlite3_column_blob(s->get, 0), n);
            *size = n;
            *found = true;
        }
    } else if (code != SQLITE_DONE) {
        status = fail(s, code, "reading", err);
    }
    release(s->get);
    pthread_mutex_unlock(&s->lock);
    return status;
}

bb_status bb_store_each(bb_store *s, const char *table, bb_store_visit visit, void *self, bb_err *err)
{
    bb_status status = BB_OK;
    int       code = SQLITE_ROW;
    pthread_mutex_lock(&s->lock);
    bind_text(s->each, 1, table);
    while (status == BB_OK && (code = sqlite3_step(s->each)) == SQLITE_ROW) {
        const char *key = (const char *)sqlite3_column_text(s->each, 0);
        size_t      n = (size_t)sqlite3_column_bytes(s->each, 1);
        const void *value = sqlite3_column_blob(s->each, 1);
        status = key ? visit(self, key, value ? value : "", n, err) : fail(s, SQLITE_NOMEM, "reading", err);
    }
    if (status == BB_OK && code != SQLITE_DONE) status = fail(s, code, "reading", err);
    release(s->each);
    pthread_mutex_unlock(&s->lock);
    return status;
}

bb_status bb_store_count(bb_store *s, const char *table, uint64_t *n, bb_err *err)
{
    pthread_mutex_lock(&s->lock);
    bind_text(s->count, 1, table);
    int       code = sqlite3_step(s->count);
    bb_status status = code == SQLITE_ROW ? BB_OK : fail(s, code, "counting", err);
    *n = status == BB_OK ? (uint64_t)sqlite3_column_int64(s->count, 0) : 0;
    release(s->count);
    pthread_mutex_unlock(&s->lock);
    return status;
}
