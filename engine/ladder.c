/* SPDX-License-Identifier: GPL-3.0-or-later
 * ladder.c: see ladder.h. */
#include "engine/ladder.h"

#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/coupling.h"
#include "engine/front.h"
#include "engine/keys.h"
#include "engine/memory.h"
#include "engine/qat.h"
#include "engine/run_parts.h"
#include "engine/time_budget.h"
#include "eval/generation.h"
#include "kernels/kernels.h"
#include "model/compress/rebuild.h"

const char *const bb_rung_names[BB_N_RUNGS] = { "database", "rebuild", "blocks", "lfq", "end-to-end", "qat" };

/* Rates and batches: docs/finalise.md says how they were chosen. Tokens of each step are shares of --tune-tokens. */
static const double block_share = 0.25, lfq_share = 0.25;
enum { CHECKS = 4 };

/* ---- steps in the configuration ---- */

bb_status bb_ladder_check(const bb_run_config *c, bb_err *err)
{
    const char *rest = c->finalise_steps;
    for (bb_item item; bb_list_next(&rest, &item);) {
        bool known = item.n == 0;
        for (int i = BB_RUNG_REBUILD; i < BB_N_RUNGS; i++) known |= bb_item_is(item, bb_rung_names[i]);
        if (!known) return BB_FAIL(err, BB_USAGE, "--finalise-steps: \"%.*s\" should be one of rebuild, blocks, lfq, end-to-end, qat", (int)item.n, item.at);
    }
    return BB_OK;
}

bb_status bb_ladder_add(bb_run *r, bb_rung rung, bb_err *err)
{
    bb_run_config *c = &r->config;
    char          *steps;
    bb_status      status = BB_OK;
    if (c->no_finalise) return BB_FAIL(err, BB_USAGE, "%s was made with --no-finalise: no step is run there", c->out);
    if (bb_list_has(c->finalise_steps, bb_rung_names[rung])) return BB_OK;
    if (!(steps = bb_asprintf(err, "%s%s%s", c->finalise_steps, *c->finalise_steps ? "," : "", bb_rung_names[rung]))) return BB_NOMEM;
    bb_free(c->finalise_steps);
    c->finalise_steps = steps;
    BB_TRY(bb_keys_options(r, err));
    BB_TRY(bb_run_config_write(r, err));
done:
    return status;
}

char *bb_ladder_settings(const bb_run_config *c, bb_err *err)
{
    bb_sha256 s;
    char      hex[65], *plain, *all;
    if (c->no_finalise) return bb_asprintf(err, "none");
    const bool tries_rates = bb_list_has(c->finalise_steps, bb_rung_names[BB_RUNG_END_TO_END]) || bb_list_has(c->finalise_steps, bb_rung_names[BB_RUNG_QAT]);
    plain = bb_asprintf(err, "%s %lld %.17g %lld, outputs of %lld, %llu bytes%s%s", c->finalise_steps, (long long)c->tune_windows, c->tune_tokens,
                        (long long)c->seed, (long long)c->output_windows,
                        (unsigned long long)c->max_ram /* steps on all blocks are left out where they do not fit */,
                        bb_kernels_fast_rough() ? ", bfloat16" : "" /* what a fast step's products are of */, tries_rates ? ", rates tried" : "");
    if (!plain || !bb_list_has(c->finalise_steps, bb_rung_names[BB_RUNG_QAT])) return plain;
    bb_sha256_init(&s);
    bb_qat_hash_texts(c->qat_text, &s);
    if (!*c->qat_text && bb_qat_adds_self(c->calib)) bb_sha256_text(&s, "the calibration text and self");
    if (*c->qat_text && c->parse_special) bb_sha256_text(&s, "special tokens"); /* the calibration text is known by its tokens */
    bb_sha256_hex(&s, hex);
    all = bb_asprintf(err, "%s, qat 4 %.17g %s %s %s %.17g %.17g %lld, texts %.32s", plain, c->qat_tokens, c->qat_loss, c->qat_estimator, c->qat_schedule,
                      c->qat_rate, c->qat_scale_rate, (long long)c->qat_batch, hex);
    bb_free(plain);
    return all;
}

