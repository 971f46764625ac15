/* SPDX-License-Identifier: GPL-3.0-or-later
 * budgets.c: the search space of a run and the sizes that it is asked for. See run_parts.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/gates.h"
#include "engine/run_parts.h"

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t bpw_bytes(const bb_run *r, double bpw) { return (int64_t)(bpw * (double)r->n_weights / 8); }

/* Nothing is to be done for a size that the source has already. */
static bb_status refuse_above_source(const bb_run *r, int64_t bytes, bb_err *err)
{
    char     text[32], source[32], label[BB_MODEL_LABEL];
    uint64_t have = r->model.source.size_bytes;
    if ((uint64_t)bytes < have) return BB_OK;
    bb_format_size((uint64_t)bytes, text);
    bb_format_size(have, source);
    return BB_FAIL(err, BB_USAGE, "%s (%lld bytes) is not below the source, %s of %llu bytes (%s): it already fits, and there is nothing to do", text,
                   (long long)bytes, bb_model_source_label(&r->model, label), (unsigned long long)have, source);
}

/* One target with a few sizes around it (the front beside it, densest near the target), or a sweep. */
static bb_status choose_budgets(bb_run *r, bb_err *err)
{
    static const double around[] = { 0.72, 0.85, 0.94, 1.0, 1.06, 1.18, 1.4 };
    enum { N_AROUND = sizeof around / sizeof *around, TARGET = 3 };
    const bb_run_config *c = &r->config;
    uint64_t             smallest, largest;
    int64_t              target = c->target_size ? (int64_t)c->target_size : bpw_bytes(r, c->target_bpw);
    char                 a[32], b[32], t[32];
    bb_status            status = BB_OK;
    size_t               n = 0;
    BB_TRY(bb_model_space_reach(r->space, &smallest, &largest, err));
    bb_format_size(smallest, a);
    bb_format_size(largest, b);
    if (!r->is_sweep) {
        if (target <= 0) return BB_FAIL(err, BB_USAGE, "no size was asked for: give --target-size 3.2MiB or --target-bpw 2.5");
        bb_format_size((uint64_t)target, t);
        BB_TRY(refuse_above_source(r, target, err));
        if (target < (int64_t)smallest)
            return BB_FAIL(err, BB_INFEASIBLE,
                           "%s (%lld bytes) cannot be reached: with these formats and this pruning the file is between %llu bytes (%s) "
                           "and %llu bytes (%s)",
                           t, (long long)target, (unsigned long long)smallest, a, (unsigned long long)largest, b);
        if (!(r->budgets = BB_NEW(N_AROUND, int64_t, err))) return BB_NOMEM;
        for (size_t i = 0; i < N_AROUND; i++) {
            int64_t size = (int64_t)((double)target * around[i]);
            if (i == TARGET) size = target;
            if (i == TARGET || (size >= (int64_t)smallest && size <= (int64_t)largest && size < (int64_t)r->model.source.size_bytes)) r->budgets[n++] = size;
        }
        r->n_budgets = n;
        return BB_OK;
    }
    if (r->n_budgets == 0) {
        double most = fmin((double)largest, (double)r->model.source.size_bytes - 1);
        double low = fmax((double)bpw_bytes(r, c->min_bpw), (double)smallest), high = fmin((double)bpw_bytes(r, c->max_bpw), most);
        if (high < low)
            return BB_FAIL(err, BB_INFEASIBLE,
                           "%g to %g bits per weight cannot be reached: with these formats and this pruning the file is between %llu "
                           "bytes (%s) and %llu bytes (%s)",
                           c->min_bpw, c->max_bpw, (unsigned long long)smallest, a, (unsigned long long)largest, b);
        if (low > (double)bpw_bytes(r, c->min_bpw))
            bb_info("sizes begin at %.3f bits per weight (%.0f bytes), the smallest file: --min-bpw %g cannot be reached", 8 * low / (double)r->n_weights, low,
                    c->min_bpw);
        if (high < (double)bpw_bytes(r, c->max_bpw))
            bb_info("sizes end at %.3f bits per weight (%.0f bytes): --max-bpw %g is above the %s", 8 * high / (double)r->n_weights, high, c->max_bpw,
                    largest < r->model.source.size_bytes ? "largest file" : "source");
        n = (size_t)c->points;
        if (!(r->budgets = BB_NEW(n, int64_t, err))) return BB_NOMEM;
        for (size_t i = 0; i < n; i++) r->budgets[i] = (int64_t)llround(low * pow(high / low, n > 1 ? (double)i / (double)(n - 1) : 0));
        r->n_budgets = n;
    }
    qsort(r->budgets, r->n_budgets, sizeof *r->budgets, by_value);
    for (size_t i = 0; i < r->n_budgets; i++) BB_TRY(refuse_above_source(r, r->budgets[i], err));
    for (size_t i = 0; i < r->n_budgets; i++)
        if (r->budgets[i] < (int64_t)smallest) {
            bb_format_size((uint64_t)r->budgets[i], t);
            return BB_FAIL(err, BB_INFEASIBLE,
                           "%s (%lld bytes) cannot be reached: with these formats and this pruning the file is between %llu bytes (%s) "
                           "and %llu bytes (%s)",
                           t, (long long)r->budgets[i], (unsigned long long)smallest, a, (unsigned long long)largest, b);
        }
done:
    return status;
}

