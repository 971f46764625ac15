/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_imatrix.c: importance matrices: both layouts give the same file, whose rows are the format's own encoding under that importance; holes and
 * counts of zero count alike; what is wrong is named. */
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "model/compress/statistics.h"
#include "model/io/imatrix.h"
#include "model/model.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

enum { N = 32, BLOCKS = 2 };
static const char *const names[] = { "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up" };
enum { N_NAMES = sizeof names / sizeof *names }; /* ffn_down has no entry */

static float value(int i, int column) { return 0.25f + (float)((i * 7 + column * column) % 11); }

static void make_model(void)
{
    tiny_spec s = tiny_default("llama");
    tiny_write(&s, bb_test_path("m.gguf"));
}

/* Entry `empty` has a count of zero; `bad` a value that is no number; `longer` more values than columns. -1: none. */
static void write_dat(const char *path, int empty, int bad, int longer)
{
    unsigned char b[64 + BLOCKS * N_NAMES * (64 + 4 * (N + 1))];
    size_t        n = 0;
    const int32_t entries = BLOCKS * N_NAMES, calls = 3, none = 0;
    memcpy(b, &entries, 4);
    n = 4;
    for (int i = 0; i < entries; i++) {
        char          name[64];
        const int32_t length = snprintf(name, sizeof name, "blk.%d.%s.weight", i / N_NAMES, names[i % N_NAMES]), values = N + (i == longer);
        memcpy(b + n, &length, 4);
        memcpy(b + n + 4, name, (size_t)length);
        n += 4 + (size_t)length;
        memcpy(b + n, i == empty ? &none : &calls, 4);
        memcpy(b + n + 4, &values, 4);
        n += 8;
        for (int k = 0; k < values; k++, n += 4) {
            const float v = i == bad ? NAN : 3 * value(i, k);
            memcpy(b + n, &v, 4);
        }
    }
    ck_assert_int_eq(bb_file_write(path, b, n, NULL), BB_OK);
}

static void write_gguf_of(const char *path, float count)
{
    static float sums[BLOCKS * N_NAMES][N];
    const float  counts[1] = { count };
    bb_gguf_out *out;
    ck_assert_int_eq(bb_gguf_out_create(&out, NULL), BB_OK);
    ck_assert_int_eq(bb_imatrix_keys(out, "text", 1, 5, NULL), BB_OK);
    for (int i = 0; i < BLOCKS * N_NAMES; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.%s.weight", i / N_NAMES, names[i % N_NAMES]);
        for (int k = 0; k < N; k++) sums[i][k] = 5 * value(i, k);
        ck_assert_int_eq(bb_imatrix_put(out, name, sums[i], counts, N, NULL), BB_OK);
    }
    ck_assert_int_eq(bb_gguf_out_write(out, path, NULL), BB_OK);
    bb_gguf_out_destroy(out);
}

static void write_gguf(const char *path) { write_gguf_of(path, 5); }

static bb_status quantize(const char *imatrix, const char *out, bb_err *err)
{
    return bb_test_command(NULL, err, "quantize %s --format Q4_0 --embd-format F16 --imatrix %s --out %s", bb_test_path("m.gguf"), imatrix, out);
}

/* Are the rows of this matrix the format's encoding under this importance? */
static bool encoded_by(const bb_matrix *source, const bb_matrix *made, const float *importance)
{
    const bb_format *f = bb_format_get(BB_Q4_0);
    unsigned char    row[64];
    const size_t     bytes = bb_format_row_bytes(f, source->cols);
    float           *dense = bb_matrix_decode(source, NULL);
    bool             same = made->type == BB_Q4_0 && bytes <= sizeof row;
    for (uint32_t r = 0; r < source->rows && same; r++) {
        f->encode(dense + (size_t)r * source->cols, importance, row, source->cols);
        same = memcmp(row, (const char *)made->data + r * bytes, bytes) == 0;
    }
    bb_free(dense);
    return same;
}

static void same_tensors(const bb_model *a, const bb_model *b)
{
    ck_assert_uint_eq(a->source.n_tensors, b->source.n_tensors);
    for (size_t i = 0; i < a->source.n_tensors; i++) {
        const bb_tensor *x = &a->source.tensors[i], *y = &b->source.tensors[i];
        ck_assert_msg(strcmp(x->name, y->name) == 0 && x->size_bytes == y->size_bytes && memcmp(x->data, y->data, x->size_bytes) == 0, "%s", x->name);
    }
}

