/* SPDX-License-Identifier: GPL-3.0-or-later
 * rebuild.h: a chosen plan rebuilt in sequence: each linear is quantized again on the inputs that the already compressed prefix really
 * produces, towards what full precision does there (rebuild.c says how). Shapes, masks and formats stay those of the plan. */
#ifndef BB_MODEL_COMPRESS_REBUILD_H
#define BB_MODEL_COMPRESS_REBUILD_H

#include "model/compress/checkpoint.h"
#include "model/compress/database.h"
#include "model/compress/factor.h"
#include "model/compress/lattice_fit.h"

typedef struct bb_rebuilt {
    bb_net        net;
    bb_block     *blocks; /* owned; net.blocks */
    bb_map       *maps;   /* open: the new matrices, as they lie in the checkpoint's files */
    void        **packed; /* owned: the new matrices that are lattices */
    size_t        n_maps, n_packed;
    bb_checkpoint checkpoint; /* files of the finished matrices: bb_checkpoint_remove when nobody goes on from them; what is mapped stays */
} bb_rebuilt;

/* What full precision makes of calibration windows, kept from one rebuild to the next: it is the same for every plan. Zero-initialised but for `most`. */
typedef struct bb_full_states {
    uint64_t most;    /* bytes; where the states need more nothing is kept */
    float   *h;       /* [n_layer * bb_net_sublayers][n_windows * ctx][W, bb_row_width] what each half of a block gives; owned */
    uint32_t n;       /* halves that are there */
    char     key[65]; /* of model, windows and bits */
} bb_full_states;
void bb_full_states_done(bb_full_states *s);
/* All of them at once, where they have room: what follows only reads them, so that several rebuilds may have copies of *kept at the same time. What is there already
 * stays. BB_INTERRUPTED when asked to stop. */
bb_status bb_full_states_make(bb_database *db, const bb_model *m, const int32_t *tokens, uint32_t n_windows, uint32_t ctx, bb_full_states *kept, bb_err *err);

/* tokens (n_windows * ctx): calibration windows. BB_INTERRUPTED when asked to stop: every finished matrix is then in the database's folder, and the
 * same call goes on from there, to the same bytes. kept: read and filled in; NULL: none. The bytes do not depend on it. */
bb_status bb_rebuild(bb_database *db, const bb_model *m, const bb_plan *plan, const int32_t *tokens, uint32_t n_windows, uint32_t ctx,
                     const bb_quant_options *o, bb_full_states *kept, bb_rebuilt *out, bb_err *err);
/* Every linear as LC2 (lattice_fit.h), whatever the plan's type is; embedding and head as the plan says. */
bb_status bb_rebuild_lattice(bb_database *db, const bb_model *m, const bb_plan *plan, const int32_t *tokens, uint32_t n_windows, uint32_t ctx,
                             const bb_lattice_options *o, bb_rebuilt *out, bb_err *err);
void      bb_rebuilt_done(bb_rebuilt *r);

/* One matrix of the plan's shape where it stands: what it should be, under which moments it is encoded. */
typedef struct bb_rebuild_view {
    uint32_t          layer, rows, cols;
    bb_part           part;
    const float      *target; /* (rows, cols) */
    const bb_hessian *h;      /* moments of the inputs that the rebuilt network in front of it produces */
    const bb_factor  *factor; /* of h; NULL: it has none */
} bb_rebuild_view;

/* A sublayer of the plan at another width where it stands: what a rebuild of the plan with that width would have put there, everything in front of it being as it
 * is, in the formats of the plan. */
typedef struct bb_rebuilt_width {
    bb_width width;
    bb_block block;              /* this sublayer of it alone; its matrices look into packed, or into the database */
    void    *packed[BB_N_PARTS]; /* goes to who is shown it; bb_free */
} bb_rebuilt_width;

enum { BB_REBUILD_MOST_WIDTHS = 32 };

/* Who looks on, in the order of the network; what is shown is valid during the call. */
typedef struct bb_rebuild_watcher {
    void *self;
    bb_status (*matrix)(void *self, const bb_rebuild_view *v, bb_err *err); /* every one of the plan, also those that stay as they are */
    /* The other widths of a sublayer that are wanted, at most BB_REBUILD_MOST_WIDTHS, none of them 0: *n, width[*n]; NULL: none. Then each is shown, but for those
     * that a format of the plan does not divide into. A sublayer that the plan has dropped is not asked for. */
    void (*wanted)(void *self, uint32_t layer, bb_sublayer s, bb_width *width, uint32_t *n);
    bb_status (*width)(void *self, uint32_t layer, bb_sublayer s, bb_rebuilt_width *w, bb_err *err);
} bb_rebuild_watcher;

/* The same, looked on. It begins at the first block whatever an earlier call has finished. */
bb_status bb_rebuild_watched(bb_database *db, const bb_model *m, const bb_plan *plan, const int32_t *tokens, uint32_t n_windows, uint32_t ctx,
                             const bb_quant_options *o, const bb_rebuild_watcher *watcher, bb_rebuilt *out, bb_err *err);

#endif