/* ---- data ---- */

static bb_tune_set training_set(const bb_run *r)
{
    return (bb_tune_set) { r->tune.tokens, r->tune.targets, r->tune.n, r->tune.ctx, 0, r->tune.ctx - 1 }; /* the last position has no label */
}

static bb_tune_set held_set(const bb_run *r)
{
    const bb_windows *w = &r->levels[BB_LEVEL_REFINE];
    return (bb_tune_set) { w->tokens, w->targets, w->n, w->ctx, w->first, w->n_scored };
}

static uint32_t steps_of(const bb_run *r, double share, uint32_t batch)
{
    const double steps = share * r->config.tune_tokens * 1e6 / ((double)batch * (double)r->tune.ctx);
    return steps < 1 ? 1 : steps > 1e6 ? 1000000 : (uint32_t)steps;
}

static bb_tune_options options_of(const bb_run *r, bb_rung rung)
{
    const uint32_t  last = r->model.net.n_layer - 1;
    bb_tune_options o = { .loss = BB_TUNE_KL, .last = last, .checks = CHECKS, .clip = 2, .seed = (uint64_t)r->config.seed, .label = bb_rung_names[rung] };
    o.weights = 0.03;
    o.fields = 0.002;
    o.norms = 0.001;
    o.batch = BB_LADDER_BATCH;
    switch (rung) {
    case BB_RUNG_BLOCKS:
        o.loss = BB_TUNE_OUTPUT;
        o.steps = steps_of(r, block_share, o.batch); /* each block sees these tokens: the cost of one pass over the network */
        break;
    case BB_RUNG_LFQ:
        o.first = last;
        o.steps = steps_of(r, lfq_share, o.batch);
        break;
    default:
        o.embedding = true;
        o.steps = steps_of(r, 1, o.batch);
        o.trial = BB_RATE_TRIAL;
        break;
    }
    return o;
}

/* ---- the steps ---- */

typedef struct ladder {
    bb_run           *r;
    const bb_plan    *plan;
    bb_tuned         *best;
    bb_ladder_record *record;
    bool              coarse; /* the optimizer's moments of a step on all blocks are of 8 bits */
} ladder;

static bb_status score(bb_run *r, const bb_net *net, double *kl, bb_err *err)
{
    bb_evaluation v;
    bb_net_evaluator_forget(r->evaluator);
    bb_status status = bb_net_evaluator_score(r->evaluator, net, BB_LEVEL_CONFIRM, &v, NULL, err);
    *kl = v.kl;
    return status;
}

static bb_status start(ladder *l, bb_err *err)
{
    bb_block *blocks = BB_NEW(l->r->model.net.n_layer, bb_block, err);
    bb_net    net;
    bb_status status = BB_NOMEM;
    if (!blocks) return BB_NOMEM;
    BB_TRY(bb_database_apply(l->r->database, l->plan, &net, blocks, err));
    BB_TRY(bb_tuned_view(&net, l->best, err)); /* the database keeps its entries where they are until it is closed */
done:
    bb_free(blocks);
    return status;
}

static bb_status rebuild(ladder *l, bb_tuned *out, bb_err *err)
{
    bb_run          *r = l->r;
    bb_quant_options o = { BB_METHOD_FEEDBACK, r->config.damping, (unsigned)r->config.sweeps };
    bb_rebuilt       rebuilt = { 0 };
    bb_status        status;
    BB_TRY(bb_rebuild(r->database, &r->model, l->plan, r->calib.tokens, r->calib.n, r->calib.ctx, &o, bb_run_full_states(r), &rebuilt, err));
    BB_TRY(bb_tuned_view(&rebuilt.net, out, err));
    out->maps = rebuilt.maps;
    out->n_maps = rebuilt.n_maps;
    rebuilt.maps = NULL;
    bb_checkpoint_remove(&rebuilt.checkpoint);
done:
    bb_rebuilt_done(&rebuilt);
    return status;
}

