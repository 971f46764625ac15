/* SPDX-License-Identifier: GPL-3.0-or-later
 * hf_tokenizer.c: the tokenizer files of a folder as the keys of GGUF: see hf_parts.h.
 *
 * Three kinds, in the order in which llama.cpp's converter looks for them: tokenizer.model (SentencePiece); tokenizer.json with BPE over characters
 * and byte fallback, which is SentencePiece again; tokenizer.json with BPE over bytes. Of the second, files have merges and no scores; here a token's
 * score is the negative rank of the merge that makes it, so that SentencePiece's way of merging gives what the file's merges give (the converter
 * writes -1000 for every token, which merges from the left).
 * The pre-tokenizer of the third is told by its rules themselves, not by what it makes of a text: so it is found in fine-tunes with tokens of their own.
 */
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/table.h"
#include "base/text.h"
#include "model/io/hf_parts.h"

#define SPACE_MARK "\xE2\x96\x81"

/* ---- a vocabulary ---- */

bb_status bb_hf_vocab_create(bb_hf_vocab *v, uint32_t n, bb_err *err)
{
    *v = (bb_hf_vocab) { .n = n, .text = BB_NEW0(n, char *, err), .score = BB_NEW0(n, float, err), .type = BB_NEW0(n, int32_t, err) };
    return v->text && v->score && v->type ? BB_OK : BB_NOMEM;
}

void bb_hf_vocab_done(bb_hf_vocab *v)
{
    for (uint32_t i = 0; v->text && i < v->n; i++) bb_free(v->text[i]);
    bb_free(v->text);
    bb_free(v->score);
    bb_free(v->type);
    memset(v, 0, sizeof *v);
}

bb_status bb_hf_vocab_put(bb_hf_vocab *v, uint64_t id, const char *text, size_t size, float score, bb_token_type type, bb_err *err)
{
    char *copy;
    if (id >= v->n) return BB_FAIL(err, BB_BAD_FILE, "token %llu is beyond the vocabulary: config.json has a vocab_size of %u", (unsigned long long)id, v->n);
    if (memchr(text, 0, size)) return BB_FAIL(err, BB_BAD_FILE, "token %llu has a NUL in its text", (unsigned long long)id);
    if (!(copy = bb_asprintf(err, "%.*s", (int)size, text))) return BB_NOMEM;
    bb_free(v->text[id]);
    v->text[id] = copy;
    v->score[id] = score;
    v->type[id] = (int32_t)type;
    return BB_OK;
}

/* Numbers that no token has become tokens that no text has. */
static bb_status put_vocab(bb_hf_vocab *v, const char *model, const char *pre, float unused_score, bool scores, bb_gguf_out *out, bb_err *err)
{
    bb_bytes *texts = BB_NEW(v->n, bb_bytes, err);
    char      name[32];
    bb_status status = texts ? BB_OK : BB_NOMEM;
    for (uint32_t i = 0; i < v->n && status == BB_OK; i++) {
        snprintf(name, sizeof name, "[PAD%u]", i);
        if (!v->text[i]) status = bb_hf_vocab_put(v, i, name, strlen(name), unused_score, BB_TOKEN_UNUSED, err);
        if (status == BB_OK) texts[i] = (bb_bytes) { v->text[i], strlen(v->text[i]) };
    }
    if (status != BB_OK) goto done;
    BB_TRY(bb_gguf_put_text(out, "tokenizer.ggml.model", model, err));
    if (pre) BB_TRY(bb_gguf_put_text(out, "tokenizer.ggml.pre", pre, err));
    BB_TRY(bb_gguf_put_text_array(out, "tokenizer.ggml.tokens", texts, v->n, err));
    if (scores) BB_TRY(bb_gguf_put_f32_array(out, "tokenizer.ggml.scores", v->score, v->n, err));
    BB_TRY(bb_gguf_put_i32_array(out, "tokenizer.ggml.token_type", v->type, v->n, err));
done:
    bb_free(texts);
    return status;
}

