/* SPDX-License-Identifier: GPL-3.0-or-later
 * time_budget.c: see time_budget.h. */
#include "engine/time_budget.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/effort.h"
#include "engine/estimate.h"
#include "engine/keys.h"
#include "engine/pace.h"
#include "engine/run_parts.h"

/* Of the time, for what is planned; the rest is for what was not foreseen. */
static const double planned_share = 0.85, late_share = 0.93;
/* What is left may be this much more than what is foreseen to need it, before more is done with it. */
static const double ample = 1.6;

enum { STEPS = 14 }; /* of the bisection: 4 / 2^14 of a level */

/* ---- what is asked for ---- */

/* The request: everything that was given. What the time may choose stands at its default in it. */
static bb_status request_key(const bb_run *r, char hex[65], bb_err *err)
{
    static char   none[] = "";
    bb_run_config c = r->config; /* borrows */
    bb_text       t = { 0 };
    bb_sha256     s;
    c.out = c.config = c.effort = c.keep = none;
    c.workers = 0;
    c.ledger_only = c.json = false;
    bb_options_print_yaml(bb_run_options, BB_RUN_N_OPTIONS, &c, &t);
    bb_text_addf(&t, "free: %u\nsweep: %d\n", c.free, r->is_sweep);
    if (t.status != BB_OK) {
        bb_text_done(&t);
        return BB_FAIL(err, BB_NOMEM, "out of memory while the time was planned");
    }
    bb_sha256_init(&s);
    bb_sha256_text(&s, t.data);
    bb_sha256_hex(&s, hex);
    bb_text_done(&t);
    return BB_OK;
}

static char *stored_name(const bb_run *r, const char *when, bb_err *err) { return bb_asprintf(err, "%s|%s", r->time.key, when); }

/* What was chosen before under `when`; *text NULL: nothing was; bb_free. */
static bb_status recall(bb_store *store, const bb_run *r, const char *when, char **text, bb_err *err)
{
    char     *key = stored_name(r, when, err);
    void     *value = NULL;
    size_t    size;
    bool      found = false;
    bb_status status = BB_NOMEM;
    *text = NULL;
    if (!key) return BB_NOMEM;
    BB_TRY(bb_store_get(store, "time", key, &value, &size, &found, err));
    if (!found) goto done;
    if (!(*text = BB_NEW(size + 1, char, err))) {
        status = BB_NOMEM;
        goto done;
    }
    memcpy(*text, value, size);
    (*text)[size] = '\0';
done:
    bb_free(value);
    bb_free(key);
    return status;
}

static bb_status keep(bb_run *r, const char *when, const char *text, bb_err *err)
{
    char     *key = stored_name(r, when, err);
    bb_status status = key ? bb_store_put(r->store, "time", key, text, strlen(text), err) : BB_NOMEM;
    bb_free(key);
    return status;
}

static bb_status apply(bb_run *r, const char *text, bb_err *err) { return bb_effort_read(bb_run_options, BB_RUN_N_OPTIONS, &r->config, text, err); }

static bb_status print(const bb_run *r, bb_effort_mask mask, bb_text *t, bb_err *err)
{
    bb_effort_print(bb_run_options, BB_RUN_N_OPTIONS, &r->config, mask, t);
    if (t->status == BB_OK && !t->data) bb_text_add(t, "");
    return t->status == BB_OK ? BB_OK : BB_FAIL(err, BB_NOMEM, "out of memory while the time was planned");
}

/* ---- how much effort fits ---- */

typedef struct chooser {
    bb_run        *r;
    bb_effort_mask free;
    int            first; /* stage: those from it on count */
    double         slower;
    bb_pace        pace[3]; /* by sweeps, which decide how long encoding takes */
    int64_t        sweeps[3];
    int            n_paces;
} chooser;

static bb_status pace_for(chooser *c, const bb_run *r, const bb_pace **out, bb_err *err)
{
    bb_status status = BB_OK;
    int       i = 0;
    while (i < c->n_paces && c->sweeps[i] != r->config.sweeps) i++;
    if (i == c->n_paces) {
        if (i == 3) i = c->n_paces = 2;
        BB_TRY(bb_pace_measure(r, i > 0 ? &c->pace[0] : NULL, &c->pace[i], err));
        c->sweeps[i] = r->config.sweeps;
        c->n_paces = i + 1;
        c->slower = fmax(c->slower, c->pace[i].slower);
    }
    *out = &c->pace[i];
done:
    return status;
}

