/* SPDX-License-Identifier: GPL-3.0-or-later
 * fuzz_tokenizer.c: any vocabulary and any text may be given to the tokenizers.
 *
 * The input is a GGUF file; its own bytes are also the text. Properties: no memory error, no leak, no endless loop; a failure has a
 * sentence of printable characters; every id is in the vocabulary; tokenizing twice gives the same; ids turn back into some text.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/io/gguf.h"
#include "model/io/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/support.h"

static void require(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "fuzz_tokenizer: %s\n", what);
    abort();
}

static void check_failure(bb_status status, const bb_err *err)
{
    require(status == BB_BAD_FILE || status == BB_UNSUPPORTED, "a failure with another status");
    require(err->msg[0] != '\0', "a failure without a sentence");
    for (const char *p = err->msg; *p; p++) require(isprint((unsigned char)*p), "a sentence with a control byte");
}

static void check_text(const bb_tokenizer *t, const char *text, size_t size, bool special)
{
    bb_err    err = BB_ERR_INIT;
    int32_t  *ids = NULL, *again = NULL;
    size_t    n, m, back_size;
    char     *back = NULL;
    bb_status status = bb_tokenize(t, text, size, special, special, &ids, &n, &err);
    if (status != BB_OK) {
        check_failure(status, &err);
        return;
    }
    for (size_t i = 0; i < n; i++) require(ids[i] >= 0 && (uint32_t)ids[i] < bb_tokenizer_n_vocab(t), "an id outside the vocabulary");
    require(bb_tokenize(t, text, size, special, special, &again, &m, NULL) == BB_OK && n == m && memcmp(ids, again, n * sizeof *ids) == 0,
            "two different results");
    require(bb_detokenize(t, ids, n, &back, &back_size, NULL) == BB_OK && back, "ids without a text");
    bb_free(back);
    bb_free(again);
    bb_free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "Hello  world, it's 1234 \xC3\xA9\xF0\x9F\xA6\x99\n\n <s>ab\xFF\xE2\x96 aab";
    size_t            before = bb_mem_live_bytes();
    unsigned char    *copy = bb_alloc(size, 1, NULL);
    bb_source         g;
    bb_tokenizer     *t = NULL;
    bb_err            err = BB_ERR_INIT;
    bb_status         status;
    require(copy != NULL, "out of memory");
    if (size) memcpy(copy, data, size);
    alarm(20);
    status = bb_gguf_parse(copy, size, &g, &err);
    if (status == BB_OK) {
        status = bb_tokenizer_create(&g, &t, &err);
        if (status == BB_OK)
            for (int special = 0; special < 2; special++) {
                check_text(t, text, sizeof text - 1, special);
                check_text(t, (const char *)copy, size, special);
            }
        bb_tokenizer_destroy(t);
        bb_source_close(&g);
    }
    if (status != BB_OK) check_failure(status, &err);
    alarm(0);
    bb_free(copy);
    require(bb_mem_live_bytes() == before, "memory was not freed");
    return 0;
}

/* Small vocabularies with one of everything: both kinds, several pre-tokenizers. */
bool fuzz_seed(unsigned i, unsigned char **data, size_t *size)
{
    static const char *const pre[] = { NULL, "llama-bpe", "gpt-2", "deepseek-llm", "gpt-4o" };
    static const char *const tokens[] = { "<unk>", "<s>", "</s>", "<0x0A>",   "a",         "b", "\xE2\x96\x81", "\342\226\201a", "ab", "aab", "H", "e",
                                          "l",     "o",   "ll",   "\xC4\xA0", "\xC4\xA0w", "w", "<x>",          "\xC3\xA9" };
    static const int32_t     types[] = { 2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 1 };
    static const char *const merges[] = { "a b", "a ab", "l l", "\xC4\xA0 w", "H e" };
    enum { N = sizeof tokens / sizeof *tokens, M = sizeof merges / sizeof *merges };
    bb_bytes     text[N], merge[M];
    float        scores[N];
    bb_gguf_out *out = NULL;
    const char  *path = bb_test_path("seed.gguf");
    if (i >= sizeof pre / sizeof *pre) return false;
    for (int k = 0; k < N; k++) {
        text[k] = (bb_bytes) { tokens[k], strlen(tokens[k]) };
        scores[k] = (float)-k;
    }
    for (int k = 0; k < M; k++) merge[k] = (bb_bytes) { merges[k], strlen(merges[k]) };
    require(bb_gguf_out_create(&out, NULL) == BB_OK, "out of memory");
    bb_gguf_put_text(out, "tokenizer.ggml.model", pre[i] ? "gpt2" : "llama", NULL);
    if (pre[i]) bb_gguf_put_text(out, "tokenizer.ggml.pre", pre[i], NULL);
    bb_gguf_put_text_array(out, "tokenizer.ggml.tokens", text, N, NULL);
    bb_gguf_put_f32_array(out, "tokenizer.ggml.scores", scores, N, NULL);
    bb_gguf_put_i32_array(out, "tokenizer.ggml.token_type", types, N, NULL);
    bb_gguf_put_text_array(out, "tokenizer.ggml.merges", merge, M, NULL);
    bb_gguf_put_u32(out, "tokenizer.ggml.bos_token_id", 1, NULL);
    bb_gguf_put_u32(out, "tokenizer.ggml.eos_token_id", 2, NULL);
    bb_gguf_put_bool(out, "tokenizer.ggml.add_eos_token", true, NULL);
    bb_gguf_put_text(out, "general.name", "Phi3", NULL);
    require(bb_gguf_out_write(out, path, NULL) == BB_OK, "a seed that cannot be written");
    bb_gguf_out_destroy(out);
    return bb_file_read(path, (char **)data, size, NULL) == BB_OK;
}