/* ---- added tokens ---- */

static bool begins_and_ends(const char *s, const char *begin, const char *end)
{
    const size_t n = strlen(s), b = strlen(begin), e = strlen(end);
    return n >= b + e && strncmp(s, begin, b) == 0 && strcmp(s + n - e, end) == 0;
}

/* Texts that are control tokens whatever their file says. */
static bool looks_special(const char *s)
{
    return strcmp(s, "<pad>") == 0 || strcmp(s, "<mask>") == 0 || strcmp(s, "<2mass>") == 0 || strcmp(s, "[@BOS@]") == 0 || begins_and_ends(s, "<|", "|>") ||
           begins_and_ends(s, "<\xEF\xBD\x9C", "\xEF\xBD\x9C>") || begins_and_ends(s, "<unused", ">");
}

/* An added token that is no control token is met in text: its space marks are spaces there. */
static bb_status put_added(bb_hf_vocab *v, uint64_t id, const json_t *token, bb_err *err)
{
    const char *content = json_string_value(json_object_get(token, "content")), *at;
    bb_text     plain = { .data = NULL };
    bb_status   status;
    if (!content) return BB_FAIL(err, BB_BAD_FILE, "added token %llu has no content", (unsigned long long)id);
    if (json_is_true(json_object_get(token, "special")) || (!v->as_said && looks_special(content)))
        return bb_hf_vocab_put(v, id, content, strlen(content), -1000, BB_TOKEN_CONTROL, err);
    bb_text_add(&plain, "");
    for (; (at = strstr(content, SPACE_MARK)); content = at + strlen(SPACE_MARK)) {
        bb_text_addn(&plain, content, (size_t)(at - content));
        bb_text_add(&plain, " ");
    }
    bb_text_add(&plain, content);
    status = plain.status == BB_OK ? bb_hf_vocab_put(v, id, plain.data, plain.size, -1000, BB_TOKEN_USER, err) : BB_FAIL(err, BB_NOMEM, "out of memory");
    bb_text_done(&plain);
    return status;
}

/* ---- tokenizer.model ---- */

static bb_status read_spm_added(const char *folder, const json_t *config, bb_hf_vocab *v, bb_err *err)
{
    json_t     *added = NULL, *token;
    const char *text;
    bb_status   status = bb_hf_json(folder, "added_tokens.json", &added, err);
    if (status == BB_NOT_FOUND) status = BB_OK;
    if (status != BB_OK) goto done;
    json_object_foreach(added, text, token) if (json_is_integer(token) && json_integer_value(token) >= 0 && json_integer_value(token) < (json_int_t)v->n)
        BB_TRY(bb_hf_vocab_put(v, (uint64_t)json_integer_value(token), text, strlen(text), -1000, BB_TOKEN_USER, err));
    json_object_foreach(json_object_get(config, "added_tokens_decoder"), text, token)
    {
        int64_t id;
        if (bb_parse_int(text, &id, NULL) == BB_OK && id >= 0 && id < (int64_t)v->n) BB_TRY(put_added(v, (uint64_t)id, token, err));
    }
done:
    json_decref(added);
    return status;
}

static bb_status read_spm(const char *folder, const char *path, const json_t *config, bb_hf_vocab *v, bb_gguf_out *out, bb_err *err)
{
    bb_map        map = { NULL, 0 };
    bb_err        inner = BB_ERR_INIT;
    const json_t *add_prefix = json_object_get(config, "add_prefix_space");
    bool          prefix = true;
    bb_status     status;
    BB_TRY(bb_map_open(path, &map, err));
    status = bb_hf_spm_read(map.data, map.size, v, &prefix, &inner);
    bb_map_close(&map);
    if (status != BB_OK) {
        BB_FAIL(err, status, "%s: %s", path, inner.msg);
        goto done;
    }
    BB_TRY(read_spm_added(folder, config, v, err));
    if (json_is_boolean(add_prefix)) prefix = json_is_true(add_prefix);
    if (!prefix || json_is_boolean(add_prefix)) BB_TRY(bb_gguf_put_bool(out, "tokenizer.ggml.add_space_prefix", prefix, err));
    BB_TRY(put_vocab(v, "llama", "default", -10000, true, out, err));
done:
    return status;
}

