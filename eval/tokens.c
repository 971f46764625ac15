/* SPDX-License-Identifier: GPL-3.0-or-later
 * tokens.c: token sets from text and token files, and the windows that evaluation runs. See evaluate.h. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "eval/evaluate.h"
#include "kernels/half.h"

/* ---- token files ---- */

typedef struct layout {
    size_t   offset, n;
    unsigned bytes;
    bool     is_signed;
} layout; /* of ids in a file, little endian */

static bool ends_with(const char *path, const char *ending)
{
    size_t n = strlen(path), m = strlen(ending);
    return n >= m && strcmp(path + n - m, ending) == 0;
}

/* What follows `key` and its colon in the header, a Python dictionary; NULL when absent. */
static const char *npy_value(const char *header, const char *key)
{
    const char *at = strstr(header, key);
    if (!at) return NULL;
    at += strlen(key);
    while (*at == ' ' || *at == ':') at++;
    return at;
}

static bb_status npy_header(const char *path, const char *header, layout *l, bb_err *err)
{
    static const struct {
        const char *descr;
        unsigned    bytes;
        bool        is_signed;
    } kinds[] = {
        { "'<u2'", 2, false }, { "'<u4'", 4, false }, { "'<i4'", 4, true }, { "'<i8'", 8, true }, { "'<u8'", 8, false }, { "'<i2'", 2, true },
    };
    const char        *descr = npy_value(header, "'descr'"), *shape = npy_value(header, "'shape'");
    char              *end;
    unsigned long long n;
    l->bytes = 0;
    for (size_t i = 0; descr && i < sizeof kinds / sizeof *kinds; i++)
        if (strncmp(descr, kinds[i].descr, strlen(kinds[i].descr)) == 0) {
            l->bytes = kinds[i].bytes;
            l->is_signed = kinds[i].is_signed;
        }
    if (!l->bytes) return BB_FAIL(err, BB_BAD_FILE, "%s: the elements are no little-endian integers of 2, 4 or 8 bytes", path);
    if (!shape || *shape != '(' || shape[1] < '0' || shape[1] > '9') return BB_FAIL(err, BB_BAD_FILE, "%s: the shape is not (n,)", path);
    n = strtoull(shape + 1, &end, 10);
    if (*end == ',') end++;
    while (*end == ' ') end++;
    if (*end != ')' || n > SIZE_MAX / 8) return BB_FAIL(err, BB_BAD_FILE, "%s: the shape is not (n,): one dimension of token ids", path);
    l->n = (size_t)n;
    return BB_OK;
}

/* https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, versions 1 to 3. */
static bb_status npy_layout(const char *path, const char *data, size_t size, layout *l, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    prefix, length;
    char     *header = NULL;
    if (size < 12 || memcmp(data, "\x93NUMPY", 6) != 0 || data[6] < 1 || data[6] > 3)
        return BB_FAIL(err, BB_BAD_FILE, "%s is no .npy file of version 1 to 3", path);
    prefix = data[6] == 1 ? 10 : 12;
    length = data[6] == 1 ? bb_load_u16(data + 8) : bb_load_u32(data + 8);
    if (length > size - prefix) return BB_FAIL(err, BB_BAD_FILE, "%s: the header of %zu bytes ends behind the file", path, length);
    if (!(header = bb_alloc(length + 1, 1, err))) return BB_NOMEM;
    memcpy(header, data + prefix, length);
    header[length] = '\0';
    l->offset = prefix + length;
    BB_TRY(npy_header(path, header, l, err));
    if (l->n != (size - l->offset) / l->bytes || (size - l->offset) % l->bytes)
        status = BB_FAIL(err, BB_BAD_FILE, "%s: %zu bytes of data, but %zu ids of %u bytes are announced", path, size - l->offset, l->n, l->bytes);
done:
    bb_free(header);
    return status;
}

/* A negative one is a huge one. */
static uint64_t element(const unsigned char *at, const layout *l)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < l->bytes; i++) v |= (uint64_t)at[i] << 8 * i;
    if (l->is_signed && l->bytes < 8 && v >> (8 * l->bytes - 1)) v |= UINT64_MAX << 8 * l->bytes;
    return v;
}

