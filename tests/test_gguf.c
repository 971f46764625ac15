/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_gguf.c: the reader against files built byte by byte here (not by our writer), the writer against the same bytes, and every
 * way in which a file can lie. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/io/gguf.h"
#include "model/io/gguf_internal.h"
#include "tests/support/split.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

/* ---- a file by hand ---- */

typedef struct bytes {
    unsigned char b[4096];
    size_t        n;
} bytes;

static void raw(bytes *f, const void *p, size_t n)
{
    ck_assert(f->n + n <= sizeof f->b);
    memcpy(f->b + f->n, p, n);
    f->n += n;
}
static void u32(bytes *f, uint32_t v)
{
    for (int i = 0; i < 4; i++) raw(f, (unsigned char[]) { (unsigned char)(v >> 8 * i) }, 1);
}
static void u64(bytes *f, uint64_t v)
{
    u32(f, (uint32_t)v);
    u32(f, (uint32_t)(v >> 32));
}
static void str(bytes *f, const char *s)
{
    u64(f, strlen(s));
    raw(f, s, strlen(s));
}
static void zeros_to(bytes *f, size_t multiple)
{
    while (f->n % multiple) raw(f, "", 1);
}

/* Where interesting fields of the sample lie. */
typedef struct sample {
    bytes  f;
    size_t version, n_tensors, n_kv, first_key_length, alignment, strings_count, array_element, array_count, name_length, n_dims, ne0, ne1, type, offset0,
        offset1, data, name1, key2;
} sample;

static sample make_sample(uint32_t version)
{
    sample s = { .f = { .n = 0 } };
    bytes *f = &s.f;
    float  weights[] = { 1.0f, -2.0f, 0.5f };
    raw(f, "GGUF", 4);
    s.version = f->n;
    u32(f, version);
    s.n_tensors = f->n;
    u64(f, 2);
    s.n_kv = f->n;
    u64(f, 6);
    s.first_key_length = f->n;
    str(f, "general.architecture");
    u32(f, 8);
    str(f, "llama");
    str(f, "general.alignment");
    u32(f, 4);
    s.alignment = f->n;
    u32(f, 64);
    str(f, "a.bool");
    u32(f, 7);
    raw(f, "\1", 1);
    s.key2 = f->n + 8;
    str(f, "a.flow");
    u32(f, 6);
    raw(f, &weights[2], 4);
    str(f, "a.names");
    u32(f, 9);
    u32(f, 8);
    s.strings_count = f->n;
    u64(f, 3);
    str(f, "x");
    str(f, "");
    str(f, "zz");
    str(f, "a.heads");
    u32(f, 9);
    s.array_element = f->n;
    u32(f, 5);
    s.array_count = f->n;
    u64(f, 2);
    u32(f, 3);
    u32(f, 7);
    s.name_length = f->n;
    str(f, "m");
    s.n_dims = f->n;
    u32(f, 2);
    s.ne0 = f->n;
    u64(f, 32);
    s.ne1 = f->n;
    u64(f, 2);
    s.type = f->n;
    u32(f, 8);
    s.offset0 = f->n;
    u64(f, 0);
    s.name1 = f->n + 8;
    str(f, "v");
    u32(f, 1);
    u64(f, 3);
    u32(f, 0);
    s.offset1 = f->n;
    u64(f, 128);
    zeros_to(f, 64);
    s.data = f->n;
    for (int i = 0; i < 68; i++) raw(f, (unsigned char[]) { (unsigned char)(i + 1) }, 1);
    zeros_to(f, 64);
    raw(f, weights, sizeof weights);
    zeros_to(f, 64);
    return s;
}

