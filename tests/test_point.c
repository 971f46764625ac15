/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_point.c: options at a working point, on a random tiny model with a pruned block: the point is the rebuilt plan, and an option of it what a rebuild of
 * the plan with that option puts there, byte for byte; the other options, what is not there, and memory that runs out. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/blas.h"
#include "model/compress/point.h"
#include "model/compress/rebuild.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

enum { CTX = 24, WINDOWS = 12, C = 64, FF = 128, MAX_UNITS = 2 * (BB_N_PARTS + 2) + 1 };

static const bb_plan_option formats[] = { { "Q2_0", BB_Q2_0 }, { "Q4_0", BB_Q4_0 }, { "Q8_0", BB_Q8_0 } };
static const bb_plan_option widths[] = { { "128", 128 }, { "64", 64 }, { "96g", 96 | BB_BY_GATES }, { "0", 0 } },
                            groups[] = { { "2", 2 }, { "1", 1 }, { "1g", 1 | BB_BY_GATES }, { "0", 0 } };
enum { N_WIDTHS = sizeof widths / sizeof *widths };
enum { N_FORMATS = sizeof formats / sizeof *formats };

static bb_model      model;
static int32_t       tokens[CTX * WINDOWS];
static bb_database  *db;
static bb_plan_unit  units[MAX_UNITS];
static char          names[MAX_UNITS][32];
static bb_plan_space space;
static uint16_t      x[MAX_UNITS];
static bool          wanted[4 * MAX_UNITS];
static bb_err        err;

#define OK(call) \
    do { \
        err = (bb_err)BB_ERR_INIT; \
        ck_assert_msg((call) == BB_OK, "%s", err.msg); \
    } while (0)

static uint32_t add_unit(uint32_t what, uint32_t layer, const char *name, int32_t controller, const bb_plan_option *options, uint32_t n)
{
    const uint32_t u = space.n_units++;
    if (what >= BB_UNIT_EMBD) snprintf(names[u], sizeof names[u], "%s", name);
    else snprintf(names[u], sizeof names[u], "blk.%u.%s", layer, name);
    units[u] = (bb_plan_unit) { names[u], what, layer, controller, n, options };
    return u;
}

static void setup(void)
{
    tiny_spec          s = tiny_default("llama");
    bb_rng             r;
    bb_database_config c = {
        .backend = &bb_backend_cpu, .model = &model, .tokens = tokens, .n_windows = WINDOWS, .ctx = CTX, .quant = { BB_METHOD_WEIGHTED, 0.01, 1 }, .ffn_step = 8
    };
    s.n_embd = C;
    s.head_dim = 16;
    for (uint32_t i = 0; i < s.n_layer; i++) {
        s.n_head[i] = 4;
        s.n_kv[i] = 2;
        s.n_ff[i] = FF;
    }
    tiny_write(&s, bb_test_path("model.gguf"));
    OK(bb_model_open(bb_test_path("model.gguf"), &model, &err));
    bb_rng_init(&r, 1, "tokens");
    for (int i = 0; i < CTX * WINDOWS; i++) tokens[i] = (int32_t)bb_rng_below(&r, model.net.n_vocab);
    c.dir = bb_test_path("point");
    OK(bb_database_open(&c, &db, &err));
    bb_kept_order order[TINY_MAX_LAYERS] = { { { NULL } } };
    uint32_t      backwards[2][FF];
    for (uint32_t i = 0; i < FF; i++) backwards[BB_FFN][i] = FF - 1 - i;
    backwards[BB_ATTENTION][0] = bb_database_order(db, 0, BB_ATTENTION)[1]; /* the group that the own order gives up */
    backwards[BB_ATTENTION][1] = 1 - backwards[BB_ATTENTION][0];
    for (uint32_t i = 0; i < s.n_layer; i++)
        for (int k = 0; k < BB_N_SUBLAYERS; k++) order[i].of[k] = backwards[k];
    OK(bb_database_use_gates(db, order, &err));
    space.n_units = 0;
    for (uint32_t layer = 0; layer < 2; layer++) {
        const int32_t kv = (int32_t)add_unit(BB_UNIT_KV, layer, "kv", -1, groups, N_WIDTHS),
                      ffn = (int32_t)add_unit(BB_UNIT_FFN, layer, "ffn", -1, widths, N_WIDTHS);
        x[kv] = 0;
        x[ffn] = layer == 0; /* the first block has half its channels */
        for (uint32_t p = 0; p < BB_PART_TOKEN_GATE; p++)
            x[add_unit(p, layer, bb_parts[p].name, bb_parts[p].sublayer == BB_FFN ? ffn : kv, formats, N_FORMATS)] = 1;
    }
    x[add_unit(BB_UNIT_EMBD, 0, "token_embd", -1, formats, N_FORMATS)] = 1;
    const uint32_t n = space.n_units;
    OK(bb_plan_space_init(&space, units, n, &err));
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) wanted[i] = true;
}

