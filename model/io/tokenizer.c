/* SPDX-License-Identifier: GPL-3.0-or-later
 * tokenizer.c: vocabulary, special tokens, the public interface. See tokenizer.h for what, tokenizer_parts.h for the other files.
 *
 * Special tokens (control, user-defined, unknown) are cut out of the text before all else, as llama.cpp does: the longest token first,
 * each at its leftmost places, in what the ones before have left.
 */
#include "model/io/tokenizer.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "model/io/tokenizer_parts.h"

/* ---- metadata ---- */

static bb_status array_of(const bb_source *g, const char *key, uint64_t n, const bb_key **kv, bb_err *err)
{
    *kv = bb_source_find(g, key);
    if (!*kv) return BB_OK;
    if ((*kv)->kind != BB_KIND_ARRAY) return BB_FAIL(err, BB_BAD_FILE, "%s is no array", key);
    if ((*kv)->count != n)
        return BB_FAIL(err, BB_BAD_FILE, "%s has %llu entries; the vocabulary has %llu tokens", key, (unsigned long long)(*kv)->count, (unsigned long long)n);
    return BB_OK;
}

static bb_status load_texts(bb_tokenizer *t, const bb_source *g, bb_err *err)
{
    const bb_key *kv = bb_source_find(g, "tokenizer.ggml.tokens");
    bb_status     status = BB_OK;
    if (!kv || kv->kind != BB_KIND_ARRAY || kv->element != BB_KIND_STRING)
        return BB_FAIL(err, BB_BAD_FILE, "tokenizer.ggml.tokens is %s", kv ? "no array of strings" : "missing: the file has no vocabulary");
    if (kv->count < 1 || kv->count > INT32_MAX / 16 || !kv->strings)
        return BB_FAIL(err, BB_BAD_FILE, "tokenizer.ggml.tokens has %llu entries", (unsigned long long)kv->count);
    t->n_vocab = (uint32_t)kv->count;
    BB_TRY(bb_strings_reserve(&t->strings, t->n_vocab, err));
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        bb_bytes text = kv->strings[i];
        uint32_t same = text.size ? bb_strings_find(&t->strings, text.data, text.size) : BB_NONE;
        if (same != BB_NONE) return BB_FAIL(err, BB_BAD_FILE, "tokens %u and %u have the same text in tokenizer.ggml.tokens", same, i);
        bb_strings_add(&t->strings, text);
    }
done:
    return status;
}

static bb_status load_scores(bb_tokenizer *t, const bb_source *g, bb_err *err)
{
    static const char key[] = "tokenizer.ggml.scores";
    const bb_key     *kv;
    bb_status         status = BB_OK;
    if (!(t->score = bb_calloc(t->n_vocab, sizeof *t->score, err))) return BB_NOMEM;
    BB_TRY(array_of(g, key, t->n_vocab, &kv, err));
    if (!kv) return BB_OK;
    if (kv->element != BB_KIND_F32 && kv->element != BB_KIND_I32) return BB_FAIL(err, BB_BAD_FILE, "%s is no array of f32 or i32", key);
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        int32_t whole;
        memcpy(&whole, kv->value + 4 * (size_t)i, 4);
        if (kv->element == BB_KIND_I32) t->score[i] = (float)whole;
        else memcpy(&t->score[i], &whole, 4);
        if (isnan(t->score[i])) return BB_FAIL(err, BB_BAD_FILE, "%s: the score of token %u is not a number", key, i);
    }
done:
    return status;
}

static int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

