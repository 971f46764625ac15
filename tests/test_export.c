/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_export.c: what is written is what was asked: random plans on random models, written, opened again and compared byte for byte
 * with expectations worked out here; and the size that was promised is the size of the file. */
#include <check.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/plan.h"
#include "base/rng.h"
#include "model/compress/database.h"
#include "model/export/export.h"
#include "model/export/sizes.h"
#include "model/net/arch.h"
#include "model/net/forward.h"
#include "model/io/gguf_internal.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

enum { MAX_DATA = 32 + 2 * TINY_MAX_LAYERS * BB_N_PARTS + 2 };

/* A source and a plan applied to it, with random bytes as weights. */
typedef struct fixture {
    bb_model source;
    bb_plan  plan;
    bb_net   net;
    bb_block blocks[TINY_MAX_LAYERS];
    void    *data[MAX_DATA];
    size_t   n_data;
    uint64_t size; /* as promised */
    bb_model back; /* the file opened again */
} fixture;

static void open_source(fixture *f, const tiny_spec *s)
{
    const char *path = bb_test_path("source.gguf");
    bb_err      err = BB_ERR_INIT;
    memset(f, 0, sizeof *f);
    if (s) tiny_write(s, path); /* else the one written before */
    ck_assert_msg(bb_model_open(path, &f->source, &err) == BB_OK, "%s", err.msg);
}

static void set(fixture *f, const char *option, const char *unit, ...) __attribute__((format(printf, 3, 4)));
static void set(fixture *f, const char *option, const char *unit, ...)
{
    char    name[64];
    va_list args;
    va_start(args, unit);
    vsnprintf(name, sizeof name, unit, args);
    va_end(args);
    ck_assert_int_eq(bb_plan_set(&f->plan, name, option, NULL), BB_OK);
}

static size_t matrix_bytes(const bb_matrix *w)
{
    bb_tensor t = { .name = "w", .type = w->type, .n_dims = 2, .ne = { w->cols, w->rows, 1, 1 } };
    uint64_t  bytes;
    ck_assert_int_eq(bb_gguf_tensor_bytes(&t, &bytes, NULL), BB_OK);
    return (size_t)bytes;
}

static void fill(fixture *f, bb_matrix *w, const char *stream)
{
    if (!w->rows) return;
    void *p = f->data[f->n_data++] = bb_alloc(matrix_bytes(w), 1, NULL);
    tiny_random_bytes(p, matrix_bytes(w), stream);
    w->data = p;
}

static void apply(fixture *f)
{
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_plan_shape(&f->source, &f->plan, &f->net, f->blocks, &err) == BB_OK, "%s", err.msg);
}

static void add_data(fixture *f)
{
    char stream[64];
    fill(f, &f->net.embd, "embd");
    fill(f, &f->net.head, "head");
    fill(f, &f->net.token.table, "table");
    for (uint32_t i = 0; i < f->net.n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            snprintf(stream, sizeof stream, "%u %d", i, p);
            fill(f, &f->blocks[i].w[p], stream);
        }
}

/* Size from shapes alone, then the file, then its size on disk, then the file opened. */
static void write_and_open(fixture *f)
{
    const char *path = bb_test_path("export.gguf");
    bb_err      err = BB_ERR_INIT;
    uint64_t    on_disk;
    ck_assert_msg(bb_export_size(&f->source, &f->net, &f->size, &err) == BB_OK, "%s", err.msg);
    add_data(f);
    ck_assert_msg(bb_export_write(&f->source, &f->net, &(bb_provenance) { .plan = "0123456789abcdef" }, path, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_file_size(path, &on_disk, NULL), BB_OK);
    ck_assert_uint_eq(on_disk, f->size);
    ck_assert_msg(bb_model_open(path, &f->back, &err) == BB_OK, "%s", err.msg);
}

static void done(fixture *f)
{
    bb_model_close(&f->back);
    bb_model_close(&f->source);
    bb_plan_done(&f->plan);
    for (size_t i = 0; i < f->n_data; i++) bb_free(f->data[i]);
}

static void check_arch(const fixture *f, const char *arch)
{
    bb_bytes text;
    ck_assert_int_eq(bb_source_text(&f->back.source, "general.architecture", &text, NULL, NULL), BB_OK);
    ck_assert_msg(text.size == strlen(arch) && memcmp(text.data, arch, text.size) == 0, "%.*s instead of %s", (int)text.size, text.data, arch);
}

/* rows of `back` are rows of `sent`, in order, or (interleaved) row 2i of a head from row i and 2i+1 from row i + D/2. */
static void same_rows(const void *back, const void *sent, uint32_t rows, size_t size, uint32_t head_dim, bool interleaved)
{
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t p = r % head_dim, from = interleaved ? r - p + p / 2 + (p % 2) * (head_dim / 2) : r;
        ck_assert(memcmp((const char *)back + r * size, (const char *)sent + from * size, size) == 0);
    }
}

static void same_matrix(const bb_matrix *back, const bb_matrix *sent, uint32_t head_dim, bool interleaved)
{
    ck_assert(back->type == sent->type && back->rows == sent->rows && back->cols == sent->cols);
    if (!sent->rows) return;
    same_rows(back->data, sent->data, sent->rows, matrix_bytes(sent) / sent->rows, head_dim, interleaved);
    ck_assert((back->bias != NULL) == (sent->bias != NULL));
    if (sent->bias) same_rows(back->bias, sent->bias, sent->rows, sizeof(float), head_dim, interleaved);
}

/* A stand-in has the shape of one head or of width 1, and only zeros where they are needed. */
static void is_zero(const bb_matrix *w)
{
    const unsigned char *p = w->data;
    ck_assert(w->rows && !w->bias && w->type == (w->cols % 64 == 0 ? BB_Q4_0 : w->cols % 32 == 0 ? BB_IQ4_NL : BB_F16));
    for (size_t i = 0; i < matrix_bytes(w); i++) ck_assert_uint_eq(p[i], 0);
}

static void same_floats(const float *a, const float *b, uint32_t n)
{
    ck_assert((a != NULL) == (b != NULL));
    if (a) ck_assert(memcmp(a, b, n * sizeof *a) == 0);
}