/* No more windows than the steps draw, evenly spaced: their states are computed once and kept. ids: [2 * n * ctx], owned by the caller. */
static bb_status drawn_set(const bb_run *r, const bb_tune_options *o, bb_tune_set *set, int32_t **ids, bb_err *err)
{
    const size_t T = r->tune.ctx;
    const double wanted = (double)o->steps * o->batch;
    *set = training_set(r);
    *ids = NULL;
    if (wanted >= set->n) return BB_OK;
    const uint32_t n = (uint32_t)wanted;
    if (!(*ids = BB_NEW(2 * n * T, int32_t, err))) return BB_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        const size_t from = (size_t)((uint64_t)i * set->n / n) * T;
        memcpy(*ids + i * T, set->tokens + from, T * sizeof **ids);
        memcpy(*ids + (n + i) * T, set->targets + from, T * sizeof **ids);
    }
    set->n = n;
    set->tokens = *ids;
    set->targets = *ids + n * T;
    return BB_OK;
}

/* OUT/models/PLAN-STEP.state: what an interrupted step goes on from. bb_free. */
static char *state_path(const ladder *l, bb_rung rung, bb_err *err)
{
    char hash[17];
    bb_plan_hash(l->plan, hash);
    return bb_run_path(l->r, err, "models/%s-%s.state", hash, bb_rung_names[rung]);
}

enum { OTHER_WINDOWS = 16, SAVE_EVERY_S = 600 };

/* Texts are read, or sampled into a file of the run, once: of plans that are trained at the same time the second one finds what the first has made. */
static bb_status make_texts(const bb_run *r, const char *list, const bb_windows *also, uint32_t windows, uint32_t held, uint64_t seed, bool special,
                            bb_qat_texts *out, bb_err *err)
{
    static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&making);
    const bb_status status = bb_qat_texts_make(&r->model, list, also, r->config.out, (uint32_t)r->config.ctx, windows, held, seed, special, out, err);
    pthread_mutex_unlock(&making);
    return status;
}

/* Low-bit training. The calibration text decides beside the texts that are trained on; where it is one of these itself, other text of the source's does. */
static bb_status train_low_bits(ladder *l, bb_tuned *out, bb_err *err)
{
    const bb_run        *r = l->r;
    const bb_run_config *c = &r->config;
    const uint32_t       ctx = (uint32_t)c->ctx;
    const bb_qat         q = { c->qat_tokens, c->qat_loss, c->qat_estimator, c->qat_schedule, c->qat_rate, c->qat_scale_rate, c->qat_batch, (uint64_t)c->seed };
    bb_tune_options      o = bb_qat_options(&q, &l->best->net, ctx);
    bb_tune_set          train, held = held_set(r), other;
    bb_qat_texts         texts = { 0 }, others = { 0 };
    bb_tune_report       report;
    int32_t             *ids = NULL;
    char                *state = state_path(l, BB_RUNG_QAT, err);
    const uint32_t       wanted = (uint32_t)fmin((double)o.steps * o.batch, 1 << 30);
    bb_status            status = state ? BB_OK : BB_NOMEM;
    BB_TRY(status);
    if (*c->qat_text) {
        BB_TRY(make_texts(r, c->qat_text, NULL, wanted, held.n, (uint64_t)c->seed, c->parse_special, &texts, err));
        other = held;
        train = texts.train;
        held = texts.held;
    } else {
        if (bb_qat_adds_self(c->calib)) {
            BB_TRY(make_texts(r, "self", &r->tune, wanted, 0, (uint64_t)c->seed, false, &texts, err)); /* what is scored of the calibration text is left out */
            train = texts.train;
        } else BB_TRY(drawn_set(r, &o, &train, &ids, err));
        BB_TRY(make_texts(r, "self", NULL, 1, OTHER_WINDOWS, (uint64_t)c->seed + 1, false, &others, err));
        other = others.held;
    }
    o.coarse_moments = l->coarse;
    o.label = bb_rung_names[BB_RUNG_QAT];
    o.other = &other;
    o.state = state;
    o.stale_is_fine = true;
    o.keep_bytes = 1 + 2 * (uint64_t)c->tune_windows * ctx * bb_row_width(&r->model.net) * sizeof(float); /* as the other steps (memory.c) */
    bb_qat_say_rates(&o, &l->best->net);
    BB_TRY(bb_tuned_copy(&l->best->net, out, err));
    BB_TRY(bb_tune(r->backend, &r->model.net, out, &o, &train, &held, &report, err));
    bb_info("qat: KL on held-out windows of its text %.5f to %.5f, on other text %.5f to %.5f, %.0f trained tokens a second", report.start, report.best,
            report.other_start, report.other_best, (double)report.tokens / report.seconds);
done:
    bb_qat_texts_done(&texts);
    bb_qat_texts_done(&others);
    bb_free(ids);
    bb_free(state);
    return status;
}

