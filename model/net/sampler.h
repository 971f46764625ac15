/* SPDX-License-Identifier: GPL-3.0-or-later
 * sampler.h: the next token from logits: penalty, cuts, temperature, draw; each a function on plain arrays, all deterministic at every CPU level.
 *
 * The order is llama.cpp's: repeat penalty, top-k, top-p, min-p (on probabilities at temperature 1), temperature, draw.
 */
#ifndef BB_MODEL_NET_SAMPLER_H
#define BB_MODEL_NET_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "base/rng.h"

typedef struct bb_choice {
    int32_t id;
    float   z; /* logit */
    float   e; /* exp(z - the largest z), where a function below has set it */
} bb_choice;

typedef struct bb_sampler {
    double   temperature;    /* 0: the likeliest token (the first of equals); the cuts then change nothing */
    size_t   top_k;          /* 0: all */
    double   top_p;          /* 1: all */
    double   min_p;          /* 0: all */
    double   repeat_penalty; /* 1: none */
    uint32_t repeat_last;    /* tokens that it looks back on */
} bb_sampler;

/* Of each id among recent (once, however often it is there), within 0 .. n-1: positive logits are divided by penalty, others multiplied. O(n_recent^2). */
void bb_sampler_penalise(float *z, size_t n, const int32_t *recent, size_t n_recent, double penalty);
/* What is kept of n >= 1 choices moves to the front, at least one; the number of them is returned. Equal logits: the lower id is the likelier. */
size_t bb_sampler_top_k(bb_choice *c, size_t n, size_t k); /* the k likeliest, likeliest first; k 0: all, as they stand */
size_t bb_sampler_top_p(bb_choice *c, size_t n,
                        double top_p); /* the fewest of the likeliest with at least this probability, likeliest first; 1: all, as they stand */
size_t bb_sampler_min_p(bb_choice *c, size_t n, double min_p); /* those with at least this part of the largest probability, in their order */
/* The id of the choice that u in [0, 1) falls on where each takes room as softmax(z / temperature) says; temperature > 0. */
int32_t bb_sampler_draw(bb_choice *c, size_t n, double temperature, double u);

/* All of it. z (n) is changed by the penalty; history: the n_history tokens so far, prompt included; room (n): scratch. One draw of r a token unless
 * the temperature is 0. */
int32_t bb_sampler_next(const bb_sampler *s, float *z, size_t n, const int32_t *history, size_t n_history, bb_choice *room, bb_rng *r);

#endif
