/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_archs.c: every architecture from end to end: the log-probabilities of Hugging Face's library on small models (tests/data/hf/README.md), a whole
 * run on a random one, and the table of docs/models.md.
 */
#include <check.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/io/hf_parts.h"
#include "model/model.h"
#include "model/net/arch.h"
#include "model/net/forward.h"
#include "model/net/sample.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#define DATA "tests/data/hf"
#define ALLOWED 1e-3 /* in log-probability. Measured: at most 2e-5 */

enum { T = 201 };

/* ---- the library's numbers ---- */

static const char *const vectors[] = { "llama",      "llama-yarn",      "mistral",      "qwen2",     "qwen2-yarn",   "qwen3",
                                       "smollm3",    "granite",         "granite-bias", "phi3",      "phi3-long",    "phi3-short-partial",
                                       "ministral3", "ministral3-half", "olmo2",        "gemma3",    "gemma3-types", "gemma3-capped",
                                       "gemma4",     "gemma4-plain",    "gemma4-e2b",   "gemma4-e4b" };
enum { N_VECTORS = sizeof vectors / sizeof *vectors };

/* The folder of one: its own files, and the tokenizer of all. */
static void open_vector(const char *name, bb_model *m, int32_t ids[T], double logp[T])
{
    static const char *const files[] = { "%s/%s/config.json", "%s/%s/model.safetensors", "%s/tokenizer.json", "%s/tokenizer_config.json" };
    char                     from[256], to[600], dir[512], *data;
    size_t                   n;
    bb_csv                   t;
    bb_err                   err = BB_ERR_INIT;
    snprintf(dir, sizeof dir, "%s", bb_test_path(name));
    mkdir(dir, 0777);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (i < 2) snprintf(from, sizeof from, i ? DATA "/%s/model.safetensors" : DATA "/%s/config.json", name);
        else snprintf(from, sizeof from, i == 2 ? DATA "/tokenizer.json" : DATA "/tokenizer_config.json");
        snprintf(to, sizeof to, "%s/%s", dir, strrchr(from, '/') + 1);
        ck_assert_msg(bb_file_read(from, &data, &n, &err) == BB_OK, "%s", err.msg);
        bb_test_write(to, data, n);
        bb_free(data);
    }
    ck_assert_msg(bb_model_open(dir, m, &err) == BB_OK, "%s", err.msg);
    snprintf(from, sizeof from, DATA "/%s/logp.csv", name);
    ck_assert_msg(bb_csv_read(from, &t, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(t.n_rows, T);
    for (size_t i = 0; i < T; i++) {
        int64_t id;
        ck_assert_int_eq(bb_csv_int(&t, i, 0, &id, NULL), BB_OK);
        ck_assert_int_eq(bb_csv_double(&t, i, 1, &logp[i], NULL), BB_OK);
        ids[i] = (int32_t)id;
    }
    bb_csv_done(&t);
}

START_TEST(log_probabilities_are_the_library_s)
{
    bb_model    m;
    bb_forward *f;
    bb_err      err = BB_ERR_INIT;
    int32_t     ids[T];
    double      logp[T], nll[T], worst = 0;
    open_vector(vectors[_i], &m, ids, logp);
    float *h = BB_NEW(T * bb_row_width(&m.net), float, NULL), *rows = BB_NEW((size_t)T * m.net.n_embd, float, NULL);
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &m.net, 1, T, &f, &err), BB_OK);
    ck_assert_int_eq(bb_forward_embed(f, &m.net, ids, 1, T, bb_on_cpu(h), &err), BB_OK);
    for (uint32_t i = 0; i < m.net.n_layer; i++)
        ck_assert_msg(bb_forward_block(f, &m.net, &m.net.blocks[i], 1, T, bb_on_cpu(h), NULL, NULL, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_forward_streams(&bb_backend_cpu, &m.net, bb_on_cpu(h), T, bb_on_cpu(rows), &err), BB_OK);
    ck_assert_int_eq(bb_forward_nll(f, &m.net, bb_on_cpu(rows), ids + 1, T - 1, nll, &err), BB_OK);
    for (size_t i = 0; i + 1 < T; i++) worst = fmax(worst, fabs(nll[i] + logp[i + 1]));
    ck_assert_msg(worst < ALLOWED, "%s: off by %g", vectors[_i], worst);
    bb_forward_destroy(f);
    bb_free(h);
    bb_free(rows);
    bb_model_close(&m);
}
END_TEST

/* The same token by token. A context of T, for RoPE whose factors depend on it. */
START_TEST(generation_sees_the_same)
{
    bb_model    m;
    bb_decoder *d;
    bb_err      err = BB_ERR_INIT;
    int32_t     ids[T];
    double      logp[T], worst = 0;
    float      *z;
    open_vector(vectors[_i], &m, ids, logp);
    ck_assert_msg(bb_decoder_create(&m.net, T, 0, false, &d, &err) == BB_OK, "%s", err.msg);
    for (uint32_t i = 0; i + 1 < T; i++) {
        double sum = 0;
        ck_assert_int_eq(bb_decoder_take(d, ids + i, 1, &z, &err), BB_OK);
        for (uint32_t v = 0; v < m.net.n_vocab; v++) sum += exp((double)z[v]);
        worst = fmax(worst, fabs((double)z[ids[i + 1]] - log(sum) - logp[i + 1]));
    }
    ck_assert_msg(worst < ALLOWED, "%s: off by %g", vectors[_i], worst);
    bb_decoder_destroy(d);
    bb_model_close(&m);
}
END_TEST

