/* SPDX-License-Identifier: GPL-3.0-or-later
 * eval_detail.c: see eval_detail.h. */
#include "cli/eval_detail.h"

#include <math.h>

#include "base/mem.h"
#include "cli/json.h"

enum { SEED = 1 }; /* of the bootstrap: the same text gives the same errors */

bb_status bb_eval_detail_of(const bb_model *m, const bb_tokens *t, const bb_windows *w, bool spread, const char *mark, const bb_scores *s, bb_eval_detail *out,
                            bb_err *err)
{
    bb_documents d = { 0 };
    bb_status    status = BB_OK;
    uint32_t    *blocks = bb_alloc((size_t)w->n * w->n_scored, sizeof *blocks, err);
    if (!blocks) return BB_NOMEM;
    out->n_spans = bb_scores_by_place(s, w, out->span);
    BB_TRY(bb_documents_find(m, t, bb_window_at(t, w, spread, w->n - 1) + w->ctx, mark, &d, err));
    out->rule = bb_documents_blocks(&d, t, w, spread, blocks) ? d.rule : "windows";
    BB_TRY(bb_scores_bootstrap(s, blocks, SEED, &out->error, err));
done:
    bb_documents_done(&d);
    bb_free(blocks);
    return status;
}

void bb_eval_detail_text(const bb_eval_detail *d, bb_text *out)
{
    const bb_bootstrap *e = &d->error;
    bb_text_addf(out, "documents     %u, told apart by %s", e->n_blocks, d->rule);
    if (e->n_blocks > 1) bb_text_addf(out, "; by a bootstrap of them nll +- %.5f", e->nll_se);
    if (isfinite(e->kl_se)) bb_text_addf(out, ", KL +- %.6f (95 %%: %.6f to %.6f), ln ratio +- %.6f", e->kl_se, e->kl_low, e->kl_high, e->ln_ratio_se);
    bb_text_add(out, "\n\npositions       tokens  perplexity");
    bb_text_add(out, isfinite(d->span[0].kl) ? "   reference                     KL  same top 1\n" : "\n");
    for (uint32_t i = 0; i < d->n_spans; i++) {
        const bb_place_span *s = &d->span[i];
        bb_text_addf(out, "%5u-%-5u %10llu %11.4f", s->first, s->last, (unsigned long long)s->n_tokens, s->ppl);
        if (isfinite(s->kl)) bb_text_addf(out, " %11.4f  %9.6f +- %8.6f   %7.3f %%", s->ppl_ref, s->kl, s->kl_se, 100 * s->top1);
        bb_text_add(out, "\n");
    }
}

json_t *bb_eval_detail_json(const bb_eval_detail *d)
{
    const bb_bootstrap *e = &d->error;
    json_t             *spans = json_array();
    for (uint32_t i = 0; i < d->n_spans; i++) {
        const bb_place_span *s = &d->span[i];
        json_array_append_new(spans, json_pack("{s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "first", (json_int_t)s->first, "last", (json_int_t)s->last, "tokens",
                                               (json_int_t)s->n_tokens, "ppl", bb_json_number(s->ppl), "ppl_reference", bb_json_number(s->ppl_ref), "kl_nats",
                                               bb_json_number(s->kl), "kl_se", bb_json_number(s->kl_se), "top1", bb_json_number(s->top1)));
    }
    return json_pack("{s:o, s:{s:s, s:I, s:o, s:o, s:o, s:o, s:o}}", "positions", spans, "documents", "rule", d->rule, "blocks", (json_int_t)e->n_blocks,
                     "nll_se", bb_json_number(e->nll_se), "kl_se", bb_json_number(e->kl_se), "kl_low", bb_json_number(e->kl_low), "kl_high",
                     bb_json_number(e->kl_high), "ln_ratio_se", bb_json_number(e->ln_ratio_se));
}
