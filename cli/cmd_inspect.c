/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_inspect.c: bitbudget inspect MODEL.gguf: what is in a model file, and where its bytes are.
 *
 * Parts: every byte of the file belongs to exactly one of embedding, output, attention, FFN, norms (all vectors but biases, which count
 * with their matrix) and metadata (header, keys, list of tensors, padding). bpw is bits of a part over its number of weights.
 */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "cli/cmd.h"
#include "cli/inspect_audit.h"
#include "cli/json.h"
#include "model/model.h"
#include "model/net/lattice.h"

typedef struct totals {
    uint64_t bytes[BB_N_FILE_PARTS], weights[BB_N_FILE_PARTS], all_bytes, all_weights;
} totals;

typedef struct inspect_options {
    bool json, tensors, sha256, audit;
} inspect_options;

static void add_up(const bb_source *g, totals *t)
{
    memset(t, 0, sizeof *t);
    t->all_bytes = t->bytes[BB_FILE_METADATA] = g->size_bytes;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        bb_file_part p = bb_file_part_of(g->tensors[i].name);
        t->bytes[p] += g->tensors[i].size_bytes;
        t->bytes[BB_FILE_METADATA] -= g->tensors[i].size_bytes;
        t->weights[p] += bb_tensor_weights(&g->tensors[i]);
        t->all_weights += bb_tensor_weights(&g->tensors[i]);
    }
}

static double bpw(uint64_t bytes, uint64_t weights) { return weights ? 8.0 * (double)bytes / (double)weights : 0.0; }

/* The name of a type that the reader let through; formats without a row here keep their number. */
static const char *type_name(bb_type type, char number[16])
{
    const bb_format *f = bb_format_get(type);
    if (f) return f->name;
    snprintf(number, 16, "type %d", (int)type);
    return number;
}

static bb_bytes text_key(const bb_source *g, const char *key, const char *otherwise)
{
    bb_bytes text = { otherwise, strlen(otherwise) };
    bool     found;
    (void)bb_source_text(g, key, &text, &found, NULL);
    return text;
}

/* ---- text ---- */

/* Untrusted text: what is not printable ASCII becomes '?', 60 bytes at most. */
static void add_clean(bb_text *out, bb_bytes text)
{
    for (uint64_t i = 0; i < text.size && i < 60; i++) bb_text_addn(out, text.data[i] >= ' ' && text.data[i] <= '~' ? &text.data[i] : "?", 1);
}

/* "8", or "0-8" when blocks differ. */
static void add_range(bb_text *out, const bb_net *net, size_t offset)
{
    uint32_t low = UINT32_MAX, high = 0;
    for (uint32_t i = 0; i < net->n_layer; i++) {
        uint32_t v;
        memcpy(&v, (const char *)&net->blocks[i] + offset, sizeof v);
        low = v < low ? v : low;
        high = v > high ? v : high;
    }
    if (low == high) bb_text_addf(out, "%u", low);
    else bb_text_addf(out, "%u-%u", low, high);
}

/* What bitbudget wrote into the file about where it comes from (bb_provenance). */
static void add_provenance(bb_text *out, const bb_source *g)
{
    const bb_key *tokens = bb_source_find(g, "bitbudget.calibration.tokens");
    uint64_t      n_tokens = 1;
    if (tokens && tokens->kind == BB_KIND_U64) memcpy(&n_tokens, tokens->value, sizeof n_tokens);
    const char *const keys[][2] = { { "made by       bitbudget ", "bitbudget.program" },
                                    { n_tokens > 0 ? "calibration   tokens with SHA-256 " : "calibration   importance matrix with SHA-256 ",
                                      "bitbudget.calibration.sha256" },
                                    { "KL            ", "bitbudget.kl" } };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        bb_bytes text = text_key(g, keys[i][1], "");
        while (text.size && text.data[text.size - 1] == ' ') text.size--;
        if (text.size == 64) text.size = 16; /* a hash: enough to tell two apart */
        if (!text.size || (text.size == 16 && memcmp(text.data, "0000000000000000", 16) == 0)) continue;
        bb_text_add(out, keys[i][0]);
        add_clean(out, text);
        bb_text_add(out, "\n");
    }
}

