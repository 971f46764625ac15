/* SPDX-License-Identifier: GPL-3.0-or-later
 * bench_integers.c: what 8-bit activations change: KL of a file's own output, products exact, to its output by the integers of `generate --precision fast`.
 *
 * usage: bench_integers MODEL.gguf TEXT CTX WINDOWS > row of CSV
 * Windows of CTX tokens, evenly spaced; every position counts. Prints model,ctx,windows,kl_nats,kl_max,same_top: mean and largest KL, share of positions
 * with the same likeliest token. */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "eval/evaluate.h"
#include "kernels/kernels.h"
#include "model/net/sample.h"

/* Adds the positions of one window. */
static bb_status add_window(const bb_net *net, const int32_t *ids, uint32_t n, bb_decoder *d[2], double *sum, double *most, size_t *same, bb_err *err)
{
    const bb_kernels *k = bb_kernels_get();
    const size_t      V = net->n_vocab;
    bb_status         status = BB_OK;
    for (int i = 0; i < 2; i++) bb_decoder_rewind(d[i]);
    for (uint32_t t = 0; t < n; t++) {
        bb_klsum s = { 0 };
        float   *exact, *fast;
        double   kl;
        BB_TRY(bb_decoder_take(d[0], ids + t, 1, &exact, err));
        BB_TRY(bb_decoder_take(d[1], ids + t, 1, &fast, err));
        bb_klsum_add(k, &s, exact, fast, V);
        kl = bb_klsum_value(&s);
        *sum += kl;
        *most = kl > *most ? kl : *most;
        *same += k->arg_max(exact, V) == k->arg_max(fast, V);
    }
done:
    return status;
}

int main(int argc, char **argv)
{
    bb_err      err = BB_ERR_INIT;
    bb_model    m = { 0 };
    bb_tokens   t = { 0 };
    bb_windows  w = { 0 };
    bb_decoder *d[2] = { NULL, NULL };
    bb_status   status = BB_OK;
    double      sum = 0, most = 0;
    size_t      same = 0;
    int32_t     bos;
    if (argc != 5) {
        fprintf(stderr, "usage: bench_integers MODEL.gguf TEXT CTX WINDOWS\n");
        return argc == 1 ? EXIT_SUCCESS : EXIT_FAILURE; /* `make bench` runs them all */
    }
    const uint32_t ctx = (uint32_t)strtoul(argv[3], NULL, 10), n = (uint32_t)strtoul(argv[4], NULL, 10);
    BB_TRY(bb_model_open(argv[1], &m, &err));
    BB_TRY(bb_tokens_load(&m, argv[2], false, &t, &err));
    BB_TRY(bb_tokens_bos(&m, &bos, &err));
    BB_TRY(bb_windows_make(&t, BB_PROTOCOL_GGUF, ctx, bos, n, true, &w, &err));
    for (int i = 0; i < 2; i++) BB_TRY(bb_decoder_create(&m.net, ctx, 0, i == 1, &d[i], &err));
    for (uint32_t i = 0; i < w.n; i++) BB_TRY(add_window(&m.net, w.tokens + (size_t)i * ctx, ctx, d, &sum, &most, &same, &err));
    const double positions = (double)w.n * ctx;
    printf("%s,%u,%u,%.6f,%.6f,%.4f\n", argv[1], ctx, w.n, sum / positions, most, (double)same / positions);
done:
    if (status != BB_OK) fprintf(stderr, "bench_integers: %s\n", err.msg);
    for (int i = 0; i < 2; i++) bb_decoder_destroy(d[i]);
    bb_windows_done(&w);
    bb_tokens_done(&t);
    bb_model_close(&m);
    return status == BB_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
