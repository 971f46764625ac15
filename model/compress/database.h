/* SPDX-License-Identifier: GPL-3.0-or-later
 * database.h: the option database: packed compressed versions of every linear on disk, and plans applied to it.
 *
 * Unit and option names: base/plan.h. An entry is one packed matrix, a file named by a hash of (model, calibration windows,
 * CPU level and BLAS core, method and parameters, layer, part, kept, format; docs/keys.md): a file that exists is right, a kill leaves at most a temporary file. Entries are made when first
 * asked for and mapped read-only afterwards, so the database is never in RAM whole. Thread-safe.
 *
 * A width (bb_width): for Q,K,V,O the number of KV groups kept; for GATE,UP,DOWN the FFN channels, by one of two orders, each of them nested: that of the
 * block's own error (bb_mask_order), stored with the Hessians, or another one that bb_database_use_gates brings. Rows of a packed matrix are independent, so Q,K,V,GATE,UP of a pruned block are row selections of the full-size entry; O and DOWN are
 * compensated for the removed columns and encoded again (the survivors' quantization shares that Hessian).
 */
#ifndef BB_MODEL_COMPRESS_DATABASE_H
#define BB_MODEL_COMPRESS_DATABASE_H

#include "base/plan.h"
#include "model/compress/compress.h"
#include "model/compress/output_moments.h"
#include "model/compress/plan_units.h"
#include "model/model.h"

typedef struct bb_database bb_database;

typedef struct bb_database_config {
    const char       *dir;     /* created when absent */
    const bb_model   *model;   /* borrowed for the database's life, as */
    const bb_backend *backend; /* where it runs */
    const int32_t    *tokens;  /* calibration windows [n_windows * ctx], borrowed */
    uint32_t          n_windows, ctx;
    bb_quant_options  quant;
    uint32_t          ffn_step; /* FFN channels removed together when ordering (performance knob) */
    bool              whole;    /* no structure will be removed: what orders KV groups and FFN channels is not computed */
    bool              cut;      /* O and DOWN of pruned blocks just lose their columns, nothing compensates: for comparison only */
} bb_database_config;

/* Hessians and masks of the full-precision network are computed block by block when absent (resumable), with progress. */
bb_status bb_database_open(const bb_database_config *config, bb_database **db, bb_err *err);
void      bb_database_close(bb_database *db);

/* Of a block: KV groups or channels, kept longest first; NULL: it has none. */
typedef struct bb_kept_order {
    uint32_t *of[BB_N_SUBLAYERS];
} bb_kept_order;

/* The order [n_layer] of widths with BB_BY_GATES; copied. Before the first such width is asked for, once; without it they are BB_UNSUPPORTED. Entries are
 * named by what they keep, so that no two orders are confused. */
bb_status bb_database_use_gates(bb_database *db, const bb_kept_order *order, bb_err *err);
bool      bb_database_has_gates(const bb_database *db);

/* The moments of gradients at outputs, with which a rebuild lets the rows of a matrix answer for each other; the database's own from now on. NULL: there are none. */
void                     bb_database_use_outputs(bb_database *db, bb_output_moments *m);
const bb_output_moments *bb_database_outputs(const bb_database *db);

/* Factors of second moments are kept for what is encoded next, of up to so many bytes beside those in use; from here on they are made again when they are needed. */
enum { BB_DATABASE_CACHE_BYTES = 256 << 20 };
void bb_database_forget_factors(bb_database *db);

/* One packed matrix; its data stays valid until close. Full width: unpruned. type F16/F32/BF16 equal to the source type and unpruned
 * columns: the source's own bytes. stats may be NULL (else: of the entry, as measured when it was made). */
bb_status bb_database_matrix(bb_database *db, uint32_t layer, bb_part part, bb_width width, bb_type type, bb_matrix *out, bb_quant_stats *stats, bb_err *err);
/* The embedding (tied: weighted by the head's input moments as well), the separate head, the table of per-layer embeddings; BB_UNIT_EMBD and what follows, in
 * their order. */
typedef enum bb_table { BB_TABLE_EMBD, BB_TABLE_HEAD, BB_TABLE_TOKENS, BB_N_TABLES } bb_table;
bb_status bb_database_embedding(bb_database *db, bb_table table, bb_type type, bb_matrix *out, bb_quant_stats *stats, bb_err *err);
/* What an option of a unit alone puts in, and its error: a matrix in a format, as wide as its blocks let it be; for KV groups and FFN widths attn_output or ffn_down with the columns
 * that stay, unquantized, and the error that least squares leaves (all of it, 1, when nothing stays: rows 0). */
bb_status bb_database_option(bb_database *db, const bb_plan_unit *unit, uint32_t option, bb_matrix *out, double *error, bb_err *err);
/* Kept channels (ascending) of a block's FFN or KV groups for a width; borrows until close. */
bb_status bb_database_mask(bb_database *db, uint32_t layer, bool ffn, bb_width width, const uint32_t **channels, bb_err *err);
/* The order of the block's own error, kept longest first; NULL: it was not measured, or there is no such sublayer. Borrows until close. */
const uint32_t *bb_database_order(const bb_database *db, uint32_t layer, bb_sublayer s);
/* As long: the relative error of the block's own output when only the first i + 1 stay. */
const double *bb_database_order_error(const bb_database *db, uint32_t layer, bb_sublayer s);

/* The second moments of an input of a block (layer n_layer: of the head, feed 0); n_cols 0: there is none. Borrows until close. */
const bb_hessian *bb_database_moments(const bb_database *db, uint32_t layer, bb_feed feed);

/* Where its files lie, and the identity of all that they depend on but layer, part, width and format: for what else is kept there. */
const char       *bb_database_dir(const bb_database *db);
const bb_backend *bb_database_backend(const bb_database *db);
void              bb_database_key(const bb_database *db, char hex[65]);

/* Points the tables of net at entries of the types that it says. */
bb_status bb_database_tables(bb_database *db, bb_net *net, bb_err *err);

/* plan -> net: copies the model's net and blocks (blocks: [n_layer] of the caller) and points the matrices that the plan names at entries. */
bb_status bb_database_apply(bb_database *db, const bb_plan *plan, bb_net *out, bb_block *blocks, bb_err *err);
/* The same by indices, with one unit changed where it is not BB_NO_UNIT, as bb_plan_space_shape takes them. */
bb_status bb_database_apply_at(bb_database *db, const bb_plan_space *s, const uint16_t *x, uint32_t unit, uint32_t option, bb_net *out, bb_block *blocks,
                               bb_err *err);

#endif