static void add_summary(bb_text *out, const bb_model *m, const totals *t, bool hash)
{
    const bb_net *net = &m->net;
    char          size[32], label[BB_MODEL_LABEL];
    bb_format_size(t->all_bytes, size);
    bb_text_addf(out, "file          %s\n              %llu bytes (%s), %s", m->path, (unsigned long long)t->all_bytes, size, m->source.reader->name);
    if (m->source.version) bb_text_addf(out, " v%u", m->source.version); /* of folders there is none */
    if (m->source.n_files > 1) bb_text_addf(out, " in %u files", m->source.n_files);
    if (hash) bb_text_addf(out, "\nsha256        %s", bb_model_sha256(m));
    if (bb_model_is_quantized(m)) bb_text_addf(out, "\nprecision     quantized; compared with others as \"%s\"", bb_model_source_label(m, label));
    bb_text_add(out, "\narchitecture  ");
    add_clean(out, text_key(&m->source, "general.architecture", "?"));
    bb_text_add(out, ", ");
    add_clean(out, text_key(&m->source, "general.name", "without a name"));
    bb_text_addf(out, "\nshape         %u blocks, width %u, ", net->n_layer, net->n_embd);
    add_range(out, net, offsetof(bb_block, n_head));
    bb_text_add(out, " heads on ");
    add_range(out, net, offsetof(bb_block, n_kv));
    bb_text_addf(out, " KV heads of %u", net->head_dim);
    if (net->local_head_dim) bb_text_addf(out, " (%u in blocks with a window)", net->local_head_dim);
    bb_text_add(out, ", FFN ");
    add_range(out, net, offsetof(bb_block, n_ff));
    bb_text_addf(out, "\nvocabulary    %u tokens (", net->n_vocab);
    add_clean(out, text_key(&m->source, "tokenizer.ggml.model", "no tokenizer"));
    bb_text_addf(out, "), output %s\n", net->head.rows ? "separate" : "tied to the embedding");
    bb_text_addf(out, "context       %u, RoPE base %g%s\n", net->n_ctx_train, (double)net->rope_base,
                 net->rope_factors          ? " with frequency factors"
                 : net->rope_freq_scale < 1 ? ", linearly scaled"
                                            : "");
    bb_bytes plan = text_key(&m->source, "bitbudget.plan", "");
    if (plan.size) {
        bb_text_add(out, "plan          ");
        add_clean(out, plan);
        bb_text_add(out, "\n");
    }
    add_provenance(out, &m->source);
}

static void add_parts(bb_text *out, const totals *t)
{
    bb_text_addf(out, "\n%-10s %14s %7s %14s %8s\n", "part", "bytes", "share", "weights", "bpw");
    for (int p = 0; p < BB_N_FILE_PARTS; p++) {
        if (t->bytes[p] == 0) continue;
        bb_text_addf(out, "%-10s %14llu %6.2f%% %14llu ", bb_file_part_names[p], (unsigned long long)t->bytes[p],
                     100.0 * (double)t->bytes[p] / (double)t->all_bytes, (unsigned long long)t->weights[p]);
        if (t->weights[p]) bb_text_addf(out, "%8.4f\n", bpw(t->bytes[p], t->weights[p]));
        else bb_text_addf(out, "%8s\n", "-");
    }
    bb_text_addf(out, "%-10s %14llu %6.2f%% %14llu %8.4f\n", "total", (unsigned long long)t->all_bytes, 100.0, (unsigned long long)t->all_weights,
                 bpw(t->all_bytes, t->all_weights));
}

static void add_blocks(bb_text *out, const bb_net *net)
{
    char      number[16];
    const int n = net->token.width ? BB_N_PARTS : BB_PART_TOKEN_GATE;
    bb_text_addf(out, "\n%-6s %5s %4s %6s ", "block", "heads", "kv", "ffn");
    for (int p = 0; p < n; p++) bb_text_addf(out, " %-*s", p < n - 1 ? 11 : 0, bb_parts[p].name);
    bb_text_add(out, "\n");
    for (uint32_t i = 0; i < net->n_layer; i++) {
        const bb_block *k = &net->blocks[i];
        bb_text_addf(out, "%-6u %5u %4u %6u ", i, k->n_head, k->n_kv, k->n_ff);
        for (int p = 0; p < n; p++) bb_text_addf(out, " %-*s", p < n - 1 ? 11 : 0, k->w[p].rows ? type_name(bb_matrix_stored(&k->w[p]), number) : "-");
        bb_text_add(out, "\n");
    }
}

static void add_tensors(bb_text *out, const bb_source *g)
{
    char number[16];
    bb_text_addf(out, "\n%-34s %-8s %12s %10s %12s\n", "tensor", "type", "row", "rows", "bytes");
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const bb_tensor *t = &g->tensors[i];
        bb_text_addf(out, "%-34s %-8s %12llu %10llu %12llu\n", t->name, type_name(t->type, number), (unsigned long long)t->ne[0], (unsigned long long)t->ne[1],
                     (unsigned long long)t->size_bytes);
    }
}

static void describe(bb_text *out, const bb_model *m, const inspect_options *o)
{
    totals t;
    add_up(&m->source, &t);
    add_summary(out, m, &t, o->sha256);
    add_parts(out, &t);
    add_blocks(out, &m->net);
    if (o->tensors) add_tensors(out, &m->source);
}

/* ---- JSON ---- */

static json_t *parts_json(const totals *t)
{
    json_t *all = json_object();
    for (int p = 0; p < BB_N_FILE_PARTS; p++)
        json_object_set_new(all, bb_file_part_names[p], json_pack("{s:I, s:I}", "bytes", (json_int_t)t->bytes[p], "weights", (json_int_t)t->weights[p]));
    return all;
}

static json_t *blocks_json(const bb_net *net)
{
    json_t *all = json_array();
    for (uint32_t i = 0; i < net->n_layer; i++)
        json_array_append_new(all, json_pack("{s:I, s:I, s:I}", "n_head", (json_int_t)net->blocks[i].n_head, "n_kv", (json_int_t)net->blocks[i].n_kv, "n_ff",
                                             (json_int_t)net->blocks[i].n_ff));
    return all;
}