static bb_status read_ids(const char *path, const char *data, const layout *l, uint32_t n_vocab, bb_tokens *t, bb_err *err)
{
    if (l->n == 0) return BB_FAIL(err, BB_BAD_FILE, "%s is empty", path);
    if (!(t->ids = BB_NEW(l->n, int32_t, err))) return BB_NOMEM;
    for (size_t i = 0; i < l->n; i++) {
        uint64_t id = element((const unsigned char *)data + l->offset + i * l->bytes, l);
        if (id >= n_vocab) return BB_FAIL(err, BB_BAD_FILE, "%s: id %lld at place %zu is outside the vocabulary of %u", path, (long long)id, i, n_vocab);
        t->ids[i] = (int32_t)id;
    }
    t->n = l->n;
    return BB_OK;
}

static bb_status load_token_file(const char *path, const char *data, size_t size, uint32_t n_vocab, bb_tokens *t, bb_err *err)
{
    layout l = { 0, 0, ends_with(path, ".u16") ? 2 : 4, false };
    if (ends_with(path, ".npy")) {
        bb_status status = npy_layout(path, data, size, &l, err);
        if (status != BB_OK) return status;
    } else {
        if (size % l.bytes) return BB_FAIL(err, BB_BAD_FILE, "%s has %zu bytes, not a multiple of %u", path, size, l.bytes);
        l.n = size / l.bytes;
    }
    return read_ids(path, data, &l, n_vocab, t, err);
}

/* ---- text ---- */

