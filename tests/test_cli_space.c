/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_space.c: the search space of a model: byte tables that bound the written file from above, plans that the runtime can load. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/model_space.h"
#include "engine/speed.h"
#include "model/compress/plan_units.h"
#include "model/export/export.h"
#include "search/moves.h"
#include "search/separable.h"
#include "search/space.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

typedef struct opened {
    bb_model          m;
    bb_model_space   *s;
    const bb_problem *p;
    bb_space          space;
} opened;

static void open_space(opened *o, const tiny_spec *spec, const bb_model_space_options *options)
{
    bb_err err = BB_ERR_INIT;
    tiny_write(spec, bb_test_path("space.gguf"));
    ck_assert_msg(bb_model_open(bb_test_path("space.gguf"), &o->m, &err) == BB_OK, "%s", err.msg);
    ck_assert_msg(bb_model_space_create(&o->m, options, &o->s, &err) == BB_OK, "%s", err.msg);
    o->p = bb_model_space_problem(o->s);
    ck_assert_int_eq(bb_space_init(o->p, &o->space, &err), BB_OK);
}

static void close_space(opened *o)
{
    bb_space_done(&o->space);
    bb_model_space_destroy(o->s);
    bb_model_close(&o->m);
}

/* Costs that fall with bytes, other for every unit. */
static void set_costs(const opened *o)
{
    double **cost = BB_NEW0(o->p->n_units, double *, NULL);
    for (uint32_t u = 0; u < o->p->n_units; u++) {
        const bb_unit *unit = &o->p->units[u];
        cost[u] = BB_NEW0(unit->n_options, double, NULL);
        for (uint32_t k = 0; k < unit->n_options; k++)
            cost[u][k] = bb_model_space_is_format(o->s, u) ? (1 + u % 7) * 1e3 / (double)unit->bytes[k] : 0.3 * (1 - bb_model_space_width(o->s, u, k));
    }
    bb_model_space_set_costs(o->s, (const double *const *)cost);
    for (uint32_t u = 0; u < o->p->n_units; u++) bb_free(cost[u]);
    bb_free(cost);
}

/* A pruned qwen3 with tied embeddings is written as openelm, with one type for q, k and v; a phi3 as itself, with one type for those and one for gate and
 * up, or as deci, if it rotates whole heads: random plans and the exact solver's can be loaded at every size, and the tables count no plan below its file. */
START_TEST(plans_with_parts_in_one_tensor_can_be_loaded)
{
    static const bb_type         mixed[3] = { BB_Q4_0, BB_Q4_0, BB_Q8_0 };
    const bool                   partial = _i == 4; /* RoPE: no other architecture takes it, so nothing is pruned */
    tiny_spec                    spec = tiny_default(_i < 3 ? "qwen3" : "phi3");
    opened                       o = { .s = NULL };
    bb_separable                *sep;
    bb_separable_result          r;
    bb_rng                       rng;
    uint16_t                     x[64];
    uint64_t                     smallest, largest;
    int                          pruned = 0;
    const bb_model_space_options options = {
        .formats = "Q4_0,Q5_0,Q8_0", .embd_formats = "Q4_0,Q8_0", .prune_kv = true, .prune_ffn = true, .prune_sublayers = true
    };
    if (_i == 2) spec.alignment = 512;
    if (partial) spec.n_rot = 4;
    for (uint32_t i = 0; _i && _i < 3 && i < spec.n_layer; i++)
        for (int p = 0; p < 3; p++) spec.type[i][p] = mixed[p]; /* a source of mixed types can be pruned as well */
    open_space(&o, &spec, &options);
    set_costs(&o);
    ck_assert_int_eq(bb_model_space_reach(o.s, &smallest, &largest, NULL), BB_OK);
    bb_rng_init(&rng, 1, "space");
    for (int k = 0; k < 300; k++) {
        ck_assert(bb_space_random(&o.space, &rng, x));
        const int64_t size = bb_problem_size(o.p, x);
        ck_assert_int_ge(size, (int64_t)smallest);
        int64_t padding = 0;
        for (uint32_t u = 0; u < o.p->n_units; u++) padding += !bb_model_space_is_format(o.s, u) && x[u] > 0 ? (_i == 2 ? 511 : 31) : 0;
        ck_assert_msg(size <= bb_problem_bound(o.p, x) + padding, "%lld bytes, bound %lld", (long long)size, (long long)bb_problem_bound(o.p, x));
        pruned += bb_model_space_pruned_fraction(o.s, x) > 0;
    }
    ck_assert(partial ? pruned == 0 : pruned > 100);
    ck_assert_int_eq(bb_separable_create(o.p, NULL, &sep, NULL), BB_OK);
    pruned = 0;
    for (int64_t budget = (int64_t)smallest; budget < (int64_t)largest; budget += 1500) {
        ck_assert_int_eq(bb_separable_solve(sep, budget, x, &r, NULL), BB_OK);
        ck_assert_int_gt(r.size_bytes, 0);
        ck_assert_int_le(r.size_bytes, budget);
        pruned += bb_model_space_pruned_fraction(o.s, x) > 0;
    }
    ck_assert(partial ? pruned == 0 : pruned > 2);
    bb_separable_destroy(sep);
    close_space(&o);
}
END_TEST

