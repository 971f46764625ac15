/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_database.c: the option database on a random tiny model: moments against their definition, entries against their own errors, masks
 * nested and rows selected by them, resumption, broken files, two threads at once, plans applied, and the sequential rebuild. */
#include <check.h>
#include <dirent.h>
#include <math.h>
#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "model/compress/rebuild.h"
#include "model/compress/statistics.h"
#include "model/net/host.h"
#include "model/model_internal.h"
#include "tests/support/error.h"
#include "tests/support/guarded.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

enum { CTX = 24, WINDOWS = 20, C = 64, KV = 2, FF = 128, N_PARTS = BB_PART_TOKEN_GATE /* of a block of llama */ };

static bb_model           model;
static int32_t            tokens[CTX * WINDOWS];
static bb_database_config config;
static bb_err             err;

#define OK(call) \
    do { \
        err = (bb_err)BB_ERR_INIT; \
        ck_assert_msg((call) == BB_OK, "%s", err.msg); \
    } while (0)

static void setup(const char *arch, const char *dir)
{
    static char kept[256];
    tiny_spec   s = tiny_default(arch);
    bb_rng      r;
    s.n_embd = C;
    s.head_dim = 16;
    if (s.local_head_dim) s.local_head_dim = 16;
    for (uint32_t i = 0; i < s.n_layer; i++) {
        s.n_head[i] = 4;
        s.n_kv[i] = KV;
        s.n_ff[i] = FF;
    }
    s.qkv_bias = strcmp(arch, "qwen2") == 0;
    tiny_write(&s, bb_test_path("model.gguf"));
    OK(bb_model_open(bb_test_path("model.gguf"), &model, &err));
    bb_rng_init(&r, 1, "tokens");
    for (int i = 0; i < CTX * WINDOWS; i++) tokens[i] = (int32_t)bb_rng_below(&r, model.net.n_vocab);
    snprintf(kept, sizeof kept, "%s", bb_test_path(dir));
    config = (bb_database_config) { .dir = kept,
                                    .model = &model,
                                    .backend = &bb_backend_cpu,
                                    .tokens = tokens,
                                    .n_windows = WINDOWS,
                                    .ctx = CTX,
                                    .quant = { BB_METHOD_FEEDBACK, 0.01, 1 },
                                    .ffn_step = 8 };
}

static bb_database *open_database(void)
{
    bb_database *db;
    OK(bb_database_open(&config, &db, &err));
    return db;
}

static int count_files(const char *prefix)
{
    DIR           *d = opendir(config.dir);
    struct dirent *e;
    int            n = 0;
    while ((e = readdir(d)) != NULL) n += strncmp(e->d_name, prefix, strlen(prefix)) == 0;
    closedir(d);
    return n;
}

static float *decode(const bb_matrix *m)
{
    float *w = bb_matrix_decode(m, &err);
    ck_assert_ptr_nonnull(w);
    return w;
}

START_TEST(moments_are_those_of_the_inputs)
{
    double        want[C][C];
    bb_statistics s;
    setup("llama", "moments");
    const bb_statistics_config c = { config.dir, &model, &bb_backend_cpu, tokens, WINDOWS, CTX, 8, false };
    OK(bb_make_dirs(config.dir, &err));
    OK(bb_statistics_open(&c, &s, &err));
    /* block 0 reads normed embeddings */
    float *embd = decode(&model.net.embd);
    memset(want, 0, sizeof want);
    for (int t = 0; t < CTX * WINDOWS; t++) {
        double x[C], sum = 0;
        for (int i = 0; i < C; i++) sum += pow((double)embd[tokens[t] * C + i], 2);
        for (int i = 0; i < C; i++)
            x[i] = (double)embd[tokens[t] * C + i] / sqrt(sum / C + (double)model.net.norm_eps) * (double)model.net.blocks[0].norm[BB_NORM_ATTENTION][i];
        for (int i = 0; i < C; i++)
            for (int j = 0; j < C; j++) want[i][j] += x[i] * x[j] / (CTX * WINDOWS);
    }
    for (int i = 0; i < C; i++)
        for (int j = 0; j < C; j++) ck_assert_double_eq_tol((double)s.blocks[0].in[0].h[i * C + j], want[i][j], 1e-5);
    for (uint32_t b = 0; b < model.net.n_layer; b++) {
        ck_assert_uint_eq(s.blocks[b].in[1].n_cols, 64);
        ck_assert_uint_eq(s.blocks[b].in[3].n_cols, FF);
        ck_assert_uint_eq(s.blocks[b].n_ff, FF);
        ck_assert_uint_eq(s.blocks[b].n_kv, KV);
    }
    ck_assert_uint_eq(s.blocks[model.net.n_layer].in[0].n_cols, C);
    ck_assert_uint_eq(s.blocks[0].in[0].n_tokens, CTX * WINDOWS);
    bb_statistics_close(&s);
    bb_free(embd);
    bb_model_close(&model);
}
END_TEST

/* ---- a model from another reader than that of GGUF ---- */

static struct {
    unsigned released[8], closed;
    bool     refuses;
} asked; /* of it */

static bb_status other_whole(const bb_source *s, bb_err *e)
{
    return asked.refuses ? BB_FAIL(e, BB_UNSUPPORTED, "half a model of %llu", (unsigned long long)s->n_tensors) : BB_OK;
}
static void other_release(const bb_source *s, uint32_t layer) { (void)s, asked.released[layer]++; }
static void other_hash(const bb_source *s, bb_sha256 *h) { (void)s, bb_sha256_text(h, "another file"); }

static void other_close(bb_source *s)
{
    for (uint64_t i = 0; i < s->n_tensors; i++) bb_free(((void **)s->self)[i]);
    bb_free(s->self);
    asked.closed++;
}

/* The keys of a GGUF source, which must outlive it, and its tensors in the opposite order in memory of their own. */
static void read_other(const bb_source *from, bb_source *s)
{
    static const bb_reader reader = { "other", other_whole, other_release, other_hash, other_close };
    void                 **own = BB_NEW((size_t)from->n_tensors, void *, NULL);
    *s = (bb_source) { .reader = &reader,
                       .self = own,
                       .n_kv = from->n_kv,
                       .n_tensors = from->n_tensors,
                       .kv = BB_NEW((size_t)from->n_kv, bb_key, NULL),
                       .tensors = BB_NEW((size_t)from->n_tensors, bb_tensor, NULL) };
    for (uint64_t i = 0; i < s->n_kv; i++) {
        s->kv[i] = from->kv[i];
        s->kv[i].strings = NULL;
    }
    for (uint64_t i = 0; i < s->n_tensors; i++) {
        s->tensors[i] = from->tensors[s->n_tensors - 1 - i];
        own[i] = bb_alloc(1, (size_t)s->tensors[i].size_bytes, NULL);
        memcpy(own[i], s->tensors[i].data, (size_t)s->tensors[i].size_bytes);
        s->tensors[i].data = own[i];
    }
    OK(bb_source_index(s, &err));
}