static bb_status tune(ladder *l, bb_rung rung, bb_tuned *out, bb_err *err)
{
    const bb_run     *r = l->r;
    bb_tune_options   o = options_of(r, rung);
    const bb_tune_set held = held_set(r);
    bb_tune_set       train;
    bb_tune_report    report;
    int32_t          *ids = NULL;
    char             *state = rung == BB_RUNG_END_TO_END ? state_path(l, rung, err) : NULL;
    bb_status         status = rung != BB_RUNG_END_TO_END || state ? BB_OK : BB_NOMEM;
    BB_TRY(status);
    o.state = state;
    o.stale_is_fine = true;
    o.save_every_s = SAVE_EVERY_S;
    o.coarse_moments = rung == BB_RUNG_END_TO_END && l->coarse;
    BB_TRY(drawn_set(r, &o, &train, &ids, err));
    BB_TRY(bb_tuned_copy(&l->best->net, out, err));
    if (rung == BB_RUNG_BLOCKS) BB_TRY(bb_tune_blocks(r->backend, &r->model.net, out, &o, &train, &held, NULL, err));
    else BB_TRY(bb_tune(r->backend, &r->model.net, out, &o, &train, &held, &report, err));
done:
    bb_free(ids);
    bb_free(state);
    return status;
}

/* Runs one step on a copy and takes it when it is better. */
static bb_status climb(ladder *l, bb_rung rung, bb_err *err)
{
    bb_ladder_record *record = l->record;
    bb_tuned          next = { 0 };
    const double      started = bb_now_s();
    uint64_t          need;
    bb_status         status;
    if (rung >= BB_RUNG_END_TO_END && !bb_memory_trains_all(l->r, &l->coarse, &need)) return BB_OK; /* bb_memory_warn_of_training has said it */
    if (rung >= BB_RUNG_END_TO_END && l->coarse) bb_info("%s: the optimizer's state is of 8 bits, to be within --max-ram", bb_rung_names[rung]);
    BB_TRY(rung == BB_RUNG_REBUILD ? rebuild(l, &next, err) : rung == BB_RUNG_QAT ? train_low_bits(l, &next, err) : tune(l, rung, &next, err));
    BB_TRY(score(l->r, &next.net, &record->kl[rung], err));
    record->seconds[rung] = bb_now_s() - started;
    record->kept[rung] = record->kl[rung] < record->kl_final;
    bb_debug("%s: KL %.6g -> %.6g, %s, %.1f s", bb_rung_names[rung], record->kl_final, record->kl[rung], record->kept[rung] ? "kept" : "rolled back",
             record->seconds[rung]);
    if (record->kept[rung]) {
        const bb_tuned old = *l->best;
        record->kl_final = record->kl[rung];
        *l->best = next;
        next = old;
    }
done:
    bb_net_evaluator_forget(l->r->evaluator);
    bb_tuned_done(&next);
    return status;
}

