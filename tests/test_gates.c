/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_gates.c: the order of widths by gates: a network in which a block's own error keeps what nobody reads, what the gates foresee beside what happens, the same
 * file from any number of threads and another backend, files that are no such file, and memory that ends. */
#include <dirent.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "eval/gates.h"
#include "kernels/blas.h"
#include "model/compress/statistics.h"
#include "tests/support/guarded.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

enum { CTX = 16, N_CALIB = 24, N_GATES = 8, LAYERS = 2, C = 32, FF = 64, KV = 2, UNREAD = 5, N_PLANTED = 4 };

static const uint32_t planted[N_PLANTED] = { 3, 10, 20, 33 };

static struct world {
    bb_model          model;
    bb_windows        calib, windows;
    bb_database      *db;
    bb_net_evaluator *evaluator;
    float            *down, *norm; /* of the last block; behind it */
    char              dir[256];
} w;

static bb_err err;

#define OK(call) \
    do { \
        err = (bb_err)BB_ERR_INIT; \
        ck_assert_msg((call) == BB_OK, "%s", err.msg); \
    } while (0)

/* Nothing behind the last block reads number UNREAD of the stream; the planted channels write there alone, and more than any other writes. */
static void plant(void)
{
    bb_matrix *m = &w.model.net.blocks[LAYERS - 1].w[BB_PART_DOWN];
    w.down = bb_matrix_decode(m, NULL);
    w.norm = BB_NEW(C, float, NULL);
    for (uint32_t i = 0; i < C; i++) w.norm[i] = i == UNREAD ? 0 : w.model.net.out_norm[i];
    for (uint32_t j = 0; j < FF; j++) {
        double length = 0;
        for (uint32_t r = 0; r < C; r++) length += pow((double)w.down[r * FF + j], 2);
        bool is = false;
        for (int k = 0; k < N_PLANTED; k++) is |= planted[k] == j;
        for (uint32_t r = 0; r < C; r++) w.down[r * FF + j] = r == UNREAD ? (float)(is ? 2 * sqrt(length) : 0) : is ? 0 : w.down[r * FF + j];
    }
    m->type = BB_F32;
    m->data = w.down;
    w.model.net.out_norm = w.norm;
}

static void open_world(void)
{
    tiny_spec   spec = tiny_default("llama");
    int32_t     ids[CTX * N_CALIB];
    bb_rng      rng;
    bb_tokens   tokens;
    const char *path = bb_test_path("tiny.gguf");
    tiny_write(&spec, path);
    OK(bb_model_open(path, &w.model, &err));
    ck_assert(w.model.net.n_layer == LAYERS && w.model.net.n_embd == C && w.model.net.blocks[1].n_ff == FF && w.model.net.blocks[1].n_kv == KV);
    plant();
    bb_rng_init(&rng, 3, "tokens");
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) ids[i] = (int32_t)bb_rng_below(&rng, w.model.net.n_vocab);
    OK(bb_tokens_from_ids(ids, sizeof ids / sizeof *ids, &tokens, &err));
    OK(bb_windows_make(&tokens, BB_PROTOCOL_GGUF, CTX, -1, 0, false, &w.calib, &err));
    OK(bb_windows_make(&tokens, BB_PROTOCOL_GGUF, CTX, -1, N_GATES, true, &w.windows, &err));
    bb_tokens_done(&tokens);
    snprintf(w.dir, sizeof w.dir, "%s", bb_test_path("db"));
    const bb_database_config c = { .dir = w.dir,
                                   .backend = &bb_backend_cpu,
                                   .model = &w.model,
                                   .tokens = w.calib.tokens,
                                   .n_windows = w.calib.n,
                                   .ctx = CTX,
                                   .quant = { BB_METHOD_WEIGHTED, 0.01, 0 },
                                   .ffn_step = 1 };
    OK(bb_database_open(&c, &w.db, &err));
    OK(bb_net_evaluator_create(&bb_backend_cpu, &w.model, &w.windows, 1, 64u << 20, &w.evaluator, &err));
}

static void close_world(void)
{
    bb_net_evaluator_destroy(w.evaluator);
    bb_database_close(w.db);
    bb_windows_done(&w.calib);
    bb_windows_done(&w.windows);
    bb_model_close(&w.model);
    bb_free(w.down);
    bb_free(w.norm);
}

/* The file of gates in the folder; "" where there is none. */
static const char *gates_file(void)
{
    static char    path[700];
    DIR           *d = opendir(w.dir);
    struct dirent *e;
    *path = '\0';
    while ((e = readdir(d)) != NULL)
        if (strncmp(e->d_name, "gates-", 6) == 0) snprintf(path, sizeof path, "%s/%s", w.dir, e->d_name);
    closedir(d);
    return path;
}

