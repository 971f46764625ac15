/* SPDX-License-Identifier: GPL-3.0-or-later
 * inspect_audit.c: see inspect_audit.h.
 *
 * A label (general.file_type, and what the file and general.name are called) promises a recipe of llama-quantize, and with it the type of most weights
 * of the blocks (model/io/file_type.h). It is wrong where another type holds most of them: tools write another type where rows do not fit, and keep the
 * label. A matrix is of a fallback type where the block of the label's type (without a label: the largest block of any matrix) does not divide its rows.
 *
 * Faults are what makes the file not what it says: wrong labels, missing tensors, no tokenizer. Notes are what a good file may lack.
 */
#include "cli/inspect_audit.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "cli/json.h"
#include "model/io/file_type.h"
#include "model/model.h"
#include "model/net/arch.h"

const char *const bb_file_part_names[BB_N_FILE_PARTS] = { "embedding", "output", "attention", "ffn", "norms", "metadata" };

bb_file_part bb_file_part_of(const char *name)
{
    const char *dot = strncmp(name, "blk.", 4) == 0 ? strchr(name + 4, '.') : NULL;
    if (strcmp(name, "token_embd.weight") == 0) return BB_FILE_EMBEDDING;
    if (strcmp(name, "output.weight") == 0) return BB_FILE_OUTPUT;
    if (strncmp(name, "per_layer_", 10) == 0 && !strstr(name, "_norm.")) return BB_FILE_EMBEDDING;
    if (!dot || strstr(dot, "_norm.")) return BB_FILE_NORMS;
    if (strcmp(dot, ".inp_gate.weight") == 0 || strcmp(dot, ".proj.weight") == 0) return BB_FILE_FFN; /* a gate and a writer as that */
    return strncmp(dot, ".ffn_", 5) == 0 ? BB_FILE_FFN : BB_FILE_ATTENTION;
}

uint64_t bb_tensor_weights(const bb_tensor *t) { return t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]; }

typedef struct part_sum {
    uint64_t bytes, weights, of_type[BB_TYPE_COUNT];
} part_sum;

typedef struct audit {
    const char         *path;
    bb_source           source;
    part_sum            part[BB_N_FILE_PARTS];
    uint64_t            n_matrix, n_fallback;   /* weights of matrices, and those in a fallback type */
    uint64_t            by_type[BB_TYPE_COUNT]; /* weights of the blocks' matrices */
    const bb_file_type *label, *named;          /* general.file_type; in the name; NULL: none */
    const char         *named_by;               /* where that name is */
    bool                has_label, quantized, has_tokenizer, has_template;
    uint32_t            label_number;
    bb_type             commonest;
    json_t             *faults, *notes, *missing; /* of text */
} audit;