bb_status bb_ladder_run(bb_run *r, const bb_plan *plan, bool tune_too, bb_ladder_hook hook, void *hook_self, bb_tuned *out, bb_ladder_record *record,
                        bb_err *err)
{
    ladder    l = { r, plan, out, record, false };
    char      hash[17];
    bb_status status;
    memset(out, 0, sizeof *out);
    memset(record, 0, sizeof *record);
    for (int i = 0; i < BB_N_RUNGS; i++) record->kl[i] = (double)NAN;
    BB_TRY(start(&l, err));
    bb_plan_hash(plan, hash);
    BB_TRY(bb_front_score(r, hash, &record->kl[BB_RUNG_DATABASE], err));
    if (isnan(record->kl[BB_RUNG_DATABASE])) BB_TRY(score(r, &out->net, &record->kl[BB_RUNG_DATABASE], err));
    record->kl_final = record->kl[BB_RUNG_DATABASE];
    record->kept[BB_RUNG_DATABASE] = 1;
    if (hook) BB_TRY(hook(hook_self, BB_RUNG_DATABASE, out, err));
    for (int i = BB_RUNG_REBUILD; tune_too && i < BB_N_RUNGS; i++) {
        if (!bb_list_has(r->config.finalise_steps, bb_rung_names[i]) || (i > BB_RUNG_REBUILD && r->tune.n == 0 && !(i == BB_RUNG_QAT && *r->config.qat_text)))
            continue;
        bb_err why = BB_ERR_INIT;
        if (r->time.may_cut) bb_time_stop_finalise(r);
        status = climb(&l, (bb_rung)i, &why);
        if (status == BB_INTERRUPTED && r->time.may_cut && bb_interrupt_late()) { /* --time is over: with the steps that are done */
            bb_interrupt_at(0);
            record->kl[i] = (double)NAN;
            record->seconds[i] = 0;
            bb_warn("time: \"%s\" takes longer than there is time for: neither it nor what follows it is done", bb_rung_names[i]);
            char *state = i >= BB_RUNG_END_TO_END ? state_path(&l, (bb_rung)i, NULL) : NULL;
            if (state) unlink(state); /* nobody goes on from it */
            bb_free(state);
            status = bb_time_cut_steps(r, bb_rung_names[i], err);
            break;
        }
        if (r->time.may_cut) bb_interrupt_at(0);
        if (status != BB_OK) {
            BB_FAIL(err, status, "%s", why.msg);
            goto done;
        }
        if (hook) BB_TRY(hook(hook_self, (bb_rung)i, out, err));
    }
done:
    if (status != BB_OK) bb_tuned_done(out);
    return status;
}

/* ---- the reference table ---- */

typedef struct table {
    bb_run         *r;
    bb_csv_writer  *steps, *generation, *lfq; /* lfq NULL: no ablation */
    bb_tokens      *tokens;
    bb_windows     *texts; /* [n_texts], as the next three */
    bb_reference  **references;
    bb_generation **continuations;
    char          **names;
    size_t          n_texts;
    double          bpw; /* of the plan at hand */
} table;

/* The "text" fields of a .jsonl file, a blank line between two, as a text file in the run directory. */
static bb_status text_of_jsonl(const bb_run *r, const char *path, char **out, bb_err *err)
{
    bb_map    map = { 0 };
    bb_text   text = { 0 };
    size_t    line = 1;
    bb_status status;
    *out = NULL;
    BB_TRY(bb_map_open(path, &map, err));
    for (size_t at = 0; at < map.size; line++) {
        const char  *begin = (const char *)map.data + at, *end = memchr(begin, '\n', map.size - at);
        const size_t n = end ? (size_t)(end - begin) : map.size - at;
        json_t      *root = n ? json_loadb(begin, n, 0, NULL) : NULL;
        const char  *value = json_string_value(json_object_get(root, "text"));
        if (n && !value) status = BB_FAIL(err, BB_BAD_FILE, "%s line %zu: no object with a \"text\"", path, line);
        else if (value) bb_text_addf(&text, "%s\n\n", value);
        json_decref(root);
        if (status != BB_OK) goto done;
        at += n + 1;
    }
    status = text.status;
    if (status != BB_OK || !(*out = bb_run_path(r, err, "ladder-text.txt"))) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(bb_keys_made(r, "ladder-text.txt", err));
    BB_TRY(bb_file_write(*out, text.data ? text.data : "", text.size, err));
done:
    bb_map_close(&map);
    bb_text_done(&text);
    return status;
}