static json_t *tensors_json(const bb_source *g)
{
    json_t *all = json_array();
    char    number[16];
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const bb_tensor *t = &g->tensors[i];
        json_t          *shape = json_array();
        for (uint32_t d = 0; d < t->n_dims; d++) json_array_append_new(shape, json_integer((json_int_t)t->ne[d]));
        json_array_append_new(
            all, json_pack("{s:s, s:s, s:o, s:I}", "name", t->name, "type", type_name(t->type, number), "shape", shape, "bytes", (json_int_t)t->size_bytes));
    }
    return all;
}

/* A metadata text as JSON; null when it is no UTF-8. */
static json_t *text_json(bb_bytes text)
{
    json_t *s = json_stringn(text.data, (size_t)text.size);
    return s ? s : json_null();
}

static bb_status describe_json(const bb_model *m, bool hash, bb_err *err)
{
    const bb_net *net = &m->net;
    totals        t;
    json_t       *root;
    int           failed;
    add_up(&m->source, &t);
    root = json_pack("{s:o, s:s?, s:I, s:I, s:I, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:f, s:f, s:o, s:o, s:o}", "path", bb_json_text(m->path),
                     "sha256", hash ? bb_model_sha256(m) : NULL, "gguf_version", (json_int_t)m->source.version, "files", (json_int_t)m->source.n_files, "bytes",
                     (json_int_t)t.all_bytes, "architecture", text_json(text_key(&m->source, "general.architecture", "")), "name",
                     text_json(text_key(&m->source, "general.name", "")), "n_layer", (json_int_t)net->n_layer, "n_embd", (json_int_t)net->n_embd, "head_dim",
                     (json_int_t)net->head_dim, "n_vocab", (json_int_t)net->n_vocab, "n_ctx_train", (json_int_t)net->n_ctx_train, "tied", net->head.rows == 0,
                     "weights", (json_int_t)t.all_weights, "bpw", bpw(t.all_bytes, t.all_weights), "rope_base", (double)net->rope_base, "parts", parts_json(&t),
                     "blocks", blocks_json(net), "tensors", tensors_json(&m->source));
    if (!root) return BB_FAIL(err, BB_FAILED, "%s: a name in the file is no valid text for JSON", m->path);
    failed = json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(root);
    if (failed || putchar('\n') == EOF) return BB_FAIL(err, BB_IO, "standard output could not be written");
    return BB_OK;
}

/* ---- the command ---- */

static const bb_option_row rows[] = {
    { "json", BB_OPT_FLAG, offsetof(inspect_options, json), NULL, 1, 0, NULL, "print JSON, with every tensor", NULL },
    { "tensors", BB_OPT_FLAG, offsetof(inspect_options, tensors), NULL, 1, 0, NULL, "list every tensor", NULL },
    { "sha256", BB_OPT_FLAG, offsetof(inspect_options, sha256), NULL, 1, 0, NULL, "also the SHA-256 of the file, for which all of it is read", NULL },
    { "audit", BB_OPT_FLAG, offsetof(inspect_options, audit), NULL, 1, 0, NULL,
      "is the file what its labels say, and whole? exit code 4 where a label is wrong or something is missing", NULL },
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static bb_status run(int argc, char **argv, bb_err *err)
{
    inspect_options o = { .json = false };
    const char     *path = NULL;
    size_t          n = 0;
    bb_model        m = { .path = NULL };
    bb_text         out = { .data = NULL };
    bb_status       status;
    BB_TRY(bb_command_options(&bb_command_inspect, &o, argc, argv, &path, 1, &n, err));
    if (n == 0) {
        status = BB_FAIL(err, BB_USAGE, "inspect needs a model file");
        goto done;
    }
    if (o.audit) {
        const bb_idle_option idle[] = { { "--tensors", "with --audit", true }, { "--sha256", "with --audit", true } };
        BB_TRY(bb_command_refuse_idle(argc, argv, idle, sizeof idle / sizeof *idle, err));
        BB_TRY(bb_inspect_audit(path, o.json, err));
        goto done;
    }
    BB_TRY(bb_model_open(path, &m, err));
    if (o.json) {
        BB_TRY(describe_json(&m, o.sha256, err));
        goto done;
    }
    describe(&out, &m, &o);
    status = out.status;
    if (status != BB_OK) BB_FAIL(err, status, "out of memory");
    else fwrite(out.data, 1, out.size, stdout);
done:
    bb_text_done(&out);
    bb_model_close(&m);
    bb_options_done(rows, N_ROWS, &o);
    return status;
}

const bb_command bb_command_inspect = {
    .name = "inspect",
    .summary = "show a model file: architecture, shapes, types, and where its bytes are",
    .usage = "MODEL.gguf",
    .example = "bitbudget inspect model.gguf\nbitbudget inspect --json model.gguf\nbitbudget inspect --audit model-Q4_K_M.gguf",
    .options = rows,
    .n_options = N_ROWS,
    .run = run,
};