/* The smallest and the largest size that is asked for, in bits a weight. */
static bb_status asked_bits(bb_run *r, double bits[2], bb_err *err)
{
    const bb_run_config *c = &r->config;
    bb_status            status = BB_OK;
    bits[0] = c->min_bpw;
    bits[1] = c->max_bpw;
    if (!r->is_sweep) bits[0] = bits[1] = c->target_size ? 8 * (double)c->target_size / (double)r->n_weights : c->target_bpw;
    else if (*c->sizes) {
        if (r->n_budgets == 0) BB_TRY(bb_list_sizes(r->config.sizes, &r->budgets, &r->n_budgets, err));
        qsort(r->budgets, r->n_budgets, sizeof *r->budgets, by_value);
        bits[0] = 8 * (double)r->budgets[0] / (double)r->n_weights;
        bits[1] = 8 * (double)r->budgets[r->n_budgets - 1] / (double)r->n_weights;
    }
done:
    return status;
}

bb_status bb_run_make_space(bb_run *r, bb_model_space **out, bb_err *err)
{
    const bb_run_config   *c = &r->config;
    bool                   width = strcmp(c->prune, "all") == 0 || strcmp(c->prune, "width") == 0;
    bb_model_space_options o = { c->formats,
                                 c->embd_formats,
                                 c->experimental,
                                 width || strcmp(c->prune, "kv") == 0,
                                 width || strcmp(c->prune, "ffn") == 0,
                                 strcmp(c->prune, "all") == 0,
                                 bb_width_order_obs(c->width_order),
                                 bb_width_order_gates(c->width_order),
                                 (uint32_t)c->ffn_divisor,
                                 (uint32_t)c->screen,
                                 { 0, 0 } };
    bb_status              status;
    BB_TRY(asked_bits(r, o.bits, err));
    BB_TRY(bb_model_space_create(&r->model, &o, out, err));
done:
    return status;
}

bb_status bb_run_reset_space(bb_run *r, bb_err *err)
{
    bb_status status;
    bb_model_space_destroy(r->space);
    bb_free(r->budgets);
    r->space = NULL;
    r->budgets = NULL;
    r->n_budgets = 0;
    BB_TRY(bb_run_make_space(r, &r->space, err));
    BB_TRY(choose_budgets(r, err));
done:
    return status;
}

bb_status bb_run_open_space(bb_run *r, bb_err *err)
{
    const bb_run_config *c = &r->config;
    bb_status            status;
    BB_TRY(bb_model_open(c->model, &r->model, err));
    BB_TRY(bb_model_refuse_lattice(&r->model, err));
    if ((uint32_t)c->ctx > r->model.net.n_ctx_train) {
        bb_warn("--ctx %lld is longer than the model was trained for: %u is used", (long long)c->ctx, r->model.net.n_ctx_train);
        r->config.ctx = r->model.net.n_ctx_train;
    }
    if (bb_model_is_quantized(&r->model)) {
        char label[BB_MODEL_LABEL];
        bb_warn("%s is quantized itself: every KL is measured from this %s, not from full precision", c->model, bb_model_source_label(&r->model, label));
    }
    r->n_weights = bb_model_n_weights(&r->model);
    BB_TRY(bb_run_reset_space(r, err));
done:
    return status;
}

bb_status bb_run_sizes(const bb_run *r, const char *list, int64_t **sizes, size_t *n, bb_err *err)
{
    uint64_t  smallest, largest;
    bb_status status;
    BB_TRY(bb_list_sizes(list, sizes, n, err));
    BB_TRY(bb_model_space_reach(r->space, &smallest, &largest, err));
    for (size_t i = 0; i < *n && status == BB_OK; i++)
        if ((*sizes)[i] < (int64_t)smallest)
            status = BB_FAIL(err, BB_INFEASIBLE, "--sizes: no plan has %lld bytes: the smallest has %llu", (long long)(*sizes)[i],
                             (unsigned long long)smallest);
done:
    return status;
}