/* The byte of "<0x0A>", or -1. */
static int byte_of(bb_bytes text)
{
    int high, low;
    if (text.size != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>') return -1;
    high = hex_digit(text.data[3]);
    low = hex_digit(text.data[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

static bb_status load_types(bb_tokenizer *t, const bb_source *g, bb_err *err)
{
    static const char          key[] = "tokenizer.ggml.token_type";
    static const unsigned char of_type[7] = { 0, BB_ATTR_NORMAL, BB_ATTR_UNKNOWN, BB_ATTR_CONTROL, BB_ATTR_USER, BB_ATTR_UNUSED, BB_ATTR_BYTE };
    const bb_key              *kv;
    bb_status                  status = BB_OK;
    if (!(t->attr = bb_alloc(t->n_vocab, 1, err))) return BB_NOMEM;
    memset(t->attr, BB_ATTR_NORMAL, t->n_vocab);
    BB_TRY(array_of(g, key, t->n_vocab, &kv, err));
    if (!kv) return BB_OK;
    if (kv->element != BB_KIND_I32 && kv->element != BB_KIND_U32) return BB_FAIL(err, BB_BAD_FILE, "%s is no array of i32", key);
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        uint32_t type;
        memcpy(&type, kv->value + 4 * (size_t)i, 4);
        if (type > 6) return BB_FAIL(err, BB_BAD_FILE, "%s: token %u has type %u; types are 0 to 6", key, i, type);
        t->attr[i] = of_type[type];
        if (type == 6 && byte_of(t->strings.text[i]) < 0)
            return BB_FAIL(err, BB_BAD_FILE, "%s: token %u is a byte, but its text is not of the form <0x0A>", key, i);
    }
done:
    return status;
}

static bb_status load_id(const bb_tokenizer *t, const bb_source *g, const char *key, int32_t *id, bb_err *err)
{
    bool      found;
    uint32_t  value = 0;
    bb_status status = BB_OK;
    if (*id >= 0 && (uint32_t)*id >= t->n_vocab) *id = -1;
    BB_TRY(bb_source_u32(g, key, &value, &found, err));
    if (!found || value == UINT32_MAX) return BB_OK; /* some writers store -1 for "none": llama.cpp keeps its default */
    if (value >= t->n_vocab) return BB_FAIL(err, BB_BAD_FILE, "%s is %u; the vocabulary has %u tokens", key, value, t->n_vocab);
    *id = (int32_t)value;
done:
    return status;
}

static bb_status load_flag(const bb_source *g, const char *key, bool *flag, bb_err *err)
{
    bool      value = false, found = false;
    bb_status status = bb_source_bool(g, key, &value, &found, err);
    if (status == BB_OK && found) *flag = value;
    return status;
}

static bb_status load_ids_and_flags(bb_tokenizer *t, const bb_source *g, bb_err *err)
{
    bb_status status = BB_OK;
    BB_TRY(load_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, err));
    BB_TRY(load_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos, err));
    BB_TRY(load_id(t, g, "tokenizer.ggml.unknown_token_id", &t->unk, err));
    BB_TRY(load_flag(g, "tokenizer.ggml.add_bos_token", &t->add_bos, err));
    BB_TRY(load_flag(g, "tokenizer.ggml.add_eos_token", &t->add_eos, err));
    BB_TRY(load_flag(g, "tokenizer.ggml.add_space_prefix", &t->add_space_prefix, err));
    if (t->characters) t->add_bos = true; /* whatever the file says, as llama.cpp does */
    if (t->add_bos && t->bos < 0) return BB_FAIL(err, BB_BAD_FILE, "the vocabulary puts BOS first but names no BOS token");
    if (t->add_eos && t->eos < 0) return BB_FAIL(err, BB_BAD_FILE, "the vocabulary puts EOS last but names no EOS token");
done:
    return status;
}

/* ---- special tokens ---- */

/* Texts that llama.cpp takes for control tokens whatever type the file gives them: those that end a text (end of turn, and where in code another file
 * would begin), and those of fill in the middle. */
static const char *const end_texts[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
};
static const char *const middle_texts[] = {
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<\xEF\xBD\x9C"
    "fim\xE2\x96\x81"
    "begin\xEF\xBD\x9C>",
    "<PRE>",
    "\xE2\x96\x81<PRE>",
    "<|code_prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<\xEF\xBD\x9C"
    "fim\xE2\x96\x81hole\xEF\xBD\x9C>",
    "<SUF>",
    "\xE2\x96\x81<SUF>",
    "<|code_suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<\xEF\xBD\x9C"
    "fim\xE2\x96\x81"
    "end\xEF\xBD\x9C>",
    "<MID>",
    "\xE2\x96\x81<MID>",
    "<|code_middle|>",
};

static void mark(bb_tokenizer *t, const char *const *texts, size_t n, unsigned char attr)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t id = bb_strings_find(&t->strings, texts[i], strlen(texts[i]));
        if (id < t->n_vocab) t->attr[id] |= attr;
    }
}