/* What a file is instead of text, by its first bytes; NULL: it may be text. */
static const char *binary_kind(const char *data, size_t size)
{
    static const struct {
        const char *magic;
        size_t      n;
        const char *kind;
    } rows[] = {
        { "GGUF", 4, "a GGUF model" },
        { "PK\3\4", 4, "a zip archive" },
        { "\x1F\x8B", 2, "compressed (gzip)" },
        { "BZh", 3, "compressed (bzip2)" },
        { "\xFD"
          "7zXZ",
          5, "compressed (xz)" },
        { "\x28\xB5\x2F\xFD", 4, "compressed (zstd)" },
        { "%PDF-", 5, "a PDF" },
        { "PAR1", 4, "a Parquet table" },
        { "\x93NUMPY", 6, "a NumPy array (its name should end in .npy)" },
        { "\xFF\xFE", 2, "UTF-16 text" },
        { "\xFE\xFF", 2, "UTF-16 text" },
        { "SQLite format 3", 15, "an SQLite database" },
        { "\x7F"
          "ELF",
          4, "a program" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (size >= rows[i].n && memcmp(data, rows[i].magic, rows[i].n) == 0) return rows[i].kind;
    return NULL;
}

/* Bytes of the valid UTF-8 character at p, of at most n; 0: none is there. */
static size_t utf8_character(const unsigned char *p, size_t n)
{
    size_t   size = *p < 0x80 ? 1 : *p >= 0xC2 && *p < 0xE0 ? 2 : *p >= 0xE0 && *p < 0xF0 ? 3 : *p >= 0xF0 && *p < 0xF5 ? 4 : 0;
    unsigned second_low = *p == 0xE0 ? 0xA0 : *p == 0xF0 ? 0x90 : 0x80, second_high = *p == 0xED ? 0x9F : *p == 0xF4 ? 0x8F : 0xBF;
    if (size == 0 || size > n) return 0;
    if (size > 1 && (p[1] < second_low || p[1] > second_high)) return 0;
    for (size_t i = 2; i < size; i++)
        if ((p[i] & 0xC0) != 0x80) return 0;
    return size;
}

/* A hundredth of NUL bytes or a tenth of bytes that are no UTF-8: no text. Less: a warning, and the tokenizer takes them as it does. */
static bb_status check_text(const char *path, const char *text, size_t size, bb_err *err)
{
    const char *kind = binary_kind(text, size);
    size_t      nul = 0, invalid = 0, first = 0;
    if (kind) return BB_FAIL(err, BB_BAD_FILE, "%s is %s, and plain UTF-8 text is needed (or token ids: .npy, .u16, .u32)", path, kind);
    for (size_t i = 0, n; i < size; i += n ? n : 1) {
        n = utf8_character((const unsigned char *)text + i, size - i);
        if (n == 0 && !invalid++) first = i;
        nul += text[i] == '\0';
    }
    if (100 * nul > size || 10 * invalid > size)
        return BB_FAIL(err, BB_BAD_FILE,
                       "%s is no text: of its %zu bytes %zu are NUL and %zu are no UTF-8; plain UTF-8 text is needed (or token ids: .npy, "
                       ".u16, .u32)",
                       path, size, nul, invalid);
    if (invalid) bb_warn("%s: %zu of %zu bytes are no valid UTF-8, the first at offset %zu; they are tokenized byte by byte", path, invalid, size, first);
    if (nul) bb_warn("%s: %zu of %zu bytes are NUL", path, nul, size);
    return BB_OK;
}

static bb_status load_text(const bb_model *m, const char *path, bool parse_special, const char *text, size_t size, bb_tokens *t, bb_err *err)
{
    bb_tokenizer *tokenizer = NULL;
    bb_status     status = BB_OK;
    BB_TRY(check_text(path, text, size, err));
    BB_TRY(bb_tokenizer_create(&m->source, &tokenizer, err));
    if (size && text[size - 1] == '\n') size--;
    if (size == 0) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s is empty", path);
        goto done;
    }
    BB_TRY(bb_tokenize(tokenizer, text, size, true, parse_special, &t->ids, &t->n, err));
    for (size_t i = 0; i < t->n; i++)
        if ((uint32_t)t->ids[i] >= m->net.n_vocab) {
            status = BB_FAIL(err, BB_BAD_FILE, "%s: its text gives token %d, but %s has embeddings for %u", path, t->ids[i], m->path, m->net.n_vocab);
            goto done;
        }
done:
    bb_tokenizer_destroy(tokenizer);
    return status;
}

static void hash_ids(bb_tokens *t)
{
    bb_sha256 h;
    bb_sha256_init(&h);
    for (size_t i = 0; i < t->n; i++) {
        uint32_t      id = (uint32_t)t->ids[i];
        unsigned char bytes[4] = { (unsigned char)id, (unsigned char)(id >> 8), (unsigned char)(id >> 16), (unsigned char)(id >> 24) };
        bb_sha256_update(&h, bytes, 4);
    }
    bb_sha256_hex(&h, t->sha256);
}

bb_status bb_tokens_load(const bb_model *m, const char *path, bool parse_special, bb_tokens *t, bb_err *err)
{
    char     *data = NULL;
    size_t    size = 0;
    bb_status status = BB_OK;
    *t = (bb_tokens) { 0 };
    BB_TRY(bb_file_read(path, &data, &size, err));
    if (ends_with(path, ".npy") || ends_with(path, ".u16") || ends_with(path, ".u32")) BB_TRY(load_token_file(path, data, size, m->net.n_vocab, t, err));
    else BB_TRY(load_text(m, path, parse_special, data, size, t, err));
    if (!(t->path = bb_strdup(path, err))) {
        status = BB_NOMEM;
        goto done;
    }
    hash_ids(t);
done:
    bb_free(data);
    if (status != BB_OK) bb_tokens_done(t);
    return status;
}

bb_status bb_tokens_from_text(const bb_model *m, const char *name, bool parse_special, const char *text, size_t size, bb_tokens *t, bb_err *err)
{
    bb_status status;
    *t = (bb_tokens) { 0 };
    BB_TRY(load_text(m, name, parse_special, text, size, t, err));
    hash_ids(t);
done:
    if (status != BB_OK) bb_tokens_done(t);
    return status;
}

bb_status bb_tokens_from_ids(const int32_t *ids, size_t n, bb_tokens *t, bb_err *err)
{
    *t = (bb_tokens) { 0 };
    if (!(t->ids = BB_NEW(n, int32_t, err))) return BB_NOMEM;
    if (n) memcpy(t->ids, ids, n * sizeof *ids);
    t->n = n;
    hash_ids(t);
    return BB_OK;
}

bb_status bb_tokens_bos(const bb_model *m, int32_t *bos, bb_err *err)
{
    bb_tokenizer *tokenizer = NULL;
    bb_status     status = BB_OK;
    *bos = -1;
    if (!bb_source_find(&m->source, "tokenizer.ggml.tokens")) return BB_OK;
    BB_TRY(bb_tokenizer_create(&m->source, &tokenizer, err));
    if (bb_tokenizer_adds_bos(tokenizer)) *bos = bb_tokenizer_bos(tokenizer);
done:
    bb_tokenizer_destroy(tokenizer);
    return status;
}

void bb_tokens_done(bb_tokens *t)
{
    bb_free(t->ids);
    bb_free(t->path);
    *t = (bb_tokens) { 0 };
}

/* ---- windows ---- */

bb_protocol bb_protocol_named(const char *name) { return strcmp(name, "hf") == 0 ? BB_PROTOCOL_HF : BB_PROTOCOL_GGUF; }

size_t bb_window_at(const bb_tokens *t, const bb_windows *w, bool spread, uint32_t i)
{
    size_t have = t->n / w->ctx;
    return (spread ? i * have / w->n : i) * w->ctx;
}

bb_status bb_windows_make(const bb_tokens *t, bb_protocol protocol, uint32_t ctx, int32_t bos, uint32_t max_windows, bool spread, bb_windows *w, bb_err *err)
{
    uint32_t least = protocol == BB_PROTOCOL_GGUF ? 3 : 2;
    size_t   have;
    *w = (bb_windows) { 0 };
    if (ctx < least) return BB_FAIL(err, BB_USAGE, "a context of %u tokens leaves none to score; at least %u are needed", ctx, least);
    have = t->n / ctx;
    if (have < 1)
        return BB_FAIL(err, BB_BAD_FILE, "%s: its %zu tokens are less than one window of %u: give more text or a smaller --ctx", t->path ? t->path : "the text",
                       t->n, ctx);
    if (have > UINT32_MAX) have = UINT32_MAX;
    if (max_windows > have)
        bb_warn("%s: its %zu tokens are %zu windows of %u; %u were asked for, %zu are used", t->path ? t->path : "the text", t->n, have, ctx, max_windows,
                have);
    w->ctx = ctx;
    w->n = max_windows && max_windows < have ? max_windows : (uint32_t)have;
    w->first = protocol == BB_PROTOCOL_GGUF ? ctx / 2 : 0;
    w->n_scored = ctx - 1 - w->first;
    w->tokens = bb_alloc((size_t)w->n * ctx, sizeof *w->tokens, err);
    w->targets = bb_alloc((size_t)w->n * ctx, sizeof *w->targets, err);
    if (!w->tokens || !w->targets) {
        bb_windows_done(w);
        return BB_NOMEM;
    }
    for (size_t i = 0; i < w->n; i++) {
        size_t   from = bb_window_at(t, w, spread, (uint32_t)i);
        int32_t *tokens = w->tokens + i * ctx, *targets = w->targets + i * ctx;
        memcpy(tokens, t->ids + from, ctx * sizeof *tokens);
        memcpy(targets, tokens + 1, (ctx - 1) * sizeof *targets);
        targets[ctx - 1] = -1;
        if (protocol == BB_PROTOCOL_GGUF && bos >= 0) tokens[0] = bos;
    }
    return BB_OK;
}

void bb_windows_hash(const bb_windows *w, char hex[65])
{
    const uint32_t shape[4] = { w->ctx, w->n, w->first, w->n_scored };
    const size_t   bytes = (size_t)w->n * w->ctx * sizeof *w->tokens;
    bb_sha256      s;
    bb_sha256_init(&s);
    bb_sha256_update(&s, shape, sizeof shape);
    bb_sha256_update(&s, w->tokens, bytes);
    bb_sha256_update(&s, w->targets, bytes);
    bb_sha256_hex(&s, hex);
}

bb_status bb_windows_pick(const bb_windows *all, const uint32_t *index, uint32_t n, bb_windows *out, bb_err *err)
{
    const size_t row = all->ctx;
    *out = *all;
    out->n = n;
    out->tokens = BB_NEW((size_t)n * row, int32_t, err);
    out->targets = BB_NEW((size_t)n * row, int32_t, err);
    if (!out->tokens || !out->targets) return BB_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        memcpy(out->tokens + (size_t)i * row, all->tokens + (size_t)index[i] * row, row * sizeof(int32_t));
        memcpy(out->targets + (size_t)i * row, all->targets + (size_t)index[i] * row, row * sizeof(int32_t));
    }
    return BB_OK;
}

void bb_windows_done(bb_windows *w)
{
    bb_free(w->tokens);
    bb_free(w->targets);
    *w = (bb_windows) { 0 };
}