/* ---- tokenizer.json ---- */

static bb_status read_vocab(const json_t *root, bb_hf_vocab *v, bb_err *err)
{
    json_t     *vocab = json_object_get(json_object_get(root, "model"), "vocab"), *id;
    const char *text;
    bb_status   status = BB_OK;
    if (!json_is_object(vocab)) return BB_FAIL(err, BB_BAD_FILE, "it has no model.vocab");
    json_object_foreach(vocab, text, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0) return BB_FAIL(err, BB_BAD_FILE, "a token's number is no whole number of 0 or more");
        BB_TRY(bb_hf_vocab_put(v, (uint64_t)json_integer_value(id), text, strlen(text), 0, BB_TOKEN_NORMAL, err));
    }
done:
    return status;
}

static bb_status read_added(const json_t *root, bb_hf_vocab *v, bb_err *err)
{
    json_t   *token;
    size_t    i;
    bb_status status = BB_OK;
    json_array_foreach(json_object_get(root, "added_tokens"), i, token)
    {
        const json_t *id = json_object_get(token, "id");
        if (!json_is_integer(id) || json_integer_value(id) < 0) return BB_FAIL(err, BB_BAD_FILE, "added token %zu has no number", i);
        BB_TRY(put_added(v, (uint64_t)json_integer_value(id), token, err));
    }
done:
    return status;
}

/* The halves of a merge: "a b", or since transformers 4.45 ["a", "b"]. false: neither. */
static bool merge_of(const json_t *merge, bb_bytes *left, bb_bytes *right)
{
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
        *left = (bb_bytes) { json_string_value(a), json_string_length(a) };
        *right = (bb_bytes) { json_string_value(b), json_string_length(b) };
    } else {
        const char *text = json_string_value(merge), *space = text && *text ? strchr(text + 1, ' ') : NULL;
        if (!space) return false;
        *left = (bb_bytes) { text, (uint64_t)(space - text) };
        *right = (bb_bytes) { space + 1, strlen(space + 1) };
    }
    return left->data && right->data && left->size && right->size;
}

/* The halves with a space between them; spaces inside of them as byte-level BPE spells them. */
static bb_status put_merges(const json_t *root, bb_gguf_out *out, bb_err *err)
{
    const json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
    const size_t  n = json_array_size(merges);
    bb_bytes     *texts = BB_NEW(n, bb_bytes, err);
    size_t       *at = BB_NEW(n + 1, size_t, err);
    bb_text       all = { .data = NULL };
    bb_status     status = texts && at ? BB_OK : BB_NOMEM;
    for (size_t i = 0; i < n && status == BB_OK; i++) {
        bb_bytes half[2];
        if (!merge_of(json_array_get(merges, i), &half[0], &half[1])) {
            status = BB_FAIL(err, BB_BAD_FILE, "merge %zu is no pair of texts", i);
            break;
        }
        at[i] = all.size;
        for (int k = 0; k < 2; k++) {
            for (uint64_t j = 0; j < half[k].size; j++)
                if (half[k].data[j] == ' ') bb_text_add(&all, "\xC4\xA0");
                else bb_text_addn(&all, half[k].data + j, 1);
            if (k == 0) bb_text_add(&all, " ");
        }
    }
    if (status == BB_OK && all.status != BB_OK) status = BB_FAIL(err, BB_NOMEM, "out of memory");
    if (status != BB_OK) goto done;
    at[n] = all.size;
    for (size_t i = 0; i < n; i++) texts[i] = (bb_bytes) { all.data + at[i], at[i + 1] - at[i] };
    BB_TRY(bb_gguf_put_text_array(out, "tokenizer.ggml.merges", texts, n, err));
done:
    bb_text_done(&all);
    bb_free(texts);
    bb_free(at);
    return status;
}

