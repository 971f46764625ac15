/* SPDX-License-Identifier: GPL-3.0-or-later
 * keys.c: see keys.h. */
#include "engine/keys.h"
#include "engine/foresee.h"
#include "engine/qat.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/version.h"
#include "kernels/kernels.h"
#include "search/space.h"

/* ---- identity ---- */

/* A line each, "name: value", in the order in which a difference is looked for. The calibration text comes last: sampled by the model itself, it
 * follows from the others. */
static void print_identity(const bb_run *r, bb_text *t)
{
    const bb_run_config *c = &r->config;
    bb_text_addf(t, "model: %s\nversion: %s\nCPU level and BLAS core: %s\n", bb_model_sha256(&r->model), BB_VERSION, bb_kernels_bits());
    bb_text_addf(t, "protocol: %s\nctx: %lld\ncalib-windows: %lld\nmeasure-windows: %lld\nrefine-windows: %lld\nconfirm-windows: %lld\n", c->protocol,
                 (long long)c->ctx, (long long)c->calib_windows, (long long)c->measure_windows, (long long)c->refine_windows, (long long)c->confirm_windows);
    bb_text_addf(t, "probes: %lld\nmethod: %s\ndamping: %.17g\nsweeps: %lld\nseed: %lld\n", (long long)c->probes, c->method, c->damping, (long long)c->sweeps,
                 (long long)c->seed);
    if (r->calib_tokens.ids) bb_text_addf(t, "calibration text: %s\n", r->calib_tokens.sha256);
}

void bb_keys_difference(const char *before, size_t n_before, const char *now, const char *was_word, const char *is_word, char *out, size_t size)
{
    const char *end = before + n_before;
    while (before < end && *now) {
        const char *line_end = memchr(before, '\n', (size_t)(end - before));
        size_t      n = line_end ? (size_t)(line_end - before) : (size_t)(end - before), m = strcspn(now, "\n");
        const char *colon = memchr(before, ':', n);
        size_t      name = colon ? (size_t)(colon - before) + 2 : 0;
        if (n != m || memcmp(before, now, n) != 0) {
            if (!name || name > n || name > m || memcmp(before, now, name) != 0) break; /* of another release */
            int was = (int)(n - name), is = (int)(m - name);
            if (was == 64 && is == 64) was = is = 12; /* a hash: enough to tell two apart */
            snprintf(out, size, "%.*s%s%.*s%s%.*s", (int)name - 2, before, was_word, was, before + name, is_word, is, now + name);
            return;
        }
        before += n + (line_end != NULL);
        now += m + (now[m] == '\n');
    }
    snprintf(out, size, "it is of another release");
}

/* ---- options ---- */

void bb_key_space(const bb_run *r, char hex[65])
{
    const bb_problem *p = bb_model_space_problem(r->space);
    bb_sha256         s;
    bb_sha256_init(&s);
    bb_sha256_update(&s, &p->fixed_bytes, sizeof p->fixed_bytes);
    for (uint32_t u = 0; u < p->n_units; u++) {
        const bb_unit *unit = &p->units[u];
        bb_sha256_text(&s, p->plans->units[u].name);
        bb_sha256_update(&s, &unit->controller, sizeof unit->controller);
        for (uint32_t o = 0; o < unit->n_options; o++) bb_sha256_text(&s, p->plans->units[u].options[o].name);
        bb_sha256_update(&s, unit->bytes, bb_problem_rows(p, u) * unit->n_options * sizeof *unit->bytes);
    }
    bb_sha256_hex(&s, hex);
}

/* Adds what the file holds; nothing for none, and for one that cannot be read, of which its reader will tell. */
static void add_file(bb_sha256 *s, const char *path)
{
    char hex[65] = "";
    if (path && *path && bb_sha256_file(path, hex, NULL) != BB_OK) *hex = '\0';
    bb_sha256_text(s, hex);
}

/* Of the search's options, or of all: those but those that are left out here, so that a new one counts until somebody shows that it changes nothing. Files count by what they
 * hold, model and calibration text by the identity. */
