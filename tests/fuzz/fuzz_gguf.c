/* SPDX-License-Identifier: GPL-3.0-or-later
 * fuzz_gguf.c: any bytes may be given to the GGUF reader and to the opening of models.
 *
 * Properties: no memory error, no leak; a failure has a sentence of printable characters; what parses can be put into a writer, whose
 * size is that of the same content; every tensor's bytes lie inside the input; a model that opens can be asked for sizes of plans.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/plan.h"
#include "model/compress/database.h"
#include "model/export/export.h"
#include "model/io/gguf.h"
#include "model/model_internal.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

static void require(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "fuzz_gguf: %s\n", what);
    abort();
}

static void check_failure(bb_status status, const bb_err *err)
{
    require(status == BB_BAD_FILE || status == BB_UNSUPPORTED, "a failure with another status");
    require(err->msg[0] != '\0', "a failure without a sentence");
    for (const char *p = err->msg; *p; p++) require(isprint((unsigned char)*p), "a sentence with a control byte");
}

static void check_tensors(const bb_source *g, const unsigned char *data, size_t size)
{
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const unsigned char *p = g->tensors[i].data;
        require(p >= data && p <= data + size && g->tensors[i].size_bytes <= (size_t)(data + size - p), "tensor data outside the input");
    }
}

static void check_values(const bb_source *g)
{
    bb_sha256 sum; /* reads every byte, so that a sanitizer sees one too far */
    char      hex[65];
    uint32_t  u;
    float     f;
    bool      found;
    bb_bytes  text;
    bb_sha256_init(&sum);
    for (uint64_t i = 0; i < g->n_kv; i++) {
        const bb_key *kv = &g->kv[i];
        bb_sha256_update(&sum, kv->value, (size_t)kv->value_bytes);
        for (uint64_t j = 0; kv->strings && j < kv->count; j++) bb_sha256_update(&sum, kv->strings[j].data, (size_t)kv->strings[j].size);
    }
    bb_sha256_hex(&sum, hex);
    (void)bb_source_u32(g, "llama.block_count", &u, &found, NULL);
    (void)bb_source_f32(g, "llama.rope.freq_base", &f, &found, NULL);
    (void)bb_source_text(g, "general.architecture", &text, &found, NULL);
}

static void check_copy(const bb_source *g)
{
    bb_gguf_out *out;
    uint64_t     size;
    require(bb_gguf_out_create(&out, NULL) == BB_OK, "out of memory");
    for (uint64_t i = 0; i < g->n_kv; i++) require(bb_gguf_put_copy(out, &g->kv[i], NULL) == BB_OK, "a key that cannot be copied");
    for (uint64_t i = 0; i < g->n_tensors; i++) require(bb_gguf_put_tensor(out, &g->tensors[i], NULL) == BB_OK, "a tensor that cannot be copied");
    require(bb_gguf_out_size(out, &size, NULL) == BB_OK && size > 23, "a copy without a size");
    bb_gguf_out_destroy(out);
}

static void check_plans(const bb_model *m)
{
    static const char *const plans[] = { "", "blk.0.kv=0\n", "blk.0.ffn=0\nblk.0.attn_q=Q4_0\n", "token_embd=F16\nblk.0.kv=1\n" };
    bb_block                *blocks = BB_NEW(m->net.n_layer, bb_block, NULL);
    bb_net                   net;
    uint64_t                 bytes;
    require(blocks != NULL, "out of memory");
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        bb_plan plan = { 0, NULL };
        require(bb_plan_parse(plans[i], strlen(plans[i]), &plan, NULL) == BB_OK, "a plan that does not parse");
        if (bb_plan_shape(m, &plan, &net, blocks, NULL) == BB_OK) {
            bb_err    err = BB_ERR_INIT;
            bb_status status = bb_export_size(m, &net, &bytes, &err);
            if (status != BB_OK) check_failure(status, &err);
        }
        bb_plan_done(&plan);
    }
    bb_free(blocks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t         before = bb_mem_live_bytes();
    unsigned char *copy = bb_alloc(size, 1, NULL); /* an exact allocation: a byte too far is seen */
    bb_model       m;
    bb_err         err = BB_ERR_INIT;
    bb_status      status;
    require(copy != NULL, "out of memory");
    if (size) memcpy(copy, data, size);
    alarm(20);
    memset(&m, 0, sizeof m);
    status = bb_gguf_parse(copy, size, &m.source, &err);
    if (status == BB_OK) {
        check_tensors(&m.source, copy, size);
        check_values(&m.source);
        check_copy(&m.source);
        status = bb_model_build(&m, &err);
        if (status == BB_OK) {
            check_plans(&m);
            bb_model_close(&m);
        }
    }
    if (status != BB_OK) check_failure(status, &err);
    alarm(0);
    bb_free(copy);
    require(bb_mem_live_bytes() == before, "memory was not freed");
    return 0;
}

bool fuzz_seed(unsigned i, unsigned char **data, size_t *size)
{
    static const char *const archs[] = { "llama", "qwen2", "qwen3", "deci", "llama", "deci" };
    const char              *path = bb_test_path("seed.gguf");
    tiny_spec                s;
    if (i >= sizeof archs / sizeof *archs) return false;
    s = tiny_default(archs[i]);
    s.n_embd = s.n_ff[0] = s.n_ff[1] = 8;
    s.head_dim = 2;
    s.n_vocab = TINY_MIN_VOCAB;
    s.arrays = s.rope_factors = i > 3;
    s.tied = i % 2;
    s.minimal_keys = i == 4;
    if (i == 5) s.n_head[1] = s.n_kv[1] = 0;
    tiny_set_type(&s, BB_F16);
    tiny_write(&s, path);
    return bb_file_read(path, (char **)data, size, NULL) == BB_OK;
}
