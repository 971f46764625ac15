/* SPDX-License-Identifier: GPL-3.0-or-later
 * export_internal.h: the exporter's parts, which the table of sizes (sizes.c) asks one by one. */
#ifndef BB_MODEL_EXPORT_EXPORT_INTERNAL_H
#define BB_MODEL_EXPORT_EXPORT_INTERNAL_H

#include "model/export/export.h"
#include "model/io/gguf.h"
#include "model/net/arch.h"

typedef struct bb_exporter {
    const bb_model *source;
    const bb_net   *net;
    bool            with_data;
    const bb_arch  *arch;               /* the file's */
    bool            lattice;            /* it holds LC2 (model/net/lattice.h), and says so in another */
    bool            experimental;       /* it holds types that stock llama.cpp does not read, and says so in a key */
    bool            permuted;           /* it pairs other numbers in RoPE than the source's */
    bool            mixed;              /* parts that the source's architecture has in one tensor have different types */
    uint32_t        n_layer;            /* blocks in the file */
    uint32_t       *from;               /* [n_layer] index of the net's block; owned */
    uint32_t       *given[BB_N_COUNTS]; /* [n_layer] as the net has them; owned */
    uint32_t       *shape[BB_N_COUNTS]; /* the same as written: with the stand-ins for what the graph needs; owned */
    bb_gguf_out    *out;
    void          **owned; /* renamed keys, permuted and zero data */
    size_t          n_owned, room;
} bb_exporter;

/* Whether a block is in the file at all. */
bool bb_exporter_needs_block(const bb_block *block);
/* What that key takes. */
uint64_t bb_exporter_experimental_bytes(void);
/* From `given` and `mixed` alone: the architecture, then `shape`, then whether the file says shapes at all. */
bool      bb_exporter_keeps_arch(const bb_exporter *e);
bb_status bb_exporter_choose_arch(bb_exporter *e, bool keeps, bb_err *err);
void      bb_exporter_choose_shapes(bb_exporter *e);
bool      bb_exporter_differs(const bb_exporter *e);
/* Into `out`: all keys; embedding, head and vectors; block i of the file, whose shape can be written. */
bb_status bb_exporter_put_keys(bb_exporter *e, const bb_provenance *from, bool differs, bb_err *err);
bb_status bb_exporter_put_outer(bb_exporter *e, bb_err *err);
bb_status bb_exporter_put_block(bb_exporter *e, uint32_t i, bb_err *err);
bb_status bb_exporter_check_attention(const bb_exporter *e, uint32_t i, bb_err *err);
void      bb_exporter_done(bb_exporter *e);

#endif