START_TEST(any_reader_will_do)
{
    bb_model      m = { .path = NULL };
    bb_statistics s, t;
    char          hash[65];
    bb_sha256     h;
    setup("llama", "reader");
    read_other(&model.source, &m.source);
    OK(bb_model_build(&m, &err));
    bb_sha256_init(&h);
    bb_sha256_text(&h, "another file");
    bb_sha256_hex(&h, hash);
    ck_assert_str_eq(bb_model_sha256(&m), hash);
    OK(bb_make_dirs(config.dir, &err));
    OK(bb_statistics_open(&(bb_statistics_config) { config.dir, &model, &bb_backend_cpu, tokens, WINDOWS, CTX, 8, false }, &s, &err));
    OK(bb_statistics_open(&(bb_statistics_config) { config.dir, &m, &bb_backend_cpu, tokens, WINDOWS, CTX, 8, false }, &t, &err));
    for (uint32_t b = 0; b <= model.net.n_layer; b++) {
        ck_assert_uint_eq(asked.released[b], b < model.net.n_layer); /* each block once, after it was measured */
        ck_assert_mem_eq(s.blocks[b].in[0].h, t.blocks[b].in[0].h, C * C * sizeof(float));
    }
    bb_statistics_close(&s);
    bb_statistics_close(&t);
    ck_assert_uint_eq(asked.closed, 0);
    bb_model_close(&m);
    ck_assert_uint_eq(asked.closed, 1);
    asked.refuses = true;
    m = (bb_model) { .path = NULL };
    read_other(&model.source, &m.source);
    ck_assert_int_eq(bb_model_build(&m, &err), BB_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.msg, "half a model"));
    ck_assert_uint_eq(asked.closed, 2);
    bb_model_close(&model);
}
END_TEST

START_TEST(entries_have_the_errors_they_say)
{
    static const bb_type types[] = { BB_Q2_0, BB_Q4_0, BB_Q8_0 };
    setup("llama", "entries");
    bb_database               *db = open_database();
    bb_statistics              s;
    const bb_statistics_config c = { config.dir, &model, &bb_backend_cpu, tokens, WINDOWS, CTX, 8, false };
    OK(bb_statistics_open(&c, &s, &err)); /* maps what the database wrote */
    for (int p = 0; p < N_PARTS; p++)
        for (int t = 0; t < 3; t++) {
            const bb_matrix *source = &model.net.blocks[1].w[p];
            bb_matrix        m;
            bb_quant_stats   stats;
            OK(bb_database_matrix(db, 1, (bb_part)p, bb_parts[p].sublayer == BB_FFN ? FF : KV, types[t], &m, &stats, &err));
            ck_assert(m.type == types[t] && m.rows == source->rows && m.cols == source->cols);
            float *w = decode(source), *v = decode(&m);
            double e = relative_error_of(w, v, m.rows, m.cols, &s.blocks[1].in[bb_parts[p].feed]);
            ck_assert_double_eq_tol(stats.error, e, 1e-3 * e);
            bb_quant_options  weighted = config.quant, rtn = config.quant;
            bb_quant_stats    error_weighted, error_rtn;
            void             *packed = bb_alloc(m.rows, bb_format_row_bytes(bb_format_get(m.type), m.cols), &err);
            const bb_hessian *h = &s.blocks[1].in[bb_parts[p].feed];
            weighted.method = BB_METHOD_WEIGHTED;
            rtn.method = BB_METHOD_RTN;
            OK(bb_quantize(w, m.rows, m.cols, h, m.type, &weighted, packed, &error_weighted, &err));
            OK(bb_quantize(w, m.rows, m.cols, h, m.type, &rtn, packed, &error_rtn, &err));
            ck_assert(stats.error <= error_weighted.error && error_weighted.error <= error_rtn.error * 1.0001);
            bb_free(packed);
            bb_free(w);
            bb_free(v);
        }
    bb_matrix m;
    OK(bb_database_matrix(db, 0, BB_PART_Q, KV, BB_F32, &m, NULL, &err));
    ck_assert_ptr_eq(m.data, model.net.blocks[0].w[BB_PART_Q].data);                                     /* the source's own bytes */
    ck_assert_int_eq(bb_database_matrix(db, 0, BB_PART_Q, KV, BB_Q2_K, &m, NULL, NULL), BB_UNSUPPORTED); /* 64 columns */
    ck_assert_int_eq(bb_database_matrix(db, 0, BB_PART_Q, KV + 1, BB_Q4_0, &m, NULL, NULL), BB_UNSUPPORTED);
    ck_assert_int_eq(bb_database_matrix(db, 0, BB_PART_Q, KV, (bb_type)5, &m, NULL, NULL), BB_UNSUPPORTED);
    OK(bb_database_matrix(db, 0, BB_PART_Q, 0, BB_Q4_0, &m, NULL, &err));
    ck_assert_uint_eq(m.rows, 0);
    OK(bb_database_embedding(db, false, BB_Q4_0, &m, NULL, &err));
    ck_assert_uint_eq(m.rows, model.net.n_vocab);
    OK(bb_database_embedding(db, true, BB_Q4_0, &m, NULL, &err));
    ck_assert_uint_eq(m.rows, 0); /* tied */
    bb_statistics_close(&s);
    bb_database_close(db);
    bb_model_close(&model);
}
END_TEST

