/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_quantize.c: `bitbudget quantize` run inside the test on a real small model: the types that were asked for, codes that are those of
 * the formats' own encoders or better, the same bytes for any number of threads, and no traces. */
#include <jansson.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/tensor_types.h"
#include "model/compress/statistics.h"
#include "model/model.h"
#include "model/net/arch.h"
#include "model/net/sample.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#define MODEL "tests/data/stories260K.gguf"
#define FEW " --ctx 32 --calib-windows 4 --sweeps 1"

/* bitbudget quantize MODEL ... --json; the caller json_decrefs. */
static json_t *quantize(const char *arguments, const char *out)
{
    char   *text = NULL;
    bb_err  err = BB_ERR_INIT;
    json_t *root;
    ck_assert_msg(bb_test_command(&text, &err, "quantize " MODEL " %s --json --out %s", arguments, out) == BB_OK, "%s: %s", arguments, err.msg);
    ck_assert_msg((root = json_loads(text, 0, NULL)) != NULL, "%s", text);
    bb_free(text);
    return root;
}

static const char *text_of(const json_t *o, const char *name) { return json_string_value(json_object_get(o, name)); }
static double      number(const json_t *o, const char *name)
{
    ck_assert_msg(json_is_number(json_object_get(o, name)), "no number '%s'", name);
    return json_number_value(json_object_get(o, name));
}

/* ffn_down has rows of 172 weights, which no block divides. */
static const char *recipe(void)
{
    const char       *path = bb_test_path("mix.txt");
    static const char good[] = "# attention and FFN\r\n^blk\\.1\\.attn_.\\.weight$=q8_0\nffn_down=F16\n\nblk=Q4_0\ntoken_embd=Q5_0\n";
    bb_test_write(path, good, sizeof good - 1);
    return path;
}

static bb_type expected_type(uint32_t layer, int part)
{
    if (part == BB_PART_DOWN) return BB_F16;
    return layer == 1 && part <= BB_PART_V ? BB_Q8_0 : BB_Q4_0; /* attn_output is longer than the pattern */
}

static void check_types(const bb_model *m)
{
    ck_assert_int_eq(m->net.embd.type, BB_Q5_0);
    for (uint32_t i = 0; i < m->net.n_layer; i++)
        for (int p = 0; p < BB_PART_TOKEN_GATE; p++) ck_assert_int_eq(m->net.blocks[i].w[p].type, expected_type(i, p));
}

/* The packed rows are those that the format's own encoder makes of the source. */
static void check_rounded(const bb_matrix *source, const bb_matrix *w)
{
    const bb_format *f = bb_format_get(w->type);
    size_t           bytes = bb_format_row_bytes(f, w->cols);
    float           *dense = bb_matrix_decode(source, NULL);
    unsigned char   *row = bb_alloc(bytes, 1, NULL);
    for (uint32_t r = 0; r < w->rows; r++) {
        f->encode_rtn(dense + (size_t)r * w->cols, row, w->cols);
        ck_assert_int_eq(memcmp(row, (const unsigned char *)w->data + r * bytes, bytes), 0);
    }
    bb_free(dense);
    bb_free(row);
}

START_TEST(types_are_those_of_the_recipe)
{
    char     arguments[512], out[256];
    bb_model source, m;
    uint64_t bytes;
    bb_err   err = BB_ERR_INIT;
    snprintf(out, sizeof out, "%s", bb_test_path("rounded.gguf"));
    snprintf(arguments, sizeof arguments, "--recipe %s --method rtn", recipe());
    json_t *root = quantize(arguments, out);
    ck_assert_str_eq(text_of(root, "format"), "recipe:mix");
    ck_assert_str_eq(text_of(root, "model"), "stories260K");
    ck_assert(!json_object_get(root, "kl_nats"));
    ck_assert_int_eq(bb_file_size(out, &bytes, &err), BB_OK);
    ck_assert(number(root, "size_bytes") == (double)bytes);
    json_decref(root);
    ck_assert_int_eq(bb_model_open(MODEL, &source, &err), BB_OK);
    ck_assert_int_eq(bb_model_open(out, &m, &err), BB_OK);
    check_types(&m);
    check_rounded(&source.net.embd, &m.net.embd);
    for (uint32_t i = 0; i < m.net.n_layer; i++)
        for (int p = 0; p < BB_PART_TOKEN_GATE; p++) check_rounded(&source.net.blocks[i].w[p], &m.net.blocks[i].w[p]);
    bb_model_close(&m);
    bb_model_close(&source);
    ck_assert(!bb_file_exists(bb_test_path("rounded.gguf.part")) && !bb_file_exists(bb_test_path("rounded.gguf.work")));
}
END_TEST

