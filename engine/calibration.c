/* SPDX-License-Identifier: GPL-3.0-or-later
 * calibration.c: see calibration.h. */
#include "engine/calibration.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "kernels/kernels.h"
#include "model/net/sample.h"

static bb_status sample(const bb_model *m, uint32_t n_windows, uint32_t ctx, uint64_t seed, const char *path, bb_err *err)
{
    int32_t     bos, *ids = BB_NEW((size_t)n_windows * ctx, int32_t, err);
    bb_sampling s = { .n_sequences = n_windows, .length = ctx, .temperature = 1, .seed = seed };
    bb_status   status = BB_NOMEM;
    if (!ids) goto done;
    BB_TRY(bb_tokens_bos(m, &bos, err));
    s.prompt = &bos;
    s.n_prompt = bos >= 0;
    BB_TRY(bb_sample_ids(&m->net, &s, "sample calibration text", ids, err));
    BB_TRY(bb_file_write(path, ids, (size_t)n_windows * ctx * sizeof *ids, err));
done:
    bb_free(ids);
    return status;
}

/* Named by what the ids depend on. */
static char *samples_path(const bb_model *m, const char *dir, uint32_t n_windows, uint32_t ctx, uint64_t seed, bb_err *err)
{
    bb_sha256 s;
    char      hex[65], text[128];
    bb_sha256_init(&s);
    bb_sha256_text(&s, "bitbudget samples 1");
    bb_sha256_text(&s, bb_kernels_bits());
    bb_sha256_text(&s, bb_model_sha256(m));
    snprintf(text, sizeof text, "%u windows of %u, seed %llu", n_windows, ctx, (unsigned long long)seed);
    bb_sha256_text(&s, text);
    bb_sha256_hex(&s, hex);
    return bb_asprintf(err, "%s/calib-self-%.32s.u32", dir, hex);
}

bb_status bb_calibration_tokens(const bb_model *m, const char *calib, const char *dir, uint32_t n_windows, uint32_t ctx, uint64_t seed, bool parse_special,
                                bb_tokens *out, bb_err *err)
{
    const uint64_t whole = (uint64_t)n_windows * ctx * sizeof(int32_t);
    uint64_t       bytes = 0;
    bb_status      status = BB_OK;
    char          *samples;
    if (strcmp(calib, "self") != 0) return bb_tokens_load(m, calib, parse_special, out, err);
    if (!(samples = samples_path(m, dir, n_windows, ctx, seed, err))) return BB_NOMEM;
    if (bb_file_size(samples, &bytes, NULL) != BB_OK || bytes != whole) BB_TRY(sample(m, n_windows, ctx, seed, samples, err));
    BB_TRY(bb_tokens_load(m, samples, false, out, err));
done:
    bb_free(samples);
    return status;
}

bb_method bb_calibration_method(const char *name)
{
    return strcmp(name, "rtn") == 0 ? BB_METHOD_RTN : strcmp(name, "weighted") == 0 ? BB_METHOD_WEIGHTED : BB_METHOD_FEEDBACK;
}

uint32_t bb_calibration_ffn_step(const bb_net *net)
{
    uint32_t widest = 0;
    for (uint32_t b = 0; b < net->n_layer; b++)
        if (net->blocks[b].n_ff > widest) widest = net->blocks[b].n_ff;
    return widest / 96 + 1;
}
