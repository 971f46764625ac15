/* SPDX-License-Identifier: GPL-3.0-or-later
 * fuzz_hf.c: any bytes may be a safetensors file, a SentencePiece model or a config.json.
 *
 * Properties: no memory error, no leak; a failure has a sentence of printable characters; every tensor's bytes lie inside the input.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/io/hf_parts.h"
#include "model/io/safetensors.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/hf_folder.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

static void require(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "fuzz_hf: %s\n", what);
    abort();
}

static void check(bb_status status, const bb_err *err)
{
    if (status == BB_OK) return;
    require(status == BB_BAD_FILE || status == BB_UNSUPPORTED, "a failure with another status");
    require(err->msg[0] != '\0', "a failure without a sentence");
    for (const char *p = err->msg; *p; p++) require(isprint((unsigned char)*p), "a sentence with a control byte");
}

static void as_safetensors(const unsigned char *data, size_t size)
{
    bb_safetensors s;
    bb_err         err = BB_ERR_INIT;
    bb_status      status = bb_safetensors_parse(data, size, &s, &err);
    check(status, &err);
    for (size_t i = 0; status == BB_OK && i < s.n_tensors; i++) {
        const unsigned char *p = s.tensors[i].data;
        require(p >= data && p <= data + size && s.tensors[i].size_bytes <= (size_t)(data + size - p), "tensor data outside the input");
    }
    if (status == BB_OK) bb_safetensors_close(&s);
}

static void as_spm(const unsigned char *data, size_t size)
{
    bb_hf_vocab v;
    bb_err      err = BB_ERR_INIT;
    bool        prefix;
    if (bb_hf_vocab_create(&v, 400, &err) == BB_OK) check(bb_hf_spm_read(data, size, &v, &prefix, &err), &err);
    bb_hf_vocab_done(&v);
}

static void as_config(const unsigned char *data, size_t size)
{
    json_t      *root = json_loadb((const char *)data, size, 0, NULL);
    bb_gguf_out *out = NULL;
    bb_hf_config c = { .arch = NULL };
    bb_err       err = BB_ERR_INIT;
    if (json_is_object(root) && bb_gguf_out_create(&out, &err) == BB_OK) check(bb_hf_config_read(root, &c, out, &err), &err);
    bb_free(c.rope_factors);
    bb_free(c.rope_long);
    bb_gguf_out_destroy(out);
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const size_t before = bb_mem_live_bytes();
    as_safetensors(data, size);
    as_spm(data, size);
    as_config(data, size);
    require(bb_mem_live_bytes() == before, "memory was not freed");
    return 0;
}

bool fuzz_seed(unsigned i, unsigned char **data, size_t *size)
{
    static const char *const files[] = { "folder/model.safetensors", "folder/tokenizer.model", "folder/config.json" };
    tiny_spec                s = tiny_default("llama");
    if (i >= sizeof files / sizeof *files) return false;
    s.n_embd = s.n_ff[0] = s.n_ff[1] = 8;
    s.head_dim = 2;
    tiny_write(&s, bb_test_path("seed.gguf"));
    hf_write(bb_test_path("seed.gguf"), bb_test_path("folder"), 1,
             "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 32, \"original_max_position_embeddings\": 64}, ");
    return bb_file_read(bb_test_path(files[i]), (char **)data, size, NULL) == BB_OK;
}