/* Parts that lie in one tensor are called by its name, as llama-quantize calls it, and have its type. */
START_TEST(a_recipe_names_the_tensors_of_the_file)
{
    static const char rules[] = "attn_qkv=Q8_0\nffn_up=Q4_0\n";
    const tiny_spec   s = tiny_default("phi3");
    char              line[512], out[256];
    bb_model          m;
    bb_err            err = BB_ERR_INIT;
    snprintf(out, sizeof out, "%s", bb_test_path("phi3-out.gguf"));
    tiny_write(&s, bb_test_path("phi3.gguf"));
    bb_test_write(bb_test_path("phi3.txt"), rules, sizeof rules - 1);
    snprintf(line, sizeof line, "quantize %s --recipe %s --method rtn --out %s", bb_test_path("phi3.gguf"), bb_test_path("phi3.txt"), out);
    ck_assert_msg(bb_test_command(NULL, &err, "%s", line) == BB_OK, "%s", err.msg);
    ck_assert_msg(bb_model_open(out, &m, &err) == BB_OK, "%s", err.msg);
    ck_assert_str_eq(m.net.arch->name, "phi3");
    for (int p = 0; p < BB_PART_TOKEN_GATE; p++)
        ck_assert_int_eq(m.net.blocks[1].w[p].type, p <= BB_PART_V ? BB_Q8_0 : p == BB_PART_GATE || p == BB_PART_UP ? BB_Q4_0 : BB_F32);
    bb_model_close(&m);
}
END_TEST

/* Token ids drawn from the model with another seed than the calibration's. */
static const char *model_text(void)
{
    static char path[256];
    bb_model    m;
    int32_t     bos = 1, ids[64 * 32];
    bb_sampling s = { .prompt = &bos, .n_prompt = 1, .n_sequences = 64, .length = 32, .temperature = 1, .seed = 77 };
    if (path[0]) return path;
    ck_assert_int_eq(bb_model_open(MODEL, &m, NULL), BB_OK);
    ck_assert_int_eq(bb_sample_ids(&m.net, &s, NULL, ids, NULL), BB_OK);
    bb_model_close(&m);
    snprintf(path, sizeof path, "%s", bb_test_path("eval.u32"));
    bb_test_write(path, ids, sizeof ids);
    return path;
}

static double kl_of(const char *arguments, const char *out)
{
    char line[1024];
    snprintf(line, sizeof line, "%s --ctx 32 --calib-windows 64 --sweeps 1 --eval %s", arguments, model_text());
    json_t *root = quantize(line, out);
    double  kl = number(root, "kl_nats");
    ck_assert(kl > 0 && number(root, "kl_se") > 0 && number(root, "ppl_full") > 1 && number(root, "top1") <= 1);
    json_decref(root);
    return kl;
}