/* A copy of the options; bb_options_done. */
static bb_status copy_config(const bb_run_config *from, bb_run_config *to, bb_err *err)
{
    bb_status status = BB_OK;
    *to = *from;
    for (size_t i = 0; i < BB_RUN_N_OPTIONS; i++) {
        const bb_option_row *row = &bb_run_options[i];
        if (row->type != BB_OPT_TEXT && row->type != BB_OPT_LIST) continue;
        char **text = (char **)((char *)to + row->offset), *was = *text;
        *text = was && status == BB_OK ? bb_strdup(was, err) : NULL;
        if (was && !*text) status = BB_NOMEM;
    }
    return status;
}

/* Makes r->space, of the sizes that r has; where pruning was chosen too narrow for these it is as wide as it takes. */
static bb_status make_wide_enough(bb_run *r, bb_effort_mask free, bb_err *err)
{
    static const char *const prune[] = { "prune" };
    uint64_t                 smallest, largest;
    bb_status                status;
    BB_TRY(bb_run_make_space(r, &r->space, err));
    BB_TRY(bb_model_space_reach(r->space, &smallest, &largest, err));
    if (r->n_budgets == 0 || r->budgets[0] >= (int64_t)smallest || !(free & bb_effort_late(prune, 1))) goto done;
    bb_model_space_destroy(r->space);
    r->space = NULL;
    BB_TRY(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &r->config, "prune", "all", err));
    BB_TRY(bb_run_make_space(r, &r->space, err));
done:
    return status;
}

/* Seconds of each stage with this effort, and of those that count together. */
static bb_status foresee(chooser *c, double effort, double seconds[BB_N_STAGES], double *sum, bb_err *err)
{
    bb_run         trial = *c->r; /* borrows all but its options and, where these change it, its space */
    const bb_pace *pace;
    bb_status      status;
    BB_TRY(copy_config(&c->r->config, &trial.config, err));
    BB_TRY(bb_effort_set(bb_run_options, BB_RUN_N_OPTIONS, &trial.config, effort, c->free, err));
    if (trial.config.screen != c->r->config.screen || strcmp(trial.config.prune, c->r->config.prune) != 0) {
        trial.space = NULL;
        BB_TRY(make_wide_enough(&trial, c->free, err));
    }
    BB_TRY(pace_for(c, &trial, &pace, err));
    bb_estimate_with(&trial, pace, seconds);
    *sum = 0;
    for (int i = c->first; i < BB_N_STAGES; i++) *sum += seconds[i] * c->slower;
done:
    if (trial.space != c->r->space) bb_model_space_destroy(trial.space);
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &trial.config);
    return status;
}

/* The largest effort whose stages from c->first on fit into the seconds; the least where none does. */
static bb_status fit(chooser *c, double available, double *effort, double *sum, bb_err *err)
{
    double    low = BB_EFFORT_LEAST, high = BB_EFFORT_MOST, seconds[BB_N_STAGES], foreseen;
    bb_status status;
    *effort = high;
    BB_TRY(foresee(c, high, seconds, sum, err));
    if (*sum <= available) goto done;
    *effort = low;
    BB_TRY(foresee(c, low, seconds, sum, err));
    if (*sum > available) goto done;
    for (int i = 0; i < STEPS; i++) {
        const double middle = (low + high) / 2;
        BB_TRY(foresee(c, middle, seconds, &foreseen, err));
        if (foreseen > available) high = middle;
        else {
            low = *effort = middle;
            *sum = foreseen;
        }
    }
done:
    return status;
}

/* ---- at the start ---- */

static void name_effort(double effort, char out[80])
{
    static const char *const names[] = { "the least", "quick", "normal", "thorough", "the most" };
    const int                below = effort >= BB_EFFORT_MOST ? (int)BB_EFFORT_MOST - 1 : (int)floor(effort);
    if (effort <= BB_EFFORT_LEAST || effort >= BB_EFFORT_MOST) snprintf(out, 80, "%s", names[effort <= BB_EFFORT_LEAST ? 0 : 4]);
    else snprintf(out, 80, "%.0f %% of the way from %s to %s", 100 * (effort - below), names[below + 1], names[below + 2]);
}