START_TEST(masks_are_nested_and_select_rows)
{
    setup("qwen2", "masks");
    bb_database    *db = open_database();
    const uint32_t *less, *more;
    for (uint32_t n = 1; n < FF; n++) {
        uint32_t found = 0;
        OK(bb_database_mask(db, 0, true, n, &less, &err));
        OK(bb_database_mask(db, 0, true, n + 1, &more, &err));
        for (uint32_t i = 0, j = 0; i < n; i++) {
            ck_assert(i == 0 || less[i] > less[i - 1]);
            while (j <= n && more[j] < less[i]) j++;
            found += more[j] == less[i];
        }
        ck_assert_uint_eq(found, n);
    }
    bb_matrix whole, part;
    OK(bb_database_mask(db, 0, true, 64, &less, &err));
    OK(bb_database_matrix(db, 0, BB_PART_UP, FF, BB_Q4_0, &whole, NULL, &err));
    OK(bb_database_matrix(db, 0, BB_PART_UP, 64, BB_Q4_0, &part, NULL, &err));
    ck_assert_uint_eq(part.rows, 64);
    for (uint32_t i = 0; i < 64; i++) ck_assert_mem_eq((const char *)part.data + i * 36, (const char *)whole.data + less[i] * 36, 36);
    OK(bb_database_mask(db, 0, false, 1, &less, &err));
    OK(bb_database_matrix(db, 0, BB_PART_Q, KV, BB_Q8_0, &whole, NULL, &err));
    OK(bb_database_matrix(db, 0, BB_PART_Q, 1, BB_Q8_0, &part, NULL, &err));
    ck_assert_uint_eq(part.rows, 32); /* two query heads of 16 a group */
    for (uint32_t i = 0; i < 32; i++) {
        ck_assert_mem_eq((const char *)part.data + i * 68, (const char *)whole.data + (less[0] * 32 + i) * 68, 68);
        ck_assert(part.bias[i] == whole.bias[less[0] * 32 + i]);
    }
    bb_quant_stats full, pruned;
    OK(bb_database_matrix(db, 0, BB_PART_DOWN, FF, BB_Q4_0, &whole, &full, &err));
    OK(bb_database_matrix(db, 0, BB_PART_DOWN, 64, BB_Q4_0, &part, &pruned, &err));
    ck_assert(part.rows == C && part.cols == 64 && pruned.error > full.error && pruned.error < 1);
    OK(bb_database_matrix(db, 0, BB_PART_O, 1, BB_Q4_0, &part, NULL, &err));
    ck_assert(part.rows == C && part.cols == 32);
    /* the error of a pruned matrix is against the whole one: pruning and encoding together */
    bb_statistics              s;
    const bb_statistics_config c = { config.dir, &model, &bb_backend_cpu, tokens, WINDOWS, CTX, 8, false };
    OK(bb_statistics_open(&c, &s, &err));
    for (int i = 0; i < 2; i++) {
        OK(bb_database_matrix(db, 0, BB_PART_DOWN, 64, i ? BB_Q2_0 : BB_Q8_0, &part, &pruned, &err));
        OK(bb_database_mask(db, 0, true, 64, &less, &err));
        float *w = decode(&model.net.blocks[0].w[BB_PART_DOWN]), *v = decode(&part), *wide = calloc((size_t)C * FF, sizeof *wide);
        for (uint32_t r = 0; r < C; r++)
            for (uint32_t k = 0; k < 64; k++) wide[r * FF + less[k]] = v[r * 64 + k];
        const double e = relative_error_of(w, wide, C, FF, &s.blocks[0].in[bb_parts[BB_PART_DOWN].feed]);
        ck_assert_double_eq_tol(pruned.error, e, 0.03 * e); /* damping */
        bb_free(w);
        bb_free(v);
        free(wide);
    }
    bb_statistics_close(&s);
    bb_database_close(db);
    bb_model_close(&model);
}
END_TEST

/* The second order of widths: rows and columns are those that it keeps, errors are what they say, and files are named by what is kept. */
START_TEST(widths_by_gates_are_another_order)
{
    const uint32_t *own, *kept, *again;
    bb_kept_order   order[TINY_MAX_LAYERS] = { { { NULL } } };
    bb_matrix       whole, part, same;
    bb_quant_stats  stats;
    bb_statistics   s;
    setup("qwen2", "gates");
    const bb_statistics_config c = { config.dir, &model, &bb_backend_cpu, tokens, WINDOWS, CTX, 8, false };
    bb_database               *db = open_database();
    OK(bb_statistics_open(&c, &s, &err));
    for (uint32_t i = 0; i < model.net.n_layer; i++)
        for (int k = 0; k < BB_TOKEN; k++) { /* the own order the other way round */
            const uint32_t n = k == BB_FFN ? FF : KV;
            order[i].of[k] = BB_NEW(n, uint32_t, NULL);
            own = bb_database_order(db, i, (bb_sublayer)k);
            for (uint32_t j = 0; j < n; j++) order[i].of[k][j] = own[n - 1 - j];
        }
    ck_assert_int_eq(bb_database_mask(db, 0, true, 64 | BB_BY_GATES, &kept, NULL), BB_UNSUPPORTED);
    OK(bb_database_use_gates(db, order, &err));
    OK(bb_database_mask(db, 0, true, 64 | BB_BY_GATES, &kept, &err));
    OK(bb_database_mask(db, 0, true, 64, &again, &err));
    for (uint32_t i = 0; i < 64; i++)
        for (uint32_t j = 0; j < 64; j++) ck_assert_uint_ne(kept[i], again[j]); /* halves of the same channels */
    OK(bb_database_matrix(db, 0, BB_PART_UP, FF, BB_Q4_0, &whole, NULL, &err));
    OK(bb_database_matrix(db, 0, BB_PART_UP, 64 | BB_BY_GATES, BB_Q4_0, &part, NULL, &err));
    for (uint32_t i = 0; i < 64; i++) ck_assert_mem_eq((const char *)part.data + i * 36, (const char *)whole.data + kept[i] * 36, 36);
    OK(bb_database_matrix(db, 0, BB_PART_Q, KV, BB_Q8_0, &whole, NULL, &err));
    OK(bb_database_matrix(db, 0, BB_PART_Q, 1 | BB_BY_GATES, BB_Q8_0, &part, NULL, &err));
    for (uint32_t i = 0; i < 32; i++) ck_assert(part.bias[i] == whole.bias[order[0].of[BB_ATTENTION][0] * 32 + i]);
    OK(bb_database_matrix(db, 0, BB_PART_DOWN, 64 | BB_BY_GATES, BB_Q8_0, &part, &stats, &err));
    float *w = decode(&model.net.blocks[0].w[BB_PART_DOWN]), *v = decode(&part), *wide = calloc((size_t)C * FF, sizeof *wide);
    for (uint32_t r = 0; r < C; r++)
        for (uint32_t k = 0; k < 64; k++) wide[r * FF + kept[k]] = v[r * 64 + k];
    const double e = relative_error_of(w, wide, C, FF, &s.blocks[0].in[bb_parts[BB_PART_DOWN].feed]);
    ck_assert_double_eq_tol(stats.error, e, 0.03 * e); /* damping */
    free(wide);
    bb_free(w);
    bb_free(v);
    bb_database_close(db);
    /* Another order is another entry; the same channels by another order of leaving are the same one. */
    const int before = count_files("entry-");
    db = open_database();
    for (int k = 0; k < 2; k++) {
        const uint32_t first = order[0].of[BB_FFN][0], last = order[0].of[BB_FFN][63], beyond = order[0].of[BB_FFN][64];
        order[0].of[BB_FFN][0] = k == 0 ? last : first;
        order[0].of[BB_FFN][63] = k == 0 ? first : beyond;
        OK(bb_database_use_gates(db, order, &err));
        OK(bb_database_matrix(db, 0, BB_PART_DOWN, 64 | BB_BY_GATES, BB_Q8_0, &same, NULL, &err));
        ck_assert_int_eq(count_files("entry-"), before + k);
        bb_database_close(db);
        db = open_database();
    }
    bb_database_close(db);
    for (uint32_t i = 0; i < model.net.n_layer; i++)
        for (int k = 0; k < BB_TOKEN; k++) bb_free(order[i].of[k]);
    bb_statistics_close(&s);
    bb_model_close(&model);
}
END_TEST