/* The same types and bytes as another file, better codes; nothing is left behind. */
START_TEST(like_another_file_but_better)
{
    char     first[256], better[256], arguments[512];
    uint64_t a, b;
    bb_model m;
    bb_err   err = BB_ERR_INIT;
    snprintf(first, sizeof first, "%s", bb_test_path("first.gguf"));
    snprintf(better, sizeof better, "%s", bb_test_path("better.gguf"));
    snprintf(arguments, sizeof arguments, "--recipe %s --method rtn", recipe());
    double rounded = kl_of(arguments, first);
    snprintf(arguments, sizeof arguments, "--like %s --method weighted --calib self", first); /* the text it is judged on is the model's own */
    double weighted = kl_of(arguments, better);
    ck_assert(weighted < rounded);
    snprintf(arguments, sizeof arguments, "--like %s --method sequential --calib self", first);
    ck_assert(kl_of(arguments, better) < weighted);
    ck_assert_int_eq(bb_file_size(first, &a, &err), BB_OK);
    ck_assert_int_eq(bb_file_size(better, &b, &err), BB_OK);
    ck_assert_uint_eq(a, b);
    ck_assert_int_eq(bb_model_open(better, &m, &err), BB_OK);
    check_types(&m);
    bb_model_close(&m);
    ck_assert(!bb_file_exists(bb_test_path("better.gguf.part")) && !bb_file_exists(bb_test_path("better.gguf.work")));
}
END_TEST

/* Unquantized, the rotated file computes what the source computes; its head is no longer tied. */
START_TEST(rotation_changes_nothing_but_the_basis)
{
    char     out[256], line[512];
    bb_model m;
    bb_err   err = BB_ERR_INIT;
    snprintf(out, sizeof out, "%s", bb_test_path("turned.gguf"));
    bb_test_write(bb_test_path("float.txt"), "weight=F32\n", 11);
    snprintf(line, sizeof line, "--recipe %s --method rtn --rotate r12 --ctx 32 --eval %s --eval-windows 8", bb_test_path("float.txt"), model_text());
    json_t *root = quantize(line, out);
    ck_assert(number(root, "kl_nats") < 1e-7);
    ck_assert_str_eq(text_of(root, "format"), "recipe:float+r12");
    json_decref(root);
    ck_assert_int_eq(bb_model_open(out, &m, &err), BB_OK);
    ck_assert_uint_eq(m.net.head.rows, m.net.n_vocab);
    bb_model_close(&m);
}
END_TEST

/* Half of the KV groups and a quarter of the channels gone: least squares makes up for a part, the sequential rebuild for more. */
START_TEST(pruning_is_compensated)
{
    char     out[256];
    bb_model m;
    bb_err   err = BB_ERR_INIT;
    snprintf(out, sizeof out, "%s", bb_test_path("pruned.gguf"));
    double cut = kl_of("--prune-ffn 0.25 --prune-kv 0.5 --method weighted --no-compensation", out);
    double compensated = kl_of("--prune-ffn 0.25 --prune-kv 0.5 --method weighted", out);
    double rebuilt = kl_of("--prune-ffn 0.25 --prune-kv 0.5 --method sequential", out);
    ck_assert_msg(rebuilt < compensated && compensated < 0.7 * cut, "%g %g %g", cut, compensated, rebuilt);
    ck_assert_int_eq(bb_model_open(out, &m, &err), BB_OK);
    uint32_t groups = 0;
    for (uint32_t i = 0; i < m.net.n_layer; i++) {
        ck_assert_uint_eq(m.net.blocks[i].n_ff, 129); /* three quarters of 172 */
        groups += m.net.blocks[i].n_kv;
    }
    ck_assert_uint_eq(groups, 10); /* of 5 blocks with 4 */
    bb_model_close(&m);
}
END_TEST

