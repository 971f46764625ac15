/* SPDX-License-Identifier: GPL-3.0-or-later
 * bench_latent.c: what a training step pays for the codes of a matrix, beside its products.
 *
 * Prints CSV: type,encode_ns,searched_ns,gradients_ns: processor nanoseconds a weight, the best of STEPS; encode: new codes of weights that walk, a three
 * hundredth of the unit of their rate a step, as in the middle of a training; searched: where nothing is known of the codes (the first step); gradients: of the
 * scale fields. OMP_NUM_THREADS=1 for figures of one core.
 */
#include <math.h>
#include <stdio.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/tune/latent.h"

enum { ROWS = 576, COLS = 1536, N = ROWS * COLS, STEPS = 12 };

static void walk(bb_latent *l, double by, bb_rng *r)
{
    for (size_t i = 0; i < N; i++) l->w[i] += (float)(by * l->unit * bb_rng_normal(r));
}

static double seconds_of(void (*step)(bb_latent *), bb_latent *l)
{
    const double began = bb_cpu_s();
    step(l);
    return bb_cpu_s() - began;
}

static void gradients(bb_latent *l) { bb_latent_gradients(l, false); }

static bb_status bench(const bb_format *f, bb_err *err)
{
    const size_t   row = bb_format_row_bytes(f, COLS);
    unsigned char *packed = bb_alloc(ROWS, row, err);
    float         *w = BB_NEW(N, float, err);
    bb_latent      l = { 0 };
    bb_rng         r;
    double         searched, encode = HUGE_VAL, gradient = HUGE_VAL;
    bb_status      status = packed && w ? BB_OK : BB_NOMEM;
    BB_TRY(status);
    bb_rng_init(&r, 1, f->name);
    for (size_t i = 0; i < N; i++) w[i] = (float)(0.05 * bb_rng_normal(&r));
    for (size_t i = 0; i < ROWS; i++) f->encode(w + i * COLS, NULL, packed + i * row, COLS);
    const bb_matrix m = { .type = f->type, .rows = ROWS, .cols = COLS, .data = packed };
    BB_TRY(bb_latent_create(&m, packed, &l, err));
    walk(&l, 0.1, &r);
    searched = seconds_of(bb_latent_encode, &l);
    for (int i = 0; i < STEPS; i++) {
        walk(&l, 0.003, &r);
        encode = fmin(encode, seconds_of(bb_latent_encode, &l));
        gradient = fmin(gradient, seconds_of(gradients, &l));
    }
    printf("%s,%.2f,%.2f,%.2f\n", f->name, 1e9 * encode / N, 1e9 * searched / N, 1e9 * gradient / N);
done:
    bb_latent_done(&l);
    bb_free(packed);
    bb_free(w);
    return status;
}

int main(void)
{
    bb_err err = BB_ERR_INIT;
    puts("type,encode_ns,searched_ns,gradients_ns");
    for (size_t i = 0; bb_format_at(i); i++)
        if (bb_format_at(i)->vec && bench(bb_format_at(i), &err) != BB_OK) {
            fprintf(stderr, "%s\n", err.msg);
            return 1;
        }
    return 0;
}