static bb_status hash_options(const bb_run *r, bool all, char hex[65], bb_err *err)
{
    static char   none[] = "", foresees[] = BB_FORESEE_SHARES;
    bb_run_config c = r->config; /* borrows */
    bb_text       t = { 0 };
    char          space[65];
    bb_sha256     s;
    c.model = c.out = c.config = c.calib = c.eval = c.profile = c.database = c.qat_text = none;
    c.keep = none;
    c.effort = none;    /* what it sets is among the others */
    c.precision = none; /* the identity has the bits that it gives here */
    c.time = 0;         /* as effort */
    c.workers = 0;
    c.ledger_only = c.json = false;
    c.foresee = bb_run_foresees(&c) ? foresees : none; /* as far as it decides anything */
    if (!all) {                                        /* decides what is finalised and evaluated how, not what is chosen */
        c.eval_windows = c.tune_windows = 0;
        c.max_ram = 0;
        c.no_finalise = false;
        c.finish = c.finalise_steps = c.leave_out = none;
        c.tune_tokens = c.qat_tokens = c.qat_rate = c.qat_scale_rate = 0;
        c.qat_loss = c.qat_estimator = c.qat_schedule = none;
        c.qat_batch = 0;
    }
    bb_options_print_yaml(bb_run_options, BB_RUN_N_OPTIONS, &c, &t);
    if (t.status != BB_OK) {
        bb_text_done(&t);
        return BB_FAIL(err, BB_NOMEM, "out of memory while the options were hashed");
    }
    bb_key_space(r, space);
    bb_sha256_init(&s);
    bb_sha256_text(&s, r->key);
    bb_sha256_text(&s, r->is_sweep ? "sweep" : "run");
    bb_sha256_text(&s, space);
    bb_sha256_text(&s, t.data);
    add_file(&s, r->config.profile);
    if (all) add_file(&s, r->config.eval);
    if (all && *r->config.qat_text) bb_qat_hash_texts(r->config.qat_text, &s);
    bb_sha256_hex(&s, hex);
    bb_text_done(&t);
    return BB_OK;
}

/* Holds t, an identity or its beginning, against the stored one; *found: there is one. */
static bb_status compare(const bb_run *r, const bb_text *t, bool *found, bb_err *err)
{
    void     *value = NULL;
    size_t    size;
    bool      old;
    char      difference[512];
    bb_status status = BB_NOMEM;
    if (t->status != BB_OK) return BB_FAIL(err, BB_NOMEM, "out of memory while the settings were compared");
    BB_TRY(bb_store_get(r->store, "run", "key", &value, &size, &old, err)); /* as earlier versions named it */
    bb_free(value);
    BB_TRY(bb_store_get(r->store, "run", "identity", &value, &size, found, err));
    if (!old && !*found) goto done; /* a new directory */
    if (*found && (r->calib_tokens.ids ? size == t->size : size > t->size) && memcmp(value, t->data, t->size) == 0) goto done;
    bb_keys_difference(*found ? value : "", *found ? size : 0, t->data, " was ", ", is ", difference, sizeof difference);
    status = BB_FAIL(err, BB_USAGE,
                     "%s holds a run with another model, data or settings (%s; see its config.resolved.yaml): choose another --out, or remove it",
                     r->config.out, difference);
done:
    bb_free(value);
    return status;
}

bb_status bb_keys_check(bb_run *r, bb_err *err)
{
    bb_text   t = { 0 };
    bool      found;
    bb_status status;
    print_identity(r, &t);
    status = compare(r, &t, &found, err);
    bb_text_done(&t);
    return status;
}

bb_status bb_keys_identify(bb_run *r, bb_text *identity, bb_err *err)
{
    const size_t from = identity->size;
    bb_sha256    s;
    print_identity(r, identity);
    if (identity->status != BB_OK) return BB_FAIL(err, BB_NOMEM, "out of memory while the settings were compared");
    bb_sha256_init(&s);
    bb_sha256_text(&s, identity->data + from);
    bb_sha256_hex(&s, r->key);
    return BB_OK;
}

bb_status bb_keys_claim(bb_run *r, bb_err *err)
{
    bb_text   t = { 0 };
    bool      found;
    char      kind = r->is_sweep ? 's' : 'r';
    bb_status status;
    BB_TRY(bb_keys_identify(r, &t, err));
    BB_TRY(compare(r, &t, &found, err));
    if (!found) BB_TRY(bb_store_put(r->store, "run", "identity", t.data, t.size, err));
    BB_TRY(bb_store_put(r->store, "run", "kind", &kind, 1, err)); /* the last of `run` and `sweep`: a stage alone goes on with that */
    BB_TRY(bb_keys_options(r, err));
done:
    bb_text_done(&t);
    return status;
}

bb_status bb_keys_options(bb_run *r, bb_err *err)
{
    bb_status status;
    BB_TRY(hash_options(r, false, r->search_key, err));
    BB_TRY(hash_options(r, true, r->options_key, err));
done:
    return status;
}

/* ---- files of the directory ---- */

bb_status bb_keys_made(const bb_run *r, const char *name, bb_err *err) { return bb_store_put(r->store, "files", name, r->options_key, 64, err); }

typedef struct old {
    const bb_run *r;
    size_t        n;
} old;

static bb_status remove_old(void *self, const char *name, const void *value, size_t size, bb_err *err)
{
    old      *o = self;
    bb_status status = BB_OK;
    char     *path;
    if (size == 64 && memcmp(value, o->r->options_key, 64) == 0) return BB_OK;
    if (!(path = bb_run_path(o->r, err, "%s", name))) return BB_NOMEM;
    if (unlink(path) == 0) o->n++;
    bb_free(path);
    return status;
}

bb_status bb_keys_remove_old(bb_run *r, bb_err *err)
{
    old       o = { .r = r };
    bb_status status;
    BB_TRY(bb_store_each(r->store, "files", remove_old, &o, err));
    if (o.n) bb_info("%s: removed %zu file%s of a call with other options; what was measured is kept", r->config.out, o.n, bb_plural(o.n));
done:
    return status;
}