/* Gates choose which channels and groups go, and how many of each block: as many in all, of blocks that differ. */
START_TEST(gates_choose_widths)
{
    char     out[256];
    bb_model m;
    bb_err   err = BB_ERR_INIT;
    snprintf(out, sizeof out, "%s", bb_test_path("gates.gguf"));
    const double even = kl_of("--prune-ffn 0.1 --method weighted", out), other = kl_of("--prune-ffn 0.1 --method weighted --width-order gates", out);
    const double kl = kl_of("--prune-ffn 0.1 --method weighted --width-order gates --ffn-widths gates", out);
    ck_assert(other < even || other > even);
    ck_assert_msg(kl > 0 && kl < 1.2 * even, "%g by gates, %g by even shares", kl, even); /* so few tokens of so small a model say no more */
    ck_assert_int_eq(bb_model_open(out, &m, &err), BB_OK);
    uint32_t all = 0;
    bool     differ = false;
    for (uint32_t i = 0; i < m.net.n_layer; i++) {
        all += m.net.blocks[i].n_ff;
        differ |= m.net.blocks[i].n_ff != m.net.blocks[0].n_ff;
    }
    ck_assert(differ);
    ck_assert_uint_eq(all, 5 * 172 - 86);
    bb_model_close(&m);
    ck_assert(kl_of("--prune-kv 0.5 --method sequential --width-order gates", out) > 0);
    ck_assert_int_eq(bb_model_open(out, &m, &err), BB_OK);
    for (uint32_t i = all = 0; i < m.net.n_layer; i++) all += m.net.blocks[i].n_kv;
    ck_assert_uint_eq(all, 10);
    bb_model_close(&m);
}
END_TEST

START_TEST(threads_do_not_matter)
{
    char   a[256], b[256], arguments[512], *one, *two, *said = NULL;
    size_t n_one, n_two;
    bb_err err = BB_ERR_INIT;
    snprintf(a, sizeof a, "%s", bb_test_path("a.gguf"));
    snprintf(b, sizeof b, "%s", bb_test_path("b.gguf"));
    snprintf(arguments, sizeof arguments, "--recipe %s" FEW, recipe());
    omp_set_num_threads(1);
    json_decref(quantize(arguments, a));
    omp_set_num_threads(2);
    ck_assert_msg(bb_test_command(&said, &err, "quantize " MODEL " %s --csv --database %s --out %s", arguments, bb_test_path("kept"), b) == BB_OK, "%s",
                  err.msg);
    ck_assert_int_eq(strncmp(said, "model,format,method,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se\nstories260K,recipe:mix,sequential,", 92), 0);
    ck_assert(bb_file_exists(bb_test_path("kept"))); /* what the user named stays */
    bb_free(said);
    ck_assert_int_eq(bb_file_read(a, &one, &n_one, &err), BB_OK);
    ck_assert_int_eq(bb_file_read(b, &two, &n_two, &err), BB_OK);
    ck_assert_uint_eq(n_one, n_two);
    ck_assert_int_eq(memcmp(one, two, n_one), 0);
    bb_free(one);
    bb_free(two);
}
END_TEST

static const struct pattern {
    const char *pattern, *text;
    bool        valid, found;
} patterns[] = {
    { "attn_q", "blk.0.attn_q.weight", true, true },
    { "ATTN_Q", "blk.0.attn_q.weight", true, true }, /* llama-quantize makes patterns lower case */
    { "^attn_q", "blk.0.attn_q.weight", true, false },
    { "^blk\\.0\\.", "blk.0.attn_q.weight", true, true },
    { "^blk\\.0\\.", "blk.01.attn_q.weight", true, false },
    { "blk.0.", "blk.01.attn_q.weight", true, true },
    { "^blk\\.0\\.attn_q\\.weight$", "blk.0.attn_q.weight", true, true },
    { "^blk\\.0\\.attn_q\\.weight$", "blk.0.attn_q.weights", true, false },
    { "^blk\\.0\\.attn_q\\.weight$", "blk.0.attn_q.weight\n", true, false },
    { "ffn_.*weight", "blk.10.ffn_down.weight", true, true },
    { "ffn_.*bias", "blk.10.ffn_down.weight", true, false },
    { "blk.*10*\\.", "blk.1.x", true, true },
    { "", "x", true, true },
    { "$", "x", true, true },
    { "^$", "x", true, false },
    { "\\.", "x", true, false },
    { "blk\\.([0-3]|2[0-9])\\.ffn_(gate|up)", "blk.23.ffn_up.weight", true, true },
    { "blk\\.([0-3]|2[0-9])\\.ffn_(gate|up)", "blk.13.ffn_up.weight", true, false },
    { "blk\\.\\d{2}\\.", "blk.13.ffn_up.weight", true, true },
    { "attn_(?!q)", "blk.0.attn_q.weight", true, false },
    { "attn_(?!q)", "blk.0.attn_k.weight", true, true },
    { "(q|k)\\.weight+$", "blk.0.attn_k.weight", true, true },
    { "[]x", "x", true, false }, /* an empty class fits nothing */
    { "\\", "\\", false, false },
    { "(attn", "attn", false, false },
    { "a{2,1}", "a", false, false },
    { "*a", "a", false, false },
    { "^((\\w+\\w*\\.?)+)+[!?]$", "blk.0.attn_output.weight", false, false }, /* would take for ever */
};