/* Bytes of a fixed set of entries, in one buffer. */
static size_t gather(bb_database *db, unsigned char *out)
{
    size_t n = 0;
    for (uint32_t b = 0; b < model.net.n_layer; b++)
        for (int p = 0; p < N_PARTS; p++) {
            bb_matrix m;
            OK(bb_database_matrix(db, b, (bb_part)p, bb_parts[p].sublayer == BB_FFN ? 96 : 1, BB_Q4_0, &m, NULL, &err));
            size_t bytes = m.rows * bb_format_row_bytes(bb_format_get(BB_Q4_0), m.cols);
            memcpy(out + n, m.data, bytes);
            n += bytes;
        }
    return n;
}

/* What is there is used, what is missing or broken is made again, and the bytes are the same. */
START_TEST(resumes_from_what_is_there)
{
    static unsigned char a[1 << 18], b[1 << 18];
    setup("llama", "resume");
    bb_database *db = open_database();
    size_t       n = gather(db, a);
    int          n_files = count_files("entry-"), n_whole = n_files, i = 0;
    bb_database_close(db);
    DIR           *d = opendir(config.dir);
    struct dirent *e;
    while ((e = readdir(d)) != NULL) {
        char path[1024];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", config.dir, e->d_name);
        switch (i++ % 4) {
        case 0: unlink(path); break;
        case 1: ck_assert_int_eq(truncate(path, 100), 0); break;
        case 2: bb_test_write(path, "not what it was", 15); break;
        default: break;
        }
    }
    closedir(d);
    db = open_database();
    ck_assert_uint_eq(gather(db, b), n);
    ck_assert_mem_eq(a, b, n);
    ck_assert_int_le(count_files("entry-"), n_files); /* a whole matrix is not made again where its selection is still there */
    bb_database_close(db);
    n_files = count_files("entry-");
    /* another method is another set of entries */
    config.quant.method = BB_METHOD_WEIGHTED;
    db = open_database();
    gather(db, b);
    ck_assert_int_eq(count_files("entry-") - n_files, n_whole);
    ck_assert_int_eq(count_files("moments-"), (int)model.net.n_layer + 1);
    bb_database_close(db);
    bb_model_close(&model);
}
END_TEST

/* A folder serves any number of callers: whatever one of them does otherwise, he gets what a folder of his own would give him. */
START_TEST(entries_are_of_the_inputs_asked_for)
{
    static unsigned char first[1 << 18], shared[1 << 18], own[1 << 18];
    static int32_t       others[CTX * WINDOWS];
    static char          folder[256];
    enum { OTHER_TOKEN, FEWER_WINDOWS, LONGER_WINDOWS, OTHER_MODEL, METHOD, DAMPING, SWEEPS, STEP, CUT, N_CHANGES };
    static const char *const names[N_CHANGES] = { "one token", "windows", "ctx", "model", "method", "damping", "sweeps", "ffn step", "cut" };
    for (int change = 0; change < N_CHANGES; change++) {
        setup("llama", "inputs");
        const bb_database_config base = config;
        bb_database             *db = open_database();
        const size_t             n = gather(db, first);
        bb_database_close(db);
        switch (change) {
        case OTHER_TOKEN:
            memcpy(others, tokens, sizeof others);
            others[CTX * WINDOWS / 2] ^= 1;
            config.tokens = others;
            break;
        case FEWER_WINDOWS: config.n_windows--; break;
        case LONGER_WINDOWS:
            config.n_windows /= 2;
            config.ctx *= 2;
            break; /* the same tokens in the same order */
        case OTHER_MODEL: {
            tiny_spec s = tiny_default("llama");
            s.n_embd = C;
            s.head_dim = 16;
            for (uint32_t i = 0; i < s.n_layer; i++) s.n_head[i] = 4, s.n_kv[i] = KV, s.n_ff[i] = FF;
            s.seed++;
            bb_model_close(&model);
            tiny_write(&s, bb_test_path("other.gguf"));
            OK(bb_model_open(bb_test_path("other.gguf"), &model, &err));
            break;
        }
        case METHOD: config.quant.method = BB_METHOD_WEIGHTED; break;
        case DAMPING: config.quant.damping = 0.3; break;
        case SWEEPS: config.quant.sweeps = 0; break;
        case STEP: config.ffn_step = 60; break;
        default: config.cut = true; break;
        }
        db = open_database();
        gather(db, shared);
        bb_database_close(db);
        snprintf(folder, sizeof folder, "%s-%d", bb_test_path("alone"), change);
        config.dir = folder;
        db = open_database();
        gather(db, own);
        bb_database_close(db);
        ck_assert_msg(memcmp(shared, own, n) == 0, "%s: what was made for other inputs was taken", names[change]);
        ck_assert_msg(memcmp(first, own, n) != 0, "%s changes nothing: the test cannot fail", names[change]);
        config = base;
        bb_model_close(&model);
    }
}
END_TEST

/* A file of second moments whose header denies this block's channels or groups is made again (its orders would be read behind their end). */
START_TEST(moments_of_other_widths_are_refused)
{
    static unsigned char a[1 << 18], b[1 << 18];
    for (int which = 0; which < 3; which++) { /* n_ff, n_kv, both */
        DIR           *d;
        struct dirent *e;
        setup("llama", which == 0 ? "widths" : which == 1 ? "groups" : "both");
        bb_database *db = open_database();
        const size_t n = gather(db, a);
        bb_database_close(db);
        ck_assert_ptr_nonnull(d = opendir(config.dir));
        while ((e = readdir(d)) != NULL) {
            char   path[1024], *data;
            size_t size;
            snprintf(path, sizeof path, "%s/%s", config.dir, e->d_name);
            if (strncmp(e->d_name, "entry-", 6) == 0) unlink(path);
            if (strncmp(e->d_name, "moments-", 8) != 0) continue;
            OK(bb_file_read(path, &data, &size, &err));
            memset(data + (which == 1 ? 28 : 24), 0, which == 2 ? 8 : 4);
            bb_test_write(path, data, size);
            bb_free(data);
        }
        closedir(d);
        db = open_database();
        ck_assert_uint_eq(gather(db, b), n);
        ck_assert_mem_eq(a, b, n);
        bb_database_close(db);
        bb_model_close(&model);
    }
}
END_TEST

