/* SPDX-License-Identifier: GPL-3.0-or-later
 * rebuild.c: see rebuild.h. */
#include "model/compress/rebuild.h"

#include <string.h>

#include "base/log.h"
#include "base/mem.h"

void bb_rebuilt_done(bb_rebuilt *r)
{
    for (size_t i = 0; r->packed && i < r->n_packed; i++) bb_free(r->packed[i]);
    bb_free(r->packed);
    bb_free(r->blocks);
    memset(r, 0, sizeof *r);
}

/* Quantizes one matrix of the block again; w becomes a view of the new bytes. Matrices in their source type stay. */
static bb_status rebuild_matrix(bb_database *db, const bb_model *m, uint32_t layer, bb_part part, uint32_t kept, const bb_hessian *h,
                                const bb_quant_options *o, bb_matrix *w, bb_rebuilt *out, bb_err *err)
{
    const bb_format *f = bb_format_get(w->type);
    bb_type          source = m->net.blocks[layer].w[part].type;
    const bb_format *sf = bb_format_get(source);
    bb_matrix        target;
    float           *dense = NULL;
    void            *packed = NULL;
    size_t           row;
    bb_status        status;
    if (w->rows == 0 || w->type == source || f->block == 1) return BB_OK;
    BB_TRY(bb_database_matrix(db, layer, part, kept, source, &target, NULL, err));
    status = BB_NOMEM;
    if (!(dense = BB_NEW((size_t)w->rows * w->cols, float, err))) goto done;
    if (!(packed = bb_alloc(w->rows, bb_format_row_bytes(f, w->cols), err))) goto done;
    row = bb_format_row_bytes(sf, w->cols);
    for (uint32_t r = 0; r < w->rows; r++) sf->decode((const char *)target.data + r * row, dense + (size_t)r * w->cols, w->cols);
    BB_TRY(bb_quantize(dense, w->rows, w->cols, h, w->type, o, packed, NULL, err));
    w->data = packed;
    out->packed[out->n_packed++] = packed;
    packed = NULL;
done:
    bb_free(dense);
    bb_free(packed);
    return status;
}

/* Second moments of the block's inputs over all windows, the prefix being compressed; h is left unchanged. */
static bb_status collect(bb_forward *f, const bb_net *net, const bb_block *block, const float *h, uint32_t n_windows, uint32_t batch, uint32_t ctx,
                         float *scratch, bb_hessians *out, bb_err *err)
{
    size_t    row = (size_t)ctx * net->n_embd;
    bb_status status = BB_OK;
    memset(out, 0, sizeof *out);
    for (uint32_t first = 0; first < n_windows; first += batch) {
        uint32_t n = n_windows - first < batch ? n_windows - first : batch;
        memcpy(scratch, h + first * row, n * row * sizeof(float));
        BB_TRY(bb_hessians_collect(f, net, block, n, ctx, scratch, out, err));
    }
    BB_TRY(bb_hessians_finish(out, err));
done:
    return status;
}

bb_status bb_rebuild(bb_database *db, const bb_model *m, const bb_plan *plan, const int32_t *tokens, uint32_t n_windows, uint32_t ctx,
                     const bb_quant_options *o, bb_rebuilt *out, bb_err *err)
{
    enum { BATCH = 16 };
    const bb_net *net = &m->net;
    size_t        row = (size_t)ctx * net->n_embd;
    bb_forward   *f = NULL;
    float        *h = NULL, *scratch = NULL;
    bb_hessians   moments = { 0 };
    bb_status     status = BB_NOMEM;
    memset(out, 0, sizeof *out);
    out->blocks = BB_NEW0(net->n_layer, bb_block, err);
    out->packed = BB_NEW0((size_t)net->n_layer * BB_N_PARTS, void *, err);
    h = BB_NEW(n_windows * row, float, err);
    scratch = BB_NEW(BATCH * row, float, err);
    if (!out->blocks || !out->packed || !h || !scratch) goto done;
    BB_TRY(bb_forward_create(net, BATCH, ctx, &f, err));
    BB_TRY(bb_database_apply(db, plan, &out->net, out->blocks, err));
    for (uint32_t first = 0; first < n_windows; first += BATCH) {
        uint32_t n = n_windows - first < BATCH ? n_windows - first : BATCH;
        BB_TRY(bb_forward_embed(f, &out->net, tokens + (size_t)first * ctx, n, ctx, h + first * row, err));
    }
    for (uint32_t b = 0; b < net->n_layer; b++) {
        bb_block *block = &out->blocks[b];
        if (bb_interrupted()) {
            status = BB_FAIL(err, BB_INTERRUPTED, "interrupted while a plan was rebuilt");
            goto done;
        }
        BB_TRY(collect(f, &out->net, block, h, n_windows, BATCH, ctx, scratch, &moments, err));
        for (int p = 0; p < BB_N_PARTS; p++)
            BB_TRY(rebuild_matrix(db, m, b, (bb_part)p, p <= BB_PART_O ? block->n_kv : block->n_ff, &moments.in[bb_hessian_of((bb_part)p)], o,
                                  &block->w[p], out, err));
        bb_hessians_done(&moments);
        for (uint32_t first = 0; first < n_windows; first += BATCH) {
            uint32_t n = n_windows - first < BATCH ? n_windows - first : BATCH;
            BB_TRY(bb_forward_block(f, &out->net, block, n, ctx, h + first * row, NULL, NULL, err));
        }
    }
done:
    bb_hessians_done(&moments);
    bb_forward_destroy(f);
    bb_free(h);
    bb_free(scratch);
    if (status != BB_OK) bb_rebuilt_done(out);
    return status;
}