START_TEST(patterns_mean_what_regular_expressions_mean)
{
    const struct pattern *p = &patterns[_i];
    bool                  found;
    bb_err                err = BB_ERR_INIT;
    ck_assert_msg(bb_pattern_found(p->pattern, p->text, &found, &err) == (p->valid ? BB_OK : BB_BAD_FILE), "%s", p->pattern);
    ck_assert_msg(found == p->found, "%s", p->pattern);
    ck_assert(p->valid || strstr(err.msg, "regular expression") || strstr(err.msg, "too long"));
}
END_TEST

/* As llama-quantize: the first item that fits a name decides, items are separated by any white space, and a type whose block does not divide a row
 * gives way. */
START_TEST(the_first_rule_wins)
{
    static const char text[] = "attn_v=q8_0 attn_[qk]=Q5_0\n# then all of it\nattn=q4_0\nffn_(gate|up)=IQ2_XXS\t.*=f16\n";
    bb_model          m;
    char              arguments[512];
    snprintf(arguments, sizeof arguments, "--method rtn --recipe %s", bb_test_path("order.txt"));
    bb_test_write(bb_test_path("order.txt"), text, sizeof text - 1);
    json_decref(quantize(arguments, bb_test_path("order.gguf")));
    ck_assert_int_eq(bb_model_open(bb_test_path("order.gguf"), &m, NULL), BB_OK);
    const bb_type wanted[BB_PART_TOKEN_GATE] = { BB_Q5_0, BB_Q5_0, BB_Q8_0, BB_Q4_0, BB_IQ4_NL, BB_IQ4_NL, BB_F16 };
    for (int p = 0; p < BB_PART_TOKEN_GATE; p++) ck_assert_int_eq(m.net.blocks[1].w[p].type, wanted[p]);
    ck_assert_int_eq(m.net.embd.type, BB_F16);
    bb_model_close(&m);
}
END_TEST