/* The options of a unit, "A,B,C". */
static const char *options_of(const opened *o, const char *unit)
{
    static char text[512];
    size_t      n = 0;
    text[0] = '\0';
    for (uint32_t u = 0; u < o->p->n_units; u++) {
        if (strcmp(o->p->plans->units[u].name, unit) != 0) continue;
        for (uint32_t k = 0; k < o->p->units[u].n_options; k++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", k ? "," : "", o->p->plans->units[u].options[k].name);
    }
    return text;
}

static tiny_spec wide(uint32_t n_embd, uint32_t n_ff)
{
    tiny_spec s = tiny_default("llama");
    s.n_embd = n_embd;
    s.head_dim = n_embd / 4;
    for (uint32_t i = 0; i < s.n_layer; i++) s.n_ff[i] = n_ff;
    return s;
}

/* Every row length has formats: those of 256-blocks keep their list, the others what divides them. */
START_TEST(default_formats_fit_the_rows)
{
    static const struct {
        uint32_t    n_embd, n_ff;
        const char *embd, *q, *down;
    } of[] = {
        { 256, 512, "IQ2_S,Q2_K,IQ3_S,Q3_K,IQ4_XS,Q5_K,Q6_K,Q8_0,F32",
          "Q1_0,IQ1_S,IQ1_M,IQ2_XXS,IQ2_XS,IQ2_S,Q2_K,IQ3_XXS,IQ3_S,Q3_K,IQ4_XS,Q4_K,Q5_K,Q6_K,F32",
          "Q1_0,IQ1_S,IQ1_M,IQ2_XXS,IQ2_XS,IQ2_S,Q2_K,IQ3_XXS,IQ3_S,Q3_K,IQ4_XS,Q4_K,Q5_K,Q6_K,F32" },
        { 192, 256, "Q2_0,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0,F32", "Q2_0,MXFP4,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0,F32",
          "Q1_0,IQ1_S,IQ1_M,IQ2_XXS,IQ2_XS,IQ2_S,Q2_K,IQ3_XXS,IQ3_S,Q3_K,IQ4_XS,Q4_K,Q5_K,Q6_K,F32" },
        { 384, 96, "Q2_0,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0,F32", "Q1_0,Q2_0,MXFP4,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0,F32",
          "MXFP4,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0,F32" },
        { 40, 64, "F32", "F32", "Q2_0,MXFP4,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0,F32" },
    };
    const bb_model_space_options options = { .prune_kv = true, .prune_ffn = true, .prune_sublayers = true };
    tiny_spec                    spec = wide(of[_i].n_embd, of[_i].n_ff);
    opened                       o = { .s = NULL };
    open_space(&o, &spec, &options);
    ck_assert_str_eq(options_of(&o, "token_embd"), of[_i].embd);
    ck_assert_str_eq(options_of(&o, "blk.1.attn_q"), of[_i].q);
    ck_assert_str_eq(options_of(&o, "blk.0.ffn_down"), of[_i].down);
    close_space(&o);
}
END_TEST

/* A narrower width stands once for each order asked for, of the same bytes and the same plan costs; all and nothing are by no order. */
START_TEST(widths_stand_for_each_order)
{
    static const char *const ffn[] = { "256,224,192,160,128,96,64,32,0", "256,224g,192g,160g,128g,96g,64g,32g,0",
                                       "256,224,224g,192,192g,160,160g,128,128g,96,96g,64,64g,32,32g,0" };
    static const char *const kv[] = { "2,1,0", "2,1g,0", "2,1,1g,0" };
    tiny_spec                spec = wide(64, 256);
    opened                   o = { .s = NULL }, plain = { .s = NULL };
    bb_model_space_options   options = { .prune_kv = true, .prune_ffn = true, .prune_sublayers = true, .ffn_divisor = 32 };
    open_space(&plain, &spec, &options);
    options.by_obs = _i != 1;
    options.by_gates = _i != 0;
    open_space(&o, &spec, &options);
    ck_assert_str_eq(options_of(&o, "blk.1.ffn"), ffn[_i]);
    ck_assert_str_eq(options_of(&o, "blk.1.kv"), kv[_i]);
    set_costs(&o);
    set_costs(&plain);
    for (uint32_t u = 0; u < o.p->n_units; u++)
        for (uint32_t k = 0; k < o.p->units[u].n_options; k++) { /* each is an option of the plain space */
            uint16_t x[64], y[64];
            char    *text = NULL;
            bb_plan  plan = { 0 };
            bb_model_space_source(o.s, x);
            x[u] = (uint16_t)k;
            ck_assert_int_eq(bb_plan_space_print(o.p->plans, x, &text, NULL), BB_OK);
            for (char *g = text; (g = strstr(g, "g\n")) != NULL;) memmove(g, g + 1, strlen(g));
            ck_assert_int_eq(bb_plan_parse(text, strlen(text), &plan, NULL), BB_OK);
            ck_assert_int_eq(bb_plan_space_indices(plain.p->plans, &plan, y, NULL), BB_OK);
            ck_assert_int_eq(bb_problem_size(o.p, x), bb_problem_size(plain.p, y));
            ck_assert_double_eq_tol(bb_problem_cost(o.p, x), bb_problem_cost(plain.p, y), 1e-12);
            ck_assert_double_eq_tol(bb_model_space_pruned_fraction(o.s, x), bb_model_space_pruned_fraction(plain.s, y), 1e-12);
            bb_plan_done(&plan);
            bb_free(text);
        }
    close_space(&o);
    close_space(&plain);
}
END_TEST

/* Uniform plans exist whatever the rows are, and are called by what they hold. */
START_TEST(uniform_plans_say_what_they_hold)
{
    static const struct {
        const char *format, *embd, *name;
    } of[] = {
        { "IQ2_XXS", "Q6_K", NULL },                       /* no table can have Q6_K */
        { "Q2_0", "Q4_0", "uniform Q2_0/IQ2_XXS + Q4_0" }, /* Q2_0 is not offered for rows of 512: the largest below it */
        { "IQ2_XXS", "Q8_0", "uniform IQ4_NL/IQ2_XXS + Q8_0" },
        { "Q4_K", "Q5_0", "uniform Q5_0/Q4_K + Q5_0" },
        { "Q6_K", "Q4_1", "uniform Q8_0/Q6_K + Q4_1" },
        { "IQ4_NL", "Q4_0", "uniform IQ4_NL/Q4_K + Q4_0" },
        { "F32", "F32", "uniform F32 + F32" },
        { "nonsense", "F32", NULL },
    };
    const bb_model_space_options options = { .prune_kv = true };
    tiny_spec                    spec = wide(192, 512);
    opened                       o = { .s = NULL };
    uint16_t                     x[64];
    char                         name[64];
    open_space(&o, &spec, &options);
    const bool found = bb_model_space_uniform(o.s, of[_i].format, of[_i].embd, x);
    ck_assert_int_eq(found, of[_i].name != NULL);
    if (found) {
        bb_model_space_uniform_name(o.s, x, name, sizeof name);
        ck_assert_str_eq(name, of[_i].name);
        ck_assert(!bb_is_forbidden(bb_problem_size(o.p, x)));
        bb_model_space_uniform_name(o.s, x, name, 12); /* cut, and terminated */
        ck_assert_int_eq(strncmp(name, of[_i].name, 11), 0);
        ck_assert_uint_eq(strlen(name), 11);
    }
    close_space(&o);
}
END_TEST

/* What llama.cpp has no kernel for is named with its share of the weights that a token needs: an embedding beside a head is only looked up. */
START_TEST(slow_formats_are_noted)
{
    char                        *note = NULL;
    tiny_spec                    spec = wide(64, 64);
    opened                       o = { .s = NULL };
    const bb_model_space_options options = { .formats = "Q2_0,Q1_0,Q4_0", .embd_formats = "Q2_0,Q4_0" };
    tiny_set_type(&spec, _i == 0 ? BB_Q4_0 : BB_Q2_0);
    spec.tied = false;
    spec.head_type = BB_Q4_0;
    if (_i == 2)
        for (uint32_t i = 0; i < spec.n_layer; i++)
            for (int p = 0; p < BB_N_PARTS; p++) spec.type[i][p] = BB_Q4_0; /* the embedding alone */
    open_space(&o, &spec, &options);
    ck_assert_int_eq(bb_speed_note(&o.m.net, &note, NULL), BB_OK);
    ck_assert_int_eq(note != NULL, _i == 1);
    if (note) {
        double linears = 0, head = (double)o.m.net.head.rows * o.m.net.head.cols;
        char   share[32];
        for (uint32_t i = 0; i < o.m.net.n_layer; i++)
            for (int p = 0; p < BB_N_PARTS; p++) linears += (double)o.m.net.blocks[i].w[p].rows * o.m.net.blocks[i].w[p].cols;
        snprintf(share, sizeof share, " %.0f %% of the weights are Q2_0", 100 * linears / (linears + head));
        ck_assert_msg(strstr(note, share) && strstr(note, "slow in llama.cpp"), "%s", note);
    }
    bb_free(note);
    close_space(&o);
}
END_TEST

/* Widths that 256 does not divide: every multiple of 256 is offered where there is room for all, the largest in any case, and with them the formats of blocks of
 * 256 for ffn_down, which cannot be there at full width. Without widths, or with a step of one's own, there are none. */
START_TEST(widths_reach_the_grid)
{
    static const char odd[] = "Q1_0,Q2_0,MXFP4,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0,F32";
    static const char cut[] = "Q1_0,IQ1_M,IQ2_XXS,Q2_0,IQ2_S,IQ3_XXS,IQ3_S,IQ4_XS,MXFP4,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0,F32";
    static const struct {
        uint32_t    n_ff, divisor;
        bool        prune;
        const char *widths, *down;
    } of[] = { { 1408, 0, true, "1408,1280,1024,896,768,512,384,256,0", cut },
               { 1408, 0, false, "1408", odd },
               { 1408, 64, true, "1408,1216,1088,896,704,512,384,192,0", odd },
               { 2816, 0, true, "2816,2560,2048,1792,1536,1024,768,256,0", NULL },
               { 1312, 0, true, "1312,1280,1152,1024,768,672,512,256,160,0",
                 "IQ1_M,IQ2_XXS,IQ2_S,IQ3_XXS,IQ3_S,IQ4_XS,MXFP4,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0,F32" },
               { 224, 0, true, "224,192,160,128,96,64,32,0", "MXFP4,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0,F32" } };
    const bb_model_space_options options = { .prune_ffn = of[_i].prune, .prune_sublayers = of[_i].prune, .ffn_divisor = of[_i].divisor };
    tiny_spec                    spec = wide(64, of[_i].n_ff);
    opened                       o = { .s = NULL };
    open_space(&o, &spec, &options);
    ck_assert_str_eq(options_of(&o, "blk.1.ffn"), of[_i].widths);
    if (of[_i].down) ck_assert_str_eq(options_of(&o, "blk.1.ffn_down"), of[_i].down);
    if (of[_i].down == cut) {
        bb_net   net;
        bb_block blocks[TINY_MAX_LAYERS];
        uint16_t x[64];
        uint32_t down = 0, ffn = 0;
        for (uint32_t u = 0; u < o.p->n_units; u++) {
            if (strcmp(o.p->plans->units[u].name, "blk.1.ffn_down") == 0) down = u;
            if (strcmp(o.p->plans->units[u].name, "blk.1.ffn") == 0) ffn = u;
        }
        bb_model_space_source(o.s, x);
        x[down] = 1; /* IQ1_M */
        ck_assert(bb_is_forbidden(bb_problem_bound(o.p, x)));
        x[ffn] = 1; /* 1280 */
        ck_assert(!bb_is_forbidden(bb_problem_size(o.p, x)));
        bb_plan_space_shape(&o.m, o.p->plans, NULL, down, 1, &net, blocks); /* alone: with the cut that it needs */
        ck_assert(blocks[1].n_ff == 1280 && blocks[1].w[BB_PART_DOWN].cols == 1280 && blocks[1].w[BB_PART_UP].rows == 1280 && blocks[0].n_ff == of[_i].n_ff);
        ck_assert(bb_model_space_uniform(o.s, "IQ3_S", "Q8_0", x) == false); /* no matrix has it as it is */
    }
    close_space(&o);
}
END_TEST

/* Formats under review are offered when they are asked for, for rows that 256 does not divide; their files say so, and the tables know what that takes. */
START_TEST(experimental_formats_are_asked_for)
{
    tiny_spec              spec = wide(96, 160);
    opened                 o = { .s = NULL };
    bb_model_space_options options = { .prune_kv = true, .prune_ffn = true, .prune_sublayers = true };
    bb_model               m;
    bb_model_space        *s;
    bb_err                 err = BB_ERR_INIT;
    bb_rng                 rng;
    uint16_t               x[64];
    uint64_t               smallest, largest, bytes;
    open_space(&o, &spec, &options);
    ck_assert_str_eq(options_of(&o, "blk.0.ffn_down"), "MXFP4,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0,F32");
    close_space(&o);
    options.formats = "IQ3_NL,Q4_0";
    tiny_write(&spec, bb_test_path("space.gguf"));
    ck_assert_int_eq(bb_model_open(bb_test_path("space.gguf"), &m, NULL), BB_OK);
    ck_assert_int_eq(bb_model_space_create(&m, &options, &s, &err), BB_USAGE);
    ck_assert_msg(strstr(err.msg, "stock llama.cpp does not read IQ3_NL") != NULL, "%s", err.msg);
    bb_model_close(&m);
    options = (bb_model_space_options) { .experimental = true, .prune_kv = true, .prune_ffn = true, .prune_sublayers = true };
    open_space(&o, &spec, &options);
    ck_assert_str_eq(options_of(&o, "blk.0.ffn_down"), "IQ2_NL,IQ3_NL,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0,F32");
    ck_assert_str_eq(options_of(&o, "token_embd"), "IQ2_NL,IQ3_NL,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0,F32");
    ck_assert_int_eq(bb_model_space_reach(o.s, &smallest, &largest, NULL), BB_OK);
    bb_rng_init(&rng, 3, "space");
    for (int k = 0; k < 200; k++) { /* the exporter's own size, with and without */
        bb_net   net;
        bb_block blocks[TINY_MAX_LAYERS];
        ck_assert(bb_space_random(&o.space, &rng, x));
        if (k % 2)
            for (uint32_t u = 0; u < o.p->n_units; u++)
                if (bb_model_space_is_format(o.s, u)) x[u] = (uint16_t)(x[u] < 2 ? x[u] + 2 : x[u]);
        bb_plan_space_shape(&o.m, o.p->plans, x, BB_NO_UNIT, 0, &net, blocks);
        ck_assert_msg(bb_export_size(&o.m, &net, &bytes, &err) == BB_OK, "%s", err.msg);
        ck_assert_int_eq(bb_problem_size(o.p, x), (int64_t)bytes);
        ck_assert_uint_ge(bytes, smallest);
        ck_assert_int_le((int64_t)bytes, bb_problem_bound(o.p, x) + 128);
    }
    close_space(&o);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_space");
    TCase *t = tcase_create("core");
    bb_log_set_level(BB_LOG_QUIET);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, plans_with_parts_in_one_tensor_can_be_loaded, 0, 5);
    tcase_add_loop_test(t, default_formats_fit_the_rows, 0, 4);
    tcase_add_loop_test(t, widths_stand_for_each_order, 0, 3);
    tcase_add_loop_test(t, uniform_plans_say_what_they_hold, 0, 8);
    tcase_add_loop_test(t, slow_formats_are_noted, 0, 3);
    tcase_add_loop_test(t, widths_reach_the_grid, 0, 6);
    tcase_add_test(t, experimental_formats_are_asked_for);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