static uint64_t hash_text(const char *s) { return bb_hash64(s, strlen(s), 0); }
static uint64_t hash_of(const void *texts, uint32_t number) { return hash_text(((char *const *)texts)[number]); }
static bool     is_text(const void *texts, uint32_t number, const void *key) { return strcmp(((char *const *)texts)[number], key) == 0; }

/* Scores that make SentencePiece merge as the list of merges does: the first merge that makes a token gives the token's. */
static bb_status score_by_merges(const json_t *root, bb_hf_vocab *v, bb_err *err)
{
    const json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
    bb_table      numbers = { .n_slots = 0 };
    char        **texts = BB_NEW(v->n, char *, err);
    uint32_t     *ids = BB_NEW(v->n, uint32_t, err), n = 0;
    bb_status     status = texts && ids ? bb_table_reserve(&numbers, v->n, 0, hash_of, NULL, err) : BB_NOMEM;
    if (status != BB_OK) goto done;
    for (uint32_t i = 0; i < v->n; i++) {
        uint32_t *slot = v->text[i] ? bb_table_at(&numbers, hash_text(v->text[i]), is_text, texts, v->text[i]) : NULL;
        if (!slot || *slot) continue;
        texts[n] = v->text[i];
        ids[n] = i;
        *slot = ++n;
    }
    for (size_t i = 0; i < json_array_size(merges); i++) {
        bb_bytes  left, right;
        char     *joined;
        uint32_t *slot;
        if (!merge_of(json_array_get(merges, i), &left, &right)) {
            status = BB_FAIL(err, BB_BAD_FILE, "merge %zu is no pair of texts", i);
            goto done;
        }
        if (!(joined = bb_asprintf(err, "%.*s%.*s", (int)left.size, left.data, (int)right.size, right.data))) {
            status = BB_NOMEM;
            goto done;
        }
        slot = bb_table_at(&numbers, hash_text(joined), is_text, texts, joined);
        bb_free(joined);
        if (slot && *slot && v->score[ids[*slot - 1]] >= 0) v->score[ids[*slot - 1]] = -(float)(i + 1);
    }
done:
    bb_table_done(&numbers);
    bb_free(texts);
    bb_free(ids);
    return status;
}

static const char *type_of(const json_t *o)
{
    const char *type = json_string_value(json_object_get(o, "type"));
    return type ? type : "";
}

/* ---- pre-tokenizers ---- */

/* The rules of a pre-tokenizer in order: regular expressions as they stand, "digits" and "bytes" for the steps of that kind. */
static void add_rules(const json_t *pre, bb_text *rules, int depth)
{
    json_t     *step;
    size_t      i;
    const char *type = type_of(pre), *regex;
    if (strcmp(type, "Sequence") == 0 && depth < 4) {
        json_array_foreach(json_object_get(pre, "pretokenizers"), i, step) add_rules(step, rules, depth + 1);
        return;
    }
    if (rules->size) bb_text_add(rules, "\n");
    regex = json_string_value(json_object_get(json_object_get(pre, "pattern"), "Regex"));
    if (strcmp(type, "Split") == 0 && regex) bb_text_add(rules, regex);
    else if (strcmp(type, "Digits") == 0) bb_text_add(rules, json_is_true(json_object_get(pre, "individual_digits")) ? "digits" : "numbers");
    else if (strcmp(type, "ByteLevel") == 0) bb_text_add(rules, json_is_false(json_object_get(pre, "use_regex")) ? "bytes" : "words");
    else bb_text_add(rules, *type ? type : "nothing");
}

#define SHORT_FORMS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define LINE_END "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CASED_1 "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
#define CASED_2 "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"

