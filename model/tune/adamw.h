/* SPDX-License-Identifier: GPL-3.0-or-later
 * adamw.h: the optimizer of everything that is trained here: AdamW [1] with clipping by the global norm, and learning-rate schedules.
 *
 * Use: describe the arrays once (bb_param), then per step: fill the gradients, bb_grads_clip, bb_adamw_step at bb_schedule_rate(step).
 * With m, v the running moments of the gradient g, t = 1, 2, .. the step and rate a:
 *   m = b1 m + (1-b1) g     v = b2 v + (1-b2) g^2
 *   w = w - a_p ( (m / (1-b1^t)) / ( sqrt(v / (1-b2^t)) + eps ) + decay_p w ),     a_p = a * rate_factor of the array
 * Everything is entry by entry in float32, so the number of threads changes nothing; the norm is summed in float64 over pieces of fixed
 * size, in order. State can be saved and loaded: a resumed run ends with the same bits. m and v take eight bytes an entry, or, coarse, two and a little
 * (moments.h): then each step begins at what the bytes say.
 * [1] Loshchilov, Hutter. Decoupled weight decay regularization. ICLR 2019. arXiv 1711.05101, Alg. 2.
 */
#ifndef BB_MODEL_TUNE_ADAMW_H
#define BB_MODEL_TUNE_ADAMW_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* One trained array and its gradient, both borrowed for the optimizer's life. */
typedef struct bb_param {
    float *w, *g; /* [n] */
    size_t n;
    float  rate_factor; /* times the step's rate; 0: frozen */
    float  decay;       /* decoupled weight decay */
} bb_param;

typedef struct bb_adamw_options {
    double beta1, beta2, eps;
    bool   coarse; /* moments of 8 bits */
} bb_adamw_options;
#define BB_ADAMW_DEFAULT \
    { \
        0.9, 0.95, 1e-8, false \
    }

typedef struct bb_adamw bb_adamw;

/* Copies params (not the arrays). o NULL: the defaults. Moments start at 0. */
bb_status bb_adamw_create(const bb_param *params, size_t n_params, const bb_adamw_options *o, bb_adamw **out, bb_err *err);
void      bb_adamw_destroy(bb_adamw *a);

/* One update. A gradient that is no finite number is the caller's to notice: see the norm. Gradients are kept. */
void     bb_adamw_step(bb_adamw *a, double rate);
uint64_t bb_adamw_steps(const bb_adamw *a); /* done so far */
void     bb_adamw_reset(bb_adamw *a);       /* moments and step count to 0 */

/* Euclidean norm of all gradients. */
double bb_grads_norm(const bb_param *params, size_t n_params);
/* Scales all gradients by limit / norm when the norm is above limit (limit 0: never); returns the norm before. A norm that is not finite leaves
 * them as they are. */
double bb_grads_clip(const bb_param *params, size_t n_params, double limit);
void   bb_grads_zero(const bb_param *params, size_t n_params);

/* The state as bytes of this machine's order: step count and moments (the weights are the caller's). */
size_t    bb_adamw_state_bytes(const bb_adamw *a);
void      bb_adamw_state_save(const bb_adamw *a, void *out);
bb_status bb_adamw_state_load(bb_adamw *a, const void *state, size_t size, bb_err *err); /* BB_BAD_FILE: of other arrays */
/* The same without a copy: the moments, so many bytes to read or to set, beside the number of steps that they come from. */
void *bb_adamw_moments(bb_adamw *a, size_t *bytes);
void  bb_adamw_set_steps(bb_adamw *a, uint64_t steps);

typedef enum bb_schedule_kind {
    BB_SCHEDULE_CONSTANT,
    BB_SCHEDULE_COSINE, /* half a cosine from peak to last over the steps after the warm-up */
    BB_SCHEDULE_WSD     /* peak until the last n_decay steps, then straight down to last (warm-up, stable, decay) */
} bb_schedule_kind;

typedef struct bb_schedule {
    bb_schedule_kind kind;
    uint64_t         n_steps, n_warmup, n_decay;
    double           peak, last;
} bb_schedule;

/* The rate of step 0 .. n_steps-1: during the warm-up peak (step+1) / n_warmup; `last` is reached at step n_steps - 1 and kept. */
double bb_schedule_rate(const bb_schedule *s, uint64_t step);

#endif
