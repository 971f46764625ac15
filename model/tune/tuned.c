/* SPDX-License-Identifier: GPL-3.0-or-later
 * tuned.c: a network with bytes of its own. See tune.h. */
#include "model/tune/tune.h"

#include <string.h>

#include "base/mem.h"
#include "model/net/lattice.h"

/* Copies size bytes to *own and points *view there; an absent array stays absent. */
static bb_status take(const void *from, size_t size, void *own, void *view, bb_err *err)
{
    void *copy = NULL;
    if (from && size) {
        if (!(copy = bb_alloc(size, 1, err))) return BB_NOMEM;
        memcpy(copy, from, size);
    }
    memcpy(own, &copy, sizeof copy);
    memcpy(view, &copy, sizeof copy);
    return BB_OK;
}

static size_t matrix_bytes(const bb_matrix *m) { return m->rows ? m->rows * bb_format_row_bytes(bb_format_get(m->type), m->cols) : 0; }

static bb_status take_lattice(bb_matrix *w, bb_tuned_block *own, int part, bb_err *err)
{
    const size_t    n_codes = bb_lattice_code_bytes(w->rows, w->cols);
    bb_lattice_box *box = bb_lattice_box_new(w->rows, w->cols, err);
    if (!box) return BB_NOMEM;
    memcpy(box->bytes, w->lattice->codes, n_codes);
    memcpy(box->bytes + n_codes, w->lattice->side, 2 * bb_lattice_side_numbers(w->rows, w->cols));
    memcpy(box->w, w->data, (size_t)w->rows * w->cols * sizeof(float));
    bb_lattice_view(box, w);
    own->lattice[part] = box;
    return BB_OK;
}

static bb_status take_block(const bb_net *net, bb_block *k, bb_tuned_block *own, bb_err *err)
{
    bb_status status;
    for (int p = 0; p < BB_N_PARTS; p++) {
        if (k->w[p].rows && k->w[p].lattice) BB_TRY(take_lattice(&k->w[p], own, p, err));
        else BB_TRY(take(k->w[p].data, matrix_bytes(&k->w[p]), &own->w[p], &k->w[p].data, err));
    }
    for (int i = 0; i < BB_N_NORMS; i++) BB_TRY(take(k->norm[i], bb_norm_length(net, k, (bb_norm)i) * sizeof(float), &own->norm[i], &k->norm[i], err));
done:
    return status;
}

bb_status bb_tuned_view(const bb_net *from, bb_tuned *out, bb_err *err)
{
    memset(out, 0, sizeof *out);
    if (!(out->blocks = BB_NEW(from->n_layer, bb_block, err))) return BB_NOMEM;
    if (from->n_layer) memcpy(out->blocks, from->blocks, from->n_layer * sizeof *out->blocks);
    out->net = *from;
    out->net.blocks = out->blocks;
    return BB_OK;
}

bb_status bb_tuned_copy(const bb_net *from, bb_tuned *out, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_tuned_view(from, out, err));
    status = BB_NOMEM;
    if (!(out->bytes = BB_NEW0(from->n_layer, bb_tuned_block, err))) goto done;
    for (uint32_t i = 0; i < from->n_layer; i++) BB_TRY(take_block(from, &out->blocks[i], &out->bytes[i], err));
    BB_TRY(take(from->embd.data, matrix_bytes(&from->embd), &out->embd, &out->net.embd.data, err));
    BB_TRY(take(from->head.data, matrix_bytes(&from->head), &out->head, &out->net.head.data, err));
    BB_TRY(take(from->out_norm, from->n_embd * sizeof(float), &out->out_norm, &out->net.out_norm, err));
done:
    if (status != BB_OK) bb_tuned_done(out);
    return status;
}

void bb_tuned_done(bb_tuned *t)
{
    for (uint32_t i = 0; t->bytes && i < t->net.n_layer; i++) {
        for (int p = 0; p < BB_N_PARTS; p++) {
            bb_free(t->bytes[i].w[p]);
            bb_free(t->bytes[i].lattice[p]);
        }
        for (int k = 0; k < BB_N_NORMS; k++) bb_free(t->bytes[i].norm[k]);
    }
    bb_free(t->bytes);
    bb_free(t->blocks);
    bb_free(t->embd);
    bb_free(t->head);
    bb_free(t->out_norm);
    for (size_t i = 0; i < t->n_maps; i++) bb_map_close(&t->maps[i]);
    bb_free(t->maps);
    memset(t, 0, sizeof *t);
}