static bb_status load_text(table *t, const char *path, int64_t windows, bb_err *err)
{
    const bb_run *r = t->r;
    const size_t  at = t->n_texts++; /* also what was begun is given back by table_done */
    const char   *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
    bb_protocol   protocol = bb_protocol_named(r->config.protocol);
    uint32_t      prompt = bb_generation_default(&r->model.net).n_prompt;
    bb_tokens    *tokens = &t->tokens[at];
    bb_err        why = BB_ERR_INIT;
    char         *plain = NULL;
    int32_t       bos;
    bb_status     status;
    if (dot && strcmp(dot, ".jsonl") == 0) BB_TRY(text_of_jsonl(r, path, &plain, err));
    if ((status = bb_tokens_load(&r->model, plain ? plain : path, r->config.parse_special, tokens, &why)) == BB_OK)
        status = bb_tokens_bos(&r->model, &bos, &why);
    if (status == BB_OK) status = bb_windows_make(tokens, protocol, (uint32_t)r->config.ctx, bos, (uint32_t)windows, true, &t->texts[at], &why);
    if (status == BB_OK && tokens->n < prompt)
        status = BB_FAIL(&why, BB_BAD_FILE, "its %zu tokens are less than one prompt of %u: give more text", tokens->n, prompt);
    if (status != BB_OK) {
        BB_FAIL(err, status, strstr(why.msg, path) ? "--texts: %.0s%s" : "--texts: %s: %s", path, why.msg);
        goto done;
    }
    if (strcmp(tokens->sha256, r->calib_tokens.sha256) == 0) bb_warn("%s is the calibration text: its numbers flatter every step", path);
    t->names[at] = bb_strdup(slash ? slash + 1 : path, err);
    status = t->names[at] ? BB_OK : BB_NOMEM;
done:
    bb_free(plain);
    return status;
}

/* What the source says on each text. */
static bb_status run_texts(table *t, int64_t windows, uint64_t room, bb_err *err)
{
    const bb_run      *r = t->r;
    bb_generation_spec spec = bb_generation_default(&r->model.net);
    char               label[BB_MODEL_LABEL];
    int32_t            bos;
    bb_status          status;
    if (windows) spec.n_prompts = (uint32_t)windows;
    spec.seed = (uint64_t)r->config.seed;
    BB_TRY(bb_tokens_bos(&r->model, &bos, err));
    for (size_t i = 0; i < t->n_texts; i++) {
        BB_TRY(bb_reference_create(r->backend, &r->model.net, &t->texts[i], room, bb_model_source_label(&r->model, label), &t->references[i], err));
        BB_TRY(bb_generation_create(r->backend, &r->model.net, &t->tokens[i], bos, &spec, room, "continuing the prompts", &t->continuations[i], err));
    }
done:
    return status;
}

static bb_status load_texts(table *t, const char *list, int64_t windows, bb_err *err)
{
    const size_t most = bb_list_length(list) + 1;
    bb_status    status = BB_NOMEM;
    t->tokens = BB_NEW0(most, bb_tokens, err);
    t->texts = BB_NEW0(most, bb_windows, err);
    t->references = BB_NEW0(most, bb_reference *, err);
    t->continuations = BB_NEW0(most, bb_generation *, err);
    t->names = BB_NEW0(most, char *, err);
    if (!t->tokens || !t->texts || !t->references || !t->continuations || !t->names) return BB_NOMEM;
    for (bb_item item; bb_list_next(&list, &item);) {
        char *path = bb_item_text(item, err);
        if (!path) return BB_NOMEM;
        status = load_text(t, path, windows, err);
        bb_free(path);
        if (status != BB_OK) return status;
    }
    return t->n_texts ? BB_OK : BB_FAIL(err, BB_USAGE, "--texts names no text to evaluate on");
}

