/* SPDX-License-Identifier: GPL-3.0-or-later
 * codebook_search.h: between the codebook_*.c files: the search for the best code of one vector of weights.
 *
 * Interface, in calling order: bb_cb_problem_init() for a target, then bb_cb_search() for as many scales as wanted. */
#ifndef BB_KERNELS_FORMATS_CODEBOOK_SEARCH_H
#define BB_KERNELS_FORMATS_CODEBOOK_SEARCH_H

#include "kernels/formats/codebook.h"

typedef struct bb_cb_problem {
    const bb_cb_spec *spec;
    const bb_book    *book;
    double            h[8], ht[8]; /* h; h |t|, of IQ1 h t */
    double            shift[2];    /* [0] of the group, or of codes with bit 16 clear; [1] of codes with it set */
    uint32_t          signs;       /* of the target */
    bool              odd;         /* one sign must be flipped */
} bb_cb_problem;

/* A code with its p = sum h t z and q = sum h z^2: at scale a its error is sum h t^2 - 2 a p + a^2 q. */
typedef struct bb_cb_point {
    double   p, q;
    uint32_t code;
} bb_cb_point;

/* t, h (vec; h may be NULL = ones). shift_bit: IQ1_S only. Non-finite t counts as 0, h not above 0 or not finite as 0. */
void bb_cb_problem_init(bb_cb_problem *pr, const bb_cb_spec *s, int shift_bit, const float *t, const float *h);
/* The code that minimises cq q - cp p, cq and cp >= 0; false (and out untouched) when none is below limit. */
bool bb_cb_search(const bb_cb_problem *pr, double cq, double cp, double limit, bb_cb_point *out);

/* The same for one word of two (word 0 or 1), with one flipped sign or none; out->code says nothing of the other. */
bool bb_cb_search_word(const bb_cb_problem *pr, unsigned word, bool odd, double cq, double cp, double limit, bb_cb_point *out);

/* At cq = 1, cp = 2: the least form of the words at weight `at` of the vector, all but `word`; with odd also where one sign is flipped, in least[1]. */
void bb_cb_other_words(const bb_cb_problem *pr, unsigned at, double shift, unsigned word, bool odd, double least[2]);

/* The code that minimises (t - a z)' M (t - a z), a > 0, t finite. M (vec, vec). See codebook_metric.c. */
uint32_t bb_cb_nearest_metric(const bb_cb_spec *s, double a, int shift_bit, const float *t, const float *metric);

#endif