static bb_status mark_control(bb_tokenizer *t, const bb_source *g, bb_err *err)
{
    static const char *const keys[] = { "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id" };
    bb_status                status = BB_OK;
    mark(t, end_texts, sizeof end_texts / sizeof *end_texts, BB_ATTR_CONTROL | BB_ATTR_END);
    mark(t, middle_texts, sizeof middle_texts / sizeof *middle_texts, BB_ATTR_CONTROL);
    if (t->eos >= 0) t->attr[t->eos] |= BB_ATTR_END;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int32_t id = -1;
        BB_TRY(load_id(t, g, keys[i], &id, err));
        if (id >= 0) t->attr[id] |= BB_ATTR_END;
    }
done:
    return status;
}

static bool holds(bb_bytes text, const char *part)
{
    size_t n = strlen(part);
    for (uint64_t i = 0; i + n <= text.size; i++) {
        size_t j = 0;
        while (j < n && (text.data[i + j] | ((unsigned)(text.data[i + j] - 'A') < 26 ? 32 : 0)) == part[j]) j++;
        if (j == n) return true;
    }
    return false;
}

/* Phi-3's special tokens swallow the white space after them; files do not say so, llama.cpp goes by general.name. */
static bb_status phi3_strips(bb_tokenizer *t, const bb_source *g, bb_err *err)
{
    static const char *const keeps[] = { "<unk>", "<s>", "<|endoftext|>" };
    bb_bytes                 name = { NULL, 0 };
    bool                     found = false;
    bb_status                status = bb_source_text(g, "general.name", &name, &found, err);
    if (status != BB_OK || !found || !(holds(name, "phi-3") || holds(name, "phi3"))) return status;
    for (uint32_t i = 0; i < t->n_special; i++) t->attr[t->special[i]] |= BB_ATTR_STRIP_RIGHT;
    for (size_t i = 0; i < sizeof keeps / sizeof *keeps; i++) {
        uint32_t id = bb_strings_find(&t->strings, keeps[i], strlen(keeps[i]));
        if (id < t->n_vocab) t->attr[id] &= (unsigned char)~BB_ATTR_STRIP_RIGHT;
    }
    return status;
}

static bb_status load_specials(bb_tokenizer *t, bb_err *err)
{
    if (!(t->special = bb_alloc(t->n_vocab, sizeof *t->special, err))) return BB_NOMEM;
    for (uint32_t i = 0; i < t->n_vocab; i++)
        if (t->strings.text[i].size && t->attr[i] & (BB_ATTR_CONTROL | BB_ATTR_USER | BB_ATTR_UNKNOWN)) t->special[t->n_special++] = i;
    return bb_special_set_create(t, &t->specials, err);
}

/* ---- creation ---- */

static bool is_text(bb_bytes b, const char *s) { return b.size == strlen(s) && memcmp(b.data, s, b.size) == 0; }

static bb_status choose_kind(bb_tokenizer *t, const bb_source *g, bb_err *err)
{
    bb_bytes    model = { NULL, 0 }, pre = { "default", 7 };
    bb_pre_info info = { 0 };
    bool        found = false;
    bb_status   status = BB_OK;
    BB_TRY(bb_source_text(g, "tokenizer.ggml.model", &model, NULL, err));
    t->characters = is_text(model, "gemma4");
    t->bpe = t->characters || is_text(model, "gpt2");
    if (!t->bpe && !is_text(model, "llama"))
        return BB_FAIL(err, BB_UNSUPPORTED, "tokenizer model \"%s\" (tokenizer.ggml.model) is not supported; \"llama\", \"gpt2\" and \"gemma4\" are",
                       bb_printable(model, (char[41]) { 0 }));
    if (t->characters) BB_TRY(bb_pre_create("gemma4", 6, &t->pre, &info, err));
    else if (t->bpe) {
        BB_TRY(bb_source_text(g, "tokenizer.ggml.pre", &pre, &found, err));
        if (found && pre.size == 0) pre = (bb_bytes) { "default", 7 };
        BB_TRY(bb_pre_create(pre.data, pre.size, &t->pre, &info, err));
    }
    t->ignore_merges = info.ignore_merges;
    t->add_bos = t->bpe ? info.add_bos : true;
    t->add_space_prefix = !t->bpe;
    t->bos = !t->bpe ? 1 : info.no_bos ? -1 : 11; /* llama.cpp's defaults where the file names none */
    t->eos = t->bpe ? 11 : 2;
    t->unk = t->bpe ? -1 : 0;
    if (t->characters) t->bos = t->eos = -1;
done:
    return status;
}