static void *gather_thread(void *arg)
{
    static unsigned char out[2][1 << 18];
    bb_err               local = BB_ERR_INIT;
    bb_database         *db = ((void **)arg)[0];
    int                  which = ((void **)arg)[1] != NULL;
    size_t               n = 0;
    for (uint32_t b = 0; b < model.net.n_layer; b++)
        for (int p = 0; p < N_PARTS; p++) {
            bb_matrix m;
            if (bb_database_matrix(db, b, (bb_part)p, bb_parts[p].sublayer == BB_FFN ? 96 : 1, BB_Q4_0, &m, NULL, &local) != BB_OK) return NULL;
            size_t bytes = m.rows * bb_format_row_bytes(bb_format_get(BB_Q4_0), m.cols);
            memcpy(out[which] + n, m.data, bytes);
            n += bytes;
        }
    return out[which];
}

START_TEST(two_threads_share_the_work)
{
    static unsigned char alone[1 << 18];
    pthread_t            t;
    void                *other, *mine;
    setup("llama", "threads");
    bb_database *db = open_database();
    void        *args[2][2] = { { db, NULL }, { db, &model } };
    ck_assert_int_eq(pthread_create(&t, NULL, gather_thread, args[0]), 0);
    mine = gather_thread(args[1]);
    ck_assert_int_eq(pthread_join(t, &other), 0);
    ck_assert(mine && other);
    size_t n = gather(db, alone);
    ck_assert_mem_eq(mine, alone, n);
    ck_assert_mem_eq(other, alone, n);
    bb_database_close(db);
    bb_model_close(&model);
}
END_TEST

/* Squared distance of the final states under two nets, relative to their energy. */
static double distance(const bb_net *a, const bb_net *b)
{
    bb_forward  *f;
    static float x[CTX * C], y[CTX * C];
    double       d = 0, e = 0;
    OK(bb_forward_create(&bb_backend_cpu, &model.net, 1, CTX, &f, &err));
    for (int w = 0; w < WINDOWS; w++) {
        OK(bb_forward_embed(f, a, tokens + w * CTX, 1, CTX, bb_on_cpu(x), &err));
        OK(bb_forward_embed(f, b, tokens + w * CTX, 1, CTX, bb_on_cpu(y), &err));
        for (uint32_t i = 0; i < a->n_layer; i++) {
            OK(bb_forward_block(f, a, &a->blocks[i], 1, CTX, bb_on_cpu(x), NULL, NULL, &err));
            OK(bb_forward_block(f, b, &b->blocks[i], 1, CTX, bb_on_cpu(y), NULL, NULL, &err));
        }
        for (int i = 0; i < CTX * C; i++) {
            d += pow((double)x[i] - (double)y[i], 2);
            e += pow((double)x[i], 2);
        }
    }
    bb_forward_destroy(f);
    return d / e;
}

START_TEST(plans_are_applied_and_rebuilt)
{
    bb_plan    plan = { 0 };
    bb_net     net;
    bb_block   blocks[TINY_MAX_LAYERS];
    bb_rebuilt rebuilt;
    setup("llama", "plans");
    bb_database *db = open_database();
    for (uint32_t i = 0; i < model.net.n_layer; i++)
        for (int p = 0; p < N_PARTS; p++) {
            char unit[64];
            snprintf(unit, sizeof unit, "blk.%u.%s", i, bb_parts[p].name);
            OK(bb_plan_set(&plan, unit, "Q2_0", &err));
        }
    OK(bb_database_apply(db, &plan, &net, blocks, &err));
    double before = distance(&model.net, &net);
    OK(bb_rebuild(db, &model, &plan, tokens, WINDOWS, CTX, &config.quant, NULL, &rebuilt, &err));
    double after = distance(&model.net, &rebuilt.net);
    ck_assert_msg(before > 0 && after < 0.8 * before, "distance %g before, %g after", before, after);
    bb_rebuilt_done(&rebuilt);
    /* pruned shapes, a dropped attention and a dropped FFN, one matrix in its source type */
    OK(bb_plan_set(&plan, "blk.0.ffn", "64", &err));
    OK(bb_plan_set(&plan, "blk.0.kv", "0", &err));
    OK(bb_plan_set(&plan, "blk.1.kv", "1", &err));
    OK(bb_plan_set(&plan, "blk.1.attn_output", "Q4_0", &err));
    OK(bb_plan_set(&plan, "blk.1.attn_v", "F32", &err));
    OK(bb_plan_set(&plan, "blk.1.ffn", "0", &err));
    OK(bb_plan_set(&plan, "token_embd", "Q8_0", &err));
    OK(bb_database_apply(db, &plan, &net, blocks, &err));
    ck_assert(blocks[0].w[BB_PART_Q].rows == 0 && blocks[0].w[BB_PART_DOWN].cols == 64 && blocks[1].w[BB_PART_V].rows == 16);
    before = distance(&model.net, &net);
    OK(bb_rebuild(db, &model, &plan, tokens, WINDOWS, CTX, &config.quant, NULL, &rebuilt, &err));
    after = distance(&model.net, &rebuilt.net);
    ck_assert_msg(after < before, "pruned: distance %g before, %g after", before, after);
    bb_rebuilt_done(&rebuilt);
    OK(bb_plan_set(&plan, "blk.0.ffn", "48", &err)); /* 48 columns do not divide into blocks of 64 */
    ck_assert_int_eq(bb_database_apply(db, &plan, &net, blocks, NULL), BB_UNSUPPORTED);
    bb_plan_done(&plan);
    bb_database_close(db);
    bb_model_close(&model);
}
END_TEST

/* ---- the weights that a rebuild should have, from the formula of rebuild.h ---- */

typedef struct inputs {
    bb_part part;
    double *x;
    size_t  n, cols;
} inputs; /* of one part over all windows */

static bb_status keep_inputs(void *self, bb_feed stage, const float *x, size_t n, uint32_t cols, bb_err *e)
{
    inputs *k = self;
    (void)e;
    if (stage != bb_parts[k->part].feed) return BB_OK;
    for (size_t i = 0; i < n * cols; i++) k->x[k->n * cols + i] = (double)x[i];
    k->n += n;
    k->cols = cols;
    return BB_OK;
}