static void table_done(table *t)
{
    for (size_t i = 0; i < t->n_texts; i++) {
        bb_generation_destroy(t->continuations[i]);
        bb_reference_destroy(t->references[i]);
        bb_windows_done(&t->texts[i]);
        bb_tokens_done(&t->tokens[i]);
        bb_free(t->names[i]);
    }
    bb_free(t->tokens);
    bb_free(t->texts);
    bb_free(t->references);
    bb_free(t->continuations);
    bb_free(t->names);
    bb_csv_discard(t->steps);
    bb_csv_discard(t->generation);
    bb_csv_discard(t->lfq);
}

static void put_generation(table *t, const char *step, size_t text, const bb_generation_result *g)
{
    BB_PUT(t->generation, t->bpw, step, t->names[text], g->n_prompts, g->n_new, g->agree_length, g->agree_length_se);
    for (int i = 0; i < BB_GENERATION_SPANS; i++) BB_PUT(t->generation, g->span[i].kl, g->span[i].kl_se);
    bb_csv_end_row(t->generation);
}

/* One row a text; with `continuations` also what the network does on long continuations. */
static bb_status put_rows(table *t, bb_csv_writer *w, const char *step, bool continuations, const bb_net *net, bb_err *err)
{
    bb_status status = BB_OK;
    for (size_t i = 0; i < t->n_texts; i++) {
        bb_generation_result g = { .agree_length = (double)NAN };
        bb_result            v;
        BB_TRY(bb_evaluate_against(net, t->references[i], 0, NULL, &v, NULL, NULL, err));
        if (continuations) {
            BB_TRY(bb_generation_measure(net, t->continuations[i], &g, NULL, err));
            put_generation(t, step, i, &g);
        }
        BB_ROW(w, t->bpw, step, t->names[i], (int64_t)v.n_tokens, v.ppl, v.ppl_se, v.kl, v.kl_se, v.top1, g.agree_length);
    }
done:
    return status;
}

/* Variants of the last step at the head, each from the network as it is in front of LFQ: what the paper's ablation compares. */
static bb_status ablate(table *t, const bb_tuned *from, bb_err *err)
{
    static const struct {
        const char  *name;
        bb_tune_loss loss;
        uint32_t     blocks, skipped;
    } variants[] = {
        { "none", BB_TUNE_KL, 0, 0 },           { "soft", BB_TUNE_KL, 1, 0 },
        { "hard", BB_TUNE_LABELS, 1, 0 },       { "mse-output", BB_TUNE_OUTPUT, 1, 0 },
        { "mse-logits", BB_TUNE_LOGITS, 1, 0 }, { "soft-last-2", BB_TUNE_KL, 2, 0 },
        { "soft-last-3", BB_TUNE_KL, 3, 0 },    { "soft-before-last", BB_TUNE_KL, 1, 1 },
    };
    const bb_run     *r = t->r;
    const bb_tune_set train = training_set(r), held = held_set(r);
    const uint32_t    n = r->model.net.n_layer;
    bb_status         status = BB_OK;
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        bb_tune_options o = options_of(r, BB_RUNG_LFQ);
        bb_tune_report  report;
        bb_tuned        copy;
        if (variants[i].blocks + variants[i].skipped > n) continue;
        BB_TRY(bb_tuned_copy(&from->net, &copy, err));
        o.loss = variants[i].loss;
        o.last = n - 1 - variants[i].skipped;
        o.first = o.last + 1 - variants[i].blocks;
        o.label = variants[i].name;
        if (variants[i].blocks) status = bb_tune(r->backend, &r->model.net, &copy, &o, &train, &held, &report, err);
        if (status == BB_OK) status = put_rows(t, t->lfq, variants[i].name, false, &copy.net, err);
        bb_tuned_done(&copy);
        BB_TRY(status);
    }
done:
    return status;
}

static bb_status on_rung(void *self, bb_rung rung, bb_tuned *net, bb_err *err)
{
    table    *t = self;
    bb_status status;
    BB_TRY(put_rows(t, t->steps, bb_rung_names[rung], true, &net->net, err));
    if (rung == BB_RUNG_BLOCKS && t->lfq) BB_TRY(ablate(t, net, err));
done:
    return status;
}