/* The lines as words of one line; without what says nothing. */
static void add_words(bb_text *t, const char *lines)
{
    static const char nothing[] = "no-finalise=false";
    for (const char *at = lines; *at;) {
        const size_t n = strcspn(at, "\n");
        if (strncmp(at, nothing, n) != 0 || n != strlen(nothing)) bb_text_addf(t, "%s%.*s", t->size ? " " : "", (int)n, at);
        at += n + (at[n] == '\n');
    }
    if (!t->data) bb_text_add(t, "everything was given by hand");
}

static void say_choice(const bb_run *r, const char *lines, double effort, double foreseen, bool again)
{
    char    asked[32], takes[32], name[80];
    bb_text t = { 0 };
    bb_format_time(r->config.time, asked);
    bb_format_time(foreseen, takes);
    name_effort(effort, name);
    add_words(&t, lines);
    if (t.status == BB_OK && again) bb_info("time: %s, planned when the run began: %s", asked, t.data);
    else if (t.status == BB_OK) bb_info("time: %s; what fits is %s (%s foreseen now): %s", asked, name, takes, t.data);
    bb_text_done(&t);
}

static bb_status look_up(bb_run *r, char **text, bb_err *err)
{
    static const char *const later[] = { "search", "finalise", "left out", "evaluate" };
    char                    *path = bb_run_path(r, err, "run.db"), *more = NULL;
    bb_store                *store = NULL;
    bb_status                status = BB_NOMEM;
    *text = NULL;
    if (!path) return BB_NOMEM;
    status = BB_OK;
    if (!bb_file_exists(path)) goto done;
    BB_TRY(bb_store_open(path, &store, err));
    BB_TRY(recall(store, r, "start", text, err));
    if (*text) BB_TRY(apply(r, *text, err));
    for (size_t i = 0; *text && i < sizeof later / sizeof *later; i++) {
        BB_TRY(recall(store, r, later[i], &more, err));
        if (more) BB_TRY(apply(r, more, err));
        bb_free(more);
        more = NULL;
    }
done:
    bb_store_close(store);
    bb_free(more);
    bb_free(path);
    return status;
}

bb_status bb_time_choose(bb_run *r, bb_err *err)
{
    static const char *const finishing[] = { "finalise-steps", "tune-windows", "tune-tokens" };
    chooser                  c = { .r = r, .slower = 1 };
    bb_text                  t = { 0 };
    char                    *before = NULL, least[32], asked[32];
    double                   effort = 0, foreseen = 0;
    bb_status                status;
    if (!(r->config.time > 0)) return BB_OK;
    if (r->config.no_finalise) r->config.free &= ~bb_effort_late(finishing, 3); /* by hand */
    c.free = r->config.free;
    BB_TRY(request_key(r, r->time.key, err));
    BB_TRY(look_up(r, &before, err));
    if (!before) {
        BB_TRY(fit(&c, planned_share * r->config.time, &effort, &foreseen, err));
        if (foreseen > r->config.time) {
            bb_format_time(r->config.time, asked);
            bb_format_time(ceil(foreseen / planned_share), least);
            status = BB_FAIL(err, BB_INFEASIBLE, "--time %s is not enough: the least that this run can do is foreseen to take %s on this machine now%s", asked,
                             least, c.free == 0 ? "; options that were given by hand are kept" : "");
            goto done;
        }
        BB_TRY(bb_effort_set(bb_run_options, BB_RUN_N_OPTIONS, &r->config, effort, c.free, err));
        bb_model_space_destroy(r->space);
        r->space = NULL;
        BB_TRY(make_wide_enough(r, c.free, err));
    }
    BB_TRY(bb_run_reset_space(r, err));
    if (!before) BB_TRY(print(r, c.free, &t, err));
    say_choice(r, before ? before : t.data, effort, foreseen, before != NULL);
    r->time.slower = c.slower;
    r->time.chosen = bb_strdup(before ? before : t.data, err);
    if (!r->time.chosen) status = BB_NOMEM;
done:
    bb_free(before);
    bb_text_done(&t);
    return status;
}

