/* SPDX-License-Identifier: GPL-3.0-or-later
 * imatrix.c: the second moments of a run as an importance matrix: their diagonals, times the number of tokens, under the names of the source's tensors. */
#include "model/io/imatrix.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/run.h"
#include "model/net/arch.h"

/* sums (n_cols) and, behind them, the count; NULL: no memory. */
static float *diagonal(const bb_hessian *h, bb_err *err)
{
    float *sums = BB_NEW((size_t)h->n_cols + 1, float, err);
    for (uint32_t i = 0; sums && i < h->n_cols; i++) sums[i] = (float)((double)h->h[(size_t)i * h->n_cols + i] * (double)h->n_tokens);
    if (sums) sums[h->n_cols] = (float)h->n_tokens;
    return sums;
}

static bb_status put_block(const bb_run *r, uint32_t i, bb_gguf_out *out, float **sums, bb_err *err)
{
    const bb_arch *arch = r->model.net.arch;
    unsigned       fused = 0; /* set of the feeds whose one tensor is written */
    char           name[64];
    bb_status      status = BB_OK;
    for (int p = 0; p < BB_N_PARTS; p++) {
        const bb_feed     feed = bb_parts[p].feed;
        const bb_hessian *h = bb_database_moments(r->database, i, feed);
        if (!r->model.net.blocks[i].w[p].rows || !h->n_cols || (fused & BB_SET(feed))) continue;
        if (!sums[feed] && !(sums[feed] = diagonal(h, err))) return BB_NOMEM;
        snprintf(name, sizeof name, "blk.%u.%s.weight", i, arch->fused[feed] ? arch->fused[feed] : bb_parts[p].name);
        if (arch->fused[feed]) fused |= BB_SET(feed);
        BB_TRY(bb_imatrix_put(out, name, sums[feed], sums[feed] + h->n_cols, h->n_cols, err));
    }
done:
    return status;
}

bb_status bb_run_imatrix(bb_run *r, const char *path, bb_err *err)
{
    const uint32_t    n_layer = r->model.net.n_layer;
    const bb_hessian *head = bb_database_moments(r->database, n_layer, 0);
    const char       *text = strrchr(r->config.calib, '/');
    bb_gguf_out      *out = NULL;
    float           **sums = BB_NEW0((size_t)(n_layer + 1) * BB_N_FEEDS, float *, err);
    bb_status         status = sums ? BB_OK : BB_NOMEM;
    BB_TRY(status);
    BB_TRY(bb_gguf_out_create(&out, err));
    BB_TRY(bb_imatrix_keys(out, text ? text + 1 : r->config.calib, r->calib.n, r->calib.ctx, err));
    for (uint32_t i = 0; i < n_layer; i++) BB_TRY(put_block(r, i, out, sums + (size_t)i * BB_N_FEEDS, err));
    if (head->n_cols) {
        float **of_head = &sums[(size_t)n_layer * BB_N_FEEDS];
        status = BB_NOMEM;
        if (!(*of_head = diagonal(head, err))) goto done;
        BB_TRY(bb_imatrix_put(out, r->model.net.head.rows ? "output.weight" : "token_embd.weight", *of_head, *of_head + head->n_cols, head->n_cols, err));
    }
    BB_TRY(bb_gguf_out_write(out, path, err));
done:
    bb_gguf_out_destroy(out);
    for (size_t i = 0; sums && i < (size_t)(n_layer + 1) * BB_N_FEEDS; i++) bb_free(sums[i]);
    bb_free(sums);
    return status;
}