static void teardown(void)
{
    bb_plan_space_done(&space);
    bb_database_close(db);
    bb_model_close(&model);
}

static bb_point_config config(void) { return (bb_point_config) { db, &model, &space, x, wanted, tokens, WINDOWS, CTX, { BB_METHOD_FEEDBACK, 0.01, 1 } }; }

static void rebuild(const uint16_t *plan_x, bb_rebuilt *out)
{
    const bb_point_config c = config();
    bb_plan               plan = { 0 };
    OK(bb_plan_space_plan(&space, plan_x, &plan, &err));
    OK(bb_rebuild(db, &model, &plan, tokens, WINDOWS, CTX, &c.quant, NULL, out, &err));
    bb_checkpoint_remove(&out->checkpoint);
    bb_plan_done(&plan);
}

static bool same(const bb_matrix *a, const bb_matrix *b)
{
    return a->type == b->type && a->rows == b->rows && a->cols == b->cols &&
           memcmp(a->data, b->data, a->rows * bb_format_row_bytes(bb_format_get(a->type), a->cols)) == 0;
}

START_TEST(an_option_is_what_a_rebuild_puts_there)
{
    const bb_point_config c = config();
    bb_point             *p;
    bb_net                net;
    bb_block              blocks[2];
    bool                  found;
    OK(bb_point_create(&c, &p, &err));
    for (uint32_t u = 0; u <= space.n_units; u++) {
        const bb_plan_unit *unit = u < space.n_units ? &units[u] : NULL;
        uint16_t            y[MAX_UNITS];
        bb_rebuilt          r;
        if (unit && unit->what >= BB_N_PARTS) continue;
        memcpy(y, x, sizeof y);
        if (unit) y[u] = unit->layer ? 0 : 2;
        rebuild(y, &r);
        OK(bb_point_apply(p, NULL, unit ? u : BB_NO_UNIT, unit ? y[u] : 0, &net, blocks, &found, &err));
        ck_assert(found);
        for (uint32_t layer = 0; layer < 2; layer++)
            for (int part = 0; part < BB_N_PARTS; part++) {
                const bool mine = unit && unit->layer == layer && unit->what == (uint32_t)part;
                const bool behind = unit && (layer > unit->layer || (layer == unit->layer && bb_parts[part].feed > bb_parts[unit->what].feed));
                if (mine) ck_assert_msg(same(&blocks[layer].w[part], &r.net.blocks[layer].w[part]), "%s", unit->name);
                else if (!behind) ck_assert(same(&blocks[layer].w[part], &r.net.blocks[layer].w[part])); /* in front of it nothing changes */
                ck_assert(!mine || blocks[layer].w[part].type == (bb_type)formats[y[u]].value);
            }
        bb_rebuilt_done(&r);
    }
    /* A plan of options is each of them alone. */
    uint16_t y[MAX_UNITS];
    memcpy(y, x, sizeof y);
    for (uint32_t u = 0; u < space.n_units; u++)
        if (units[u].n_options == N_FORMATS) y[u] = 2;
    OK(bb_point_apply(p, y, BB_NO_UNIT, 0, &net, blocks, &found, &err));
    ck_assert(found && net.embd.type == BB_Q8_0);
    for (uint32_t u = 0; u < space.n_units; u++) {
        bb_net   alone;
        bb_block its[2];
        if (units[u].what >= BB_N_PARTS) continue;
        OK(bb_point_apply(p, NULL, u, 2, &alone, its, &found, &err));
        ck_assert(blocks[units[u].layer].w[units[u].what].data == its[units[u].layer].w[units[u].what].data);
    }
    bb_point_destroy(p);
}
END_TEST