START_TEST(reads_every_field)
{
    sample    s = make_sample(_i == 0 ? 2 : 3);
    bb_source g;
    bb_err    err = BB_ERR_INIT;
    bool      flag = false, found = true;
    float     x = 0;
    uint32_t  heads[2] = { 0, 0 }, n = 5;
    bb_bytes  text;
    ck_assert_msg(bb_gguf_parse(s.f.b, s.f.n, &g, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(g.version, _i == 0 ? 2 : 3);
    ck_assert_uint_eq(bb_gguf_alignment(&g), 64);
    ck_assert_uint_eq(g.n_kv, 6);
    ck_assert_int_eq(bb_source_text(&g, "general.architecture", &text, NULL, &err), BB_OK);
    ck_assert(text.size == 5 && memcmp(text.data, "llama", 5) == 0);
    ck_assert_int_eq(bb_source_bool(&g, "a.bool", &flag, NULL, &err), BB_OK);
    ck_assert(flag);
    ck_assert_int_eq(bb_source_f32(&g, "a.flow", &x, NULL, &err), BB_OK);
    ck_assert(x == 0.5f);
    ck_assert_int_eq(bb_source_u32_array(&g, "a.heads", heads, 2, NULL, &err), BB_OK);
    ck_assert(heads[0] == 3 && heads[1] == 7);
    ck_assert_int_eq(bb_source_u32_array(&g, "general.alignment", heads, 2, NULL, &err), BB_OK);
    ck_assert(heads[0] == 64 && heads[1] == 64);
    ck_assert_int_eq(bb_source_u32(&g, "absent", &n, &found, &err), BB_OK);
    ck_assert(!found && n == 5);
    const bb_key *names = bb_source_find(&g, "a.names");
    ck_assert(names && names->count == 3 && names->strings[0].size == 1 && names->strings[1].size == 0);
    ck_assert(names->strings[2].size == 2 && memcmp(names->strings[2].data, "zz", 2) == 0 && names->value_bytes == 27);
    const bb_tensor *m = bb_source_tensor(&g, "m"), *v = bb_source_tensor(&g, "v");
    ck_assert(m && m->type == BB_Q8_0 && m->n_dims == 2 && m->ne[0] == 32 && m->ne[1] == 2 && m->ne[2] == 1 && m->size_bytes == 68);
    ck_assert_ptr_eq(m->data, s.f.b + s.data);
    ck_assert(v && v->size_bytes == 12 && (const unsigned char *)v->data == s.f.b + s.data + 128);
    ck_assert_ptr_null(bb_source_tensor(&g, "w"));
    bb_source_close(&g);
}
END_TEST

START_TEST(wrong_kinds_and_absence_are_named)
{
    sample    s = make_sample(3);
    bb_source g;
    uint32_t  n, heads[3];
    float     x;
    bool      flag;
    bb_bytes  text;
    ck_assert_int_eq(bb_gguf_parse(s.f.b, s.f.n, &g, NULL), BB_OK);
    bb_err err = BB_ERR_INIT;
    ck_assert_int_eq(bb_source_u32(&g, "absent", &n, NULL, &err), BB_BAD_FILE);
    ck_assert_ptr_nonnull(strstr(err.msg, "absent"));
    ck_assert_int_eq(bb_source_u32(&g, "a.flow", &n, NULL, NULL), BB_BAD_FILE);
    ck_assert_int_eq(bb_source_u32(&g, "a.heads", &n, NULL, NULL), BB_BAD_FILE);
    ck_assert_int_eq(bb_source_f32(&g, "a.bool", &x, NULL, NULL), BB_BAD_FILE);
    ck_assert_int_eq(bb_source_bool(&g, "a.heads", &flag, NULL, NULL), BB_BAD_FILE);
    ck_assert_int_eq(bb_source_text(&g, "a.heads", &text, NULL, NULL), BB_BAD_FILE);
    ck_assert_int_eq(bb_source_u32_array(&g, "a.heads", heads, 3, NULL, NULL), BB_BAD_FILE);
    ck_assert_int_eq(bb_source_u32_array(&g, "a.names", heads, 3, NULL, NULL), BB_BAD_FILE);
    bb_source_close(&g);
}
END_TEST

START_TEST(integers_of_every_kind)
{
    static const struct {
        bb_kind kind;
        int64_t value;
        bool    fits;
    } rows[] = {
        { BB_KIND_U8, 200, true },  { BB_KIND_I8, -1, false },  { BB_KIND_I8, 100, true },           { BB_KIND_U16, 65535, true },
        { BB_KIND_I16, -3, false }, { BB_KIND_I16, 300, true }, { BB_KIND_U32, 0xFFFFFFFF, true },   { BB_KIND_I32, -1, false },
        { BB_KIND_I32, 9, true },   { BB_KIND_U64, 9, true },   { BB_KIND_U64, 0x100000000, false }, { BB_KIND_I64, -9, false },
        { BB_KIND_I64, 77, true },  { BB_KIND_U64, -1, false }, { BB_KIND_I64, 0x100000000, false },
    };
    bytes     f = { .n = 0 };
    bb_source g;
    uint32_t  v = 0;
    raw(&f, "GGUF", 4);
    u32(&f, 3);
    u64(&f, 0);
    u64(&f, 1);
    str(&f, "k");
    u32(&f, (uint32_t)rows[_i].kind);
    raw(&f, &rows[_i].value, bb_kind_bytes(rows[_i].kind));
    ck_assert_int_eq(bb_gguf_parse(f.b, f.n, &g, NULL), BB_OK);
    ck_assert_int_eq(bb_source_u32(&g, "k", &v, NULL, NULL), rows[_i].fits ? BB_OK : BB_BAD_FILE);
    if (rows[_i].fits) ck_assert_uint_eq(v, (uint64_t)rows[_i].value);
    bb_source_close(&g);
}
END_TEST

/* ---- files that lie ---- */

typedef struct lie {
    const char *what, *says;
    size_t      at;
    uint64_t    value;
    unsigned    width;
    bb_status   status;
} lie;

START_TEST(every_lie_is_refused)
{
    sample    s = make_sample(3);
    const lie rows[] = {
        { "magic", "begin with", 0, 0x12345678, 4, BB_BAD_FILE },
        { "version 1", "version 1", s.version, 1, 4, BB_UNSUPPORTED },
        { "version 4", "version 4", s.version, 4, 4, BB_UNSUPPORTED },
        { "big-endian", "big-endian", s.version, 0x03000000, 4, BB_BAD_FILE },
        { "tensor count", "announces", s.n_tensors, 1u << 20, 8, BB_BAD_FILE },
        { "tensor count 2^63", "announces", s.n_tensors, UINT64_C(1) << 63, 8, BB_BAD_FILE },
        { "key count", "announces", s.n_kv, UINT64_MAX, 8, BB_BAD_FILE },
        { "one key too many", "", s.n_kv, 7, 8, BB_BAD_FILE },
        { "one tensor too many", "", s.n_tensors, 3, 8, BB_BAD_FILE },
        { "one tensor too few", "", s.n_tensors, 1, 8, BB_OK }, /* then its description is padding: legal bytes */
        { "empty key", "empty", s.first_key_length, 0, 8, BB_BAD_FILE },
        { "key length", "ends inside", s.first_key_length, UINT64_MAX, 8, BB_BAD_FILE },
        { "alignment 0", "power of two", s.alignment, 0, 4, BB_BAD_FILE },
        { "alignment 48", "power of two", s.alignment, 48, 4, BB_BAD_FILE },
        { "alignment 2^31", "data section", s.alignment, 1u << 31, 4, BB_BAD_FILE },
        { "kind 13", "kind 13", s.alignment - 4, 13, 4, BB_BAD_FILE },
        { "strings", "announces", s.strings_count, UINT64_C(1) << 60, 8, BB_BAD_FILE },
        { "strings for whose lengths there is no room", "announces", s.strings_count, (s.f.n - s.strings_count) / 8, 8, BB_BAD_FILE },
        { "array bytes overflow", "ends inside", s.array_count, (UINT64_C(1) << 62) + 2, 8, BB_BAD_FILE },
        { "array length", "ends inside", s.array_count, UINT64_C(1) << 62, 8, BB_BAD_FILE },
        { "nested array", "kind 9", s.array_element, 9, 4, BB_BAD_FILE },
        { "name too long", "64 bytes", s.name_length, 64, 8, BB_BAD_FILE },
        { "name empty", "0 bytes", s.name_length, 0, 8, BB_BAD_FILE },
        { "name with NUL", "NUL", s.name_length + 8, 0, 1, BB_BAD_FILE },
        { "duplicate name", "occurs twice", s.name1, 'm', 1, BB_BAD_FILE },
        { "duplicate key", "occurs twice", s.key2 + 2, 'b' | 'o' << 8 | 'o' << 16 | (uint64_t)'l' << 24, 4, BB_BAD_FILE },
        { "5 dimensions", "5 dimensions", s.n_dims, 5, 4, BB_BAD_FILE },
        { "row not divisible", "multiple of 32", s.ne0, 33, 8, BB_BAD_FILE },
        { "negative dimension", "negative", s.ne1, UINT64_MAX, 8, BB_BAD_FILE },
        { "product overflows", "overflows", s.ne1, UINT64_C(1) << 62, 8, BB_BAD_FILE },
        { "bytes overflow", "overflows", s.ne1, INT64_MAX / 34 + 1, 8, BB_BAD_FILE },
        { "too many rows", "beyond", s.ne1, 1000, 8, BB_BAD_FILE },
        { "unknown type", "type id 77", s.type, 77, 4, BB_UNSUPPORTED },
        { "dead type", "type id 4", s.type, 4, 4, BB_UNSUPPORTED },
        { "first offset", "add up to 0", s.offset0, 64, 8, BB_BAD_FILE },
        { "gap", "add up to 128", s.offset1, 192, 8, BB_BAD_FILE },
        { "overlap", "add up to 128", s.offset1, 64, 8, BB_BAD_FILE },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        unsigned char b[sizeof s.f.b];
        bb_source     g;
        bb_err        err = BB_ERR_INIT;
        size_t        before = bb_mem_live_bytes();
        memcpy(b, s.f.b, s.f.n);
        memcpy(b + rows[i].at, &rows[i].value, rows[i].width);
        bb_status status = bb_gguf_parse(b, s.f.n, &g, &err);
        ck_assert_msg(status == rows[i].status, "%s: status %d: %s", rows[i].what, (int)status, err.msg);
        ck_assert_msg(strstr(err.msg, rows[i].says) != NULL, "%s: '%s'", rows[i].what, err.msg);
        bb_source_close(&g);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
    }
}
END_TEST

START_TEST(every_truncation_is_refused)
{
    sample s = make_sample(3);
    size_t needed = s.data + 128 + 12; /* the last padding may be missing */
    for (size_t n = 0; n <= s.f.n; n++) {
        unsigned char *b = bb_alloc(n, 1, NULL); /* an exact allocation, so that a sanitizer sees a byte too far */
        bb_source      g;
        bb_err         err = BB_ERR_INIT;
        memcpy(b, s.f.b, n);
        ck_assert_int_eq(bb_gguf_parse(b, n, &g, &err), n < needed ? BB_BAD_FILE : BB_OK);
        if (n < needed) ck_assert(err.msg[0] != '\0');
        bb_source_close(&g);
        bb_free(b);
    }
}
END_TEST

/* Files that end with the thing itself, so that nothing behind it can be missed instead. */
START_TEST(the_last_thing_of_a_file_may_not_be_cut)
{
    static const uint32_t kinds[] = { 8, 0, 4, 10, 9 }; /* text, one byte, u32, u64, an array of u32 */
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        bytes f = { .n = 0 };
        raw(&f, "GGUF", 4);
        u32(&f, 3);
        u64(&f, 0);
        u64(&f, 1);
        str(&f, "key");
        u32(&f, kinds[k]);
        if (kinds[k] == 8) str(&f, "value");
        else if (kinds[k] == 0) raw(&f, "x", 1);
        else if (kinds[k] == 4) u32(&f, 7);
        else if (kinds[k] == 10) u64(&f, 7);
        else {
            u32(&f, 4);
            u64(&f, 2);
            u64(&f, 7);
        }
        for (size_t n = f.n - 3; n <= f.n; n++) {
            unsigned char *b = bb_alloc(n, 1, NULL);
            bb_source      g;
            memcpy(b, f.b, n);
            ck_assert_int_eq(bb_gguf_parse(b, n, &g, NULL), n < f.n ? BB_BAD_FILE : BB_OK);
            bb_source_close(&g);
            bb_free(b);
        }
    }
}
END_TEST

/* Each factor alone can make the product overflow. */
START_TEST(four_dimensions_may_not_overflow)
{
    static const uint64_t ne[4][4] = {
        { 32, UINT64_C(1) << 62, 4, 1 }, { 32, 1 << 20, UINT64_C(1) << 44, 1 }, { 32, UINT64_C(1) << 31, UINT64_C(1) << 31, 4 }, { 32, 1, 1, UINT64_C(1) << 62 }
    };
    for (int k = 0; k < 4; k++) {
        bytes     f = { .n = 0 };
        bb_source g;
        bb_err    err = BB_ERR_INIT;
        raw(&f, "GGUF", 4);
        u32(&f, 3);
        u64(&f, 1);
        u64(&f, 0);
        str(&f, "m");
        u32(&f, 4);
        for (int i = 0; i < 4; i++) u64(&f, ne[k][i]);
        u32(&f, 8);
        u64(&f, 0);
        zeros_to(&f, 32);
        ck_assert_int_eq(bb_gguf_parse(f.b, f.n, &g, &err), BB_BAD_FILE);
        ck_assert_msg(strstr(err.msg, "overflows") != NULL, "%d: %s", k, err.msg);
        bb_source_close(&g);
    }
}
END_TEST

START_TEST(messages_do_not_carry_control_bytes)
{
    sample    s = make_sample(3);
    bb_source g;
    bb_err    err = BB_ERR_INIT;
    memcpy(s.f.b + s.name_length + 8, "\x1b", 1);
    memcpy(s.f.b + s.type, "\x4d", 1);
    ck_assert_int_eq(bb_gguf_parse(s.f.b, s.f.n, &g, &err), BB_UNSUPPORTED);
    ck_assert_ptr_null(strchr(err.msg, 0x1b));
}
END_TEST

START_TEST(memory_failures_are_clean)
{
    sample    s = make_sample(3);
    size_t    before = bb_mem_live_bytes();
    bb_source g;
    long      n = 0;
    for (;; n++) {
        bb_err err = BB_ERR_INIT;
        bb_mem_fail_after(n);
        bb_status status = bb_gguf_parse(s.f.b, s.f.n, &g, &err);
        bb_mem_fail_after(-1);
        if (status == BB_OK) break;
        ck_assert_int_eq(status, BB_NOMEM);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
    }
    bb_source_close(&g);
    ck_assert_int_ge(n, 4);
    ck_assert_uint_eq(bb_mem_live_bytes(), before);
}
END_TEST

/* ---- writing ---- */

START_TEST(writes_the_bytes_made_by_hand)
{
    sample       s = make_sample(3);
    bb_gguf_out *out;
    bb_bytes     names[] = { { "x", 1 }, { "", 0 }, { "zz", 2 } };
    int32_t      heads[] = { 3, 7 };
    bb_tensor    m = { .name = "m", .type = BB_Q8_0, .n_dims = 2, .ne = { 32, 2, 1, 1 }, .data = s.f.b + s.data };
    bb_tensor    v = { .name = "v", .type = BB_F32, .n_dims = 1, .ne = { 3, 1, 1, 1 }, .data = s.f.b + s.data + 128 };
    uint64_t     size;
    const char  *path = bb_test_path("hand.gguf");
    char        *data;
    size_t       n;
    ck_assert_int_eq(bb_gguf_out_create(&out, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_text(out, "general.architecture", "qwen2", NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_u32(out, "general.alignment", 64, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_bool(out, "a.bool", true, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_f32(out, "a.flow", 0.5f, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_text_array(out, "a.names", names, 3, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_i32_array(out, "a.heads", heads, 2, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_text(out, "general.architecture", "llama", NULL), BB_OK); /* keeps its place */
    ck_assert_int_eq(bb_gguf_put_tensor(out, &m, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_tensor(out, &v, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_out_size(out, &size, NULL), BB_OK);
    ck_assert_uint_eq(size, s.f.n);
    ck_assert_int_eq(bb_gguf_out_write(out, path, NULL), BB_OK);
    ck_assert_int_eq(bb_file_read(path, &data, &n, NULL), BB_OK);
    ck_assert_uint_eq(n, s.f.n);
    ck_assert_mem_eq(data, s.f.b, n);
    bb_free(data);
    bb_gguf_out_destroy(out);
}
END_TEST

/* Reads a file, puts every key and tensor again, and asks for the same bytes. */
static void copy_and_compare(const char *path)
{
    bb_source    g;
    bb_gguf_out *out;
    bb_err       err = BB_ERR_INIT;
    uint64_t     size;
    const char  *copy = bb_test_path("copy.gguf");
    char        *a, *b;
    size_t       n_a, n_b;
    ck_assert_msg(bb_gguf_open(path, &g, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_gguf_out_create(&out, NULL), BB_OK);
    for (uint64_t i = 0; i < g.n_kv; i++) ck_assert_int_eq(bb_gguf_put_copy(out, &g.kv[i], NULL), BB_OK);
    for (uint64_t i = 0; i < g.n_tensors; i++) ck_assert_int_eq(bb_gguf_put_tensor(out, &g.tensors[i], NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_out_size(out, &size, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_out_write(out, copy, NULL), BB_OK);
    ck_assert_int_eq(bb_file_read(path, &a, &n_a, NULL), BB_OK);
    ck_assert_int_eq(bb_file_read(copy, &b, &n_b, NULL), BB_OK);
    ck_assert_uint_eq(n_b, size);
    ck_assert_uint_eq(n_a, n_b);
    ck_assert(memcmp(a, b, n_a) == 0);
    bb_free(a);
    bb_free(b);
    bb_gguf_out_destroy(out);
    bb_source_close(&g);
}

/* Half a million keys, some twice: a search through all of them for each would take minutes. */
START_TEST(many_keys_take_time_in_proportion)
{
    enum { N = 500000 };
    char(*text)[16] = bb_alloc(N, sizeof *text, NULL);
    unsigned char value = 7;
    bb_gguf_out  *out;
    uint64_t      once, twice;
    ck_assert_int_eq(bb_gguf_out_create(&out, NULL), BB_OK);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) {
            int    n = snprintf(text[i], sizeof *text, "key.%d", i);
            bb_key kv = { .key = { text[i], (uint64_t)n }, .kind = BB_KIND_U8, .count = 1, .value = &value, .value_bytes = 1 };
            ck_assert_int_eq(bb_gguf_put_copy(out, &kv, NULL), BB_OK);
        }
        ck_assert_int_eq(bb_gguf_out_size(out, round ? &twice : &once, NULL), BB_OK);
    }
    ck_assert_uint_eq(once, twice);
    bb_gguf_out_destroy(out);
    bb_free(text);
}
END_TEST

START_TEST(copying_is_the_identity)
{
    tiny_spec   s = tiny_default("llama");
    const char *path = bb_test_path("tiny.gguf");
    tiny_write(&s, path);
    copy_and_compare(path);
}
END_TEST

/* Files that other programs wrote: llama.cpp's converters and llama-imatrix. */
static const char *const foreign[] = { "configs/demo/wiki8m-f16.gguf", "tests/data/stories260K.gguf", "tests/data/stories3M-p256.imatrix.gguf" };

START_TEST(copies_foreign_files) { copy_and_compare(foreign[_i]); }
END_TEST

START_TEST(absent_files_and_folders_are_refused)
{
    bb_source g;
    bb_err    err = BB_ERR_INIT;
    ck_assert_int_eq(bb_gguf_open("no/such/file.gguf", &g, &err), BB_BAD_FILE);
    ck_assert_ptr_nonnull(strstr(err.msg, "no/such/file.gguf"));
    ck_assert_int_eq(bb_gguf_open(".", &g, NULL), BB_BAD_FILE);
}
END_TEST

/* ---- split over files ---- */

static void same_bytes(const void *a, const void *b, uint64_t n) { ck_assert(n == 0 || memcmp(a, b, (size_t)n) == 0); }

static void same_sources(const bb_source *a, const bb_source *b)
{
    ck_assert_uint_eq(a->n_kv, b->n_kv);
    ck_assert_uint_eq(a->n_tensors, b->n_tensors);
    ck_assert_uint_eq(a->version, b->version);
    for (uint64_t i = 0; i < a->n_kv; i++) {
        ck_assert(a->kv[i].key.size == b->kv[i].key.size && a->kv[i].kind == b->kv[i].kind && a->kv[i].value_bytes == b->kv[i].value_bytes);
        same_bytes(a->kv[i].key.data, b->kv[i].key.data, a->kv[i].key.size);
        same_bytes(a->kv[i].value, b->kv[i].value, a->kv[i].value_bytes);
        for (uint64_t k = 0; a->kv[i].strings && k < a->kv[i].count; k++)
            same_bytes(a->kv[i].strings[k].data, b->kv[i].strings[k].data, a->kv[i].strings[k].size);
    }
    for (uint64_t i = 0; i < a->n_tensors; i++) {
        ck_assert_str_eq(a->tensors[i].name, b->tensors[i].name);
        ck_assert(a->tensors[i].type == b->tensors[i].type && a->tensors[i].size_bytes == b->tensors[i].size_bytes);
        same_bytes(a->tensors[i].data, b->tensors[i].data, a->tensors[i].size_bytes);
        ck_assert_ptr_eq(bb_source_tensor(a, a->tensors[i].name), &a->tensors[i]);
    }
}

static void hash_of(const bb_source *s, char hex[65])
{
    bb_sha256 h;
    bb_sha256_init(&h);
    bb_source_hash(s, &h);
    bb_sha256_hex(&h, hex);
}

/* n parts, by whichever of them the model is named; with more parts than tensors some have none. */
START_TEST(a_split_model_is_the_whole_one)
{
    static const uint32_t counts[] = { 2, 3, 7, 40 };
    const uint64_t        before = bb_mem_live_bytes();
    const uint32_t        n = counts[_i];
    tiny_spec             s = tiny_default("llama");
    bb_source             all, first, last;
    bb_err                err = BB_ERR_INIT;
    char                  a[65], b[65], stem[300];
    uint64_t              together = 0, size;
    tiny_write(&s, bb_test_path("whole.gguf"));
    snprintf(stem, sizeof stem, "%s", bb_test_path("part"));
    split_write(bb_test_path("whole.gguf"), stem, n, NULL);
    ck_assert_int_eq(bb_source_open(bb_test_path("whole.gguf"), &all, NULL), BB_OK);
    ck_assert_msg(bb_source_open(split_path(stem, 1, n), &first, &err) == BB_OK, "%s", err.msg);
    ck_assert_msg(bb_source_open(split_path(stem, n, n), &last, &err) == BB_OK, "%s", err.msg);
    same_sources(&all, &first);
    same_sources(&all, &last);
    for (uint32_t i = 1; i <= n; i++) {
        ck_assert_int_eq(bb_file_size(split_path(stem, i, n), &size, NULL), BB_OK);
        together += size;
        ck_assert(bb_source_has_file(split_path(stem, 1, n), split_path(stem, i, n)));
    }
    ck_assert_uint_eq(first.size_bytes, together);
    ck_assert_uint_eq(first.n_files, n);
    ck_assert_uint_eq(all.n_files, 1);
    ck_assert_int_eq(bb_source_whole(&first, &err), BB_OK);
    hash_of(&first, a);
    hash_of(&last, b);
    ck_assert_str_eq(a, b);
    bb_source_release(&first, 0);
    same_sources(&all, &first);
    bb_source_close(&all);
    bb_source_close(&first);
    bb_source_close(&last);
    ck_assert_uint_eq(bb_mem_live_bytes(), before);
}
END_TEST

START_TEST(wrong_parts_are_named)
{
    static const struct {
        split_lie   lie;
        const char *says[2];
    } rows[] = {
        { { .part = 2, .missing = true }, { "part-00002-of-00003.gguf is missing", "split over 3 files, and 2 of them are there" } },
        { { .part = 3, .missing = true }, { "part-00003-of-00003.gguf is missing", "2 of them" } },
        { { .part = 3, .no = 1 }, { "part-00003-of-00003.gguf says that it is part 2 of 3", "part 3 of 3 is needed there" } },
        { { .part = 2, .count = 4 }, { "part-00002-of-00003.gguf says that it is part 2 of 4", "part 2 of 3 is needed" } },
        { { .part = 2, .count = -1 }, { "part-00002-of-00003.gguf says that it is part 2 of 0", "part 2 of 3 is needed" } },
        { { .part = 2, .no = -1 }, { "part-00002-of-00003.gguf: ", "split.no is missing" } },
        { { .part = 3, .twice = true }, { "tensor 'token_embd.weight' is in ", "part-00003-of-00003.gguf" } },
        { { .part = 2, .leave = true }, { "has 21 tensors", "its 3 parts have 20 together" } },
        { { .part = 1, .tensors = 22 }, { "part-00001-of-00003.gguf says that its model has 22 tensors", "have 21 together" } },
        { { .part = 1, .no = 5 }, { "part-00001-of-00003.gguf says that it is part 6", "split over 3 files; they are found by their names" } },
        { { .part = 1, .count = 2 }, { "part-00001-of-00003.gguf says that it is part 1", "split over 2 files; they are found by their names" } },
        { { .part = 1, .count = 70000 }, { "split over 70000 files", "names" } },
    };
    tiny_spec s = tiny_default("llama");
    char      stem[300];
    s.tied = false;
    tiny_write(&s, bb_test_path("whole.gguf"));
    snprintf(stem, sizeof stem, "%s", bb_test_path("part"));
    const uint64_t before = bb_mem_live_bytes();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bb_err    err = BB_ERR_INIT;
        bb_source g;
        split_write(bb_test_path("whole.gguf"), stem, 3, &rows[i].lie);
        ck_assert_msg(bb_source_open(split_path(stem, 1, 3), &g, &err) == BB_BAD_FILE, "row %zu: %s", i, err.msg);
        for (int k = 0; k < 2; k++) ck_assert_msg(strstr(err.msg, rows[i].says[k]) != NULL, "row %zu: '%s' not in '%s'", i, rows[i].says[k], err.msg);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
    }
    /* the number of all tensors may be left unsaid; a part under another name is not found, nor are those beside it */
    bb_err          err = BB_ERR_INIT;
    bb_source       g;
    const split_lie silent = { .part = 1, .tensors = -1 };
    split_write(bb_test_path("whole.gguf"), stem, 3, &silent);
    ck_assert_msg(bb_source_open(split_path(stem, 2, 3), &g, &err) == BB_OK, "%s", err.msg);
    bb_source_close(&g);
    ck_assert_int_eq(rename(split_path(stem, 2, 3), bb_test_path("second.gguf")), 0);
    ck_assert_int_eq(bb_source_open(bb_test_path("second.gguf"), &g, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "second.gguf says that it is part 2 of a model that is split over 3 files") != NULL, "%s", err.msg);
}
END_TEST

START_TEST(names_of_parts)
{
    static const struct {
        const char *path;
        uint32_t    part, of;
        size_t      stem;
    } rows[] = { { "a-00002-of-00003.gguf", 2, 3, 1 }, { "d/a-b-00001-of-65535.gguf", 1, 65535, 5 },
                 { "-00002-of-00003.gguf", 0, 0, 0 },  { "a-00001-of-00001.gguf", 0, 0, 0 },
                 { "a-0002-of-00003.gguf", 0, 0, 0 },  { "a-00002-of-00003.GGUF", 0, 0, 0 },
                 { "a-+0002-of-00003.gguf", 0, 0, 0 }, { "a-00002-of-00003.gguf.gguf", 0, 0, 0 },
                 { "a--0002-of-00003.gguf", 0, 0, 0 }, { "", 0, 0, 0 } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t   part = 0, of = 0;
        size_t     stem = 0;
        const bool is = bb_gguf_part_name(rows[i].path, &stem, &part, &of);
        ck_assert_msg(is == (rows[i].of > 0) && (!is || (part == rows[i].part && of == rows[i].of && stem == rows[i].stem)), "%s", rows[i].path);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("gguf");
    TCase *t = tcase_create("core");
    tcase_add_loop_test(t, reads_every_field, 0, 2);
    tcase_add_test(t, wrong_kinds_and_absence_are_named);
    tcase_add_loop_test(t, integers_of_every_kind, 0, 15);
    tcase_add_test(t, every_lie_is_refused);
    tcase_add_test(t, every_truncation_is_refused);
    tcase_add_test(t, the_last_thing_of_a_file_may_not_be_cut);
    tcase_add_test(t, four_dimensions_may_not_overflow);
    tcase_add_test(t, messages_do_not_carry_control_bytes);
    tcase_add_test(t, memory_failures_are_clean);
    tcase_add_test(t, writes_the_bytes_made_by_hand);
    tcase_add_test(t, many_keys_take_time_in_proportion);
    tcase_add_test(t, copying_is_the_identity);
    tcase_add_loop_test(t, copies_foreign_files, 0, (int)(sizeof foreign / sizeof *foreign));
    tcase_add_test(t, absent_files_and_folders_are_refused);
    tcase_add_loop_test(t, a_split_model_is_the_whole_one, 0, 4);
    tcase_add_test(t, wrong_parts_are_named);
    tcase_add_test(t, names_of_parts);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