static bb_gates_options options(uint32_t labels) { return (bb_gates_options) { .windows = &w.windows, .labels = labels, .seed = 7, .ffn_step = 1 }; }

static void learn(bb_net_evaluator *e, uint32_t labels, bb_gates *g)
{
    const bb_gates_options o = options(labels);
    if (*gates_file()) remove(gates_file());
    OK(bb_gates_open(e, &w.model, w.db, &o, g, &err));
}

static uint32_t place_of(const uint32_t *order, uint32_t channel)
{
    uint32_t i = 0;
    while (order[i] != channel) i++;
    return i;
}

START_TEST(what_nobody_reads_goes_first)
{
    bb_gates        g;
    const uint32_t *own = bb_database_order(w.db, LAYERS - 1, BB_FFN);
    learn(w.evaluator, 4, &g);
    for (int k = 0; k < N_PLANTED; k++) {
        ck_assert_msg(place_of(own, planted[k]) < FF / 2, "by its own error the block keeps channel %u: it is at %u", planted[k], place_of(own, planted[k]));
        ck_assert_msg(place_of(g.order[LAYERS - 1].of[BB_FFN], planted[k]) >= FF - N_PLANTED - 2, "by gates channel %u goes: it is at %u", planted[k],
                      place_of(g.order[LAYERS - 1].of[BB_FFN], planted[k]));
    }
    bb_gates_done(&g);
}
END_TEST

/* KL on the windows of the gates with one sublayer cut to `width`, as the database does it. */
static double kl_of(uint32_t layer, bb_sublayer s, bb_width width)
{
    const bb_net *net = &w.model.net;
    bb_block      blocks[LAYERS];
    bb_net        cut = *net;
    bb_evaluation v;
    memcpy(blocks, net->blocks, sizeof blocks);
    cut.blocks = blocks;
    bb_block_keep(net, &blocks[layer], s, bb_width_count(width));
    for (int p = 0; p < BB_N_PARTS; p++)
        if (bb_parts[p].sublayer == s) OK(bb_database_matrix(w.db, layer, (bb_part)p, width, net->blocks[layer].w[p].type, &blocks[layer].w[p], NULL, &err));
    OK(bb_net_evaluator_score(w.evaluator, &cut, 0, &v, NULL, &err));
    return v.kl;
}

/* As far as Kronecker factors of random tokens go; and the cut by gates does less at the end than the one by the block's own error. */
START_TEST(what_is_foreseen_happens)
{
    bb_gates  g;
    bb_matrix m;
    learn(w.evaluator, 32, &g);
    err = (bb_err)BB_ERR_INIT;
    ck_assert(!bb_database_has_gates(w.db));
    ck_assert_int_eq(bb_database_matrix(w.db, 0, BB_PART_DOWN, 32 | BB_BY_GATES, BB_F32, &m, NULL, &err), BB_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.msg, "--width-order"));
    OK(bb_database_use_gates(w.db, g.order, &err));
    ck_assert(bb_database_has_gates(w.db));
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        for (uint32_t kept = FF - 8; kept >= FF / 2; kept -= 8) {
            const double is = kl_of(layer, BB_FFN, kept | BB_BY_GATES), foreseen = g.nats[layer][BB_FFN][kept - 1];
            ck_assert_msg(is > 0.4 * foreseen && is < 2.5 * foreseen, "block %u, %u channels: %.3g foreseen, %.3g nats", layer, kept, foreseen, is);
        }
        const double is = kl_of(layer, BB_ATTENTION, 1 | BB_BY_GATES), foreseen = g.nats[layer][BB_ATTENTION][0];
        ck_assert_msg(is > 0.4 * foreseen && is < 2.5 * foreseen, "block %u, a KV group: %.3g foreseen, %.3g nats", layer, foreseen, is);
    }
    const double own = kl_of(1, BB_FFN, FF - 8), gated = kl_of(1, BB_FFN, (FF - 8) | BB_BY_GATES);
    ck_assert_msg(gated < 0.7 * own, "%.3g nats by gates, %.3g by the block's own error", gated, own);
    bb_gates_done(&g);
}
END_TEST

START_TEST(threads_and_backends_change_no_bit)
{
    bb_gates               g;
    guarded                b;
    bb_net_evaluator      *e;
    const int              before = omp_get_max_threads();
    const bb_gates_options o = options(2);
    omp_set_num_threads(1);
    learn(w.evaluator, 2, &g);
    bb_gates_done(&g);
    char *moved = bb_strdup(bb_test_path("first"), NULL);
    ck_assert_int_eq(rename(gates_file(), moved), 0);
    omp_set_num_threads(3);
    guarded_make(&b);
    OK(bb_net_evaluator_create(&b.backend, &w.model, &w.windows, 1, 64u << 20, &e, &err));
    OK(bb_gates_open(e, &w.model, w.db, &o, &g, &err));
    bb_net_evaluator_destroy(e);
    guarded_done(&b);
    omp_set_num_threads(before);
    bb_gates_done(&g);
    bb_test_same(gates_file(), moved);
    bb_free(moved);
}
END_TEST