/* A kind of model that is read from folders and has no vectors has not been compared with anything. */
START_TEST(every_kind_has_vectors)
{
    const bb_hf_arch *kind;
    for (size_t i = 0; (kind = bb_hf_arch_at(i)); i++) {
        bool has = false;
        for (size_t v = 0; v < N_VECTORS; v++) {
            char    path[256], *text;
            size_t  n;
            json_t *config;
            snprintf(path, sizeof path, DATA "/%s/config.json", vectors[v]);
            ck_assert_int_eq(bb_file_read(path, &text, &n, NULL), BB_OK);
            ck_assert_ptr_nonnull(config = json_loadb(text, n, 0, NULL));
            has |= strcmp(json_string_value(json_object_get(config, "model_type")), kind->model_type) == 0;
            json_decref(config);
            bb_free(text);
        }
        ck_assert_msg(has, "%s has no vectors", kind->model_type);
    }
}
END_TEST

/* ---- a whole run ---- */

/* Measured, searched, pruned where llama.cpp takes it, finalised with steps by gradient, exported; verify reads the files again and scores them. */
START_TEST(a_run_ends_with_files_that_score_the_same)
{
    static char said[1 << 14];
    char        line[1024], out[512];
    const bool  shared = _i == (int)bb_n_archs;
    tiny_spec   s = tiny_default(shared ? TINY_SHARED : bb_archs[_i].name);
    s.n_embd = 64;
    s.head_dim = 16;
    snprintf(line, sizeof line, "run-%s%s", s.arch, shared ? "-shared" : "");
    snprintf(out, sizeof out, "%s", bb_test_path(line));
    tiny_write(&s, bb_test_path("m.gguf"));
    snprintf(
        line, sizeof line,
        "run %s --formats Q4_0,Q8_0 --embd-formats Q8_0 --target-bpw 8 --ctx 32 --calib-windows 4 --measure-windows 1 --refine-windows 2 --confirm-windows 4 "
        "--search-tokens 0.001 --tune-windows 4 --tune-tokens 0.0003 --prune all --out %s -q",
        bb_test_path("m.gguf"), out);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s: %s", s.arch, said);
    snprintf(line, sizeof line, "verify %s -q", out);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s: %s", s.arch, said);
}
END_TEST

/* ---- what is said of them ---- */

static void row_of(const bb_arch *arch, char *row, size_t size)
{
    const bb_hf_arch *kind;
    const bb_arch    *pruned = bb_arch_for_pruned(arch);
    size_t            n = 0;
    n += (size_t)snprintf(row + n, size - n, "| %s |", arch->name);
    for (size_t i = 0, k = 0; (kind = bb_hf_arch_at(i)); i++)
        if (strcmp(kind->arch, arch->name) == 0) n += (size_t)snprintf(row + n, size - n, "%s%s", k++ ? ", " : " ", kind->model_type);
    n += (size_t)snprintf(row + n, size - n, " | %s |",
                          !arch->fused[BB_FEED_ATTENTION] ? "each matrix"
                          : arch->fused[BB_FEED_FFN] && pruned && pruned != arch
                              ? "each matrix, as deci; q, k, v and gate, up together where heads are rotated in part"
                              : "each matrix, q, k and v together");
    if (pruned)
        n += (size_t)snprintf(row + n, size - n, " each block%s%s%s |", pruned == arch ? "" : ", as ", pruned == arch ? "" : pruned->name,
                              pruned->separate_head || pruned == arch ? "" : ", if embeddings and head are tied");
    else n += (size_t)snprintf(row + n, size - n, " all blocks alike |");
    n += (size_t)snprintf(row + n, size - n, " %s |", bb_arch_counts_blocks(arch) ? "the last ones" : "any");
    if (pruned) snprintf(row + n, size - n, " |");
    else snprintf(row + n, size - n, " %s |", arch->alone);
}

START_TEST(the_table_of_the_documents_is_right)
{
    char  *text, row[1024];
    size_t n;
    ck_assert_int_eq(bb_file_read("docs/models.md", &text, &n, NULL), BB_OK);
    for (size_t i = 0; i < bb_n_archs; i++) {
        row_of(&bb_archs[i], row, sizeof row);
        ck_assert_msg(strstr(text, row), "docs/models.md lacks:\n%s", row);
    }
    bb_free(text);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("archs");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, log_probabilities_are_the_library_s, 0, N_VECTORS);
    tcase_add_loop_test(t, generation_sees_the_same, 0, N_VECTORS);
    tcase_add_test(t, every_kind_has_vectors);
    tcase_add_loop_test(t, a_run_ends_with_files_that_score_the_same, 0, (int)bb_n_archs + 1); /* gemma4 of both kinds */
    tcase_add_test(t, the_table_of_the_documents_is_right);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