/* The file names the importance matrix that it was made with. */
static void says_where_from(const bb_model *made, const char *imatrix)
{
    char          hash[65];
    const bb_key *k = bb_source_find(&made->source, "bitbudget.calibration.sha256"), *n = bb_source_find(&made->source, "bitbudget.calibration.tokens");
    uint64_t      tokens = 1;
    ck_assert_int_eq(bb_sha256_file(imatrix, hash, NULL), BB_OK);
    ck_assert(k && n && k->value_bytes == 64 && memcmp(k->value, hash, 64) == 0);
    memcpy(&tokens, n->value, sizeof tokens);
    ck_assert_uint_eq(tokens, 0);
}

START_TEST(both_layouts_weigh_the_columns)
{
    bb_err   err = BB_ERR_INIT;
    bb_model m, back;
    float    importance[N];
    make_model();
    write_dat(bb_test_path("i.dat"), 1, -1, -1);
    write_gguf(bb_test_path("i.gguf"));
    ck_assert_msg(quantize(bb_test_path("i.gguf"), bb_test_path("g.gguf"), &err) == BB_OK, "%s", err.msg);
    ck_assert_msg(quantize(bb_test_path("i.dat"), bb_test_path("d.gguf"), &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_model_open(bb_test_path("m.gguf"), &m, NULL), BB_OK);
    ck_assert_int_eq(bb_model_open(bb_test_path("d.gguf"), &back, NULL), BB_OK);
    for (int k = 0; k < N; k++) importance[k] = value(0, k);
    ck_assert(encoded_by(&m.net.blocks[0].w[BB_PART_Q], &back.net.blocks[0].w[BB_PART_Q], importance));
    ck_assert(!encoded_by(&m.net.blocks[0].w[BB_PART_Q], &back.net.blocks[0].w[BB_PART_Q], NULL));
    ck_assert(encoded_by(&m.net.blocks[0].w[BB_PART_K], &back.net.blocks[0].w[BB_PART_K], NULL));       /* a count of zero */
    ck_assert(encoded_by(&m.net.blocks[1].w[BB_PART_DOWN], &back.net.blocks[1].w[BB_PART_DOWN], NULL)); /* no entry */
    bb_model_close(&back);
    bb_model_close(&m);
    write_dat(bb_test_path("i.dat"), -1, -1, -1);
    ck_assert_int_eq(quantize(bb_test_path("i.dat"), bb_test_path("e.gguf"), &err), BB_OK);
    ck_assert_int_eq(bb_model_open(bb_test_path("g.gguf"), &m, NULL), BB_OK);
    ck_assert_int_eq(bb_model_open(bb_test_path("e.gguf"), &back, NULL), BB_OK);
    same_tensors(&m, &back);
    says_where_from(&m, bb_test_path("i.gguf"));
    says_where_from(&back, bb_test_path("i.dat"));
    bb_model_close(&back);
    bb_model_close(&m);
}
END_TEST

/* Both names have one length. */
static void rename_entry(const char *path, const char *from, const char *to)
{
    char  *bytes;
    size_t n, at = 0, length = strlen(from);
    ck_assert_int_eq(bb_file_read(path, &bytes, &n, NULL), BB_OK);
    while (at + length < n && memcmp(bytes + at, from, length) != 0) at++;
    ck_assert(at + length < n);
    memcpy(bytes + at, to, length);
    ck_assert_int_eq(bb_file_write(path, bytes, n, NULL), BB_OK);
    bb_free(bytes);
}

START_TEST(what_is_wrong_is_named)
{
    bb_err     err = BB_ERR_INIT;
    bb_imatrix i;
    char       dat[600], *bytes;
    size_t     n;
    snprintf(dat, sizeof dat, "%s", bb_test_path("i.dat"));
    make_model();
    write_dat(dat, -1, 2, -1);
    ck_assert_int_eq(quantize(dat, bb_test_path("x.gguf"), &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "'blk.0.attn_v.weight' is nan") != NULL, "%s", err.msg);
    write_dat(dat, -1, -1, 3);
    ck_assert_int_eq(quantize(dat, bb_test_path("x.gguf"), &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "of another model") != NULL, "%s", err.msg);
    ck_assert_int_eq(quantize(bb_test_path("m.gguf"), bb_test_path("x.gguf"), &err), BB_BAD_FILE); /* a model is none */
    write_gguf_of(bb_test_path("i.gguf"), 1e-38f);                                                 /* a mean that no float32 holds */
    ck_assert_int_eq(quantize(bb_test_path("i.gguf"), bb_test_path("x.gguf"), &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "no mean square") != NULL, "%s", err.msg);
    write_dat(dat, -1, -1, -1);
    rename_entry(dat, "blk.1.attn_q.weight", "blk.7.attn_q.weight"); /* rows as long, of a deeper model */
    ck_assert_int_eq(quantize(dat, bb_test_path("x.gguf"), &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "an entry 'blk.7.attn_q.weight' and the model has") != NULL, "%s", err.msg);
    write_dat(dat, -1, -1, -1);
    rename_entry(dat, "blk.1.attn_q.weight", "blk.0.attn_q.weight");
    ck_assert_int_eq(quantize(dat, bb_test_path("x.gguf"), &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "entry 'blk.0.attn_q.weight' occurs twice") != NULL, "%s", err.msg);
    write_dat(dat, -1, -1, -1);
    ck_assert_int_eq(
        bb_test_command(NULL, &err, "quantize %s --format Q4_0 --method feedback --imatrix %s --out %s", bb_test_path("m.gguf"), dat, bb_test_path("x.gguf")),
        BB_USAGE);
    ck_assert_msg(strstr(err.msg, "error feedback needs all of them") != NULL, "%s", err.msg);
    static const char *const idle[] = { "--damping 0.2", "--sweeps 2", "--seed 3", "--output-windows 4" };
    for (size_t k = 0; k < sizeof idle / sizeof *idle; k++) {
        char said[2048], arguments[1200];
        snprintf(arguments, sizeof arguments, "quantize %s --format Q4_0 --embd-format F16 --imatrix %s %s --out %s", bb_test_path("m.gguf"), dat, idle[k],
                 bb_test_path("x.gguf"));
        bb_test_says(said, sizeof said, 0, "has no effect", "%s", arguments);
    }
    ck_assert_int_eq(bb_file_read(dat, &bytes, &n, NULL), BB_OK);
    for (size_t cut = 0; cut < n; cut += 7) { /* no cut file is taken for a whole one */
        ck_assert_int_eq(bb_file_write(bb_test_path("cut.dat"), bytes, cut, NULL), BB_OK);
        ck_assert(bb_imatrix_load(bb_test_path("cut.dat"), &i, NULL) != BB_OK);
    }
    bb_free(bytes);
}
END_TEST

START_TEST(a_real_one_is_read)
{
    bb_imatrix           i;
    const bb_importance *e;
    ck_assert_int_eq(bb_imatrix_load("tests/data/stories3M-p256.imatrix.gguf", &i, NULL), BB_OK);
    ck_assert_ptr_nonnull(e = bb_imatrix_find(&i, "blk.0.attn_q.weight"));
    ck_assert(e->n == 256 && e->mean && e->mean[0] > 0);
    ck_assert_ptr_null(bb_imatrix_find(&i, "blk.0.attn_x.weight"));
    bb_imatrix_done(&i);
}
END_TEST

/* ---- calibrate --imatrix ---- */

enum { CTX = 16, WINDOWS = 6, TOKENS = CTX * 2 * WINDOWS };

/* Windows that are all the same, whichever a run calibrates with; each begins with BOS. */
static void write_ids(const char *path, uint32_t ids[TOKENS])
{
    for (uint32_t i = 0; i < TOKENS; i++) ids[i] = i % CTX ? 3 + i % CTX * (i % CTX) * 7 % 251 : 1;
    ck_assert_int_eq(bb_file_write(path, ids, TOKENS * sizeof *ids, NULL), BB_OK);
}

/* Mean squares of what the first block's attention reads: normed rows of the embedding. */
static void mean_squares(const bb_model *m, const uint32_t ids[TOKENS], double mean[N])
{
    float *table = bb_matrix_decode(&m->net.embd, NULL);
    for (int c = 0; c < N; c++) mean[c] = 0;
    for (int i = 0; i < TOKENS; i++) {
        const float *x = table + (size_t)ids[i] * N;
        double       sum = 0;
        for (int c = 0; c < N; c++) sum += (double)x[c] * (double)x[c];
        for (int c = 0; c < N; c++) {
            const double y = (double)x[c] / sqrt(sum / N + (double)m->net.norm_eps) * (double)m->net.blocks[0].norm[BB_NORM_ATTENTION][c];
            mean[c] += y * y / TOKENS;
        }
    }
    bb_free(table);
}

/* The same entries in the older layout. */
static void as_dat(const bb_imatrix *m, const char *path)
{
    FILE         *f = fopen(path, "wb");
    const int32_t n = (int32_t)m->n, calls = 4;
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(&n, 4, 1, f), 1);
    for (size_t i = 0; i < m->n; i++) {
        const int32_t length = (int32_t)strlen(m->entries[i].name), values = (int32_t)m->entries[i].n;
        fwrite(&length, 4, 1, f);
        fwrite(m->entries[i].name, 1, (size_t)length, f);
        fwrite(&calls, 4, 1, f);
        fwrite(&values, 4, 1, f);
        for (int32_t k = 0; k < values; k++) {
            const float v = 4 * m->entries[i].mean[k];
            fwrite(&v, 4, 1, f);
        }
    }
    ck_assert_int_eq(fclose(f), 0);
}

