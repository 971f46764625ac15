/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_output_moments.c: moments of the gradients at outputs beside those of a whole gradient, in one round and in several, what is on disk and what is made again, and the
 * rebuild that goes by them: other bytes, the same for any number of threads and after an interruption, and less of what the end of the network feels. */
#include <check.h>
#include <dirent.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "eval/gradient.h"
#include "eval/output_moments.h"
#include "kernels/blas.h"
#include "model/compress/rebuild.h"
#include "tests/support/guarded.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

enum { CTX = 24, N_CALIB = 24, C = 64, KV = 2, FF = 128, LABELS = 32 };

static struct world {
    bb_model     model;
    bb_windows   calib;
    bb_database *db;
    char         dir[256];
} w;

static bb_err err;

#define OK(call) \
    do { \
        err = (bb_err)BB_ERR_INIT; \
        ck_assert_msg((call) == BB_OK, "%s", err.msg); \
    } while (0)

static void open_database(const char *dir)
{
    snprintf(w.dir, sizeof w.dir, "%s", bb_test_path(dir));
    const bb_database_config c = { .dir = w.dir,
                                   .backend = &bb_backend_cpu,
                                   .model = &w.model,
                                   .tokens = w.calib.tokens,
                                   .n_windows = w.calib.n,
                                   .ctx = CTX,
                                   .quant = { BB_METHOD_FEEDBACK, 0.1, 1 },
                                   .ffn_step = 8 };
    OK(bb_database_open(&c, &w.db, &err));
}

static void open_world(void)
{
    tiny_spec   spec = tiny_default("llama");
    int32_t     ids[CTX * N_CALIB];
    bb_rng      rng;
    bb_tokens   tokens;
    const char *path = bb_test_path("tiny.gguf");
    spec.n_embd = C;
    spec.head_dim = 16;
    for (uint32_t i = 0; i < spec.n_layer; i++) {
        spec.n_head[i] = 4;
        spec.n_kv[i] = KV;
        spec.n_ff[i] = FF;
    }
    tiny_write(&spec, path);
    OK(bb_model_open(path, &w.model, &err));
    bb_rng_init(&rng, 3, "tokens");
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) ids[i] = (int32_t)bb_rng_below(&rng, w.model.net.n_vocab);
    OK(bb_tokens_from_ids(ids, sizeof ids / sizeof *ids, &tokens, &err));
    OK(bb_windows_make(&tokens, BB_PROTOCOL_GGUF, CTX, -1, 0, false, &w.calib, &err));
    bb_tokens_done(&tokens);
    open_database("db");
}

static void close_world(void)
{
    bb_database_close(w.db);
    bb_windows_done(&w.calib);
    bb_model_close(&w.model);
}

static void again(const char *dir)
{
    bb_database_close(w.db);
    open_database(dir);
}

/* The path of the only file of moments in the folder, in a static buffer; how many there are: *n. */
static const char *moments_file(int *n)
{
    static char    path[700];
    DIR           *d = opendir(w.dir);
    struct dirent *e;
    *path = '\0';
    *n = 0;
    while ((e = readdir(d)) != NULL)
        if (strncmp(e->d_name, "outputs-", 8) == 0) {
            snprintf(path, sizeof path, "%s/%s", w.dir, e->d_name);
            (*n)++;
        }
    closedir(d);
    return path;
}

/* most: windows of a round; 0: all are one. */
static void measure_in_rounds(uint32_t windows, uint32_t most)
{
    const bb_output_moments_options o = { .windows = &w.calib, .n = windows, .labels = LABELS, .seed = 1, .most = most };
    bb_output_moments               m;
    OK(bb_output_moments_measure(&w.model, &bb_backend_cpu, w.db, &o, &m, &err));
    m.damping = 0.03;
    bb_database_use_outputs(w.db, &m);
    ck_assert_ptr_null(m.at);
    ck_assert_ptr_nonnull(bb_database_outputs(w.db));
}