/* Types under review upstream: refused unless they are asked for; the file says so, is read back, and the audit tells it. */
START_TEST(experimental_formats_are_marked)
{
    bb_model    m;
    bb_err      err = BB_ERR_INIT;
    bb_bytes    text;
    char        arguments[512], *said;
    const char *out = bb_test_path("experimental.gguf");
    ck_assert_int_eq(bb_test_command(NULL, &err, "quantize " MODEL " --format IQ2_NL --method rtn --out %s", out), BB_USAGE);
    ck_assert_msg(strstr(err.msg, "--experimental-formats") != NULL, "%s", err.msg);
    bb_test_write(bb_test_path("nl.txt"), "attn=IQ2_NL", 11);
    snprintf(arguments, sizeof arguments, "--method rtn --recipe %s", bb_test_path("nl.txt"));
    ck_assert_int_eq(bb_test_command(NULL, &err, "quantize " MODEL " %s --out %s", arguments, out), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "line 1: its type: stock llama.cpp does not read IQ2_NL") != NULL, "%s", err.msg);
    snprintf(arguments, sizeof arguments, "--experimental-formats --method rtn --recipe %s --embd-format IQ3_NL", bb_test_path("nl.txt"));
    json_decref(quantize(arguments, out));
    ck_assert_msg(bb_model_open(out, &m, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(m.net.blocks[0].w[BB_PART_Q].type, BB_IQ2_NL);
    ck_assert_int_eq(m.net.embd.type, BB_IQ3_NL);
    ck_assert_int_eq(bb_source_text(&m.source, "bitbudget.experimental", &text, NULL, &err), BB_OK);
    bb_model_close(&m);
    ck_assert_int_eq(bb_test_command(&said, NULL, "inspect %s --audit", out), BB_OK);
    ck_assert_msg(strstr(said, "stock llama.cpp does not read") != NULL, "%s", said);
    bb_free(said);
    json_decref(quantize("--method rtn --format IQ2_XXS", bb_test_path("stock.gguf")));
    ck_assert_int_eq(bb_model_open(bb_test_path("stock.gguf"), &m, NULL), BB_OK);
    ck_assert_ptr_null(bb_source_find(&m.source, "bitbudget.experimental"));
    bb_model_close(&m);
}
END_TEST

/* Rows of 64 and 172: --format takes what llama-quantize takes. */
START_TEST(formats_that_do_not_divide_give_way)
{
    static const struct {
        const char *format;
        bb_type     q, down, embd;
    } of[] = {
        { "IQ2_XXS", BB_IQ4_NL, BB_F16, BB_Q8_0 },
        { "Q4_K", BB_Q5_0, BB_F16, BB_Q8_0 },
        { "Q2_0", BB_Q2_0, BB_F16, BB_Q8_0 },
        { "F16", BB_F16, BB_F16, BB_Q8_0 },
    };
    bb_model m;
    char     arguments[256];
    snprintf(arguments, sizeof arguments, "--method rtn --format %s", of[_i].format);
    json_decref(quantize(arguments, bb_test_path("way.gguf")));
    ck_assert_int_eq(bb_model_open(bb_test_path("way.gguf"), &m, NULL), BB_OK);
    ck_assert_int_eq(m.net.blocks[0].w[BB_PART_Q].type, of[_i].q);
    ck_assert_int_eq(m.net.blocks[0].w[BB_PART_DOWN].type, of[_i].down);
    ck_assert_int_eq(m.net.embd.type, of[_i].embd);
    bb_model_close(&m);
}
END_TEST

/* What to use instead is in the sentence. */
START_TEST(wrong_formats_are_answered_with_right_ones)
{
    static const struct {
        const char *options, *said, *not_said;
    } of[] = {
        { "--format Q4_K_M", "--like", "there is no format" },
        { "--format iq3_xs", "take IQ3_S", "there is no format" },
        { "--format Q9_9", "Q1_0, IQ1_S", "type id" },
        { "--format Q4_K --embd-format Q5_K_S", "--embd-format: Q5_K_S", "type id" },
        { "--format Q1_0", "these fit: Q2_0, MXFP4, Q4_0", "type id" },
        { "--format Q4_0", "blk.0.ffn_down: rows of 172", "Q8_0" },
    };
    char  *text = NULL;
    bb_err err = BB_ERR_INIT;
    ck_assert_int_ne(bb_test_command(&text, &err, "quantize " MODEL " --method rtn --out %s %s", bb_test_path("no.gguf"), of[_i].options), BB_OK);
    ck_assert_msg(strstr(err.msg, of[_i].said) && !strstr(err.msg, of[_i].not_said), "%s", err.msg);
    ck_assert(!bb_file_exists(bb_test_path("no.gguf")));
    bb_free(text);
}
END_TEST

static const struct bad {
    const char *line, *file;
    bb_status   status;
} bad[] = {
    { "quantize", NULL, BB_USAGE },
    { "quantize " MODEL " --format Q4_0", NULL, BB_USAGE },
    { "quantize " MODEL " --out /nonexistent/x.gguf", NULL, BB_USAGE },
    { "quantize " MODEL " --out /nonexistent/x.gguf --format Q9_9", NULL, BB_USAGE },
    { "quantize " MODEL " --out /nonexistent/x.gguf --format F16 --like " MODEL, NULL, BB_USAGE },
    { "quantize " MODEL " --out /nonexistent/x.gguf --format Q1_0 --method rtn", NULL, BB_USAGE },
    { "quantize " MODEL " --out /nonexistent/x.gguf --format F16 --embd-format F16 --method rtn", NULL, BB_IO },
    { "quantize " MODEL " --out /nonexistent/x.gguf --prune-kv 0.5 --method rtn", NULL, BB_USAGE },
    { "quantize " MODEL " --out /nonexistent/x.gguf --prune-kv 0.5 --no-compensation", NULL, BB_USAGE },
    { "quantize " MODEL " --out /nonexistent/x.gguf --format Q4_0 --width-order gates", NULL, BB_USAGE },
    { "quantize " MODEL " --out /nonexistent/x.gguf --prune-kv 0.5 --ffn-widths gates", NULL, BB_USAGE },
    { "quantize tests/data/README.md --out /nonexistent/x.gguf --format F16", NULL, BB_BAD_FILE },
    { "quantize " MODEL " --out /nonexistent/x.gguf --like tests/data/stories3M-p256.imatrix.gguf", NULL, BB_UNSUPPORTED },
    { "quantize " MODEL " --out /nonexistent/x.gguf --recipe %s", "blk.0.attn_q", BB_BAD_FILE },
    { "quantize " MODEL " --out /nonexistent/x.gguf --recipe %s", "blk.0.attn_q=Q9_9", BB_BAD_FILE },
    { "quantize " MODEL " --out /nonexistent/x.gguf --recipe %s", "# no rule\n\n", BB_BAD_FILE },
    { "quantize " MODEL " --out /nonexistent/x.gguf --recipe %s", "blk.77.attn_q=Q8_0", BB_BAD_FILE },
    { "quantize " MODEL " --out /nonexistent/x.gguf --recipe %s", "(attn=Q8_0", BB_BAD_FILE },
    { "quantize " MODEL " --out /nonexistent/x.gguf --recipe %s", "attn=Q4_K_M", BB_BAD_FILE },
    { "quantize " MODEL " --out /nonexistent/x.gguf --recipe %s", "(.*a)*(.*t)*(.*n)*(.*k)*(.*b)*!=Q8_0", BB_BAD_FILE },
};

START_TEST(mistakes_have_a_sentence)
{
    char       *text = NULL, line[512];
    bb_err      err = BB_ERR_INIT;
    const char *where = strstr(bad[_i].line, "%s");
    if (bad[_i].file) bb_test_write(bb_test_path("bad.txt"), bad[_i].file, strlen(bad[_i].file));
    snprintf(line, sizeof line, "%.*s%s", where ? (int)(where - bad[_i].line) : 512, bad[_i].line, where ? bb_test_path("bad.txt") : "");
    ck_assert_msg(bb_test_command(&text, &err, "%s", line) == bad[_i].status, "%s: %d %s", line, err.status, err.msg);
    ck_assert(err.msg[0]);
    ck_assert_str_eq(text, "");
    bb_free(text);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_quantize");
    TCase *t = tcase_create("core");
    bb_log_set_level(BB_LOG_QUIET);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, types_are_those_of_the_recipe);
    tcase_add_test(t, a_recipe_names_the_tensors_of_the_file);
    tcase_add_test(t, like_another_file_but_better);
    tcase_add_test(t, rotation_changes_nothing_but_the_basis);
    tcase_add_test(t, pruning_is_compensated);
    tcase_add_test(t, gates_choose_widths);
    tcase_add_test(t, threads_do_not_matter);
    tcase_add_loop_test(t, patterns_mean_what_regular_expressions_mean, 0, (int)(sizeof patterns / sizeof *patterns));
    tcase_add_test(t, experimental_formats_are_marked);
    tcase_add_test(t, the_first_rule_wins);
    tcase_add_loop_test(t, formats_that_do_not_divide_give_way, 0, 4);
    tcase_add_loop_test(t, wrong_formats_are_answered_with_right_ones, 0, 6);
    tcase_add_loop_test(t, mistakes_have_a_sentence, 0, (int)(sizeof bad / sizeof *bad));
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