bb_status bb_time_keep(bb_run *r, bb_err *err) { return r->time.chosen ? keep(r, "start", r->time.chosen, err) : BB_OK; }

void bb_time_start(bb_run *r, double took)
{
    if (!(r->config.time > 0)) return;
    r->time.on = true;
    if (!(r->time.started_s > 0)) r->time.started_s = bb_now_s();
    r->time.started_s -= took;
}

/* ---- while it runs ---- */

static double left(const bb_run *r, double share) { return r->time.started_s + share * r->config.time - bb_now_s(); }

/* Another choice in an open run: kept, and what is keyed by options is keyed anew. */
static bb_status take(bb_run *r, const char *when, const char *lines, bb_err *err)
{
    bb_status status;
    BB_TRY(apply(r, lines, err));
    BB_TRY(keep(r, when, lines, err));
    BB_TRY(bb_keys_options(r, err));
    BB_TRY(bb_run_config_write(r, err));
done:
    return status;
}

/* What may still be chosen when a stage begins: not what is measured, built or drawn by then. */
static bb_effort_mask late_options(bb_stage stage)
{
    static const char *const names[] = { "eval-windows", "finalise-steps", "tune-tokens", "search-tokens" };
    return bb_effort_late(names, stage == BB_STAGE_EVALUATE ? 1 : stage == BB_STAGE_FINALISE ? 3 : stage == BB_STAGE_SEARCH ? 4 : 0);
}

/* How much longer than foreseen the stages of this session took. */
static void learn(bb_run *r, const double *foreseen, bb_stage stage)
{
    double took = 0, should = 0;
    for (int i = 0; i < (int)stage; i++) {
        if (r->clock.seconds[i] < 0.1 * foreseen[i]) continue; /* it was done before */
        took += r->clock.seconds[i];
        should += foreseen[i];
    }
    if (should > 0.5) r->time.slower = fmin(fmax(took / should, 0.3), 20);
}

/* Seconds that the stages will take as the options are now; of those from c->first on together. */
static bb_status foresee_rest(chooser *c, double seconds[BB_N_STAGES], double *sum, bb_err *err)
{
    const bb_effort_mask free = c->free;
    bb_status            status;
    c->free = 0;
    status = foresee(c, 0, seconds, sum, err);
    c->free = free;
    return status;
}

/* Chooses again what is left to choose, where what is foreseen does not fit, or far less is foreseen than there is time for. later: seconds that
 * the stages from this one on will take then. */
static bb_status correct(bb_run *r, bb_stage stage, double later[BB_N_STAGES], bb_err *err)
{
    chooser   c = { .r = r, .free = r->config.free & late_options(stage), .first = stage };
    char     *before = NULL, a[32], b[32];
    bb_text   t = { 0 }, words = { 0 };
    double    sum, effort, available = left(r, late_share);
    bb_status status;
    BB_TRY(recall(r->store, r, bb_stages[stage].name, &before, err));
    BB_TRY(foresee_rest(&c, later, &sum, err));
    learn(r, later, stage);
    c.slower = r->time.slower;
    BB_TRY(foresee_rest(&c, later, &sum, err));
    if (before || c.free == 0 || (sum <= available && (stage == BB_STAGE_EVALUATE || ample * sum > available))) goto done;
    BB_TRY(fit(&c, fmax(0, available), &effort, &sum, err));
    BB_TRY(bb_effort_set(bb_run_options, BB_RUN_N_OPTIONS, &r->config, effort, c.free, err));
    BB_TRY(print(r, c.free, &t, err));
    BB_TRY(take(r, bb_stages[stage].name, t.data, err));
    bb_format_time(fmax(0, available), a);
    bb_format_time(sum, b);
    add_words(&words, t.data);
    if (words.status == BB_OK) bb_info("time: %s left before %s: %s (%s foreseen)", a, bb_stages[stage].name, words.data, b);
    BB_TRY(foresee_rest(&c, later, &sum, err));
done:
    for (int i = 0; i < BB_N_STAGES; i++) later[i] *= r->time.slower;
    bb_free(before);
    bb_text_done(&t);
    bb_text_done(&words);
    return status;
}