static void add(json_t *list, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(json_t *list, const char *format, ...)
{
    char    text[512];
    bb_text clean = { 0 };
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bb_text_add_utf8(&clean, text, strlen(text), true); /* names of the file came through bb_show; a path may be none, or cut inside a character */
    json_array_append_new(list, json_string(clean.data ? clean.data : "?"));
    bb_text_done(&clean);
}

static double share(uint64_t part, uint64_t whole) { return whole ? (double)part / (double)whole : 0; }
static double bits(uint64_t bytes, uint64_t weights) { return weights ? 8 * (double)bytes / (double)weights : 0; }

static const char *name_of(bb_type type) { return bb_format_get(type)->name; } /* the reader lets no other through */

/* ---- what is inside ---- */

static bool is_matrix(const bb_tensor *t) { return t->n_dims >= 2; }

static bool in_block(const bb_tensor *t) { return strncmp(t->name, "blk.", 4) == 0; }

static bool is_float(bb_type type) { return type == BB_F32 || type == BB_F16 || type == BB_BF16; }

static void add_up(audit *a)
{
    part_sum *metadata = &a->part[BB_FILE_METADATA];
    metadata->bytes = a->source.size_bytes;
    for (uint64_t i = 0; i < a->source.n_tensors; i++) {
        const bb_tensor *t = &a->source.tensors[i];
        part_sum        *p = &a->part[bb_file_part_of(t->name)];
        const uint64_t   n = bb_tensor_weights(t);
        p->bytes += t->size_bytes;
        metadata->bytes -= t->size_bytes;
        p->weights += n;
        p->of_type[t->type] += n;
        if (!is_matrix(t)) continue;
        a->n_matrix += n;
        a->quantized |= !is_float(t->type);
        if (in_block(t)) a->by_type[t->type] += n;
    }
    for (unsigned t = 1; t < BB_TYPE_COUNT; t++)
        if (a->by_type[t] > a->by_type[a->commonest]) a->commonest = (bb_type)t;
}

static void find_fallbacks(audit *a)
{
    uint32_t block = a->label ? bb_format_get(a->label->type)->block : 1;
    for (uint64_t i = 0; i < a->source.n_tensors && !a->label; i++) {
        const bb_tensor *t = &a->source.tensors[i];
        if (is_matrix(t) && bb_format_get(t->type)->block > block) block = bb_format_get(t->type)->block;
    }
    for (uint64_t i = 0; i < a->source.n_tensors; i++)
        if (is_matrix(&a->source.tensors[i]) && a->source.tensors[i].ne[0] % block != 0) a->n_fallback += bb_tensor_weights(&a->source.tensors[i]);
}

/* ---- labels ---- */

static bb_bytes text_of(const audit *a, const char *key)
{
    bb_bytes text = { "", 0 };
    bool     found;
    (void)bb_source_text(&a->source, key, &text, &found, NULL);
    return text;
}

static void judge(audit *a, const bb_file_type *label, const char *where)
{
    uint64_t in_blocks = 0;
    for (unsigned t = 0; t < BB_TYPE_COUNT; t++) in_blocks += a->by_type[t];
    if (in_blocks == 0 || bb_file_type_promises(label, a->commonest)) return;
    add(a->faults, "%s says %s, but %.1f %% of the weights of the blocks are %s and %.1f %% %s", where, label->name,
        100 * share(a->by_type[a->commonest], in_blocks), name_of(a->commonest), 100 * share(a->by_type[label->type], in_blocks), name_of(label->type));
}

static void check_labels(audit *a)
{
    const bb_bytes name = text_of(a, "general.name");
    const char    *file = strrchr(a->path, '/');
    file = file ? file + 1 : a->path;
    if (bb_source_u32(&a->source, "general.file_type", &a->label_number, &a->has_label, NULL) != BB_OK) a->has_label = false;
    if (a->has_label && !(a->label = bb_file_type_numbered(a->label_number)) && a->label_number != BB_FILE_TYPE_GUESSED)
        add(a->faults, "general.file_type is %u, which is no label that is known", a->label_number);
    if (!a->has_label) add(a->notes, "there is no general.file_type");
    if (a->label) judge(a, a->label, "general.file_type");
    if ((a->named = bb_file_type_in(file, strlen(file)))) a->named_by = "the name of the file";
    else if ((a->named = bb_file_type_in(name.data, (size_t)name.size))) a->named_by = "general.name";
    if (a->named) judge(a, a->named, a->named_by);
    if (a->quantized && !bb_source_find(&a->source, "general.quantization_version"))
        add(a->notes, "there is no general.quantization_version, though the file is quantized");
}

/* ---- what is missing ---- */

static void add_missing(audit *a, const char *tensor)
{
    char shown[BB_SHOWN];
    bb_show((bb_bytes) { tensor, strlen(tensor) }, shown);
    json_array_append_new(a->missing, json_string(shown));
    add(a->faults, "tensor %s is missing", shown);
}

static const char *behind_block(const char *name, uint64_t *block)
{
    char *end;
    if (strncmp(name, "blk.", 4) != 0 || name[4] < '0' || name[4] > '9') return NULL;
    *block = strtoull(name + 4, &end, 10);
    return *end == '.' ? end : NULL;
}

/* Tensors that more than half of the blocks have and this one has not: of architectures whose blocks are alike. */
static void find_holes(audit *a, uint32_t n_block, bool known, bool alike)
{
    for (uint32_t b = 0; b < n_block; b++) {
        uint64_t at, any = 0;
        for (uint64_t i = 0; i < a->source.n_tensors; i++) any += behind_block(a->source.tensors[i].name, &at) && at == b;
        if (any == 0 && !known) add(a->faults, "block %u has no tensor, and the file says that there are %u blocks", b, n_block);
    }
    for (uint64_t i = 0; i < a->source.n_tensors && alike; i++) {
        const char *part;
        uint64_t    at, n = 0;
        bool        first = true;
        if (!(part = behind_block(a->source.tensors[i].name, &at)) || at >= n_block) continue;
        for (uint64_t j = 0; j < a->source.n_tensors; j++) {
            uint64_t    other;
            const char *same = behind_block(a->source.tensors[j].name, &other);
            if (!same || other >= n_block || strcmp(same, part) != 0) continue;
            n++;
            first &= j >= i;
        }
        if (!first || 2 * n <= n_block) continue;
        for (uint32_t b = 0; b < n_block && n < n_block; b++) {
            char name[96];
            snprintf(name, sizeof name, "blk.%u%s", b, part);
            if (!bb_source_tensor(&a->source, name)) add_missing(a, name);
        }
    }
}

static void find_missing(audit *a)
{
    const bb_bytes   name = text_of(a, "general.architecture");
    const bb_arch   *arch = bb_arch_find(name.data, (size_t)name.size);
    const bb_tensor *embd = bb_source_tensor(&a->source, "token_embd.weight"), *head = bb_source_tensor(&a->source, "output.weight");
    char             key[BB_SHOWN + 16], shown[BB_SHOWN];
    uint32_t         n_block = 0;
    bool             found;
    if (!name.size) add(a->faults, "key general.architecture is missing");
    snprintf(key, sizeof key, "%s.block_count", bb_show(name, shown));
    if (!embd) add_missing(a, "token_embd.weight");
    if (!bb_source_tensor(&a->source, "output_norm.weight")) {
        if (arch) add_missing(a, "output_norm.weight");
        else add(a->notes, "there is no tensor output_norm.weight");
    }
    if (bb_source_u32(&a->source, key, &n_block, &found, NULL) != BB_OK || !found || n_block > 4096) add(a->faults, "key %s is missing or wrong", key);
    else find_holes(a, n_block, arch != NULL, arch && !arch->arrays && !arch->optional);
    if (embd && head && head->type == embd->type && head->size_bytes == embd->size_bytes && memcmp(head->data, embd->data, head->size_bytes) == 0)
        add(a->notes, "output.weight is token_embd.weight once more: %llu bytes that a tied file does not need", (unsigned long long)head->size_bytes);
    if (!arch && name.size) add(a->notes, "architecture %s is not one that this program reads: its shapes were not checked", shown);
}

/* Faults are of the file that is audited: its path is said once, in front of them all. */
static const char *behind_path(const audit *a, const char *said)
{
    const size_t n = strlen(a->path);
    return strncmp(said, a->path, n) == 0 && strncmp(said + n, ": ", 2) == 0 ? said + n + 2 : said;
}

/* What the loader says where all that is looked for above is there: shapes, keys, tensors without a place. */
static bb_status load(audit *a, bb_err *err)
{
    const bb_bytes name = text_of(a, "general.architecture");
    bb_model       m = { .path = NULL };
    bb_err         inner = BB_ERR_INIT;
    bb_status      status;
    if (!bb_arch_find(name.data, (size_t)name.size) || json_array_size(a->missing)) return BB_OK;
    status = bb_model_open(a->path, &m, &inner);
    bb_model_close(&m);
    if (status == BB_NOMEM || status == BB_IO) return BB_FAIL(err, status, "%s", inner.msg);
    if (status == BB_UNSUPPORTED) add(a->notes, "%s", behind_path(a, inner.msg));
    else if (status != BB_OK) add(a->faults, "%s", behind_path(a, inner.msg));
    return BB_OK;
}

static void note_experimental(audit *a)
{
    for (unsigned t = 0; t < BB_TYPE_COUNT; t++) {
        uint64_t n = 0;
        for (int p = 0; p < BB_N_FILE_PARTS; p++) n += a->part[p].of_type[t];
        if (n && t == BB_LC2) add(a->notes, "LC2 is a type of bitbudget alone: llama.cpp does not read it");
        else if (n && bb_format_get((bb_type)t)->experimental)
            add(a->notes, "%s is under review in llama.cpp: stock llama.cpp does not read it", name_of((bb_type)t));
    }
}

static void check_tokenizer(audit *a)
{
    const bb_key  *tokens = bb_source_find(&a->source, "tokenizer.ggml.tokens");
    const bb_bytes model = text_of(a, "tokenizer.ggml.model");
    a->has_tokenizer = model.size && tokens && tokens->strings && tokens->count;
    a->has_template = text_of(a, "tokenizer.chat_template").size > 0;
    if (!a->has_tokenizer) add(a->faults, "there is no tokenizer (tokenizer.ggml.model, tokenizer.ggml.tokens)");
    const bool bytes = model.size == 4 && memcmp(model.data, "gpt2", 4) == 0, characters = model.size == 6 && memcmp(model.data, "gemma4", 6) == 0;
    if (bytes || characters) {
        if (!bb_source_find(&a->source, "tokenizer.ggml.merges"))
            add(a->faults, "the tokenizer is %s and tokenizer.ggml.merges is missing", bytes ? "gpt2" : "gemma4");
        if (bytes && !bb_source_find(&a->source, "tokenizer.ggml.pre"))
            add(a->notes, "there is no tokenizer.ggml.pre: llama.cpp falls back to another pre-tokenizer");
    }
    if (a->has_tokenizer && !bb_source_find(&a->source, "tokenizer.ggml.eos_token_id")) add(a->notes, "there is no tokenizer.ggml.eos_token_id");
    if (!a->has_template) add(a->notes, "there is no chat template (a base model needs none)");
}

/* ---- what is said ---- */

static void print_list(const char *what, const json_t *list)
{
    json_t *text;
    size_t  i;
    json_array_foreach(list, i, text) printf("%s  %s\n", what, json_string_value(text));
}

static void print_types(const part_sum *p)
{
    for (unsigned t = 0; t < BB_TYPE_COUNT; t++)
        if (p->of_type[t]) printf("  %s %.1f %%", name_of((bb_type)t), 100 * share(p->of_type[t], p->weights));
    printf("\n");
}

static uint64_t all_weights(const audit *a)
{
    uint64_t n = 0;
    for (int p = 0; p < BB_N_FILE_PARTS; p++) n += a->part[p].weights;
    return n;
}

static void print_text(const audit *a)
{
    printf("file        %s", a->path);
    if (a->source.n_files > 1) printf(" and the others, %u files", a->source.n_files);
    printf("\nlabel       ");
    if (a->label) printf("general.file_type %u (%s)", a->label_number, a->label->name);
    else if (a->has_label) printf("general.file_type %u", a->label_number);
    else printf("none");
    if (a->named) printf("; %s says %s", a->named_by, a->named->name);
    printf("\ninside      mostly %s; %.4f bits a weight of the whole file, %.4f of its tensors\nfallback    %.2f %% of the weights of matrices have rows "
           "that do not fit the label's type\ntokenizer   %s\ntemplate    %s\n\n%-10s %14s %14s %8s  types, by weights\n",
           name_of(a->commonest), bits(a->source.size_bytes, all_weights(a)), bits(a->source.size_bytes - a->part[BB_FILE_METADATA].bytes, all_weights(a)),
           100 * share(a->n_fallback, a->n_matrix), a->has_tokenizer ? "present" : "MISSING", a->has_template ? "present" : "none", "part", "bytes", "weights",
           "bpw");
    for (int k = 0; k < BB_N_FILE_PARTS; k++) {
        const part_sum *p = &a->part[k];
        if (p->bytes == 0) continue;
        printf("%-10s %14llu %14llu %8.4f", bb_file_part_names[k], (unsigned long long)p->bytes, (unsigned long long)p->weights, bits(p->bytes, p->weights));
        print_types(p);
    }
    printf("\n");
    print_list("FAULT", a->faults);
    print_list("note ", a->notes);
    if (!json_array_size(a->faults)) printf("the file is what it says\n");
}

static json_t *parts_json(const audit *a)
{
    json_t *all = json_object();
    for (int k = 0; k < BB_N_FILE_PARTS; k++) {
        const part_sum *p = &a->part[k];
        json_t         *types = json_object();
        for (unsigned t = 0; t < BB_TYPE_COUNT; t++)
            if (p->of_type[t]) json_object_set_new(types, name_of((bb_type)t), json_integer((json_int_t)p->of_type[t]));
        json_object_set_new(all, bb_file_part_names[k],
                            json_pack("{s:I, s:I, s:f, s:o}", "bytes", (json_int_t)p->bytes, "weights", (json_int_t)p->weights, "bpw",
                                      bits(p->bytes, p->weights), "types", types));
    }
    return all;
}

static bb_status print_json(const audit *a, bb_err *err)
{
    json_t *root = json_pack("{s:o, s:I, s:b, s:I, s:I, s:f, s:f, s:o, s:o, s:s?, s:s?, s:s, s:f, s:b, s:b, s:O, s:O, s:O}", "path", bb_json_text(a->path),
                             "files", (json_int_t)a->source.n_files, "ok", json_array_size(a->faults) == 0, "bytes", (json_int_t)a->source.size_bytes,
                             "weights", (json_int_t)all_weights(a), "bpw", bits(a->source.size_bytes, all_weights(a)), "bpw_tensors",
                             bits(a->source.size_bytes - a->part[BB_FILE_METADATA].bytes, all_weights(a)), "parts", parts_json(a), "file_type",
                             a->has_label ? json_integer((json_int_t)a->label_number) : json_null(), "label", a->label ? a->label->name : NULL, "name_label",
                             a->named ? a->named->name : NULL, "mostly", name_of(a->commonest), "fallback_share", share(a->n_fallback, a->n_matrix),
                             "tokenizer", a->has_tokenizer, "chat_template", a->has_template, "missing", a->missing, "faults", a->faults, "notes", a->notes);
    int     failed = !root || json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) || putchar('\n') == EOF;
    json_decref(root);
    return failed ? BB_FAIL(err, BB_IO, "standard output could not be written") : BB_OK;
}