static void measure(uint32_t windows) { measure_in_rounds(windows, 0); }

/* ---- what is measured ---- */

static float *whole[TINY_MAX_LAYERS][BB_N_PARTS];

static bb_status keep_whole(void *self, uint32_t layer, const bb_block *block, const bb_matrix_gradient *part, bb_err *e)
{
    (void)self;
    for (int p = 0; p < BB_N_PARTS; p++) {
        const size_t n = (size_t)block->w[p].rows * block->w[p].rows;
        if (!n) continue;
        if (!(whole[layer][p] = BB_NEW(n, float, e))) return BB_NOMEM;
        memcpy(whole[layer][p], part[p].out, n * sizeof(float));
    }
    return BB_OK;
}

/* From another path through the code: a gradient with its first order, its labels drawn by the same seed from the same windows. */
START_TEST(moments_are_those_of_a_whole_gradient)
{
    bb_windows        windows;
    bb_net_evaluator *e;
    bb_evaluation     v;
    double            off = 0;
    OK(bb_gradient_windows(&w.calib, 8, 0, 1, &windows, &err));
    ck_assert_uint_eq(windows.n, 8);
    OK(bb_net_evaluator_create(&bb_backend_cpu, &w.model, &windows, 1, UINT64_MAX, &e, &err));
    const bb_gradient_options o = { .level = 0, .windows = &windows, .widest = &w.model.net, .labels = LABELS, .seed = 1 };
    const bb_gradient_visitor visitor = { .block = keep_whole };
    OK(bb_gradient_run(e, &w.model.net, &o, &visitor, &v, &err));
    measure(8);
    for (uint32_t layer = 0; layer < w.model.net.n_layer; layer++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            const uint32_t rows = w.model.net.blocks[layer].w[p].rows, some[] = { 1, 2, 7, rows - 1 };
            float          g[FF * FF], few[16];
            if (!rows) continue;
            bb_output_moments_read(bb_database_outputs(w.db), layer, (bb_part)p, rows, NULL, rows, g);
            ck_assert_mem_eq(g, whole[layer][p], (size_t)rows * rows * sizeof *g);
            bb_output_moments_read(bb_database_outputs(w.db), layer, (bb_part)p, rows, some, 4, few);
            for (int i = 0; i < 4; i++)
                for (int k = 0; k < 4; k++) ck_assert(few[4 * i + k] <= g[some[i] * rows + some[k]] && few[4 * i + k] >= g[some[i] * rows + some[k]]);
            for (uint32_t i = 1; i < rows; i++) off = fmax(off, fabs((double)g[i]));
            bb_free(whole[layer][p]);
        }
    ck_assert_double_gt(off, 0);
    bb_net_evaluator_destroy(e);
    bb_windows_done(&windows);
}
END_TEST

/* The moments of one matrix. */
static void take(float *g) { bb_output_moments_read(bb_database_outputs(w.db), 1, BB_PART_UP, FF, NULL, FF, g); }

/* Three rounds are the mean of what their windows give alone; what is left behind is one file, and an interrupted one goes on. */
START_TEST(rounds_add_up_to_a_mean)
{
    static float     of[FF * FF], mean[FF * FF], last[FF * FF];
    const bb_windows all = w.calib;
    int              n;
    char             path[700], other[700];
    memset(mean, 0, sizeof mean);
    for (uint32_t k = 0; k < 3; k++) {
        OK(bb_gradient_windows(&all, 12, k, 3, &w.calib, &err));
        again("alone");
        measure(4);
        take(of);
        for (int i = 0; i < FF * FF; i++) mean[i] += of[i] / 3;
        bb_windows_done(&w.calib);
        w.calib = all;
    }
    again("rounds");
    measure_in_rounds(12, 5); /* 5, rounded to three of 4 */
    take(last);
    snprintf(path, sizeof path, "%s", moments_file(&n));
    ck_assert_int_eq(n, 1);
    for (int i = 0; i < FF * FF; i++)
        ck_assert_msg(fabs((double)mean[i] - (double)last[i]) <= 1e-5 * fabs((double)mean[i]) + 1e-9, "%g, not %g", (double)last[i], (double)mean[i]);
    ck_assert(memcmp(of, last, sizeof of) != 0);
    again("stopped");
    measure_in_rounds(12, 5);
    snprintf(other, sizeof other, "%s", moments_file(&n));
    ck_assert_str_eq(strrchr(path, '/'), strrchr(other, '/'));
}
END_TEST

