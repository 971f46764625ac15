/* SPDX-License-Identifier: GPL-3.0-or-later
 * ref_net.h: the oracle of the network tests: the same networks in float64, by definition, one token and one head at a time;
 * and random tiny networks to run it on. Shares only net.h and the format decoders with the code under test.
 */
#ifndef BB_TESTS_REF_NET_H
#define BB_TESTS_REF_NET_H

#include "model/net/net.h"

/* h (T, W) := embeddings and what the rows carry, then block by block. One window. */
void ref_embed(const bb_net *net, const int32_t *tokens, uint32_t T, double *h);
void ref_block(const bb_net *net, const bb_block *block, uint32_t T, double *h);
/* z (V) of one row of h, of which the stream counts. */
void ref_logits(const bb_net *net, const double *h, double *z);
/* All blocks and all logits: z (T, V). */
void ref_run(const bb_net *net, const int32_t *tokens, uint32_t T, double *z);

double ref_log_sum_exp(const double *z, size_t n);
double ref_kl(const double *z_ref, const double *z, size_t n);

/* ---- random tiny networks ---- */

typedef struct ref_shape {
    uint32_t n_head, n_kv, n_ff;
} ref_shape;

enum { REF_HEAD_NORMS = 1, REF_POST_NORMS = 2 /* of what sublayers give */, REF_WHOLE_NORMS = 4 /* of queries and keys; and none of inputs */ };

typedef struct ref_spec {
    const char      *name;
    const char      *arch;
    uint32_t         n_vocab, n_embd, n_layer, head_dim, n_rot;
    bool             neox, bias;
    unsigned         norms; /* beside those of inputs */
    bool             factors, untied;
    float            freq_scale;
    bb_type          type;   /* of all matrices but the embedding */
    const ref_shape *shapes; /* [n_layer] */
} ref_spec;

typedef struct ref_model {
    bb_net net;
    void  *owned[320];
    size_t n_owned;
} ref_model;

void ref_model_make(const ref_spec *spec, uint64_t seed, ref_model *m);
void ref_model_free(ref_model *m);
/* The block with more KV heads, heads or channels (what: which), its weights read too far: for what refuses it before it reads them. */
enum { REF_N_WIDER = 3 };
bb_block ref_wider(const bb_block *block, int what);
/* n floats, uniform with the given standard deviation, owned by m. */
float *ref_random(ref_model *m, size_t n, double mean, double deviation, uint64_t *seed);
/* n random rows of W, as they stand before a block; owned by m. */
float *ref_states(ref_model *m, size_t n, uint64_t *seed);
/* The streams (n, C) of rows h (n, W); owned by m. */
float *ref_streams(ref_model *m, const float *h, size_t n);
double ref_noise(uint64_t *seed); /* uniform in [-1, 1) */

extern const ref_spec ref_specs[]; /* every architecture and pruned shape that is supported */
extern const size_t   ref_n_specs;

#endif