/* Another width of a sublayer: all of its parts, in the plan's formats; what is in front of it stays, as what is behind does until it is rebuilt. */
START_TEST(a_width_is_what_a_rebuild_puts_there)
{
    const bb_point_config c = config();
    bb_point             *p;
    bb_net                net;
    bb_block              blocks[2];
    bool                  found;
    uint32_t              seen = 0;
    OK(bb_point_create(&c, &p, &err));
    for (uint32_t u = 0; u < space.n_units; u++)
        for (uint32_t o = 0; o < N_WIDTHS; o++) {
            const bb_plan_unit *unit = &units[u];
            uint16_t            y[MAX_UNITS];
            bb_rebuilt          r;
            if (bb_unit_is_format(unit->what) || o == x[u]) continue;
            const bb_sublayer s = bb_unit_sublayer(unit->what);
            memcpy(y, x, sizeof y);
            y[u] = (uint16_t)o;
            rebuild(y, &r);
            OK(bb_point_apply(p, NULL, u, o, &net, blocks, &found, &err));
            ck_assert(found);
            seen++;
            ck_assert_uint_eq(bb_block_width(&blocks[unit->layer], s), unit->options[o].value);
            for (uint32_t layer = 0; layer < 2; layer++)
                for (int part = 0; part < BB_N_PARTS; part++) {
                    const bool behind = layer > unit->layer || (layer == unit->layer && bb_parts[part].sublayer > s);
                    if (!behind)
                        ck_assert_msg(same(&blocks[layer].w[part], &r.net.blocks[layer].w[part]), "%s=%s, %s", unit->name, unit->options[o].name,
                                      bb_parts[part].name);
                }
            ck_assert_uint_eq(blocks[unit->layer].n_head, r.net.blocks[unit->layer].n_head);
            bb_rebuilt_done(&r);
            /* Formats of the sublayer are those of the plan's own width. */
            uint32_t f = u;
            while (units[f].what >= BB_N_PARTS || bb_parts[units[f].what].sublayer != s || units[f].layer != unit->layer) f++;
            y[f] = 2;
            OK(bb_point_apply(p, y, BB_NO_UNIT, 0, &net, blocks, &found, &err));
            ck_assert(!found);
        }
    ck_assert_uint_eq(seen, 2 * 2 * (N_WIDTHS - 1));
    bb_point_destroy(p);
}
END_TEST

START_TEST(what_is_not_wanted_is_not_there)
{
    bb_point_config c = config();
    bb_point       *p;
    bb_net          net;
    bb_block        blocks[2];
    bool            found, some[4 * MAX_UNITS] = { false };
    uint32_t        at = 0, u = 0;
    while (units[u].what != BB_PART_UP) at += units[u++].n_options;
    some[at + 2] = true;
    c.wanted = some;
    OK(bb_point_create(&c, &p, &err));
    OK(bb_point_apply(p, NULL, u, 2, &net, blocks, &found, &err));
    ck_assert(found);
    OK(bb_point_apply(p, NULL, u, 0, &net, blocks, &found, &err));
    ck_assert(!found);
    OK(bb_point_apply(p, NULL, u, 1, &net, blocks, &found, &err)); /* the plan's own */
    ck_assert(found);
    OK(bb_point_apply(p, NULL, 1, 0, &net, blocks, &found, &err)); /* another width of the first block */
    ck_assert(!found);
    uint16_t y[MAX_UNITS]; /* one that is not there, and behind it one that is */
    uint32_t q = 0;
    while (units[q].what != BB_PART_Q) q++;
    memcpy(y, c.x, c.space->n_units * sizeof *y);
    ck_assert(q < u);
    y[q] = 0;
    y[u] = 2;
    OK(bb_point_apply(p, y, BB_NO_UNIT, 0, &net, blocks, &found, &err));
    ck_assert(!found);
    bb_point_destroy(p);
}
END_TEST

START_TEST(memory_failures_are_clean)
{
    const bb_point_config c = config();
    bb_point             *p = NULL;
    bb_status             s = BB_NOMEM;
    OK(bb_point_create(&c, &p, &err)); /* the database then holds what it makes on the way */
    bb_point_destroy(p);
    const size_t live = bb_mem_live_bytes();
    for (long n = 0; n < 100000 && s != BB_OK; n += 1 + n / 8) {
        bb_err local = BB_ERR_INIT;
        bb_mem_fail_after(n);
        s = bb_point_create(&c, &p, &local);
        bb_mem_fail_after(-1);
        if (s == BB_OK) break;
        ck_assert_int_eq(s, BB_NOMEM);
        ck_assert_uint_eq(bb_mem_live_bytes(), live);
    }
    ck_assert_int_eq(s, BB_OK);
    bb_point_destroy(p);
    ck_assert_uint_eq(bb_mem_live_bytes(), live);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("working point");
    TCase *t = tcase_create("core");
    bb_blas_init();
    bb_log_set_level(BB_LOG_QUIET);
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, an_option_is_what_a_rebuild_puts_there);
    tcase_add_test(t, a_width_is_what_a_rebuild_puts_there);
    tcase_add_test(t, what_is_not_wanted_is_not_there);
    tcase_add_test(t, memory_failures_are_clean);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
