/* SPDX-License-Identifier: GPL-3.0-or-later
 * speed.h: predicted tokens a second of a plan, from a runtime profile (configs/profiles/README.md): the time of every matrix by its format and
 * its weights, nothing else. */
#ifndef BB_ENGINE_SPEED_H
#define BB_ENGINE_SPEED_H

#include "engine/model_space.h"
#include "search/space.h"

typedef struct bb_speed {
    const bb_problem *problem; /* borrowed */
    double          **decode;  /* [n_units] tables shaped as bb_unit.cost: seconds a token; NaN where the profile lacks the format */
    double          **prefill; /* the same for a prompt's token */
    double            min_tps; /* bound that bb_speed_allows tests; 0: none */
} bb_speed;

/* The profile's columns are format,decode_ps,prefill_ps. A format that the profile lacks has no prediction; every format lacking is BB_USAGE. */
bb_status bb_speed_load(const bb_model_space *s, const char *path, bb_speed *out, bb_err *err);
void      bb_speed_done(bb_speed *s);

double bb_speed_decode(const bb_speed *s, const uint16_t *x); /* tokens a second; NaN: not predicted */
double bb_speed_prefill(const bb_speed *s, const uint16_t *x);

/* Adds `price` (nats a second of decoding time) times the time of every option to the costs of a variant of the problem; options without
 * prediction are forbidden. */
void bb_speed_price(const bb_speed *s, double price, bb_variant *v);
bool bb_speed_allows(void *speed, const uint16_t *x); /* bb_problem.allowed: decode speed of at least min_tps */

/* One sentence on the formats of a network whose products llama.cpp computes slowly on x86, and on their share of the weights that every token
 * needs; *note NULL: they are less than a hundredth. The caller frees. */
bb_status bb_speed_note(const bb_net *net, char **note, bb_err *err);

#endif