/* What is there is taken without a pass; what is broken or of another model is made again. */
START_TEST(files_are_used_or_made_again)
{
    bb_gates               a, b;
    const bb_gates_options o = options(2);
    char                  *good;
    size_t                 size;
    learn(w.evaluator, 2, &a);
    OK(bb_gates_open(NULL, &w.model, w.db, &o, &b, &err)); /* without an evaluator: nothing can be measured */
    ck_assert_mem_eq(a.order[1].of[BB_FFN], b.order[1].of[BB_FFN], FF * sizeof(uint32_t));
    ck_assert_mem_eq(a.nats[1][BB_ATTENTION], b.nats[1][BB_ATTENTION], KV * sizeof(double));
    bb_gates_done(&b);
    bb_map map;
    OK(bb_map_open(gates_file(), &map, &err));
    size = map.size;
    good = bb_alloc(size, 1, NULL);
    memcpy(good, map.data, size);
    bb_map_close(&map);
    for (int k = 0; k < 5; k++) {
        char *bad = bb_calloc(size + 1, 1, NULL);
        memcpy(bad, good, size);
        if (k == 0) bad[0] ^= 1;                   /* another kind of file */
        if (k == 1) memcpy(bad + 12, bad + 16, 4); /* a group twice */
        if (k == 2) bad[8] ^= 4;                   /* another number of them */
        bb_test_write(gates_file(), bad, k == 3 ? size - 5 : k == 4 ? size + 1 : size);
        OK(bb_gates_open(w.evaluator, &w.model, w.db, &o, &b, &err));
        bb_gates_done(&b);
        OK(bb_map_open(gates_file(), &map, &err));
        ck_assert_uint_eq(map.size, size);
        ck_assert_mem_eq(map.data, good, size);
        bb_map_close(&map);
        bb_free(bad);
    }
    bb_free(good);
    bb_gates_done(&a);
    bb_windows       fewer = w.windows; /* other windows are no reason to take what these gave */
    bb_gates_options of_fewer = o;
    fewer.n--;
    of_fewer.windows = &fewer;
    bb_net_evaluator *e;
    OK(bb_net_evaluator_create(&bb_backend_cpu, &w.model, &fewer, 1, 64u << 20, &e, &err));
    OK(bb_gates_open(e, &w.model, w.db, &of_fewer, &b, &err));
    OK(bb_gates_open(NULL, &w.model, w.db, &o, &a, &err));
    ck_assert(memcmp(a.nats[1][BB_ATTENTION], b.nats[1][BB_ATTENTION], KV * sizeof(double)) != 0);
    bb_net_evaluator_destroy(e);
    bb_gates_done(&b);
    for (int k = 0; k < 2; k++) { /* nor are other labels, or rounds of as many channels */
        bb_gates_options another = o;
        if (k == 0) another.seed++;
        else another.ffn_step += 3;
        OK(bb_gates_open(w.evaluator, &w.model, w.db, &another, &b, &err));
        ck_assert(memcmp(a.nats[1][BB_FFN], b.nats[1][BB_FFN], FF * sizeof(double)) != 0);
        bb_gates_done(&b);
    }
    bb_gates_done(&a);
}
END_TEST

START_TEST(memory_failures_are_clean)
{
    const bb_gates_options o = options(1);
    bool                   done = false;
    bb_gates               first;
    learn(w.evaluator, 1, &first); /* what the evaluator makes at first use is there */
    bb_gates_done(&first);
    for (long n = 0; !done && n < 6000; n += n < 40 ? 1 : 29) {
        bb_gates     g;
        const size_t before = bb_mem_live_bytes();
        if (*gates_file()) remove(gates_file());
        err = (bb_err)BB_ERR_INIT;
        bb_mem_fail_after(n);
        const bb_status status = bb_gates_open(w.evaluator, &w.model, w.db, &o, &g, &err);
        bb_mem_fail_after(-1);
        ck_assert_msg(status == BB_OK || status == BB_NOMEM, "%s", err.msg);
        done = status == BB_OK;
        if (done) bb_gates_done(&g);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
    }
    ck_assert(done);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("gates");
    TCase *t = tcase_create("gates");
    bb_blas_init();
    bb_log_set_level(BB_LOG_QUIET);
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, open_world, close_world);
    tcase_add_test(t, what_nobody_reads_goes_first);
    tcase_add_test(t, what_is_foreseen_happens);
    tcase_add_test(t, threads_and_backends_change_no_bit);
    tcase_add_test(t, files_are_used_or_made_again);
    tcase_add_test(t, memory_failures_are_clean);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