/* The inputs of `part` in block `layer`, and the residual stream before (r) and after (out) the half of the block that it is in. */
static void run_to(const bb_net *net, uint32_t layer, bb_part part, inputs *in, float *r, float *out)
{
    const size_t W = bb_row_width(net), floats = CTX * W;
    float       *h = malloc(2 * floats * sizeof *h), *behind = h + floats;
    bb_forward  *f;
    bb_block     half[BB_N_SUBLAYERS];
    for (int s = 0; s < BB_N_SUBLAYERS; s++) {
        half[s] = net->blocks[layer];
        if (s != BB_ATTENTION) half[s].n_head = half[s].n_kv = 0;
        if (s != BB_FFN) half[s].n_ff = 0;
        if (s != BB_TOKEN) half[s].n_token = 0;
        half[s].scale = 0;
    }
    *in = (inputs) { .part = part, .x = calloc((size_t)CTX * WINDOWS * FF, sizeof(double)) };
    OK(bb_forward_create(&bb_backend_cpu, &model.net, 1, CTX, &f, &err));
    for (int w = 0; w < WINDOWS; w++) {
        OK(bb_forward_embed(f, net, tokens + w * CTX, 1, CTX, bb_on_cpu(h), &err));
        for (uint32_t i = 0; i < layer; i++) OK(bb_forward_block(f, net, &net->blocks[i], 1, CTX, bb_on_cpu(h), NULL, NULL, &err));
        for (int s = 0; s < (int)bb_parts[part].sublayer; s++) OK(bb_forward_block(f, net, &half[s], 1, CTX, bb_on_cpu(h), NULL, NULL, &err));
        memcpy(behind, h, floats * sizeof *h);
        OK(bb_forward_block(f, net, &half[bb_parts[part].sublayer], 1, CTX, bb_on_cpu(behind), keep_inputs, in, &err));
        bb_host_streams(net, h, CTX, r + w * CTX * C);
        bb_host_streams(net, behind, CTX, out + w * CTX * C);
    }
    bb_forward_destroy(f);
    free(h);
}

/* || V (E + damping) - W0 damping - E[y x^'] - 0.75 E[(r - r^) x^'] || relative to the norm of what it should be, E = E[x^ x^']. */
static double formula_error(bb_database *db, const bb_net *net, uint32_t layer, bb_part part)
{
    static float     r_full[CTX * WINDOWS * C], r_small[CTX * WINDOWS * C], out_full[CTX * WINDOWS * C], out_small[CTX * WINDOWS * C];
    const bb_matrix *matrix = &net->blocks[layer].w[part];
    const uint32_t   kept = bb_part_kept(&net->blocks[layer], part);
    const bool       output = part == bb_sublayers[bb_parts[part].sublayer].writer;
    const bool       normed = model.net.blocks[layer].norm[bb_sublayers[bb_parts[part].sublayer].post] != NULL; /* then W x, without residual */
    const size_t     m = matrix->cols, n_tokens = CTX * WINDOWS;
    inputs           full, small;
    bb_matrix        start;
    double           mean = 0, d = 0, all = 0;
    run_to(&model.net, layer, part, &full, r_full, out_full);
    run_to(net, layer, part, &small, r_small, out_small);
    ck_assert(small.n == n_tokens && full.n == n_tokens && small.cols == m);
    OK(bb_database_matrix(db, layer, part, kept, model.net.blocks[layer].w[part].type, &start, NULL, &err));
    float *w0 = decode(&start), *v = decode(matrix), *w = decode(&model.net.blocks[layer].w[part]);
    for (size_t i = 0; i < n_tokens * m; i++) mean += small.x[i] * small.x[i] / (double)(n_tokens * m);
    for (size_t row = 0; row < matrix->rows; row++)
        for (size_t j = 0; j < m; j++) {
            double have = (double)v[row * m + j] * 0.2 * mean, want = (double)w0[row * m + j] * 0.2 * mean;
            for (size_t t = 0; t < n_tokens; t++) {
                double y = 0, y_small = 0;
                for (size_t k = 0; k < m; k++) y_small += (double)v[row * m + k] * small.x[t * m + k];
                if (output && !normed) y = (double)out_full[t * C + row] - 0.25 * (double)r_full[t * C + row] - 0.75 * (double)r_small[t * C + row];
                else
                    for (size_t k = 0; k < full.cols; k++) y += (double)w[row * full.cols + k] * full.x[t * full.cols + k];
                have += y_small * small.x[t * m + j] / (double)n_tokens;
                want += y * small.x[t * m + j] / (double)n_tokens;
            }
            d += (have - want) * (have - want);
            all += want * want;
        }
    free(full.x);
    free(small.x);
    bb_free(w0);
    bb_free(v);
    bb_free(w);
    return sqrt(d / all);
}

/* Everything stays F32 and the block before (of a smollm3 the one before that without RoPE) loses a KV group (not where norms are over all heads) and most of
 * its FFN: what is rebuilt solves its equations, and the source does not. */
static const struct {
    const char *arch;
    uint32_t    layer;
} rebuilt_archs[] = { { "llama", 1 }, { "smollm3", 3 }, { "qwen2", 1 },  { "qwen3", 1 },  { "granite", 1 },   { "phi3", 1 },     { "mistral3", 1 },
                      { "olmo2", 1 }, { "gemma3", 1 },  { "gemma4", 1 }, { "gemma4", 2 }, { TINY_SHARED, 1 }, { TINY_SHARED, 5 } };
enum { N_REBUILT = sizeof rebuilt_archs / sizeof *rebuilt_archs };