/* A file that is no model has nothing to count: why it is none, for scripts that read the others' JSON. */
static void print_unreadable(const audit *a, const char *why)
{
    add(a->faults, "%s", behind_path(a, why));
    json_t *root = json_pack("{s:o, s:b, s:O}", "path", bb_json_text(a->path), "ok", false, "faults", a->faults);
    if (root && json_dumpf(root, stdout, JSON_INDENT(2)) == 0) putchar('\n');
    json_decref(root);
}

bb_status bb_inspect_audit(const char *path, bool json, bb_err *err)
{
    audit     a = { .path = path, .faults = json_array(), .notes = json_array(), .missing = json_array() };
    bb_err    why = BB_ERR_INIT, cut = BB_ERR_INIT;
    bb_status status = bb_source_open(path, &a.source, &why);
    if (status == BB_OK && (status = bb_source_whole(&a.source, &cut)) != BB_OK) BB_FAIL(&why, status, "%s: %s", path, cut.msg);
    if (status != BB_OK) {
        if (json && status == BB_BAD_FILE) print_unreadable(&a, why.msg);
        BB_FAIL(err, status, "%s", why.msg);
        goto done;
    }
    add_up(&a);
    check_labels(&a);
    find_fallbacks(&a);
    find_missing(&a);
    note_experimental(&a);
    check_tokenizer(&a);
    BB_TRY(load(&a, err));
    if (json) BB_TRY(print_json(&a, err));
    else print_text(&a);
    const size_t n = json_array_size(a.faults);
    if (n) status = BB_FAIL(err, BB_GUARD, "%s: %s%s", path, json_string_value(json_array_get(a.faults, 0)), n > 1 ? " (and more)" : "");
done:
    bb_source_close(&a.source);
    json_decref(a.faults);
    json_decref(a.notes);
    json_decref(a.missing);
    return status;
}