/* A search that is late ends with as many tokens as it had asked for: asked again for no more, it finds the scores in the ledger. One that has not had a single
 * score by then has as many as it was allowed: without any there is no plan. */
static bb_status search(bb_run *r, const double *later, bb_err *err)
{
    const double behind = later[BB_STAGE_FINALISE] + later[BB_STAGE_EVALUATE];
    char         line[64];
    bb_err       why = BB_ERR_INIT;
    bb_status    status;
    bb_interrupt_at(bb_now_s() + fmax(2, left(r, late_share) - behind));
    status = bb_stage_run(r, BB_STAGE_SEARCH, &why);
    const bool late = status == BB_INTERRUPTED && bb_interrupt_late();
    bb_interrupt_at(0);
    if (!late) {
        if (status != BB_OK) BB_FAIL(err, status, "%s", why.msg);
        goto done;
    }
    if (r->time.search_tokens > 0) {
        snprintf(line, sizeof line, "search-tokens=%.6g\n", r->time.search_tokens / 1e6);
        bb_warn("time: the search takes longer than foreseen and ends after %.2f million tokens", r->time.search_tokens / 1e6);
        BB_TRY(take(r, "search", line, err));
    } else bb_warn("time: the search has no score when its time is over, and goes on: the run takes longer than --time");
    BB_TRY(bb_stage_run(r, BB_STAGE_SEARCH, err));
done:
    return status;
}

bb_status bb_time_run(bb_run *r, bb_stage stage, bb_err *err)
{
    double    later[BB_N_STAGES] = { 0 };
    bb_status status = BB_OK;
    if (!r->time.on || stage < BB_STAGE_SEARCH) return bb_stage_run(r, stage, err);
    BB_TRY(correct(r, stage, later, err));
    r->time.evaluation_s = later[BB_STAGE_EVALUATE];
    BB_TRY(stage == BB_STAGE_SEARCH ? search(r, later, err) : bb_stage_run(r, stage, err));
    if (stage == BB_STAGE_EVALUATE && bb_time_is_over(r))
        bb_warn("time: the run took %.0f s longer than --time: what is measured and built before the search cannot be cut short", -left(r, 1));
done:
    bb_interrupt_at(0);
    return status;
}

bool bb_time_has_room(const bb_run *r, double seconds) { return !r->time.on || left(r, 1) - r->time.evaluation_s >= seconds; }

bool bb_time_is_over(const bb_run *r) { return r->time.on && left(r, 1) < 0; }

void bb_time_stop_finalise(const bb_run *r) { bb_interrupt_at(bb_now_s() + fmax(1, left(r, 1) - r->time.evaluation_s)); }

bb_status bb_time_leave_out(bb_run *r, const char *const *hashes, size_t n, bb_err *err)
{
    bb_text   t = { 0 }, line = { 0 };
    bb_status status;
    bb_text_add(&t, r->config.leave_out);
    for (size_t i = 0; i < n; i++) bb_text_addf(&t, "%s%s", t.size ? "," : "", hashes[i]);
    bb_text_addf(&line, "leave-out=%s\n", t.data ? t.data : "");
    BB_TRY(t.status != BB_OK ? t.status : line.status);
    BB_TRY(take(r, "left out", line.data, err));
done:
    bb_text_done(&t);
    bb_text_done(&line);
    return status;
}

bb_status bb_time_cut_steps(bb_run *r, const char *rung, bb_err *err)
{
    const char *rest = r->config.finalise_steps;
    bb_text     t = { 0 };
    size_t      n = 0;
    bb_status   status;
    bb_text_add(&t, "finalise-steps=");
    for (bb_item item; bb_list_next(&rest, &item) && !bb_item_is(item, rung);) bb_text_addf(&t, "%s%.*s", n++ ? "," : "", (int)item.n, item.at);
    bb_text_add(&t, "\n");
    BB_TRY(t.status);
    BB_TRY(take(r, "finalise", n ? t.data : "no-finalise=true\n", err));
done:
    bb_text_done(&t);
    return status;
}