/* A process with the same database that is a round farther removes the file of the round before. */
START_TEST(files_may_be_removed_by_others)
{
    static float want[FF * FF], got[FF * FF];
    again("by itself");
    measure_in_rounds(12, 5);
    take(want);
    for (int k = 0; k < 4; k++) {
        char name[16];
        snprintf(name, sizeof name, "beside-%d", k);
        again(name);
        bb_test_remove_once(bb_database_dir(w.db), "outputs-");
        measure_in_rounds(12, 5);
        ck_assert_uint_gt(bb_test_removed(), 0);
        take(got);
        ck_assert_mem_eq(got, want, sizeof got);
    }
}
END_TEST

/* The first round of many windows has those of a run with fewer, whose only round, and whole file, it is. */
START_TEST(more_windows_leave_what_fewer_have)
{
    struct stat made, later;
    char        path[700];
    int         n;
    again("fewer");
    measure(6);
    snprintf(path, sizeof path, "%s", moments_file(&n));
    ck_assert_int_eq(stat(path, &made), 0);
    again("fewer");
    measure_in_rounds(12, 6);
    moments_file(&n);
    ck_assert_int_eq(n, 2);
    ck_assert_int_eq(stat(path, &later), 0);
    ck_assert(made.st_ino == later.st_ino && made.st_mtim.tv_nsec == later.st_mtim.tv_nsec);
}
END_TEST

START_TEST(a_file_is_made_once_and_again_when_it_is_spoilt)
{
    struct stat first, second;
    char       *data, other[65];
    size_t      size;
    int         n;
    measure(8);
    ck_assert_int_eq(stat(moments_file(&n), &first), 0);
    ck_assert_int_eq(n, 1);
    OK(bb_file_read(moments_file(&n), &data, &size, &err));
    again("db");
    measure(8);
    ck_assert_int_eq(stat(moments_file(&n), &second), 0);
    ck_assert(first.st_ino == second.st_ino && first.st_mtim.tv_nsec == second.st_mtim.tv_nsec);
    snprintf(other, sizeof other, "%s", bb_database_outputs(w.db)->name);
    OK(bb_file_write(moments_file(&n), data, size - 4, &err)); /* cut short */
    again("db");
    measure(8);
    char  *made;
    size_t made_size;
    OK(bb_file_read(moments_file(&n), &made, &made_size, &err));
    ck_assert_uint_eq(made_size, size);
    ck_assert_mem_eq(made, data, size);
    again("db");
    measure(12); /* other windows: another file */
    moments_file(&n);
    ck_assert_int_eq(n, 2);
    ck_assert_str_ne(bb_database_outputs(w.db)->name, other);
    bb_free(made);
    bb_free(data);
}
END_TEST

START_TEST(rows_of_the_largest_matrices_have_none)
{
    bb_block block = { .w[BB_PART_UP] = { .rows = BB_OUTPUT_ROWS + 1, .cols = 32 }, .w[BB_PART_O] = { .rows = BB_OUTPUT_ROWS, .cols = 32 } };
    bb_net   net = { .n_layer = 1, .blocks = &block };
    ck_assert(!bb_output_moments_has(&net, 0, BB_PART_UP));
    ck_assert(bb_output_moments_has(&net, 0, BB_PART_O));
    ck_assert(!bb_output_moments_has(&net, 0, BB_PART_Q));
}
END_TEST