START_TEST(a_rebuild_solves_its_equations)
{
    static const bb_part parts[] = { BB_PART_K, BB_PART_O, BB_PART_DOWN, BB_PART_TOKEN_GATE, BB_PART_TOKEN_OUT };
    const uint32_t       layer = rebuilt_archs[_i].layer;
    char                 kv[16], ffn[16];
    bb_plan              plan = { 0 };
    bb_rebuilt           rebuilt;
    setup(rebuilt_archs[_i].arch, "equations");
    ck_assert(model.net.blocks[layer].no_rope == (_i == 1));
    snprintf(kv, sizeof kv, "blk.%u.kv", layer - 1);
    snprintf(ffn, sizeof ffn, "blk.%u.ffn", layer - 1);
    bb_database *db = open_database();
    if (!model.net.whole_norms && bb_block_cuttable(&model.net.blocks[layer - 1], BB_ATTENTION)) OK(bb_plan_set(&plan, kv, "1", &err));
    OK(bb_plan_set(&plan, ffn, "32", &err));
    OK(bb_rebuild(db, &model, &plan, tokens, WINDOWS, CTX, &config.quant, NULL, &rebuilt, &err));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (!bb_block_has_part(&model.net.blocks[layer], parts[i])) continue;
        bb_net   before = rebuilt.net;
        bb_block blocks[TINY_MAX_LAYERS];
        memcpy(blocks, rebuilt.net.blocks, rebuilt.net.n_layer * sizeof *blocks);
        before.blocks = blocks;
        const double solved = formula_error(db, &rebuilt.net, layer, parts[i]);
        ck_assert_msg(solved < 1e-4, "%s: the equations are %g away", bb_parts[parts[i]].name, solved);
        blocks[layer].w[parts[i]] = model.net.blocks[layer].w[parts[i]];
        const double source = formula_error(db, &before, layer, parts[i]);
        ck_assert_msg(source > 0.01, "%s: the source solves them too (%g)", bb_parts[parts[i]].name, source);
    }
    bb_rebuilt_done(&rebuilt);
    bb_plan_done(&plan);
    bb_database_close(db);
    bb_model_close(&model);
}
END_TEST

/* A hash of all that is rebuilt; nothing is left that a later rebuild could go on from. */
static void rebuild_hash(bb_database *db, const bb_plan *plan, uint32_t n_windows, bb_full_states *kept, char hex[65])
{
    bb_rebuilt rebuilt;
    bb_sha256  s;
    OK(bb_rebuild(db, &model, plan, tokens, n_windows, CTX, &config.quant, kept, &rebuilt, &err));
    ck_assert_uint_gt(rebuilt.n_maps, 0);
    bb_sha256_init(&s);
    for (uint32_t i = 0; i < model.net.n_layer; i++)
        for (int p = 0; p < N_PARTS; p++) {
            const bb_matrix *w = &rebuilt.net.blocks[i].w[p];
            if (w->rows) bb_sha256_update(&s, w->data, w->rows * bb_format_row_bytes(bb_format_get(w->type), w->cols));
        }
    bb_sha256_hex(&s, hex);
    bb_checkpoint_remove(&rebuilt.checkpoint);
    bb_rebuilt_done(&rebuilt);
}

/* Another process that comes to its end with the same plan in the same folder removes every matrix as soon as it is there. */
START_TEST(a_rebuild_survives_the_end_of_another)
{
    static const char *const formats[4] = { "Q8_0", "Q4_0", "Q5_0", "Q2_0" };
    bb_plan                  plan = { 0 };
    char                     alone[65], beside[65];
    setup("llama", "beside");
    for (uint32_t i = 0; i < model.net.n_layer; i++)
        for (int p = 0; p < N_PARTS; p++) {
            char unit[64];
            snprintf(unit, sizeof unit, "blk.%u.%s", i, bb_parts[p].name);
            OK(bb_plan_set(&plan, unit, "Q2_0", &err));
        }
    bb_database *db = open_database();
    rebuild_hash(db, &plan, WINDOWS, NULL, alone);
    bb_test_remove_once(bb_database_dir(db), BB_CHECKPOINT_PREFIX);
    for (int k = 0; k < 4; k++) {
        OK(bb_plan_set(&plan, "blk.0.attn_v", formats[k], &err)); /* files of other names each */
        rebuild_hash(db, &plan, WINDOWS, NULL, beside);
    }
    ck_assert_uint_gt(bb_test_removed(), 0);
    ck_assert_str_eq(beside, alone);
    bb_plan_done(&plan);
    bb_database_close(db);
    bb_model_close(&model);
}
END_TEST

START_TEST(kept_states_change_no_byte)
{
    const size_t   n = (size_t)TINY_MAX_LAYERS * BB_N_SUBLAYERS * WINDOWS * CTX * 4 * C;
    bb_full_states kept = { .most = n * sizeof(float) }, none = { .most = 16 };
    bb_plan        plan = { 0 };
    char           alone[2][65], with[65];
    setup(rebuilt_archs[_i].arch, "kept");
    const uint32_t halves = model.net.n_layer * (uint32_t)bb_net_sublayers(&model.net);
    bb_database   *db = open_database();
    for (int k = 0; k < 2; k++) {
        OK(bb_plan_set(&plan, "blk.0.attn_output", k ? "Q2_0" : "Q4_0", &err));
        OK(bb_plan_set(&plan, "blk.0.ffn_up", "Q2_0", &err));
        OK(bb_plan_set(&plan, "blk.1.ffn_down", "Q2_0", &err));
        OK(bb_plan_set(&plan, "blk.0.ffn", k ? "32" : "64", &err));
        rebuild_hash(db, &plan, WINDOWS, NULL, alone[k]);
        rebuild_hash(db, &plan, WINDOWS, &kept, with);
        ck_assert_str_eq(with, alone[k]);
        ck_assert_uint_eq(kept.n, halves);
    }
    kept.n = halves - 1; /* as after an interruption: the last half runs again, and is kept again */
    rebuild_hash(db, &plan, WINDOWS, &kept, with);
    ck_assert_str_eq(with, alone[1]);
    ck_assert_uint_eq(kept.n, halves);
    rebuild_hash(db, &plan, WINDOWS, &none, with); /* no room */
    ck_assert_str_eq(with, alone[1]);
    ck_assert_ptr_null(none.h);
    for (size_t i = 0; i < (size_t)WINDOWS * CTX * C; i++) kept.h[i] += (float)(i % 7); /* what is kept is what is used, */
    rebuild_hash(db, &plan, WINDOWS, &kept, with);
    ck_assert_str_ne(with, alone[1]);
    rebuild_hash(db, &plan, WINDOWS - 1, NULL, alone[0]); /* and never for other windows */
    rebuild_hash(db, &plan, WINDOWS - 1, &kept, with);
    ck_assert_str_eq(with, alone[0]);
    ck_assert_str_ne(with, alone[1]);
    bb_full_states_done(&kept);
    bb_full_states_done(&none);
    bb_plan_done(&plan);
    bb_database_close(db);
    bb_model_close(&model);
}
END_TEST