/* whole: are words that are tokens left whole (ignore_merges)? -1: either. */
static const struct {
    const char *rules;
    int         whole;
    const char *name;
} pre_tokenizers[] = {
    { "words", -1, "gpt-2" },
    { "digits\nwords", -1, "smollm" },
    { SHORT_FORMS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" LINE_END "\nbytes", 1, "llama-bpe" },
    { SHORT_FORMS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" LINE_END "\nbytes", 0, "smaug-bpe" },
    { SHORT_FORMS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" LINE_END "\nbytes", -1, "qwen2" },
    { SHORT_FORMS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" LINE_END "\nbytes", -1, "qwen35" },
    { CASED_1 "|" CASED_2 "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" LINE_END "\nbytes", -1, "tekken" },
    { CASED_1 SHORT_FORMS "?|" CASED_2 SHORT_FORMS "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" LINE_END "\nbytes", -1, "gpt-4o" },
};

static bb_status find_pre(const json_t *root, const char **name, bb_err *err)
{
    const json_t *model = json_object_get(root, "model");
    const int     ignores = json_is_true(json_object_get(model, "ignore_merges"));
    bb_text       rules = { .data = NULL };
    char          shown[BB_SHOWN];
    bb_status     status = BB_OK;
    *name = NULL;
    bb_text_add(&rules, "");
    add_rules(json_object_get(root, "pre_tokenizer"), &rules, 0);
    if (rules.status != BB_OK) status = BB_FAIL(err, BB_NOMEM, "out of memory");
    for (size_t i = 0; status == BB_OK && i < sizeof pre_tokenizers / sizeof *pre_tokenizers && !*name; i++)
        if (strcmp(rules.data, pre_tokenizers[i].rules) == 0 && (pre_tokenizers[i].whole < 0 || pre_tokenizers[i].whole == ignores))
            *name = pre_tokenizers[i].name;
    if (status == BB_OK && !*name)
        status = BB_FAIL(err, BB_UNSUPPORTED, "its pre-tokenizer is none that is known; its rules begin with %s",
                         bb_show((bb_bytes) { rules.data, rules.size }, shown));
    bb_text_done(&rules);
    return status;
}

/* Tokens that a model of this kind writes around its thoughts and its calls of tools: text, for whoever parses that. */
static void show_marks(bb_hf_vocab *v)
{
    static const char *const marks[] = { "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", "<|\"|>" };
    for (uint32_t i = 0; i < v->n; i++)
        for (size_t k = 0; v->text[i] && k < sizeof marks / sizeof *marks; k++)
            if (strcmp(v->text[i], marks[k]) == 0) v->type[i] = BB_TOKEN_USER;
}

/* characters: they merge by the file's own merges, and what no token has falls apart into bytes. */
static bb_status read_json(const json_t *root, bool characters, bb_hf_vocab *v, bb_gguf_out *out, bb_err *err)
{
    const json_t *model = json_object_get(root, "model");
    const char   *pre;
    char          shown[BB_SHOWN];
    bb_bytes      type = { type_of(model), strlen(type_of(model)) };
    bb_status     status;
    if (strcmp(type.data, "BPE") != 0) return BB_FAIL(err, BB_UNSUPPORTED, "it is of type '%s'; BPE is supported", bb_show(type, shown));
    BB_TRY(read_vocab(root, v, err));
    if (json_is_true(json_object_get(model, "byte_fallback"))) {
        if (!characters) BB_TRY(score_by_merges(root, v, err));
        for (uint32_t i = 0; characters && i < v->n; i++) v->score[i] = -1000;
        for (uint32_t i = 0; i < v->n; i++) {
            unsigned byte;
            int      used = 0;
            if (v->text[i] && sscanf(v->text[i], "<0x%2x>%n", &byte, &used) == 1 && used == 6 && !v->text[i][6]) v->type[i] = BB_TOKEN_BYTE;
        }
        BB_TRY(read_added(root, v, err));
        if (characters) show_marks(v);
        BB_TRY(put_vocab(v, characters ? "gemma4" : "llama", characters ? NULL : "default", -1000, true, out, err));
        if (characters) {
            BB_TRY(put_merges(root, out, err));
            BB_TRY(bb_gguf_put_bool(out, "tokenizer.ggml.add_space_prefix", false, err));
        }
    } else {
        BB_TRY(find_pre(root, &pre, err));
        BB_TRY(read_added(root, v, err));
        BB_TRY(put_vocab(v, "gpt2", pre, 0, false, out, err));
        BB_TRY(put_merges(root, out, err));
    }
done:
    return status;
}

/* ---- special tokens ---- */

static const struct {
    const char *name, *key; /* of the files; of tokenizer.ggml */
} specials[] = {
    { "bos", "bos" }, { "eos", "eos" }, { "unk", "unknown" }, { "sep", "seperator" }, { "pad", "padding" }, { "cls", "cls" }, { "mask", "mask" },
};
enum { N_SPECIALS = sizeof specials / sizeof *specials, BOS = 0, EOS = 1 };

typedef struct special_tokens {
    int64_t id[N_SPECIALS];  /* -1: none */
    int     add[N_SPECIALS]; /* is it put around a text? -1: not said */
} special_tokens;

/* "bos_token": "<s>" or {"content": "<s>"} */
static const char *content_of(const json_t *config, const char *name)
{
    char          key[32];
    const json_t *v;
    snprintf(key, sizeof key, "%s_token", name);
    v = json_object_get(config, key);
    return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

static bool same(const char *a, const char *b) { return a && b && strcmp(a, b) == 0; }

/* What the post-processor puts before and behind a text. */
static void read_post_processor(const json_t *root, const json_t *config, special_tokens *s)
{
    const json_t *post = json_object_get(root, "post_processor"), *list = json_object_get(post, "processors");
    const size_t  n = json_is_array(list) ? json_array_size(list) : post ? 1 : 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *p = json_is_array(list) ? json_array_get(list, i) : post, *single = json_object_get(p, "single");
        const size_t  m = json_array_size(single);
        if (strcmp(type_of(p), "ByteLevel") == 0) {
            if (s->add[BOS] < 0) s->add[BOS] = 0;
            if (s->add[EOS] < 0) s->add[EOS] = 0;
        } else if (strcmp(type_of(p), "TemplateProcessing") == 0 && m > 1) {
            const char *first = json_string_value(json_object_get(json_object_get(json_array_get(single, 0), "SpecialToken"), "id"));
            const char *last = json_string_value(json_object_get(json_object_get(json_array_get(single, m - 1), "SpecialToken"), "id"));
            if (first) s->add[BOS] = same(first, content_of(config, "bos"));
            if (last) s->add[EOS] = same(last, content_of(config, "eos"));
        }
    }
}

/* by_json: tokenizer.json is what tokenizes. */
static bb_status put_specials(const json_t *root, const json_t *config, const json_t *model, uint32_t n_vocab, bool by_json, bb_gguf_out *out, bb_err *err)
{
    special_tokens s;
    char           key[64];
    json_t        *token;
    size_t         i;
    bb_status      status = BB_OK;
    for (int k = 0; k < N_SPECIALS; k++) s.id[k] = s.add[k] = -1;
    read_post_processor(root, config, &s);
    for (int k = 0; k < N_SPECIALS; k++) {
        const char   *content = content_of(config, specials[k].name);
        const json_t *add, *id;
        snprintf(key, sizeof key, "add_%s_token", specials[k].name);
        add = json_object_get(config, key);
        if (json_is_boolean(add) && s.add[k] < 0) s.add[k] = json_is_true(add);
        if (by_json && s.add[k] < 0) s.add[k] = 0; /* what runtimes add by themselves for some pre-tokenizers, the files' own tokenizer does not */
        json_array_foreach(json_object_get(root, "added_tokens"), i,
                           token) if (s.id[k] < 0 && same(json_string_value(json_object_get(token, "content")), content))
            s.id[k] = json_integer_value(json_object_get(token, "id"));
        snprintf(key, sizeof key, "%s_token_id", specials[k].name);
        id = json_object_get(model, key);
        if (json_is_integer(id) && s.id[k] < 0) s.id[k] = json_integer_value(id);
        if (s.id[k] >= 0 && s.id[k] < (int64_t)n_vocab) {
            snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", specials[k].key);
            BB_TRY(bb_gguf_put_u32(out, key, (uint32_t)s.id[k], err));
        }
        if (s.add[k] >= 0 && (k == BOS || k == EOS)) {
            snprintf(key, sizeof key, "tokenizer.ggml.add_%s_token", specials[k].name);
            BB_TRY(bb_gguf_put_bool(out, key, s.add[k], err));
        }
    }
done:
    return status;
}

/* A file of its own wins; of a list of templates the one called "default". */
static bb_status put_chat_template(const char *folder, const json_t *config, bb_gguf_out *out, bb_err *err)
{
    const json_t *v = json_object_get(config, "chat_template");
    json_t       *one;
    size_t        i, size;
    const char   *text = json_string_value(v);
    char         *path = bb_asprintf(err, "%s/chat_template.jinja", folder), *file = NULL;
    bb_status     status = path ? BB_OK : BB_NOMEM;
    if (status != BB_OK) goto done;
    json_array_foreach(v, i, one) if (same(json_string_value(json_object_get(one, "name")), "default"))
        text = json_string_value(json_object_get(one, "template"));
    if (bb_file_exists(path)) {
        BB_TRY(bb_file_read(path, &file, &size, err));
        text = file;
    }
    if (text) BB_TRY(bb_gguf_put_text(out, "tokenizer.chat_template", text, err));
done:
    bb_free(file);
    bb_free(path);
    return status;
}

bb_status bb_hf_tokenizer_read(const char *folder, const json_t *config, const bb_hf_config *c, bb_gguf_out *out, bb_err *err)
{
    char       *spm = bb_asprintf(err, "%s/tokenizer.model", folder);
    json_t     *root = NULL, *tokenizer_config = NULL;
    bb_hf_vocab v = { 0 };
    bb_err      inner = BB_ERR_INIT;
    bb_status   status = BB_NOMEM;
    if (!spm) goto done;
    BB_TRY(bb_hf_vocab_create(&v, c->n_vocab, err));
    v.as_said = c->arch->as_said && bb_file_exists(spm);
    status = bb_hf_json(folder, "tokenizer_config.json", &tokenizer_config, err);
    if (status != BB_OK && status != BB_NOT_FOUND) goto done;
    status = bb_hf_json(folder, "tokenizer.json", &root, err);
    if (status != BB_OK && status != BB_NOT_FOUND) goto done;
    if (bb_file_exists(spm)) {
        BB_TRY(read_spm(folder, spm, tokenizer_config, &v, out, err));
    } else if (root) {
        status = read_json(root, c->arch->own_kinds, &v, out, &inner);
        if (status != BB_OK) {
            BB_FAIL(err, status, "%s/tokenizer.json: %s", folder, inner.msg);
            goto done;
        }
    } else {
        status = BB_FAIL(err, BB_BAD_FILE, "%s has neither tokenizer.model nor tokenizer.json", folder);
        goto done;
    }
    BB_TRY(put_specials(root, tokenizer_config, config, c->n_vocab, !bb_file_exists(spm), out, err));
    if (c->arch->own_kinds) BB_TRY(bb_gguf_put_bool(out, "tokenizer.ggml.add_bos_token", true, err)); /* which llama.cpp does whatever the file says */
    BB_TRY(put_chat_template(folder, tokenizer_config, out, err));
done:
    bb_hf_vocab_done(&v);
    json_decref(root);
    json_decref(tokenizer_config);
    bb_free(spm);
    return status;
}