/* ---- rebuilds ---- */

static void set_plan(bb_plan *plan, const char *type, bool pruned)
{
    for (uint32_t i = 0; i < w.model.net.n_layer; i++)
        for (int p = 0; p < BB_PART_TOKEN_GATE; p++) {
            char unit[64];
            snprintf(unit, sizeof unit, "blk.%u.%s", i, bb_parts[p].name);
            OK(bb_plan_set(plan, unit, type, &err));
        }
    if (!pruned) return;
    OK(bb_plan_set(plan, "blk.0.ffn", "64", &err));
    OK(bb_plan_set(plan, "blk.1.kv", "1", &err));
    OK(bb_plan_set(plan, "blk.1.attn_output", "Q4_0", &err));
    OK(bb_plan_set(plan, "blk.0.attn_q", "F32", &err));
}

static const bb_quant_options quant = { BB_METHOD_FEEDBACK, 0.1, 1 };

static void take_bytes(const bb_rebuilt *r, unsigned char *bytes, size_t *n)
{
    *n = 0;
    for (uint32_t i = 0; i < w.model.net.n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *m = &r->net.blocks[i].w[p];
            const size_t     size = m->rows ? m->rows * bb_format_row_bytes(bb_format_get(m->type), m->cols) : 0;
            if (size) memcpy(bytes + *n, m->data, size);
            *n += size;
        }
}

enum { MOST = 1 << 20 };

/* The matrices of a rebuild; what it might go on from goes. */
static size_t rebuild(const bb_plan *plan, unsigned char *bytes)
{
    bb_rebuilt r;
    size_t     n;
    OK(bb_rebuild(w.db, &w.model, plan, w.calib.tokens, w.calib.n, CTX, &quant, NULL, &r, &err));
    take_bytes(&r, bytes, &n);
    ck_assert_uint_le(n, MOST);
    bb_checkpoint_remove(&r.checkpoint);
    bb_rebuilt_done(&r);
    return n;
}

START_TEST(rebuilds_go_by_them)
{
    static unsigned char alone[MOST], coupled[MOST], threads[MOST];
    const int            before = omp_get_max_threads();
    bb_plan              plan = { 0 };
    set_plan(&plan, "Q2_0", _i);
    const size_t n = rebuild(&plan, alone);
    measure(N_CALIB);
    ck_assert_uint_eq(rebuild(&plan, coupled), n);
    ck_assert(memcmp(alone, coupled, n) != 0);
    omp_set_num_threads(3);
    ck_assert_uint_eq(rebuild(&plan, threads), n);
    omp_set_num_threads(before);
    ck_assert_mem_eq(coupled, threads, n);
    bb_plan_done(&plan);
}
END_TEST

/* What was rebuilt without them, or by others, is not gone on from. */
START_TEST(what_is_kept_is_of_the_same_moments)
{
    static unsigned char want[MOST], got[MOST];
    bb_plan              plan = { 0 };
    bb_rebuilt           r;
    size_t               n;
    set_plan(&plan, "Q2_0", false);
    measure(N_CALIB);
    rebuild(&plan, want);
    again("other");
    OK(bb_rebuild(w.db, &w.model, &plan, w.calib.tokens, w.calib.n, CTX, &quant, NULL, &r, &err)); /* leaves its matrices there */
    bb_rebuilt_done(&r);
    measure(8);
    OK(bb_rebuild(w.db, &w.model, &plan, w.calib.tokens, w.calib.n, CTX, &quant, NULL, &r, &err)); /* so do those of other moments */
    take_bytes(&r, got, &n);
    ck_assert(memcmp(got, want, n) != 0);
    bb_rebuilt_done(&r);
    measure(N_CALIB);
    OK(bb_rebuild(w.db, &w.model, &plan, w.calib.tokens, w.calib.n, CTX, &quant, NULL, &r, &err));
    take_bytes(&r, got, &n);
    ck_assert_mem_eq(got, want, n);
    bb_rebuilt_done(&r);
    OK(bb_rebuild(w.db, &w.model, &plan, w.calib.tokens, w.calib.n, CTX, &quant, NULL, &r, &err)); /* from what is there */
    take_bytes(&r, got, &n);
    ck_assert_mem_eq(got, want, n);
    bb_rebuilt_done(&r);
    bb_plan_done(&plan);
}
END_TEST

