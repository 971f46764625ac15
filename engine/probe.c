/* SPDX-License-Identifier: GPL-3.0-or-later
 * probe.c: see probe.h. */
#include "engine/probe.h"

#include <math.h>
#include <string.h>

#include "base/csv.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/memory.h"
#include "engine/shipped.h"
#include "engine/time_budget.h"
#include "kernels/kernels.h"

/* Above this share of the mean of the domains one is told of, unless it is small anyway. */
static const double far_above = 2, small = 0.01;

/* A domain's windows, and what full precision says there when it was asked. */
typedef struct domain {
    const char   *name;
    bb_windows    w;
    char          hash[65];
    bb_reference *reference;
} domain;

static void domain_done(domain *d)
{
    bb_reference_destroy(d->reference);
    bb_windows_done(&d->w);
}

/* The windows; none when the text is too short for one in this vocabulary. */
static bb_status open_domain(bb_run *r, const bb_shipped_text *t, domain *d, bb_err *err)
{
    bb_tokens      tokens = { 0 };
    int32_t        bos;
    uint32_t       ctx = r->model.net.n_ctx_train < BB_PROBE_CTX ? r->model.net.n_ctx_train : BB_PROBE_CTX, n;
    const uint32_t least = 16;
    bb_status      status;
    if ((int64_t)ctx > r->config.ctx) ctx = (uint32_t)r->config.ctx;
    BB_TRY(bb_tokens_bos(&r->model, &bos, err));
    BB_TRY(bb_shipped_tokens(&r->model, t, &tokens, err));
    if (tokens.n < ctx || ctx < least) goto done;
    n = (uint32_t)(tokens.n / ctx < BB_PROBE_WINDOWS ? tokens.n / ctx : BB_PROBE_WINDOWS);
    d->name = t->name;
    BB_TRY(bb_windows_make(&tokens, BB_PROTOCOL_GGUF, ctx, bos, n, true, &d->w, err));
    bb_windows_hash(&d->w, d->hash);
done:
    bb_tokens_done(&tokens);
    return status;
}

/* *known: false where it is not known and --time is over. */
static bb_status evaluate(bb_run *r, const bb_model *m, domain *d, bb_result *out, bool *known, bb_err *err)
{
    void     *value = NULL;
    size_t    size;
    bool      found = false;
    bb_status status = BB_NOMEM;
    char     *key = bb_asprintf(err, "probe|%s|%s|%s|%s", bb_model_sha256(m), bb_model_sha256(&r->model), d->hash, bb_kernels_bits());
    if (!key) return BB_NOMEM;
    BB_TRY(bb_store_get(r->store, "probe", key, &value, &size, &found, err));
    found = found && size == sizeof *out;
    *known = found || !bb_time_is_over(r);
    if (!*known) goto done;
    if (found) {
        memcpy(out, value, sizeof *out);
        goto done;
    }
    if (!d->reference) BB_TRY(bb_reference_create(r->backend, &r->model.net, &d->w, bb_memory_for_caches(r) / 8, NULL, &d->reference, err));
    BB_TRY(bb_evaluate_against(&m->net, d->reference, 0, NULL, out, NULL, NULL, err));
    BB_TRY(bb_store_put(r->store, "probe", key, out, sizeof *out, err));
done:
    bb_free(value);
    bb_free(key);
    return status;
}

static double mean_of(const double *x, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    return n ? sum / n : 0;
}

unsigned bb_probe_far(const double *kl, int n)
{
    const double mean = mean_of(kl, n);
    unsigned     mask = 0;
    for (int i = 0; i < n; i++)
        if (kl[i] > far_above * mean && kl[i] > small) mask |= 1u << i;
    return mask;
}

/* *known: as in evaluate, of any of the domains: the plan has no rows then. */
static bb_status probe_plan(bb_run *r, const bb_front_plan *p, domain *domains, int n, bb_csv_writer *w, bool *known, bb_err *err)
{
    bb_result v[BB_N_SHIPPED_PROBES];
    bb_model  m = { 0 };
    bb_text   far = { 0 };
    double    kl[BB_N_SHIPPED_PROBES], mean;
    char     *path = bb_run_path(r, err, "models/%s.gguf", p->hash);
    bb_status status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    BB_TRY(bb_model_open(path, &m, err));
    for (int i = 0; i < n; i++) {
        BB_TRY(evaluate(r, &m, &domains[i], &v[i], known, err));
        if (!*known) goto done;
        kl[i] = v[i].kl;
    }
    mean = mean_of(kl, n);
    for (int i = 0; i < n; i++) {
        bb_csv_put_text(w, p->hash);
        BB_ROW(w, p->size_bytes, domains[i].name, (int64_t)domains[i].w.n, (int64_t)domains[i].w.ctx, kl[i], v[i].kl_se, v[i].ppl,
               exp(v[i].nll - v[i].ln_ratio), v[i].top1, mean > 0 ? kl[i] / mean : 1);
        if (bb_probe_far(kl, n) >> i & 1) bb_text_addf(&far, "%s%s (KL %.3g)", far.size ? ", " : "", domains[i].name, kl[i]);
    }
    BB_TRY(far.status);
    if (far.size)
        bb_warn(
            "the plan of %lld bytes is more than twice as far from the source as in the mean of %d domains (KL %.3g) on %s: calibrate on text of that kind too "
            "(--calib FILE,FILE,self; domains.csv)",
            (long long)p->size_bytes, n, mean, far.data);
done:
    bb_text_done(&far);
    bb_model_close(&m);
    bb_free(path);
    return status;
}

bb_status bb_probe_domains(bb_run *r, const bb_front_plan *const *plans, size_t n, bb_err *err)
{
    domain         domains[BB_N_SHIPPED_PROBES] = { 0 };
    bb_csv_writer *w = NULL;
    bb_progress    progress;
    int            n_domains = 0;
    size_t         late = 0;
    bb_status      status = BB_OK;
    if (!bb_source_find(&r->model.source, "tokenizer.ggml.tokens")) return BB_OK;
    for (int i = 0; i < BB_N_SHIPPED_PROBES; i++) {
        BB_TRY(open_domain(r, &bb_shipped_probes[i], &domains[n_domains], err));
        n_domains += domains[n_domains].w.n > 0;
    }
    BB_TRY(bb_run_table(r, "domains.csv", "plan_hash,size_bytes,domain,windows,ctx,kl_nats,kl_se,ppl,ppl_source,top1,of_mean", &w, err));
    bb_progress_start(&progress, "probe domains", n);
    for (size_t i = 0; i < n; i++, bb_progress_add(&progress, 1)) {
        if (bb_interrupted()) {
            status = BB_FAIL(err, BB_INTERRUPTED, "interrupted; the same command goes on");
            goto done;
        }
        bool known = true;
        BB_TRY(probe_plan(r, plans[i], domains, n_domains, w, &known, err));
        late += !known;
    }
    bb_progress_end(&progress);
    if (late)
        bb_warn("time: %zu of %zu plan%s of the front %s not probed on other kinds of text (domains.csv): --time is over; `bitbudget evaluate %s` does it",
                late, n, bb_plural(n), late == 1 ? "is" : "are", r->config.out);
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    for (int i = 0; i < BB_N_SHIPPED_PROBES; i++) domain_done(&domains[i]);
    return status;
}