/* What a run's calibration writes: an entry for every matrix, means that can be computed by hand, the counts; quantize takes it, in both layouts. */
START_TEST(calibrate_writes_what_quantize_reads)
{
    bb_err               err = BB_ERR_INIT;
    bb_model             m, back, d;
    bb_imatrix           i;
    bb_source            g;
    const bb_importance *e;
    uint32_t             ids[TOKENS];
    double               mean[N];
    float                count;
    char                 run[300];
    tiny_spec            s = tiny_default("llama");
    tiny_write(&s, bb_test_path("m.gguf"));
    write_ids(bb_test_path("calib.u32"), ids);
    snprintf(run, sizeof run, "%s", bb_test_path("run"));
    ck_assert_msg(bb_test_command(NULL, &err,
                                  "run %s --target-bpw 9 --calib %s --ctx %d --calib-windows %d --measure-windows 1 --refine-windows 1 --confirm-windows 2 "
                                  "--formats Q8_0,Q4_0 --embd-formats Q8_0,Q4_0 --prune none --search-tokens 0.001 --sweeps 0 --no-finalise --out %s",
                                  bb_test_path("m.gguf"), bb_test_path("calib.u32"), CTX, WINDOWS, run) == BB_OK,
                  "%s", err.msg);
    ck_assert_msg(bb_test_command(NULL, &err, "calibrate %s --imatrix %s", run, bb_test_path("own.gguf")) == BB_OK, "%s", err.msg);
    ck_assert_msg(bb_imatrix_load(bb_test_path("own.gguf"), &i, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_model_open(bb_test_path("m.gguf"), &m, NULL), BB_OK);
    ck_assert_uint_eq(i.n, 2 * BB_PART_TOKEN_GATE + 1); /* and the tied head */
    for (uint32_t b = 0; b < 2; b++)
        for (int p = 0; p < BB_PART_TOKEN_GATE; p++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%u.%s.weight", b, bb_parts[p].name);
            e = bb_imatrix_find(&i, name);
            ck_assert_msg(e && e->mean && e->n == m.net.blocks[b].w[p].cols, "%s", name);
        }
    ck_assert_ptr_nonnull(bb_imatrix_find(&i, "token_embd.weight"));
    mean_squares(&m, ids, mean);
    e = bb_imatrix_find(&i, "blk.0.attn_k.weight");
    for (int c = 0; c < N; c++) ck_assert_msg(fabs((double)e->mean[c] - mean[c]) < 1e-5 * mean[c], "column %d: %g, not %g", c, (double)e->mean[c], mean[c]);
    ck_assert_int_eq(bb_gguf_open(bb_test_path("own.gguf"), &g, NULL), BB_OK);
    memcpy(&count, bb_source_tensor(&g, "blk.1.ffn_down.weight.counts")->data, sizeof count);
    ck_assert_int_eq((int)count, CTX * WINDOWS);
    bb_source_close(&g);

    as_dat(&i, bb_test_path("own.dat"));
    ck_assert_msg(quantize(bb_test_path("own.gguf"), bb_test_path("g.gguf"), &err) == BB_OK, "%s", err.msg);
    ck_assert_msg(quantize(bb_test_path("own.dat"), bb_test_path("d.gguf"), &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_model_open(bb_test_path("g.gguf"), &back, NULL), BB_OK);
    e = bb_imatrix_find(&i, "blk.1.attn_q.weight");
    ck_assert(encoded_by(&m.net.blocks[1].w[BB_PART_Q], &back.net.blocks[1].w[BB_PART_Q], e->mean));
    ck_assert(!encoded_by(&m.net.blocks[1].w[BB_PART_Q], &back.net.blocks[1].w[BB_PART_Q], NULL));
    ck_assert_int_eq(bb_model_open(bb_test_path("d.gguf"), &d, NULL), BB_OK);
    same_tensors(&back, &d);
    bb_model_close(&d);
    bb_model_close(&back);
    bb_imatrix_done(&i);
    bb_model_close(&m);
    ck_assert_int_eq(bb_test_command(NULL, &err, "calibrate %s --imatrix %s", run, bb_test_path("m.gguf")), BB_USAGE); /* the model is not written over */
    ck_assert_int_eq(bb_test_command(NULL, &err, "calibrate %s --imatrix %s", run, bb_test_path("g.gguf")), BB_OK);    /* a file of ours may be */
}
END_TEST

/* A matrix that a network lacks has no entry, and quantize misses none; matrices without an entry, and counts of zero, are told. */
START_TEST(holes_are_told_where_there_are_any)
{
    static char said[1 << 14];
    uint32_t    ids[TOKENS];
    char        run[300], words[900];
    tiny_spec   s = tiny_default("deci");
    bb_imatrix  i;
    s.n_head[1] = s.n_kv[1] = 0;
    tiny_write(&s, bb_test_path("hole.gguf"));
    write_ids(bb_test_path("calib.u32"), ids);
    snprintf(run, sizeof run, "%s", bb_test_path("hole"));
    snprintf(words, sizeof words,
             "run %s --target-bpw 9 --calib %s --ctx %d --calib-windows %d --measure-windows 1 --refine-windows 1 --confirm-windows 2 --formats Q8_0,Q4_0 "
             "--embd-formats Q8_0,Q4_0 --prune none --search-tokens 0.001 --sweeps 0 --no-finalise --out %s",
             bb_test_path("hole.gguf"), bb_test_path("calib.u32"), CTX, WINDOWS, run);
    ck_assert_msg(bb_test_program(words, said, sizeof said) == 0, "%s", said);
    snprintf(words, sizeof words, "calibrate %s --imatrix %s", run, bb_test_path("hole.imatrix.gguf"));
    ck_assert_msg(bb_test_program(words, said, sizeof said) == 0, "%s", said);
    ck_assert_int_eq(bb_imatrix_load(bb_test_path("hole.imatrix.gguf"), &i, NULL), BB_OK);
    ck_assert_ptr_null(bb_imatrix_find(&i, "blk.1.attn_q.weight"));
    ck_assert_ptr_nonnull(bb_imatrix_find(&i, "blk.1.ffn_down.weight"));
    bb_imatrix_done(&i);
    snprintf(words, sizeof words, "quantize %s --format Q4_0 --embd-format F16 --imatrix %s --out %s", bb_test_path("hole.gguf"),
             bb_test_path("hole.imatrix.gguf"), bb_test_path("hole.q.gguf"));
    ck_assert_msg(bb_test_program(words, said, sizeof said) == 0, "%s", said);
    ck_assert_msg(!strstr(said, "no entry") && !strstr(said, "count"), "%s", said);
    make_model();
    write_dat(bb_test_path("i.dat"), 1, -1, -1);
    snprintf(words, sizeof words, "quantize %s --format Q4_0 --embd-format F16 --imatrix %s --out %s", bb_test_path("m.gguf"), bb_test_path("i.dat"),
             bb_test_path("told.gguf"));
    ck_assert_msg(bb_test_program(words, said, sizeof said) == 0, "%s", said);
    ck_assert_msg(strstr(said, "of 14 matrices 2 have no entry and 1 one that says nothing") != NULL, "%s", said);
}
END_TEST

int main(void)
{
    gsl_set_error_handler_off(); /* as main() does */
    Suite *s = suite_create("cli_imatrix");
    TCase *t = tcase_create("core");
    tcase_add_test(t, both_layouts_weigh_the_columns);
    tcase_add_test(t, what_is_wrong_is_named);
    tcase_add_test(t, a_real_one_is_read);
    tcase_add_test(t, calibrate_writes_what_quantize_reads);
    tcase_add_test(t, holes_are_told_where_there_are_any);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