START_TEST(memory_failures_are_clean)
{
    setup("llama", "memory");
    size_t       live = bb_mem_live_bytes();
    bb_database *db = NULL;
    bb_status    s = BB_NOMEM;
    for (long n = 0; n < 3000 && s != BB_OK; n += 1 + n / 40) {
        bb_err local = BB_ERR_INIT;
        bb_mem_fail_after(n);
        s = bb_database_open(&config, &db, &local);
        bb_mem_fail_after(-1);
        if (s != BB_OK) {
            ck_assert_int_eq(s, BB_NOMEM);
            ck_assert_uint_eq(bb_mem_live_bytes(), live);
        }
    }
    ck_assert_int_eq(s, BB_OK);
    for (long n = 0; n < 3000; n += 1 + n / 40) {
        bb_err    local = BB_ERR_INIT;
        bb_matrix m;
        bb_mem_fail_after(n);
        s = bb_database_matrix(db, 0, BB_PART_DOWN, 64, BB_Q4_0, &m, NULL, &local);
        bb_mem_fail_after(-1);
        if (s == BB_OK) break;
        ck_assert_int_eq(s, BB_NOMEM);
    }
    ck_assert_int_eq(s, BB_OK);
    bb_database_close(db);
    ck_assert_uint_eq(bb_mem_live_bytes(), live);
    bb_model_close(&model);
}
END_TEST

/* Second moments and a rebuilt plan, each backend in a folder of its own, the second by three threads; exact, then fast. */
START_TEST(another_backend_makes_the_same)
{
    static const char *const folders[2] = { "host", "guarded" };
    guarded                  g;
    bb_rebuilt               rebuilt[2];
    bb_database             *db[2];
    char                     dir[2][256];
    bb_plan                  plan = { 0 };
    const int                threads = omp_get_max_threads();
    bb_kernels_set_precision(_i / 2 ? BB_FAST : BB_EXACT);
    setup(_i % 2 ? "qwen2" : "llama", "unused");
    guarded_make(&g);
    for (uint32_t i = 0; i < model.net.n_layer; i++)
        for (int p = 0; p < N_PARTS; p++) {
            char unit[64];
            snprintf(unit, sizeof unit, "blk.%u.%s", i, bb_parts[p].name);
            OK(bb_plan_set(&plan, unit, p == BB_PART_V ? "F32" : "Q2_0", &err));
        }
    OK(bb_plan_set(&plan, "blk.0.ffn", "64", &err));
    OK(bb_plan_set(&plan, "blk.1.kv", "1", &err));
    OK(bb_plan_set(&plan, "blk.1.attn_output", "Q4_0", &err));
    for (int i = 0; i < 2; i++) {
        bb_database_config c = config;
        snprintf(dir[i], sizeof dir[i], "%s", bb_test_path(folders[i]));
        c.dir = dir[i];
        c.backend = i ? &g.backend : &bb_backend_cpu;
        omp_set_num_threads(i ? 3 : 1);
        OK(bb_database_open(&c, &db[i], &err));
        OK(bb_rebuild(db[i], &model, &plan, tokens, WINDOWS, CTX, &config.quant, NULL, &rebuilt[i], &err));
    }
    omp_set_num_threads(threads);
    bb_kernels_set_precision(BB_EXACT);
    ck_assert(rebuilt[0].n_maps > 0 && rebuilt[0].n_maps == rebuilt[1].n_maps);
    for (uint32_t i = 0; i < model.net.n_layer; i++)
        for (int p = 0; p < N_PARTS; p++) {
            const bb_matrix *a = &rebuilt[0].blocks[i].w[p], *b = &rebuilt[1].blocks[i].w[p];
            ck_assert(a->type == b->type && a->rows == b->rows);
            ck_assert_int_eq(memcmp(a->data, b->data, a->rows * bb_format_row_bytes(bb_format_get(a->type), a->cols)), 0);
        }
    for (int i = 0; i < 2; i++) {
        bb_rebuilt_done(&rebuilt[i]);
        bb_database_close(db[i]);
    }
    ck_assert_uint_eq(g.n_weights, 0);
    guarded_done(&g);
    bb_plan_done(&plan);
    bb_model_close(&model);
}
END_TEST

/* Where nothing may be removed no order is computed, the whole matrices are the same, and a pruned one is refused. */
START_TEST(whole_networks_need_no_orders)
{
    bb_statistics s;
    bb_matrix     a, b;
    setup("llama", "ordered");
    bb_database *ordered = open_database();
    OK(bb_database_matrix(ordered, 0, BB_PART_DOWN, FF, BB_Q4_0, &a, NULL, &err));
    config.dir = bb_test_path("whole");
    config.whole = true;
    bb_database *whole = open_database();
    OK(bb_database_matrix(whole, 0, BB_PART_DOWN, FF, BB_Q4_0, &b, NULL, &err));
    ck_assert_uint_eq(a.rows, b.rows);
    ck_assert_int_eq(memcmp(a.data, b.data, a.rows * bb_format_row_bytes(bb_format_get(BB_Q4_0), a.cols)), 0);
    ck_assert_int_eq(bb_database_matrix(whole, 0, BB_PART_DOWN, FF / 2, BB_Q4_0, &b, NULL, &err), BB_UNSUPPORTED);
    OK(bb_statistics_open(&(bb_statistics_config) { config.dir, &model, &bb_backend_cpu, tokens, WINDOWS, CTX, 8, true }, &s, &err));
    for (uint32_t i = 0; i < model.net.n_layer; i++) {
        ck_assert_uint_eq(s.blocks[i].n_ff, 0);
        ck_assert_uint_eq(s.blocks[i].n_kv, 0);
        ck_assert_ptr_nonnull(s.blocks[i].in[BB_FEED_CHANNELS].h);
    }
    bb_statistics_close(&s);
    bb_database_close(whole);
    bb_database_close(ordered);
    bb_model_close(&model);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("database");
    TCase *t = tcase_create("core");
    bb_blas_init();
    bb_log_set_level(BB_LOG_QUIET);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, moments_are_those_of_the_inputs);
    tcase_add_test(t, any_reader_will_do);
    tcase_add_test(t, entries_have_the_errors_they_say);
    tcase_add_test(t, whole_networks_need_no_orders);
    tcase_add_test(t, masks_are_nested_and_select_rows);
    tcase_add_test(t, widths_by_gates_are_another_order);
    tcase_add_test(t, resumes_from_what_is_there);
    tcase_add_test(t, entries_are_of_the_inputs_asked_for);
    tcase_add_test(t, moments_of_other_widths_are_refused);
    tcase_add_test(t, two_threads_share_the_work);
    tcase_add_test(t, plans_are_applied_and_rebuilt);
    tcase_add_loop_test(t, another_backend_makes_the_same, 0, 4);
    tcase_add_loop_test(t, a_rebuild_solves_its_equations, 0, N_REBUILT);
    tcase_add_test(t, a_rebuild_survives_the_end_of_another);
    tcase_add_loop_test(t, kept_states_change_no_byte, 0, N_REBUILT);
    tcase_add_test(t, memory_failures_are_clean);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
