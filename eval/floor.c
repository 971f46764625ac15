/* SPDX-License-Identifier: GPL-3.0-or-later
 * floor.c: see floor.h. */
#include "eval/floor.h"

#include <string.h>

#include "base/mem.h"
#include "model/compress/compress.h"

/* Points m at an F16 copy (owned by the caller, NULL where m is F16 already). */
static bb_status copy_matrix(bb_matrix *m, void **owned, bb_err *err)
{
    const bb_format       *from = bb_format_get(m->type), *to = bb_format_get(BB_F16);
    const bb_quant_options o = { BB_METHOD_RTN, 0, 0 };
    size_t                 n, row = bb_format_row_bytes(from, m->cols);
    float                 *w;
    bb_status              status = BB_NOMEM;
    *owned = NULL;
    if (m->rows == 0 || m->type == BB_F16) return BB_OK;
    if (!bb_mul_size(m->rows, m->cols, &n)) return BB_FAIL(err, BB_NOMEM, "a matrix of %u x %u is too large", m->rows, m->cols);
    w = BB_NEW(n, float, err);
    *owned = bb_alloc(m->rows, bb_format_row_bytes(to, m->cols), err);
    if (!w || !*owned) goto done;
#pragma omp parallel for schedule(static)
    for (uint32_t i = 0; i < m->rows; i++) from->decode((const char *)m->data + i * row, w + (size_t)i * m->cols, m->cols);
    BB_TRY(bb_quantize(w, m->rows, m->cols, NULL, BB_F16, &o, *owned, NULL, err));
    m->type = BB_F16;
    m->data = *owned;
done:
    bb_free(w);
    return status;
}

bb_status bb_noise_floor(const bb_model *model, bb_net_evaluator *e, uint32_t level, bb_evaluation *out, bb_err *err)
{
    bb_net    net = model->net;
    size_t    n = (size_t)net.n_layer * BB_N_PARTS + 2, k = 0;
    bb_block *blocks = BB_NEW(net.n_layer, bb_block, err);
    void    **owned = BB_NEW0(n, void *, err);
    bb_status status = BB_NOMEM;
    if (!blocks || !owned) goto done;
    memcpy(blocks, model->net.blocks, net.n_layer * sizeof *blocks);
    net.blocks = blocks;
    BB_TRY(copy_matrix(&net.embd, &owned[k++], err));
    BB_TRY(copy_matrix(&net.head, &owned[k++], err));
    for (uint32_t b = 0; b < net.n_layer; b++)
        for (int p = 0; p < BB_N_PARTS; p++) BB_TRY(copy_matrix(&blocks[b].w[p], &owned[k++], err));
    BB_TRY(bb_net_evaluator_score(e, &net, level, out, NULL, err));
done:
    bb_net_evaluator_forget(e); /* it tells matrices apart by address, and these are freed now */
    for (size_t i = 0; owned && i < n; i++) bb_free(owned[i]);
    bb_free(owned);
    bb_free(blocks);
    return status;
}