static bb_status look(void *self, const bb_rebuild_view *v, bb_err *e)
{
    (void)v;
    (void)e;
    ++*(int *)self;
    return BB_OK;
}

/* Options beside a plan are encoded row by row, and so is the plan that they are held against (point.h). */
START_TEST(a_rebuild_that_is_looked_on_leaves_rows_alone)
{
    static unsigned char     alone[MOST], watched[MOST];
    int                      seen = 0;
    const bb_rebuild_watcher watcher = { .self = &seen, .matrix = look };
    bb_plan                  plan = { 0 };
    bb_rebuilt               r;
    size_t                   n;
    set_plan(&plan, "Q2_0", false);
    rebuild(&plan, alone);
    measure(N_CALIB);
    OK(bb_rebuild_watched(w.db, &w.model, &plan, w.calib.tokens, w.calib.n, CTX, &quant, &watcher, &r, &err));
    take_bytes(&r, watched, &n);
    ck_assert_mem_eq(alone, watched, n);
    ck_assert_int_gt(seen, 0);
    bb_checkpoint_remove(&r.checkpoint);
    bb_rebuilt_done(&r);
    bb_plan_done(&plan);
}
END_TEST

/* On the calibration windows, where errors are small enough for second moments to tell. */
START_TEST(the_end_of_the_network_is_nearer)
{
    bb_plan           plan = { 0 };
    bb_net_evaluator *e;
    double            kl[2];
    set_plan(&plan, "Q4_0", false);
    OK(bb_net_evaluator_create(&bb_backend_cpu, &w.model, &w.calib, 1, UINT64_MAX, &e, &err));
    for (int k = 0; k < 2; k++) {
        bb_rebuilt    r;
        bb_evaluation v;
        if (k) measure(N_CALIB);
        OK(bb_rebuild(w.db, &w.model, &plan, w.calib.tokens, w.calib.n, CTX, &quant, NULL, &r, &err));
        bb_net_evaluator_forget(e);
        OK(bb_net_evaluator_score(e, &r.net, 0, &v, NULL, &err));
        kl[k] = v.kl;
        bb_net_evaluator_forget(e);
        bb_checkpoint_remove(&r.checkpoint);
        bb_rebuilt_done(&r);
    }
    ck_assert_msg(kl[1] < 0.95 * kl[0], "KL %g, coupled %g", kl[0], kl[1]);
    bb_net_evaluator_destroy(e);
    bb_plan_done(&plan);
}
END_TEST

int main(void)
{
    bb_blas_init();
    bb_log_set_level(BB_LOG_QUIET);
    Suite *s = suite_create("output moments");
    TCase *t = tcase_create("output moments");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, open_world, close_world);
    tcase_add_test(t, moments_are_those_of_a_whole_gradient);
    tcase_add_test(t, rounds_add_up_to_a_mean);
    tcase_add_test(t, files_may_be_removed_by_others);
    tcase_add_test(t, more_windows_leave_what_fewer_have);
    tcase_add_test(t, a_file_is_made_once_and_again_when_it_is_spoilt);
    tcase_add_test(t, rows_of_the_largest_matrices_have_none);
    tcase_add_loop_test(t, rebuilds_go_by_them, 0, 2);
    tcase_add_test(t, what_is_kept_is_of_the_same_moments);
    tcase_add_test(t, a_rebuild_that_is_looked_on_leaves_rows_alone);
    tcase_add_test(t, the_end_of_the_network_is_nearer);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