bb_status bb_tokenizer_create(const bb_source *g, bb_tokenizer **out, bb_err *err)
{
    bb_status     status = BB_OK;
    bb_tokenizer *t = bb_calloc(1, sizeof *t, err);
    *out = NULL;
    if (!t) return BB_NOMEM;
    BB_TRY(choose_kind(t, g, err));
    BB_TRY(load_texts(t, g, err));
    BB_TRY(load_scores(t, g, err));
    BB_TRY(load_types(t, g, err));
    BB_TRY(load_ids_and_flags(t, g, err));
    BB_TRY(mark_control(t, g, err));
    BB_TRY(load_specials(t, err));
    BB_TRY(phi3_strips(t, g, err));
    BB_TRY(t->bpe ? bb_bpe_load(t, g, err) : bb_spm_load(t, err));
    *out = t;
    t = NULL;
done:
    bb_tokenizer_destroy(t);
    return status;
}

void bb_tokenizer_destroy(bb_tokenizer *t)
{
    if (!t) return;
    bb_strings_done(&t->strings);
    bb_free(t->score);
    bb_free(t->attr);
    bb_free(t->special);
    bb_special_set_destroy(t->specials);
    bb_free(t->joins);
    bb_pre_destroy(t->pre);
    bb_free(t->ranks);
    bb_table_done(&t->rank_of);
    bb_free(t->merged);
    bb_free(t);
}

uint32_t bb_tokenizer_n_vocab(const bb_tokenizer *t) { return t->n_vocab; }
int32_t  bb_tokenizer_bos(const bb_tokenizer *t) { return t->bos; }
bool     bb_tokenizer_adds_bos(const bb_tokenizer *t) { return t->add_bos; }
bool     bb_tokenizer_ends(const bb_tokenizer *t, int32_t id) { return id >= 0 && (uint32_t)id < t->n_vocab && t->attr[id] & BB_ATTR_END; }

/* ---- text to ids ---- */

static bb_status tokenize_raw(const bb_tokenizer *t, const char *text, size_t size, bool after_special, bb_merger *m, bb_ids *ids, bb_err *err)
{
    return t->bpe ? bb_bpe_tokenize(t, text, size, m, ids, err) : bb_spm_tokenize(t, text, size, after_special && t->add_space_prefix, m, ids, err);
}

bb_status bb_tokenize(const bb_tokenizer *t, const char *text, size_t size, bool add_special, bool parse_special, int32_t **ids, size_t *n_ids, bb_err *err)
{
    bb_status status = BB_OK;
    bb_ids    out = { 0 };
    bb_merger m = { 0 };
    bb_places p = { 0 };
    size_t    at = 0;
    *ids = NULL;
    *n_ids = 0;
    if (size > BB_LONGEST_TEXT) return BB_FAIL(err, BB_UNSUPPORTED, "the text has %zu bytes; at most %d can be tokenized at once", size, (int)BB_LONGEST_TEXT);
    if (!(out.data = bb_alloc(out.capacity = 64, sizeof *out.data, err))) return BB_NOMEM;
    if (add_special && t->add_bos) BB_TRY(bb_ids_add(&out, t->bos, err));
    BB_TRY(bb_special_places(t, text, size, parse_special, &p, err));
    for (size_t i = 0; i < p.n; at = p.item[i++].end) {
        if (p.item[i].at > at) BB_TRY(tokenize_raw(t, text + at, p.item[i].at - at, true, &m, &out, err));
        BB_TRY(bb_ids_add(&out, (int32_t)p.item[i].id, err));
    }
    if (at < size) BB_TRY(tokenize_raw(t, text + at, size - at, true, &m, &out, err)); /* raw text always follows the start or a special token */
    if (add_special && t->add_eos) BB_TRY(bb_ids_add(&out, t->eos, err));
    *ids = out.data;
    *n_ids = out.n;
    out.data = NULL;
done:
    bb_free(out.data);
    bb_free(p.item);
    bb_merger_done(&m);
    return status;
}

