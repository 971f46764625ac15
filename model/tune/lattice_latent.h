/* SPDX-License-Identifier: GPL-3.0-or-later
 * lattice_latent.h: an LC2 matrix (model/net/lattice.h) that can be trained. Internal to tune/: latent.c passes on to it.
 *
 * Behind the codes stands a float32 latent v for each weight of the turned basis, in steps of the lattice: z = round(v), cut to 0 .. 3; behind A, b, s_in, s_out
 * their numbers, rounded to F16 in what is stored. Gradients, from G = dL/dW, with Y the turned-back points:
 *     ds_out[i] = sum_j G_ij Y_ij s_in[j], ds_in[j] = sum_i G_ij Y_ij s_out[i], dy = T_rows' (s_out G s_in) T_cols,
 *     db = sum over groups of dy, dA = sum of dy z', dz = A' dy; all exact with z held; dv := dz, straight through the rounding or by a slope (tune.h). */
#ifndef BB_MODEL_TUNE_LATTICE_LATENT_H
#define BB_MODEL_TUNE_LATTICE_LATENT_H

#include "model/net/lattice.h"
#include "model/tune/latent.h"

struct bb_lattice_latent {
    bb_lattice_frame frame;
    double          *d;             /* (rows, cols) scratch */
    float           *side, *g_side; /* [bb_lattice_side_numbers] numbers behind A, b, s_in, s_out; dL/d of them */
    float           *stored;        /* the same as they are stored */
    double          *sums;          /* [rows][BB_LATTICE_MAP] scratch */
    float           *shown;         /* (rows, cols) weights of the network that the bytes belong to; borrowed; NULL: nobody's */
};

/* What bb_latent_create, _params and so on do for a lattice; l->w are the latents v, l->g_w becomes dv. */
bb_status bb_lattice_latent_create(const bb_matrix *m, bb_latent *l, bb_err *err);
void      bb_lattice_latent_done(bb_latent *l);
void      bb_lattice_latent_params(const bb_latent *l, double weights, double fields, bb_param *out);
void      bb_lattice_latent_gradients(bb_latent *l, bool differentiable);
void      bb_lattice_latent_encode(bb_latent *l);
void      bb_lattice_latent_refresh(bb_latent *l);
void      bb_lattice_latent_decode(bb_latent *l);

#endif