/* Everything in the file against the net that was sent; at: the block of the net that a block of the file must be. */
static void check_block(const fixture *f, uint32_t i, uint32_t at, bool interleaved)
{
    const bb_block *b = &f->back.net.blocks[i], *s = &f->blocks[at];
    if (s->n_head) {
        ck_assert(b->n_head == s->n_head && b->n_kv == s->n_kv);
        same_floats(b->norm[BB_NORM_ATTENTION], s->norm[BB_NORM_ATTENTION], f->net.n_embd);
        for (int n = BB_NORM_Q; n <= BB_NORM_POST_ATTENTION; n++) same_floats(b->norm[n], s->norm[n], (uint32_t)bb_norm_length(&f->net, s, (bb_norm)n));
        ck_assert(b->local == s->local && b->window == s->window && b->no_rope == s->no_rope);
        ck_assert(b->scale == s->scale && b->lacks == s->lacks);
        for (int p = BB_PART_Q; p <= BB_PART_O; p++)
            if (bb_block_has_part(s, (bb_part)p)) same_matrix(&b->w[p], &s->w[p], f->net.head_dim, interleaved && p <= BB_PART_K);
    } else if (b->n_head) {
        ck_assert(b->n_head == 1 && b->n_kv == 1);
        is_zero(&b->w[BB_PART_O]);
    }
    if (s->n_ff) {
        ck_assert_uint_eq(b->n_ff, s->n_ff);
        same_floats(b->norm[BB_NORM_FFN], s->norm[BB_NORM_FFN], f->net.n_embd);
        same_floats(b->norm[BB_NORM_POST_FFN], s->norm[BB_NORM_POST_FFN], f->net.n_embd);
        for (int p = BB_PART_GATE; p <= BB_PART_DOWN; p++) same_matrix(&b->w[p], &s->w[p], f->net.head_dim, false);
    } else {
        ck_assert_uint_eq(b->n_ff, 1);
        is_zero(&b->w[BB_PART_DOWN]);
    }
    ck_assert(b->n_token == s->n_token && b->kv_role == s->kv_role && b->kv_at == s->kv_at);
    for (int p = BB_PART_TOKEN_GATE; p <= BB_PART_TOKEN_OUT; p++) same_matrix(&b->w[p], &s->w[p], 1, false);
    same_floats(b->norm[BB_NORM_POST_TOKEN], s->norm[BB_NORM_POST_TOKEN], f->net.n_embd);
}

static void check_back(const fixture *f, bool interleaved)
{
    const bb_net *b = &f->back.net, *s = &f->net;
    uint32_t      at = 0;
    bb_bytes      text;
    ck_assert(b->n_vocab == s->n_vocab && b->n_embd == s->n_embd && b->head_dim == s->head_dim && b->n_rot == s->n_rot);
    ck_assert(b->norm_eps == s->norm_eps && b->rope_base == s->rope_base && b->rope_freq_scale == s->rope_freq_scale);
    ck_assert(b->embd_scale == s->embd_scale && b->query_scale == s->query_scale && b->out_scale == s->out_scale && b->residual_scale == s->residual_scale);
    ck_assert(b->local_rope_base == s->local_rope_base && b->gate == s->gate);
    ck_assert(b->local_head_dim == s->local_head_dim && b->local_n_rot == s->local_n_rot && b->logit_cap == s->logit_cap);
    ck_assert(b->unit_scores == s->unit_scores && !b->value_norm == !s->value_norm);
    ck_assert(b->n_ctx_train == s->n_ctx_train && b->rope_neox == (s->rope_neox && !interleaved));
    same_floats(b->rope_factors, s->rope_factors, s->n_rot / 2);
    same_floats(b->rope_long, s->rope_long, s->n_rot / 2);
    ck_assert(b->rope_context == s->rope_context && b->rope_magnitude == s->rope_magnitude && b->heat == s->heat);
    ck_assert(b->yarn == s->yarn && b->yarn_low == s->yarn_low && b->yarn_high == s->yarn_high);
    same_floats(b->out_norm, s->out_norm, s->n_embd);
    same_matrix(&b->embd, &s->embd, 1, false);
    same_matrix(&b->head, &s->head, 1, false);
    ck_assert(b->token.width == s->token.width && b->n_carried == s->n_carried);
    if (s->token.width) {
        same_matrix(&b->token.table, &s->token.table, 1, false);
        same_matrix(&b->token.proj, &s->token.proj, 1, false);
        same_floats(b->token.norm, s->token.norm, s->token.width);
    }
    for (uint32_t i = 0; i < b->n_layer; i++, at++) {
        while (f->blocks[at].n_head == 0 && f->blocks[at].n_ff == 0 && !bb_scales(f->blocks[at].scale)) at++;
        ck_assert_uint_lt(at, s->n_layer);
        check_block(f, i, at, interleaved);
    }
    for (; at < s->n_layer; at++) ck_assert(f->blocks[at].n_head == 0 && f->blocks[at].n_ff == 0);
    ck_assert_int_eq(bb_source_text(&f->back.source, "bitbudget.plan", &text, NULL, NULL), BB_OK);
    ck_assert(text.size == 16 && memcmp(text.data, "0123456789abcdef", 16) == 0);
    const bb_key *a = bb_source_find(&f->source.source, "tokenizer.ggml.tokens"), *c = bb_source_find(&f->back.source, "tokenizer.ggml.tokens");
    ck_assert(a && c && a->value_bytes == c->value_bytes && memcmp(a->value, c->value, a->value_bytes) == 0);
}

/* ---- what is said of the file, and carried ---- */

static bool says(const bb_source *g, const char *key, const char *text)
{
    const bb_key *k = bb_source_find(g, key);
    return k && k->kind == BB_KIND_STRING && k->value_bytes == strlen(text) && memcmp(k->value, text, strlen(text)) == 0;
}

/* Whatever is known of a file and whatever it is, it has the size that was counted; what is known is in it. */
START_TEST(provenance_has_one_size)
{
    static const char   hash[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const bb_provenance rows[] = {
        { .plan = NULL },
        { .plan = "fedcba9876543210", .program = "0.1.0 0123456789ab", .calib_sha256 = hash, .calib_tokens = UINT64_C(5) << 32 },
        { .program = "a program whose name and commit are longer than forty bytes", .calib_sha256 = "", .has_kl = true, .kl = 0.0123456789 },
        { .has_kl = true, .kl = -1e-9 },
        { .has_kl = true, .kl = 1e-120 },
        { .has_kl = true, .kl = 1e300 }
    };
    static const char *const kl[] = { "not measured", "not measured", "1.234568e-02", "0.000000e+00", "0.000000e+00", "not measured" };
    tiny_spec                s = tiny_default("llama");
    fixture                  f;
    uint64_t                 counted, bytes;
    open_source(&f, &s);
    apply(&f);
    add_data(&f);
    ck_assert_int_eq(bb_export_size(&f.source, &f.net, &counted, NULL), BB_OK);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *path = bb_test_path("provenance.gguf");
        ck_assert_int_eq(bb_export_write(&f.source, &f.net, &rows[i], path, NULL), BB_OK);
        ck_assert_int_eq(bb_file_size(path, &bytes, NULL), BB_OK);
        ck_assert_uint_eq(bytes, counted);
        ck_assert_int_eq(bb_model_open(path, &f.back, NULL), BB_OK);
        ck_assert_msg(says(&f.back.source, "bitbudget.kl", kl[i]), "row %zu", i);
        ck_assert(says(&f.back.source, "bitbudget.plan", rows[i].plan ? rows[i].plan : "0000000000000000"));
        ck_assert(says(&f.back.source, "bitbudget.program",
                       i == 1   ? "0.1.0 0123456789ab                      "
                       : i == 2 ? "a program whose name and commit are long"
                                : "unknown                                 "));
        ck_assert(i != 1 || says(&f.back.source, "bitbudget.calibration.sha256", hash));
        const bb_key *n = bb_source_find(&f.back.source, "bitbudget.calibration.tokens");
        ck_assert(n && n->kind == BB_KIND_U64 && memcmp(n->value, &rows[i].calib_tokens, 8) == 0);
        bb_model_close(&f.back);
    }
    f.back = (bb_model) { .path = NULL };
    done(&f);
}
END_TEST