/* ---- ids to text ---- */

/* Text between special tokens: without the space that tokenizing put first, and spaces for U+2581. On bytes, not tokens: malformed UTF-8 before
 * a space can tear that space's three bytes into byte tokens. */
static void put_spm_run(const bb_tokenizer *t, const bb_text *run, bb_text *out)
{
    for (size_t i = 0; i < run->size;) {
        bool space = run->size - i >= 3 && memcmp(run->data + i, "\xE2\x96\x81", 3) == 0;
        if (!(space && i == 0 && t->add_space_prefix)) bb_text_addn(out, space ? " " : run->data + i, 1);
        i += space ? 3 : 1;
    }
}

static void put_bpe(const bb_tokenizer *t, uint32_t id, bb_text *out)
{
    bb_bytes text = t->strings.text[id];
    for (uint64_t i = 0; i < text.size;) {
        const unsigned char *p = (const unsigned char *)text.data + i;
        bool                 two = p[0] >= 0xC3 && p[0] < 0xC8 && text.size - i >= 2 && (p[1] & 0xC0) == 0x80; /* U+00C0 .. U+01FF */
        int                  byte;
        if (p[0] == 0xC2 && text.size - i >= 2 && (p[1] & 0xC0) == 0x80) two = true; /* U+0080 .. U+00BF */
        byte = bb_bpe_byte(two ? (p[0] & 31u) << 6 | (p[1] & 63u) : p[0] < 0x80 ? p[0] : UINT32_MAX);
        if (byte >= 0) bb_text_addn(out, &(char) { (char)byte }, 1);
        else bb_text_addn(out, text.data + i, two ? 2 : 1); /* not of the alphabet: as it stands */
        i += two ? 2 : 1;
    }
}

static void put_token(const bb_tokenizer *t, uint32_t id, bb_text *run)
{
    if (t->attr[id] & BB_ATTR_BYTE) bb_text_addn(run, &(char) { (char)byte_of(t->strings.text[id]) }, 1);
    else if (t->bpe && !t->characters) put_bpe(t, id, run);
    else bb_text_addn(run, t->strings.text[id].data, t->strings.text[id].size);
}

static void end_run(const bb_tokenizer *t, bb_text *run, bb_text *out)
{
    if (t->bpe && !t->characters) bb_text_addn(out, run->data ? run->data : "", run->size);
    else put_spm_run(t, run, out);
    if (run->status != BB_OK) out->status = run->status;
    run->size = 0;
}

bb_status bb_detokenize(const bb_tokenizer *t, const int32_t *ids, size_t n_ids, char **text, size_t *size, bb_err *err)
{
    bb_status status = BB_OK;
    bb_text   out = { 0 }, run = { 0 };
    size_t    first = n_ids && t->add_bos && ids[0] == t->bos, end = n_ids;
    *text = NULL;
    *size = 0;
    if (end > first && t->add_eos && ids[end - 1] == t->eos) end--;
    bb_text_addn(&out, "", 0); /* never NULL */
    for (size_t i = first; i < end; i++) {
        uint32_t id = (uint32_t)ids[i];
        if (id >= t->n_vocab) {
            status = BB_FAIL(err, BB_BAD_FILE, "token id %d at place %zu is outside the vocabulary of %u", ids[i], i, t->n_vocab);
            goto done;
        }
        if (!(t->attr[id] & (BB_ATTR_CONTROL | BB_ATTR_USER | BB_ATTR_UNKNOWN))) {
            put_token(t, id, &run);
            continue;
        }
        end_run(t, &run, &out);
        bb_text_addn(&out, t->strings.text[id].data, t->strings.text[id].size);
    }
    end_run(t, &run, &out);
    if (out.status != BB_OK) {
        status = BB_FAIL(err, BB_NOMEM, "out of memory while writing the text of %zu tokens", n_ids);
        goto done;
    }
    *text = out.data;
    *size = out.size;
    out.data = NULL;
done:
    bb_text_done(&run);
    bb_text_done(&out);
    return status;
}
