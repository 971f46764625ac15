/* SPDX-License-Identifier: GPL-3.0-or-later
 * driver.c: a deterministic mutation fuzzer: no coverage feedback, no clock; the same arguments give the same inputs.
 *
 *   fuzz_x [RUNS [SEED]]     mutate the target's seeds RUNS times (default 20000)
 *   fuzz_x FILE...           run the given inputs once each (corpora, crashes)
 *
 * Each run takes a seed, applies 1 to 6 mutations (bits, bytes, boundary integers of 4 and 8 bytes, cuts, copies, splices with another
 * seed), half of them in the first 512 bytes, where headers live. The input of a crash is left in fuzz-crash.bin of the working folder.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "tests/fuzz/fuzz.h"

enum { MAX_SEEDS = 32, MAX_GROWTH = 4096 };

typedef struct input {
    unsigned char *data;
    size_t         size;
} input;

static input  seeds[MAX_SEEDS], current;
static size_t n_seeds;

static void save_and_die(int signal_number)
{
    FILE *f = fopen("fuzz-crash.bin", "wb");
    if (f) {
        fwrite(current.data, 1, current.size, f);
        fclose(f);
    }
    (void)signal_number;
    _exit(99);
}

static size_t position(bb_rng *r, size_t size)
{
    size_t n = bb_rng_below(r, 2) && size > 512 ? 512 : size;
    return n ? (size_t)bb_rng_below(r, n) : 0;
}

static void put_integer(bb_rng *r, input *x)
{
    static const uint64_t values[] = { 0,
                                       1,
                                       2,
                                       3,
                                       8,
                                       9,
                                       13,
                                       31,
                                       32,
                                       63,
                                       64,
                                       127,
                                       255,
                                       256,
                                       511,
                                       513,
                                       0x7FFF,
                                       0xFFFF,
                                       0x7FFFFFFF,
                                       0x80000000,
                                       0xFFFFFFFF,
                                       0x100000000,
                                       INT64_MAX,
                                       UINT64_C(1) << 63,
                                       UINT64_MAX,
                                       UINT64_MAX / 18,
                                       UINT64_MAX / 34 };
    uint64_t              v = values[bb_rng_below(r, sizeof values / sizeof *values)];
    size_t                width = (size_t)4 << bb_rng_below(r, 2), at = position(r, x->size);
    if (bb_rng_below(r, 4) == 0) v = x->size - bb_rng_below(r, 64);
    if (at + width <= x->size) memcpy(x->data + at, &v, width);
}

/* Replaces n bytes at `at` of x by the m bytes of p; x->data has room for MAX_GROWTH more than it began with. */
static void replace(input *x, size_t at, size_t n, const unsigned char *p, size_t m, size_t room)
{
    if (x->size - n + m > room) return;
    memmove(x->data + at + m, x->data + at + n, x->size - at - n);
    memcpy(x->data + at, p, m);
    x->size = x->size - n + m;
}

static void mutate(bb_rng *r, input *x, size_t room)
{
    unsigned char piece[256];
    size_t        at = position(r, x->size), n, m;
    const input  *other = &seeds[bb_rng_below(r, n_seeds)];
    if (x->size == 0) return;
    n = 1 + (size_t)bb_rng_below(r, x->size - at < 64 ? x->size - at : 64);
    switch (bb_rng_below(r, 7)) {
    case 0: x->data[at] ^= (unsigned char)(1u << bb_rng_below(r, 8)); break;
    case 1: x->data[at] = (unsigned char)bb_rng_u64(r); break;
    case 2:
    case 3: put_integer(r, x); break;
    case 4: replace(x, at, n, piece, 0, room); break;
    case 5: /* copy a piece of this input or of another seed to here */
        m = (size_t)bb_rng_below(r, sizeof piece);
        if (bb_rng_below(r, 2)) other = x;
        if (m > other->size) m = other->size;
        memcpy(piece, other->data + bb_rng_below(r, other->size - m + 1), m);
        replace(x, at, bb_rng_below(r, 2) ? n : 0, piece, m, room);
        break;
    default:
        if (bb_rng_below(r, 4) == 0) x->size = at;
        break;
    }
}

static int run_mutations(uint64_t runs, uint64_t seed)
{
    bb_rng r;
    size_t largest = 0;
    while (n_seeds < MAX_SEEDS && fuzz_seed((unsigned)n_seeds, &seeds[n_seeds].data, &seeds[n_seeds].size)) n_seeds++;
    for (size_t i = 0; i < n_seeds; i++) largest = seeds[i].size > largest ? seeds[i].size : largest;
    current.data = bb_alloc(largest + MAX_GROWTH, 1, NULL);
    if (!current.data || n_seeds == 0) return 1;
    bb_rng_init(&r, seed, "fuzz");
    for (uint64_t i = 0; i < runs; i++) {
        const input *s = &seeds[bb_rng_below(&r, n_seeds)];
        unsigned     n = i < n_seeds ? 0 : 1 + (unsigned)bb_rng_below(&r, 6); /* the first runs are the seeds as they are */
        if (n == 0) s = &seeds[i];
        memcpy(current.data, s->data, s->size);
        current.size = s->size;
        while (n--) mutate(&r, &current, largest + MAX_GROWTH);
        LLVMFuzzerTestOneInput(current.data, current.size);
    }
    bb_free(current.data);
    for (size_t i = 0; i < n_seeds; i++) bb_free(seeds[i].data);
    printf("%llu runs of %zu seeds, no failure\n", (unsigned long long)runs, n_seeds);
    return 0;
}

static int run_files(int n, char **paths)
{
    for (int i = 0; i < n; i++) {
        bb_err err = BB_ERR_INIT;
        char  *data;
        if (bb_file_read(paths[i], &data, &current.size, &err) != BB_OK) {
            fprintf(stderr, "%s\n", err.msg);
            return 1;
        }
        current.data = (unsigned char *)data;
        LLVMFuzzerTestOneInput(current.data, current.size);
        bb_free(data);
        printf("%s: no failure\n", paths[i]);
    }
    return 0;
}

int main(int argc, char **argv)
{
    char    *end = NULL;
    uint64_t runs = argc > 1 ? strtoull(argv[1], &end, 10) : 20000;
    signal(SIGABRT, save_and_die); /* ASan with abort_on_error=1 and our own checks come here */
    signal(SIGALRM, save_and_die); /* an input that takes too long */
    if (end && *end) return run_files(argc - 1, argv + 1);
    return run_mutations(runs, argc > 2 ? strtoull(argv[2], NULL, 10) : 1);
}