/* A source with keys that nobody here knows, to an export of the same and of another architecture: every key with its bytes, but those that say what
 * changed; those of the architecture under the new name. And an export of an export says where it comes from once. */
START_TEST(source_keys_are_carried)
{
    static const char *const list[] = { "en", "de" }, *const plans[] = { "", "blk.0.ffn=32\n" };
    tiny_spec      s = tiny_default("llama");
    bb_source      g;
    bb_gguf_out   *out;
    fixture        f;
    const bb_bytes languages[2] = { { list[0], 2 }, { list[1], 2 } };
    tiny_write(&s, bb_test_path("plain.gguf"));
    ck_assert_int_eq(bb_source_open(bb_test_path("plain.gguf"), &g, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_out_create(&out, NULL), BB_OK);
    for (uint64_t i = 0; i < g.n_kv; i++) ck_assert_int_eq(bb_gguf_put_copy(out, &g.kv[i], NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_text(out, "tokenizer.chat_template", "{% for m in messages %}\n{{ m }}{% endfor %}", NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_text(out, "general.license", "apache-2.0", NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_text_array(out, "general.languages", languages, 2, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_f32(out, "adapter.lora.alpha", 16.0f, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_u32(out, "llama.vocab_size", 320, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_text(out, "bitbudget.kl", "of an earlier export", NULL), BB_OK);
    for (uint64_t i = 0; i < g.n_tensors; i++) ck_assert_int_eq(bb_gguf_put_tensor(out, &g.tensors[i], NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_out_write(out, bb_test_path("source.gguf"), NULL), BB_OK);
    bb_gguf_out_destroy(out);
    bb_source_close(&g);
    for (int p = 0; p < 2; p++) {
        open_source(&f, NULL);
        ck_assert_int_eq(bb_plan_parse(plans[p], strlen(plans[p]), &f.plan, NULL), BB_OK);
        set(&f, "Q8_0", "blk.1.attn_q");
        apply(&f);
        write_and_open(&f);
        check_arch(&f, p ? "deci" : "llama");
        uint64_t same = 0;
        for (uint64_t i = 0; i < f.source.source.n_kv; i++) {
            const bb_key *k = &f.source.source.kv[i], *b;
            char          name[96];
            snprintf(name, sizeof name, "%.*s", (int)k->key.size, k->key.data);
            if (p && strncmp(name, "llama.", 6) == 0) snprintf(name, sizeof name, "deci%.*s", (int)k->key.size - 5, k->key.data + 5);
            ck_assert_msg((b = bb_source_find(&f.back.source, name)) != NULL, "%s is gone", name);
            same += b->kind == k->kind && b->element == k->element && b->count == k->count && b->value_bytes == k->value_bytes &&
                    memcmp(b->value, k->value, k->value_bytes) == 0;
        }
        /* other: bitbudget.kl; in deci the architecture and three counts by block */
        ck_assert_uint_eq(same, f.source.source.n_kv - (p ? 5 : 1));
        ck_assert(says(&f.back.source, "bitbudget.kl", "not measured"));
        uint32_t n;
        ck_assert_int_eq(bb_source_u32(&f.back.source, "general.quantization_version", &n, NULL, NULL), BB_OK);
        ck_assert_uint_eq(n, 2);
        ck_assert_int_eq(bb_source_u32(&f.back.source, "general.file_type", &n, NULL, NULL), BB_OK);
        ck_assert_uint_eq(n, 0); /* most weights are F32 still */
        done(&f);
    }
}
END_TEST

/* llama.cpp's number for the type that most weights of the blocks have. */
START_TEST(file_type_is_of_most_weights)
{
    static const struct {
        const char *type;
        uint32_t    number;
    } rows[] = { { "F16", 1 },   { "Q8_0", 7 },  { "Q4_0", 2 },  { "Q2_K", 10 },  { "Q3_K", 12 },
                 { "Q4_K", 15 }, { "Q5_K", 17 }, { "Q6_K", 18 }, { "IQ2_S", 28 }, { "BF16", 32 } };
    tiny_spec s = tiny_default("llama");
    s.n_embd = s.n_ff[0] = s.n_ff[1] = 256;
    s.head_dim = 64;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fixture  f;
        uint32_t n;
        open_source(&f, &s);
        for (int b = 0; b < 2; b++) {
            set(&f, rows[i].type, "blk.%d.ffn_up", b);
            set(&f, rows[i].type, "blk.%d.ffn_gate", b);
            set(&f, "Q5_1", "blk.%d.ffn_down", b);
            set(&f, "Q4_1", "blk.%d.attn_q", b);
            set(&f, "Q5_0", "blk.%d.attn_output", b);
        }
        apply(&f);
        write_and_open(&f);
        ck_assert_int_eq(bb_source_u32(&f.back.source, "general.file_type", &n, NULL, NULL), BB_OK);
        ck_assert_msg(n == rows[i].number, "%s: %u", rows[i].type, n);
        done(&f);
    }
}
END_TEST

/* ---- the source itself ---- */

START_TEST(an_empty_plan_keeps_the_model)
{
    static const char *const archs[] = { "llama", "qwen2", "qwen3", "smollm3", "granite", "phi3", "mistral3", "gemma3", "olmo2", "gemma4", TINY_SHARED };
    for (int variant = 0; variant < 4; variant++) {
        tiny_spec s = tiny_default(archs[_i]);
        fixture   f;
        s.tied = (variant & 1) && !bb_arch_named(s.arch)->needs_head;
        s.minimal_keys = variant & 2;
        s.rope_factors = variant == 1 ? _i == 0 || _i == 5 : s.rope_factors;
        s.rope_scaling = variant == 2 ? 2.0f : variant == 3 ? 0 : s.rope_scaling;
        s.rope_type = variant == 2 && strncmp(archs[_i], "gemma", 5) != 0 ? "yarn" : s.rope_type;
        s.n_rot = _i == 5 && variant == 3 ? 4 : 0;
        open_source(&f, &s);
        apply(&f);
        write_and_open(&f);
        check_arch(&f, s.arch);
        check_back(&f, false);
        for (uint64_t i = 0; i < f.source.source.n_tensors; i++) ck_assert_ptr_nonnull(bb_source_tensor(&f.back.source, f.source.source.tensors[i].name));
        ck_assert_uint_eq(f.source.source.n_tensors, f.back.source.n_tensors);
        done(&f);
    }
}
END_TEST

/* ---- random plans ---- */

static const char *pick(bb_rng *r, const char *const *names, size_t n) { return names[bb_rng_below(r, n)]; }

/* Formats whose blocks divide every row of the source below: multiples of 64. */
static const char *const formats[] = { "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q2_0", "MXFP4" };
enum { N_FORMATS = sizeof formats / sizeof *formats };

static void random_plan(fixture *f, const tiny_spec *s, bb_rng *r, bool one_qkv_type)
{
    char number[16];
    for (uint32_t i = 0; i < s->n_layer; i++) {
        const char *qkv = pick(r, formats, N_FORMATS);
        for (int p = 0; p < BB_PART_TOKEN_GATE; p++)
            if (bb_rng_below(r, 4)) set(f, p <= BB_PART_V && one_qkv_type ? qkv : pick(r, formats, N_FORMATS), "blk.%u.%s", i, bb_parts[p].name);
            else if (p <= BB_PART_V && one_qkv_type) set(f, qkv, "blk.%u.%s", i, bb_parts[p].name);
        snprintf(number, sizeof number, "%u", (unsigned)bb_rng_below(r, s->n_kv[i] + 1));
        if (bb_rng_below(r, 2)) set(f, number, "blk.%u.kv", i);
        snprintf(number, sizeof number, "%u", 64 * (unsigned)bb_rng_below(r, s->n_ff[i] / 64 + 1));
        if (bb_rng_below(r, 2)) set(f, number, "blk.%u.ffn", i);
    }
    set(f, pick(r, formats, N_FORMATS), "token_embd");
    if (!s->tied) set(f, pick(r, formats, N_FORMATS), "output");
}

static bool any_block(const fixture *f)
{
    for (uint32_t i = 0; i < f->net.n_layer; i++)
        if (f->blocks[i].n_head || f->blocks[i].n_ff) return true;
    return false;
}

static bool blocks_alike(const fixture *f)
{
    const bb_block *first = NULL;
    for (uint32_t i = 0; i < f->net.n_layer; i++) {
        const bb_block *k = &f->blocks[i];
        if (!k->n_head && !k->n_ff) continue;
        if (!k->n_head || !k->n_ff) return false;
        if (!first) first = k;
        if (k->n_head != first->n_head || k->n_ff != first->n_ff) return false;
    }
    return true;
}

/* Different types in one tensor of the source's architecture. */
static bool parts_differ(const fixture *f)
{
    const bb_arch *arch = f->source.net.arch;
    for (uint32_t i = 0; i < f->net.n_layer; i++) {
        const bb_matrix *w = f->blocks[i].w;
        if (arch->fused[BB_FEED_ATTENTION] && w[BB_PART_Q].rows && (w[BB_PART_Q].type != w[BB_PART_K].type || w[BB_PART_Q].type != w[BB_PART_V].type))
            return true;
        if (arch->fused[BB_FEED_FFN] && w[BB_PART_UP].rows && w[BB_PART_GATE].type != w[BB_PART_UP].type) return true;
    }
    return false;
}

START_TEST(random_plans_come_back)
{
    static const struct {
        const char *arch, *pruned;
        bool        tied;
    } rows[] = {
        { "llama", "deci", true },    { "llama", "deci", false }, { "qwen2", "deci", false },
        { "qwen3", "openelm", true }, { "deci", "deci", true },   { "phi3", "deci", false },
    };
    bool   seen_alike = false, seen_pruned = false;
    bb_rng r;
    bb_rng_init(&r, (uint64_t)_i, "random plans");
    for (int trial = 0; trial < 12; trial++) {
        tiny_spec s = tiny_default(rows[_i].arch);
        fixture   f;
        s.n_layer = 1 + (uint32_t)trial / 4;
        s.n_embd = 128;
        s.n_vocab = TINY_MIN_VOCAB;
        s.head_dim = 32;
        s.tied = rows[_i].tied;
        s.o_bias = s.n_layer == 2 && strcmp(rows[_i].arch, "qwen3") != 0 && strcmp(rows[_i].arch, "phi3") != 0;
        for (uint32_t i = 0; i < s.n_layer; i++) s.n_ff[i] = 128;
        open_source(&f, trial % 4 == 0 ? &s : NULL);
        if (trial % 4) random_plan(&f, &s, &r, strcmp(rows[_i].pruned, "openelm") == 0);
        apply(&f);
        if (!any_block(&f)) {
            ck_assert_int_eq(bb_export_check(&f.source, &f.net, NULL), BB_UNSUPPORTED);
            done(&f);
            continue;
        }
        write_and_open(&f);
        bool alike = blocks_alike(&f) && strcmp(rows[_i].arch, "deci") != 0;
        if (alike && bb_arch_named(rows[_i].arch)->square_attention)
            for (uint32_t i = 0; i < s.n_layer; i++) alike &= f.blocks[i].n_head == 4 || f.blocks[i].n_head == 0;
        alike = alike && !parts_differ(&f);
        seen_alike |= alike;
        seen_pruned |= !alike;
        check_arch(&f, alike ? rows[_i].arch : rows[_i].pruned);
        check_back(&f, !alike && (strcmp(rows[_i].arch, "qwen2") == 0 || strcmp(rows[_i].arch, "phi3") == 0));
        done(&f);
    }
    ck_assert(seen_pruned && (seen_alike || strcmp(rows[_i].arch, "deci") == 0));
}
END_TEST

/* ---- sizes by table ---- */

/* Every count and some formats for every unit of a model; Q4_K divides no row, Q8_0 and Q4_0 no 33 columns, so that some plans cannot be written. */
typedef struct described {
    bb_plan_unit units[TINY_MAX_LAYERS * (BB_N_PARTS + 2) + 3];
    char         names[TINY_MAX_LAYERS * (BB_N_PARTS + 2) + 3][32];
    uint32_t     n;
    bool         fixed_k;
} described;

static const bb_plan_option counts[] = { { "0", 0 }, { "1", 1 }, { "2", 2 } }, widths[] = { { "96", 96 }, { "64", 64 }, { "33", 33 }, { "0", 0 } },
                            types[] = { { "F32", BB_F32 }, { "Q8_0", BB_Q8_0 }, { "Q4_0", BB_Q4_0 }, { "F16", BB_F16 }, { "Q4_K", BB_Q4_K } };

static void add_unit(described *d, uint32_t what, uint32_t layer, const char *name, const bb_plan_option *options, uint32_t n)
{
    snprintf(d->names[d->n], sizeof d->names[d->n], "%s", name);
    d->units[d->n] = (bb_plan_unit) { d->names[d->n], what, layer, -1, n, options };
    d->n++;
}

static void describe(described *d, const bb_net *net, bool whole)
{
    char name[32];
    d->n = 0;
    d->fixed_k = !whole; /* without a unit: F32 as in the source */
    for (uint32_t i = 0; i < net->n_layer; i++) {
        const bb_block *b = &net->blocks[i];
        snprintf(name, sizeof name, "blk.%u.kv", i);
        if (b->n_kv && bb_block_cuttable(b, BB_ATTENTION)) add_unit(d, BB_UNIT_KV, i, name, counts, 3);
        snprintf(name, sizeof name, "blk.%u.ffn", i);
        if (b->n_ff && whole) add_unit(d, BB_UNIT_FFN, i, name, widths, 4);
        for (uint32_t p = 0; p < BB_N_PARTS; p++) {
            snprintf(name, sizeof name, "blk.%u.%s", i, bb_parts[p].name);
            if (b->w[p].rows && (whole || p != BB_PART_K)) add_unit(d, p, i, name, types, 5);
        }
    }
    add_unit(d, BB_UNIT_EMBD, 0, "token_embd", types, 4);
    if (net->head.rows) add_unit(d, BB_UNIT_HEAD, 0, "output", types, 4);
    if (net->token.width) add_unit(d, BB_UNIT_TABLE, 0, "per_layer_token_embd", types, 4);
}

/* Mostly plans that can be written: q, k and v have one type, as fused matrices need; shapes are one or each its own. */
static void draw_plan(const described *d, bb_rng *r, uint16_t *x)
{
    const uint16_t kv = (uint16_t)(2 - bb_rng_below(r, 2)), ff = (uint16_t)bb_rng_below(r, 2);
    const uint64_t shapes = 1 + bb_rng_below(r, 12), types_differ = bb_rng_below(r, 3); /* how seldom a unit is another one */
    uint16_t       qkv = 0;
    for (uint32_t u = 0; u < d->n; u++) {
        const uint32_t what = d->units[u].what, n = d->units[u].n_options;
        if (!bb_unit_is_format(what)) {
            x[u] = bb_rng_below(r, shapes) == 0 ? (uint16_t)bb_rng_below(r, n) : what == BB_UNIT_KV ? kv : ff;
            continue;
        }
        if (what == BB_PART_Q) qkv = d->fixed_k ? 0 : (uint16_t)bb_rng_below(r, 4);
        x[u] = what <= BB_PART_V ? qkv : (uint16_t)bb_rng_below(r, 4);
        if (types_differ == 0 && bb_rng_below(r, 12) == 0) x[u] = (uint16_t)bb_rng_below(r, n);
    }
}

static void zeros_as_data(fixture *f)
{
    void *zeros = f->data[f->n_data++] = bb_calloc(1 << 21, 1, NULL);
    f->net.embd.data = f->net.head.data = f->net.token.table.data = zeros;
    for (uint32_t i = 0; i < f->net.n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) f->blocks[i].w[p].data = zeros;
}

static void same_shape(const bb_block *a, const bb_block *b)
{
    ck_assert(a->n_head == b->n_head && a->n_kv == b->n_kv && a->n_ff == b->n_ff);
    for (int p = 0; p < BB_N_PARTS; p++)
        ck_assert(a->w[p].type == b->w[p].type && a->w[p].rows == b->w[p].rows && a->w[p].cols == b->w[p].cols && a->w[p].bias == b->w[p].bias &&
                  !a->w[p].data && !b->w[p].data);
    for (int n = 0; n < BB_N_NORMS; n++) ck_assert_ptr_eq(a->norm[n], b->norm[n]);
}

/* The table's size is what the exporter counts, plan by plan, and what it writes; it refuses what the exporter refuses; and a plan by indices has the
 * shape of its plan by names. */
START_TEST(sizes_by_table_are_the_files)
{
    static const struct {
        const char *arch;
        bool        tied, qkv_bias, o_bias, whole;
        uint32_t    n_layer;
    } rows[] = {
        { "llama", true, false, false, true, 3 },    { "llama", false, false, false, true, 12 },   { "llama", true, true, true, true, 2 },
        { "qwen2", true, true, false, true, 3 },     { "qwen2", false, true, false, false, 11 },   { "qwen3", true, false, false, true, 3 },
        { "qwen3", true, false, false, true, 12 },   { "qwen3", false, false, false, true, 2 },    { "qwen3", true, true, false, true, 2 },
        { "deci", true, false, false, true, 4 },     { "deci", false, false, true, false, 12 },    { "smollm3", true, false, false, true, 4 },
        { "smollm3", false, false, false, true, 8 }, { "granite", true, false, false, true, 4 },   { "phi3", true, false, false, true, 3 },
        { "phi3", false, false, false, true, 12 },   { "mistral3", true, true, true, true, 4 },    { "gemma3", true, false, false, true, 4 },
        { "gemma3", false, false, false, true, 7 },  { "olmo2", false, false, false, true, 4 },    { "gemma4", true, false, false, true, 4 },
        { "gemma4", false, false, false, true, 9 },  { TINY_SHARED, true, false, false, true, 6 },
    };
    tiny_spec        s = tiny_default(rows[_i].arch);
    fixture          f;
    described        d;
    bb_plan_space    space;
    bb_export_sizes *sizes;
    bb_rng           r;
    bb_err           err = BB_ERR_INIT;
    uint16_t         x[TINY_MAX_LAYERS * (BB_N_PARTS + 2) + 2];
    uint32_t         written = 0, refused = 0, kept = 0, shorter = 0;
    s.n_embd = 128;
    s.head_dim = 32;
    s.n_layer = rows[_i].n_layer;
    s.tied = rows[_i].tied;
    s.qkv_bias = rows[_i].qkv_bias;
    s.o_bias = rows[_i].o_bias;
    for (uint32_t i = 0; i < s.n_layer; i++) s.n_ff[i] = 96;
    for (uint32_t i = 0; i < s.n_layer; i++) s.n_kv[i] = 2;
    if (s.local_head_dim) s.local_head_dim = 16;
    if (strcmp(s.arch, "deci") == 0) s.n_head[1] = s.n_kv[1] = s.n_ff[s.n_layer - 2] = 0;
    open_source(&f, &s);
    describe(&d, &f.source.net, rows[_i].whole);
    ck_assert_msg(bb_plan_space_init(&space, d.units, d.n, &err) == BB_OK, "%s", err.msg);
    ck_assert_msg(bb_export_sizes_create(&f.source, &space, &sizes, &err) == BB_OK, "%s", err.msg);
    bb_rng_init(&r, (uint64_t)_i, "sizes");
    for (int k = 0; k < 400; k++) {
        bb_net   named;
        bb_block blocks[TINY_MAX_LAYERS];
        bb_plan  plan = { 0, NULL };
        uint64_t bytes = 0, counted = 0, on_disk;
        draw_plan(&d, &r, x);
        bb_plan_space_shape(&f.source, &space, x, BB_NO_UNIT, 0, &f.net, f.blocks);
        ck_assert_int_eq(bb_plan_space_plan(&space, x, &plan, NULL), BB_OK);
        ck_assert_int_eq(bb_plan_shape(&f.source, &plan, &named, blocks, NULL), BB_OK);
        bb_plan_done(&plan);
        for (uint32_t i = 0; i < s.n_layer; i++) same_shape(&blocks[i], &f.blocks[i]);
        ck_assert(named.embd.type == f.net.embd.type && named.head.type == f.net.head.type && named.token.table.type == f.net.token.table.type);
        const bool can = bb_export_size(&f.source, &f.net, &counted, &err) == BB_OK;
        ck_assert_msg(bb_export_sizes_of(sizes, x, &bytes) == can, "plan %d: %s", k, can ? "refused" : err.msg);
        refused += !can;
        if (!can) continue;
        ck_assert_msg(bytes == counted, "plan %d: %llu bytes by table, %llu by the exporter", k, (unsigned long long)bytes, (unsigned long long)counted);
        kept += blocks_alike(&f);
        for (uint32_t i = 0; i < s.n_layer; i++)
            shorter += f.blocks[i].n_head == 0 && f.blocks[i].n_ff == 0 && (f.source.net.blocks[i].n_head || f.source.net.blocks[i].n_ff);
        if (written++ % 50) continue;
        zeros_as_data(&f);
        ck_assert_msg(bb_export_write(&f.source, &f.net, NULL, bb_test_path("sized.gguf"), &err) == BB_OK, "%s", err.msg);
        ck_assert_int_eq(bb_file_size(bb_test_path("sized.gguf"), &on_disk, NULL), BB_OK);
        ck_assert_uint_eq(on_disk, bytes);
    }
    const bool no_other_arch = strcmp(s.arch, "smollm3") == 0 || strcmp(s.arch, "granite") == 0 || strcmp(s.arch, "mistral3") == 0 ||
                               strcmp(s.arch, "gemma3") == 0 || strcmp(s.arch, "olmo2") == 0 || (strcmp(s.arch, "qwen3") == 0 && (!s.tied || s.qkv_bias));
    ck_assert_msg(written > (no_other_arch ? 50 : 150) && refused > 20, "%u written, %u refused", written, refused);
    ck_assert_msg((kept > 5 || strcmp(s.arch, "deci") == 0) && (written > kept + 50 || no_other_arch), "%u of %u uniform", kept, written);
    ck_assert_msg(shorter > 0 || no_other_arch || !rows[_i].whole, "%u blocks left out", shorter);
    bb_export_sizes_destroy(sizes);
    bb_plan_space_done(&space);
    done(&f);
}
END_TEST

/* ---- the function ---- */

/* Weights of all matrices normal, as F32, so that the network computes something. */
static void make_float(fixture *f, uint64_t seed)
{
    bb_rng r;
    bb_rng_init(&r, seed, "weights");
    for (uint32_t i = 0; i < f->net.n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            bb_matrix *w = &f->blocks[i].w[p];
            float     *v = BB_NEW((size_t)w->rows * w->cols, float, NULL);
            for (size_t j = 0; j < (size_t)w->rows * w->cols; j++) v[j] = (float)(bb_rng_normal(&r) / 4);
            if (w->rows) w->data = v;
            f->data[f->n_data++] = v;
        }
    f->net.embd = f->source.net.embd;
    f->net.head = f->source.net.head;
    f->net.token = f->source.net.token;
}

static void logits_of(const bb_net *net, float *logits)
{
    enum { T = 12 };
    int32_t     tokens[T];
    bb_forward *w;
    float      *h = BB_NEW(T * bb_row_width(net), float, NULL), *rows = BB_NEW((size_t)T * net->n_embd, float, NULL);
    for (int i = 0; i < T; i++) tokens[i] = 260 + i;
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, net, 1, T, &w, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_embed(w, net, tokens, 1, T, bb_on_cpu(h), NULL), BB_OK);
    for (uint32_t i = 0; i < net->n_layer; i++) ck_assert_int_eq(bb_forward_block(w, net, &net->blocks[i], 1, T, bb_on_cpu(h), NULL, NULL, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_streams(&bb_backend_cpu, net, bb_on_cpu(h), T, bb_on_cpu(rows), NULL), BB_OK);
    ck_assert_int_eq(bb_forward_logits(w, net, bb_on_cpu(rows), T, logits, NULL), BB_OK);
    bb_forward_destroy(w);
    bb_free(h);
    bb_free(rows);
}

/* The file computes what the net computes. The largest difference is compared with the largest logit: only the order of sums over
 * a head (permuted rows) differs, and products with exact zeros are added. */
START_TEST(the_file_computes_the_same)
{
    static const struct {
        const char *arch, *exported, *plan;
    } rows[] = {
        { "llama", "llama", "" },
        { "llama", "deci", "blk.0.kv=0\nblk.1.ffn=0\nblk.2.kv=1\nblk.3.ffn=0\n" },
        { "llama", "deci", "blk.0.ffn=0\nblk.0.kv=0\nblk.1.kv=0\nblk.3.ffn=13\n" },
        { "qwen2", "deci", "blk.0.kv=1\nblk.2.ffn=9\n" },
        { "qwen2", "qwen2", "blk.0.ffn=0\nblk.0.kv=0\n" },
        { "qwen3", "openelm", "blk.0.kv=1\nblk.1.ffn=0\nblk.2.kv=0\n" },
        { "smollm3", "smollm3", "blk.0.kv=1\nblk.1.kv=1\nblk.2.kv=1\nblk.3.kv=1\nblk.0.ffn=9\nblk.1.ffn=9\nblk.2.ffn=9\nblk.3.ffn=9\n" },
        { "smollm3", "smollm3", "blk.3.ffn=0\nblk.3.kv=0\n" },
        { "granite", "granite", "blk.0.kv=1\nblk.1.kv=1\nblk.2.kv=1\nblk.3.kv=1\nblk.0.ffn=9\nblk.1.ffn=9\nblk.2.ffn=9\nblk.3.ffn=9\n" },
        { "granite", "granite", "blk.1.ffn=0\nblk.1.kv=0\n" },
        { "phi3", "phi3", "blk.0.ffn=9\nblk.1.ffn=9\nblk.2.ffn=9\nblk.3.ffn=9\n" },
        { "phi3", "deci", "blk.0.kv=1\nblk.2.ffn=9\n" },
        { "phi3", "deci", "blk.0.kv=1\nblk.1.kv=1\nblk.2.kv=1\nblk.3.kv=1\n" },
        { "mistral3", "mistral3", "blk.0.kv=1\nblk.1.kv=1\nblk.2.kv=1\nblk.3.kv=1\nblk.0.ffn=9\nblk.1.ffn=9\nblk.2.ffn=9\nblk.3.ffn=9\n" },
        { "mistral3", "mistral3", "blk.1.ffn=0\nblk.1.kv=0\n" },
        { "gemma3", "gemma3", "blk.0.kv=1\nblk.1.kv=1\nblk.2.kv=1\nblk.3.kv=1\nblk.0.ffn=9\nblk.1.ffn=9\nblk.2.ffn=9\nblk.3.ffn=9\n" },
        { "gemma3", "gemma3", "blk.1.ffn=0\nblk.1.kv=0\n" }, /* the others keep their windows */
        { "gemma4", "gemma4", "" },
        { "gemma4", "gemma4", "blk.0.kv=1\nblk.1.ffn=0\nblk.2.kv=0\nblk.3.ffn=7\n" }, /* stand-ins */
        { "gemma4", "gemma4", "blk.0.kv=0\nblk.0.ffn=0\nblk.3.kv=0\nblk.3.ffn=0\n" }, /* blocks that scale the stream alone */
        { TINY_SHARED, "gemma4", "" },
        { TINY_SHARED, "gemma4", "blk.0.kv=1\nblk.1.ffn=0\nblk.3.ffn=9\nblk.4.ffn=0\n" }, /* of all but those that share keys */
        { TINY_SHARED, "gemma4", "blk.0.kv=0\nblk.0.ffn=0\n" },                           /* what its token gives stays */
        { "olmo2", "olmo2", "blk.0.ffn=9\nblk.1.ffn=9\nblk.2.ffn=9\nblk.3.ffn=9\n" },
        { "olmo2", "olmo2", "blk.1.ffn=0\nblk.1.kv=0\n" },
    };
    tiny_spec s = tiny_default(rows[_i].arch);
    fixture   f;
    float    *a, *b, worst = 0, largest = 0;
    if (!s.shared) s.n_layer = 4;
    if (s.rope_context) s.rope_context = _i == 11 ? 20 : 5; /* 12 tokens: beyond it, but for one row */
    open_source(&f, &s);
    bb_plan_done(&f.plan);
    ck_assert_int_eq(bb_plan_parse(rows[_i].plan, strlen(rows[_i].plan), &f.plan, NULL), BB_OK);
    apply(&f);
    make_float(&f, (uint64_t)_i);
    ck_assert_int_eq(bb_export_write(&f.source, &f.net, NULL, bb_test_path("function.gguf"), NULL), BB_OK);
    ck_assert_int_eq(bb_model_open(bb_test_path("function.gguf"), &f.back, NULL), BB_OK);
    check_arch(&f, rows[_i].exported);
    a = BB_NEW((size_t)12 * s.n_vocab, float, NULL);
    b = BB_NEW((size_t)12 * s.n_vocab, float, NULL);
    logits_of(&f.net, a);
    logits_of(&f.back.net, b);
    for (size_t i = 0; i < (size_t)12 * s.n_vocab; i++) {
        worst = fmaxf(worst, fabsf(a[i] - b[i]));
        largest = fmaxf(largest, fabsf(a[i]));
    }
    ck_assert(largest > 0.1f && worst <= 1e-5f * largest);
    if (strcmp(s.arch, rows[_i].exported) == 0) ck_assert(worst == 0);
    bb_free(a);
    bb_free(b);
    done(&f);
}
END_TEST

/* ---- llama.cpp's traps, one by one ---- */

START_TEST(deci_traps_are_avoided)
{
    tiny_spec s = tiny_default("llama");
    fixture   f;
    uint32_t  v[4] = { 0 }, n;
    s.n_layer = 4;
    open_source(&f, &s);
    set(&f, "0", "blk.0.kv");  /* attention-free first block: one zero head */
    set(&f, "0", "blk.1.ffn"); /* FFN-free block with attention: width 1 */
    set(&f, "0", "blk.2.kv");  /* attention-free middle block: allowed */
    set(&f, "0", "blk.3.ffn"); /* FFN-free last block: width 1 */
    apply(&f);
    write_and_open(&f);
    check_arch(&f, "deci");
    check_back(&f, false);
    const bb_source *g = &f.back.source;
    ck_assert_int_eq(bb_source_u32_array(g, "deci.attention.head_count", v, 4, NULL, NULL), BB_OK);
    ck_assert(v[0] == 1 && v[1] == 4 && v[2] == 0 && v[3] == 4);
    ck_assert_int_eq(bb_source_u32_array(g, "deci.attention.head_count_kv", v, 4, NULL, NULL), BB_OK);
    ck_assert(v[0] == 1 && v[1] == 2 && v[2] == 0 && v[3] == 2);
    ck_assert_int_eq(bb_source_u32_array(g, "deci.feed_forward_length", v, 4, NULL, NULL), BB_OK);
    ck_assert(v[0] == 64 && v[1] == 1 && v[2] == 64 && v[3] == 1);
    static const char *const lengths[] = { "deci.attention.key_length", "deci.attention.value_length", "deci.rope.dimension_count" };
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(bb_source_u32(g, lengths[i], &n, NULL, NULL), BB_OK);
        ck_assert_uint_eq(n, s.head_dim);
    }
    ck_assert_int_eq(bb_source_u32(g, "deci.context_length", &n, NULL, NULL), BB_OK);
    ck_assert_ptr_null(bb_source_find(g, "llama.context_length"));
    ck_assert_ptr_null(bb_source_tensor(g, "blk.2.attn_norm.weight"));
    ck_assert_ptr_nonnull(bb_source_tensor(g, "blk.3.ffn_norm.weight"));
    done(&f);
}
END_TEST

START_TEST(empty_blocks_are_left_out)
{
    tiny_spec s = tiny_default("llama");
    fixture   f;
    s.n_layer = 4;
    s.arrays = true; /* arrays of the old length must not stay */
    open_source(&f, &s);
    set(&f, "0", "blk.1.kv");
    set(&f, "0", "blk.1.ffn");
    apply(&f);
    write_and_open(&f);
    check_arch(&f, "llama");
    ck_assert_uint_eq(f.back.net.n_layer, 3);
    check_back(&f, false);
    done(&f);
}
END_TEST

START_TEST(qwen2_may_lose_width_but_not_heads)
{
    tiny_spec s = tiny_default("qwen2");
    fixture   f;
    open_source(&f, &s);
    for (unsigned i = 0; i < s.n_layer; i++) set(&f, "32", "blk.%u.ffn", i);
    apply(&f);
    write_and_open(&f);
    check_arch(&f, "qwen2");
    done(&f);
    open_source(&f, &s);
    for (unsigned i = 0; i < s.n_layer; i++) set(&f, "1", "blk.%u.kv", i);
    apply(&f);
    write_and_open(&f);
    check_arch(&f, "deci");
    check_back(&f, true);
    done(&f);
}
END_TEST

/* ---- what cannot be written ---- */

typedef struct refusal {
    const char *arch;
    bool        tied;
    const char *unit, *option, *says;
} refusal;

START_TEST(refusals_say_why)
{
    static const refusal rows[] = {
        { "llama", true, "blk.1.ffn_down", "Q4_K", "blk.1.ffn_down" },
        { "llama", true, "token_embd", "Q4_K", "token_embd" },
        { "llama", false, "output", "Q2_0", "output" },
        { "qwen3", false, "blk.0.kv", "1", "separate output" },
        { "smollm3", true, "blk.0.kv", "1", "a smollm3 with blocks of different shapes, or blocks in other places" },
        { "granite", false, "blk.0.kv", "1", "a granite with blocks of different shapes: no architecture of llama.cpp" },
        { "mistral3", true, "blk.0.kv", "1", "takes them has the temperature of its attention; prune all blocks alike" },
        { "gemma3", true, "blk.0.kv", "1",
          "a gemma3 with blocks of different shapes, or blocks in other places: no architecture of llama.cpp that takes them has norms of what its sublayers "
          "give" },
        { "olmo2", false, "blk.0.ffn", "0", "norms of what its sublayers give; prune all blocks alike" },
        { "smollm3", false, "blk.3.ffn", "0", "a smollm3 with blocks of different shapes, or blocks in other places" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tiny_spec s = tiny_default(rows[i].arch);
        fixture   f;
        bb_err    err = BB_ERR_INIT;
        uint64_t  bytes;
        s.tied = rows[i].tied;
        open_source(&f, &s);
        set(&f, rows[i].option, "%s", rows[i].unit);
        apply(&f);
        ck_assert_int_eq(bb_export_check(&f.source, &f.net, &err), BB_UNSUPPORTED);
        ck_assert_msg(strstr(err.msg, rows[i].says) != NULL, "%s", err.msg);
        ck_assert_int_eq(bb_export_size(&f.source, &f.net, &bytes, NULL), BB_UNSUPPORTED);
        ck_assert_int_eq(bb_export_write(&f.source, &f.net, NULL, bb_test_path("never.gguf"), NULL), BB_UNSUPPORTED);
        ck_assert(!bb_file_exists(bb_test_path("never.gguf")));
        done(&f);
    }
}
END_TEST

/* A block without RoPE, or without a window, is known by its number alone: what is left must fit that. Of a gemma3 with windows in blocks 0 and 2 of four, 0, 1
 * (each third has none) and 0, 2 (each second) can be said. */
START_TEST(blocks_keep_their_places)
{
    const bool gemma3 = _i == 1;
    for (uint32_t gone = 0; gone < (gemma3 ? 4 : 5); gone++) {
        tiny_spec s = tiny_default(gemma3 ? "gemma3" : "smollm3");
        fixture   f;
        bb_err    err = BB_ERR_INIT;
        if (gemma3) s.n_layer = 4;
        open_source(&f, &s);
        set(&f, "0", "blk.%u.kv", gone);
        set(&f, "0", "blk.%u.ffn", gone);
        apply(&f);
        const bool keeps = gemma3 ? gone == 1 || gone == 3 : gone == 4;
        ck_assert_int_eq(bb_export_check(&f.source, &f.net, &err), keeps ? BB_OK : BB_UNSUPPORTED);
        ck_assert_msg(keeps || strstr(err.msg, "in other places"), "%s", err.msg);
        done(&f);
    }
}
END_TEST

START_TEST(openelm_wants_one_type_for_q_k_v)
{
    tiny_spec s = tiny_default("qwen3");
    fixture   f;
    bb_err    err = BB_ERR_INIT;
    open_source(&f, &s);
    set(&f, "32", "blk.0.ffn");
    set(&f, "F16", "blk.1.attn_k");
    apply(&f);
    ck_assert_int_eq(bb_export_check(&f.source, &f.net, &err), BB_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.msg, "one type"));
    done(&f);
}
END_TEST

/* phi3 has gate and up in one tensor, q, k and v in another. Types that differ go to deci, which rotates whole heads. */
START_TEST(phi3_wants_one_type_or_whole_heads)
{
    static const struct {
        const char *unit;
        bool        whole;
        const char *arch, *says;
    } rows[] = {
        { "blk.1.ffn_down", true, "phi3", NULL },
        { "blk.1.ffn_gate", true, "deci", NULL },
        { "blk.1.attn_k", true, "deci", NULL },
        { "blk.1.ffn_down", false, "phi3", NULL },
        { "blk.1.ffn_gate", false, NULL, "gate and up in one matrix; give them one type" },
        { "blk.0.attn_v", false, NULL, "q, k and v in one matrix; give them one type" },
        { "blk.0.ffn", false, NULL, "rotates whole heads (8 numbers); this model rotates 4" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tiny_spec s = tiny_default("phi3");
        fixture   f;
        bb_err    err = BB_ERR_INIT;
        s.n_rot = rows[i].whole ? 0 : 4;
        open_source(&f, &s);
        set(&f, strcmp(rows[i].unit, "blk.0.ffn") == 0 ? "32" : "F16", "%s", rows[i].unit);
        apply(&f);
        const bb_status status = bb_export_check(&f.source, &f.net, &err);
        ck_assert_msg(status == (rows[i].arch ? BB_OK : BB_UNSUPPORTED) && (rows[i].arch || strstr(err.msg, rows[i].says)), "%s: %s", rows[i].unit, err.msg);
        if (rows[i].arch) {
            write_and_open(&f);
            check_arch(&f, rows[i].arch);
            check_back(&f, strcmp(rows[i].arch, "deci") == 0);
        }
        done(&f);
    }
}
END_TEST

START_TEST(plans_with_unknown_names_are_refused)
{
    static const struct {
        const char *unit, *option;
    } rows[] = {
        { "blk.2.attn_q", "F16" }, { "blk.0.attn_x", "F16" }, { "blk.0.attn_q", "Q9_9" }, { "blk.0.kv", "3" },   { "blk.0.kv", "-1" },
        { "blk.0.ffn", "65" },     { "blk.0.ffn", "1x" },     { "output", "F16" },        { "blk.00.ffn", "1" }, { "blk..ffn", "1" },
        { "blk.0", "1" },          { "embd", "F16" },         { "blk.0.ffn", "64g" },     { "blk.0.ffn", "0g" }, { "blk.0.kv", "g" },
        { "blk.0.ffn", "1gg" },    { "blk.0.attn_q", "32g" },
    };
    tiny_spec s = tiny_default("llama");
    fixture   f;
    open_source(&f, &s);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bb_plan plan = { 0, NULL };
        bb_err  err = BB_ERR_INIT;
        ck_assert_int_eq(bb_plan_set(&plan, rows[i].unit, rows[i].option, NULL), BB_OK);
        ck_assert_msg(bb_plan_shape(&f.source, &plan, &f.net, f.blocks, &err) == BB_NOT_FOUND, "%s=%s", rows[i].unit, rows[i].option);
        ck_assert_msg(strstr(err.msg, rows[i].unit) != NULL, "%s", err.msg);
        bb_plan_done(&plan);
    }
    bb_plan plan = { 0, NULL };
    ck_assert_int_eq(bb_plan_set(&plan, "blk.0.ffn", "63g", NULL), BB_OK);
    ck_assert_int_eq(bb_plan_set(&plan, "blk.1.kv", "1g", NULL), BB_OK);
    ck_assert_int_eq(bb_plan_shape(&f.source, &plan, &f.net, f.blocks, NULL), BB_OK);
    ck_assert(bb_block_width(&f.blocks[0], BB_FFN) == (63 | BB_BY_GATES) && f.blocks[0].w[BB_PART_DOWN].cols == 63);
    ck_assert(bb_block_width(&f.blocks[1], BB_ATTENTION) == (1 | BB_BY_GATES) && bb_block_width(&f.blocks[1], BB_FFN) == 64);
    bb_plan_done(&plan);
    done(&f);
}
END_TEST

START_TEST(memory_failures_are_clean)
{
    tiny_spec   s = tiny_default("qwen2");
    const char *path = bb_test_path("memory.gguf");
    fixture     f;
    long        n = 0;
    open_source(&f, &s);
    set(&f, "0", "blk.0.kv");
    set(&f, "0", "blk.1.ffn");
    apply(&f);
    add_data(&f);
    size_t before = bb_mem_live_bytes();
    for (;; n++) {
        bb_mem_fail_after(n);
        bb_status status = bb_export_write(&f.source, &f.net, NULL, path, NULL);
        bb_mem_fail_after(-1);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
        if (status == BB_OK) break;
        ck_assert_int_eq(status, BB_NOMEM);
        ck_assert(!bb_file_exists(path));
    }
    ck_assert_int_ge(n, 20);
    done(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("export");
    TCase *t = tcase_create("core");
    tcase_add_loop_test(t, an_empty_plan_keeps_the_model, 0, 11);
    tcase_add_loop_test(t, random_plans_come_back, 0, 6);
    tcase_add_loop_test(t, sizes_by_table_are_the_files, 0, 23);
    tcase_add_loop_test(t, the_file_computes_the_same, 0, 25);
    tcase_add_test(t, provenance_has_one_size);
    tcase_add_test(t, source_keys_are_carried);
    tcase_add_test(t, file_type_is_of_most_weights);
    tcase_add_test(t, deci_traps_are_avoided);
    tcase_add_test(t, empty_blocks_are_left_out);
    tcase_add_test(t, qwen2_may_lose_width_but_not_heads);
    tcase_add_test(t, refusals_say_why);
    tcase_add_loop_test(t, blocks_keep_their_places, 0, 2);
    tcase_add_test(t, openelm_wants_one_type_for_q_k_v);
    tcase_add_test(t, phi3_wants_one_type_or_whole_heads);
    tcase_add_test(t, plans_with_unknown_names_are_refused);
    tcase_add_test(t, memory_failures_are_clean);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