static const bb_front_plan *nearest_plan(const bb_run *r, const bb_front *f, double bpw)
{
    const bb_front_plan *best = NULL;
    double               least = HUGE_VAL;
    for (size_t i = 0; i < f->n; i++) {
        const double miss = fabs(8.0 * (double)f->plans[i].size_bytes / (double)r->n_weights - bpw);
        if (!f->plans[i].is_searched || !(miss < least)) continue;
        least = miss;
        best = &f->plans[i];
    }
    return best;
}

static bb_status one_size(table *t, const bb_front *front, double bpw, bb_err *err)
{
    const bb_front_plan *p = nearest_plan(t->r, front, bpw);
    bb_ladder_record     record;
    bb_tuned             net = { 0 };
    bb_status            status = BB_OK;
    if (!p) return BB_FAIL(err, BB_NOT_FOUND, "%s has no searched plan: run `bitbudget search` first", t->r->config.out);
    t->bpw = 8.0 * (double)p->size_bytes / (double)t->r->n_weights;
    BB_TRY(bb_ladder_run(t->r, &p->plan, true, on_rung, t, &net, &record, err));
    for (int i = 0; i < BB_N_RUNGS; i++)
        if (!isnan(record.kl[i]))
            bb_info("%.3f bits, %-10s KL %.6f on the confirm windows, %s, %.0f s", t->bpw, bb_rung_names[i], record.kl[i],
                    record.kept[i] ? "kept" : "rolled back", record.seconds[i]);
done:
    bb_tuned_done(&net);
    return status;
}

static bb_status parse_bits(const char *list, double **bits, size_t *n, bb_err *err)
{
    bb_err    why = BB_ERR_INIT;
    bb_status status = bb_list_doubles(list, bits, n, &why);
    if (status != BB_OK) return BB_FAIL(err, status, "--ladder, bits per weight: %s", why.msg);
    for (size_t i = 0; i < *n; i++)
        if (!((*bits)[i] > 0)) status = BB_FAIL(err, BB_USAGE, "--ladder: %g is no number of bits per weight", (*bits)[i]);
    return status;
}

bb_status bb_run_ladder(bb_run *r, const char *sizes, const char *texts, int64_t windows, bool with_ablation, bb_err *err)
{
    static const char header[] = "budget_bpw,step,text,n_tokens,ppl,ppl_se,kl_nats,kl_se,top1,agree_length";
    static const char generation[] = "budget_bpw,step,text,n_prompts,n_new,agree_length,agree_length_se,kl_1_16,kl_1_16_se,kl_17_64,kl_17_64_se,kl_65,kl_65_se";
    table             t = { .r = r };
    bb_front          front = { 0 };
    double           *bits = NULL;
    size_t            n = 0;
    bb_status         status;
    BB_TRY(parse_bits(sizes, &bits, &n, err));
    bb_free(r->config.finalise_steps); /* every step, whichever of them the run finalises its plans with */
    r->config.finalise_steps = bb_strdup("rebuild,blocks,lfq,end-to-end", err);
    if (!r->config.finalise_steps) status = BB_NOMEM;
    BB_TRY(status);
    BB_TRY(load_texts(&t, texts, windows, err));
    BB_TRY(bb_front_load(r, &front, err));
    const uint64_t room = bb_memory_keep_half(r) / (2 * t.n_texts); /* of each text, and of what continues it */
    BB_TRY(bb_run_calibrate(r, err));
    BB_TRY(run_texts(&t, windows, room, err));
    BB_TRY(bb_run_table(r, "ladder.csv", header, &t.steps, err));
    BB_TRY(bb_run_table(r, "generation.csv", generation, &t.generation, err));
    if (with_ablation) BB_TRY(bb_run_table(r, "lfq.csv", header, &t.lfq, err));
    for (size_t i = 0; i < n; i++) BB_TRY(one_size(&t, &front, bits[i], err));
    BB_TRY(bb_csv_close(&t.steps, err));
    BB_TRY(bb_csv_close(&t.generation, err));
    BB_TRY(bb_csv_close(&t.lfq, err));
done:
    table_done(&t);
    r->kept_room = 0;
    bb_front_done(&front);
    bb_free(bits);
    return status;
}
