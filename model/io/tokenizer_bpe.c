/* SPDX-License-Identifier: GPL-3.0-or-later
 * tokenizer_bpe.c: byte-level BPE (GPT-2's): words by the pre-tokenizer, their bytes as symbols, merges by rank. See tokenizer_parts.h.
 *
 * Vocabulary and merges are written in GPT-2's alphabet of 256 printable characters, one a byte. Symbols are numbers of texts in
 * t->strings, so that a merge is a look-up of a pair of numbers. Gemma 4's symbols are the characters of the text instead
 * (bb_tokenizer.characters). Text that is not UTF-8 is first repaired as llama.cpp does: each bad byte becomes U+FFFD (a surrogate too, where
 * llama.cpp keeps three bytes).
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/io/tokenizer_parts.h"

/* The printable bytes stand for themselves; the other 68 are U+0100, U+0101, ... in order. */
static bool stands_for_itself(unsigned b) { return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; }

uint32_t bb_bpe_character(unsigned char byte)
{
    uint32_t n = 0;
    if (stands_for_itself(byte)) return byte;
    for (unsigned b = 0; b < byte; b++) n += !stands_for_itself(b);
    return 256 + n;
}

int bb_bpe_byte(uint32_t character)
{
    uint32_t n = 256;
    if (character < 256) return stands_for_itself(character) ? (int)character : -1;
    for (unsigned b = 0; b < 256; b++)
        if (!stands_for_itself(b) && n++ == character) return (int)b;
    return -1;
}

static unsigned put_character(uint32_t c, char *out) /* c < 0x800 */
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xC0 | c >> 6);
    out[1] = (char)(0x80 | (c & 63));
    return 2;
}

/* ---- loading ---- */

static uint64_t hash_pair(uint64_t pair)
{
    const uint64_t h = pair * 0x9E3779B97F4A7C15u;
    return h ^ h >> 32;
}

static bool is_pair(const void *ranks, uint32_t number, const void *pair) { return ((const bb_rank *)ranks)[number].pair == *(const uint64_t *)pair; }

/* The slot of a pair in rank_of. */
static uint32_t *slot_of(const bb_tokenizer *t, uint64_t pair) { return bb_table_at(&t->rank_of, hash_pair(pair), is_pair, t->ranks, &pair); }

static uint32_t intern(bb_tokenizer *t, bb_bytes text)
{
    uint32_t number = bb_strings_find(&t->strings, text.data, text.size);
    return number != BB_NONE ? number : bb_strings_add(&t->strings, text);
}

/* "left right" -> symbols and their merger. Lines without two parts are passed over, as llama.cpp does. */
static void add_merge(bb_tokenizer *t, bb_bytes line, uint32_t rank, char *joined)
{
    const char *space = line.size > 1 ? memchr(line.data + 1, ' ', line.size - 1) : NULL;
    bb_bytes    left, right, both;
    uint32_t    l, r, b;
    uint64_t    pair;
    uint32_t   *slot;
    if (!space) return;
    left = (bb_bytes) { line.data, (uint64_t)(space - line.data) };
    right = (bb_bytes) { space + 1, line.size - left.size - 1 };
    memcpy(joined, left.data, left.size);
    if (right.size) memcpy(joined + left.size, right.data, right.size);
    both = (bb_bytes) { joined, left.size + right.size };
    l = intern(t, left);
    r = intern(t, right);
    b = intern(t, both);
    pair = (uint64_t)l << 32 | r;
    slot = slot_of(t, pair);
    if (*slot) return; /* of two equal lines the first counts */
    t->ranks[t->n_ranks++] = (bb_rank) { pair, rank, b };
    *slot = t->n_ranks;
}

static bb_status load_merges(bb_tokenizer *t, const bb_source *g, bb_err *err)
{
    const bb_key *kv = bb_source_find(g, "tokenizer.ggml.merges");
    uint64_t      n, bytes = 0;
    char         *joined;
    bb_status     status = BB_OK;
    if (!kv || kv->kind != BB_KIND_ARRAY || kv->element != BB_KIND_STRING || (kv->count && !kv->strings))
        return BB_FAIL(err, BB_BAD_FILE, "tokenizer.ggml.merges is %s; a gpt2 tokenizer needs it", kv ? "no array of strings" : "missing");
    n = kv->count;
    if (n > INT32_MAX / 8) return BB_FAIL(err, BB_BAD_FILE, "tokenizer.ggml.merges has %llu entries, too many", (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++) bytes += kv->strings[i].size;
    if (!(t->ranks = BB_NEW((size_t)n, bb_rank, err)) || !(t->merged = bb_alloc(bytes, 1, err))) return BB_NOMEM;
    BB_TRY(bb_table_reserve(&t->rank_of, (size_t)n, 0, NULL, NULL, err));
    BB_TRY(bb_strings_reserve(&t->strings, t->strings.n + 3 * (uint32_t)n, err));
    joined = t->merged;
    for (uint64_t i = 0; i < n; i++) {
        add_merge(t, kv->strings[i], (uint32_t)i, joined);
        joined += kv->strings[i].size;
    }
done:
    return status;
}

/* The 256 one-byte symbols. */
static bb_status load_bytes(bb_tokenizer *t, bb_err *err)
{
    bb_status status = BB_OK;
    BB_TRY(bb_strings_reserve(&t->strings, t->strings.n + 256, err));
    for (int b = 0; b < 256 && t->characters; b++) {
        char     name[8];
        uint32_t id;
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        id = bb_strings_find(&t->strings, name, 6);
        t->byte_id[b] = id < t->n_vocab ? (int32_t)id : -1;
    }
    for (int b = 0; b < 256 && !t->characters; b++) {
        char     text[2];
        unsigned size = put_character(bb_bpe_character((unsigned char)b), text);
        uint32_t number = bb_strings_find(&t->strings, text, size);
        if (number == BB_NONE) {
            memcpy(t->spelled[b], text, size);
            number = bb_strings_add(&t->strings, (bb_bytes) { t->spelled[b], size });
        }
        t->byte_id[b] = (int32_t)number;
    }
done:
    return status;
}

bb_status bb_bpe_load(bb_tokenizer *t, const bb_source *g, bb_err *err)
{
    bb_status status = load_bytes(t, err);
    return status == BB_OK ? load_merges(t, g, err) : status;
}

/* ---- tokenizing ---- */

static bool may_merge(const bb_tokenizer *t, const char *text, const bb_symbol *l, const bb_symbol *r, uint32_t *priority, uint32_t *id)
{
    const uint32_t slot = *slot_of(t, (uint64_t)l->id << 32 | r->id);
    (void)text;
    if (!slot) return false;
    *priority = t->ranks[slot - 1].rank;
    *id = t->ranks[slot - 1].id;
    return true;
}

/* A symbol that is no token: those of its characters that are tokens as single bytes (llama.cpp's fallback). */
static bb_status add_symbol(const bb_tokenizer *t, uint32_t id, bb_ids *out, bb_err *err)
{
    bb_status status = BB_OK;
    bb_bytes  text = t->strings.text[id];
    if (id < t->n_vocab) return bb_ids_add(out, (int32_t)id, err);
    for (uint64_t i = 0; i < text.size; i++) {
        uint32_t one = bb_strings_find(&t->strings, text.data + i, 1);
        if (one < t->n_vocab) BB_TRY(bb_ids_add(out, (int32_t)one, err));
    }
done:
    return status;
}

/* What a symbol of characters becomes: its token, or its bytes'. */
static bb_status add_characters(const bb_tokenizer *t, const char *text, const bb_symbol *s, bb_ids *out, bb_err *err)
{
    bb_status status = BB_OK;
    if (s->id < t->n_vocab) return bb_ids_add(out, (int32_t)s->id, err);
    for (uint32_t i = 0; i < s->size; i++) {
        const int32_t id = t->byte_id[(unsigned char)text[s->at + i]];
        if (id >= 0) BB_TRY(bb_ids_add(out, id, err));
    }
done:
    return status;
}

/* Runs of line ends are tokens where there is one for the whole run. */
static bb_status tokenize_characters(const bb_tokenizer *t, const char *text, size_t first, size_t end, bb_merger *m, bb_ids *out, bb_err *err)
{
    bb_status status = BB_OK;
    if (text[first] == '\n') {
        const uint32_t id = bb_strings_find(&t->strings, text + first, end - first);
        if (id < t->n_vocab) return bb_ids_add(out, (int32_t)id, err);
    }
    bb_merger_clear(m);
    for (size_t i = first; i < end;) {
        const unsigned size = bb_utf8_size((unsigned char)text[i]);
        BB_TRY(bb_merger_add(m, i, size, bb_strings_find(&t->strings, text + i, size), err));
        i += size;
    }
    BB_TRY(bb_merger_run(m, t, text, may_merge, err));
    for (uint32_t i = 0; i != BB_NONE; i = m->symbol[i].next) BB_TRY(add_characters(t, text, &m->symbol[i], out, err));
done:
    bb_merger_clear(m);
    return status;
}

/* U+2581 for every space; NULL when out of memory. */
static char *mark_spaces(char *text, size_t *size, bb_err *err)
{
    char  *out = bb_alloc(*size, 3, err);
    size_t n = 0;
    for (size_t i = 0; out && i < *size; i++) {
        if (text[i] == ' ') memcpy(out + n, "\xE2\x96\x81", 3);
        else out[n] = text[i];
        n += text[i] == ' ' ? 3 : 1;
    }
    bb_free(text);
    *size = n;
    return out;
}

/* The token whose text is the whole word, where the model says that merges may be ignored. spelled: room for 2 * size bytes. */
static uint32_t whole_word(const bb_tokenizer *t, const char *word, size_t size, char *spelled)
{
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        bb_bytes b = t->strings.text[t->byte_id[(unsigned char)word[i]]];
        memcpy(spelled + n, b.data, b.size);
        n += b.size;
    }
    return bb_strings_find(&t->strings, spelled, n);
}

static bb_status tokenize_word(const bb_tokenizer *t, const char *text, size_t first, size_t end, char *spelled, bb_merger *m, bb_ids *out, bb_err *err)
{
    bb_status status = BB_OK;
    if (t->ignore_merges) {
        uint32_t id = whole_word(t, text + first, end - first, spelled);
        if (id < t->n_vocab) return bb_ids_add(out, (int32_t)id, err);
    }
    bb_merger_clear(m);
    for (size_t i = first; i < end; i++) BB_TRY(bb_merger_add(m, i, 1, (uint32_t)t->byte_id[(unsigned char)text[i]], err));
    BB_TRY(bb_merger_run(m, t, text, may_merge, err));
    for (uint32_t i = 0; i != BB_NONE; i = m->symbol[i].next) BB_TRY(add_symbol(t, m->symbol[i].id, out, err));
done:
    bb_merger_clear(m);
    return status;
}

/* Length of the UTF-8 character at text and its code point, or 0 when it is none. Overlong forms are read. */
static unsigned decode(const unsigned char *text, size_t left, uint32_t *c)
{
    unsigned size = bb_utf8_size(text[0]);
    if (text[0] < 0x80) {
        *c = text[0];
        return 1;
    }
    if (size == 1 || text[0] >= 0xF8 || size > left) return 0;
    *c = text[0] & (0x7Fu >> size);
    for (unsigned i = 1; i < size; i++) {
        if ((text[i] & 0xC0) != 0x80) return 0;
        *c = *c << 6 | (text[i] & 63u);
    }
    return size;
}

static unsigned encode(uint32_t c, char *out)
{
    if (c < 0x800) return put_character(c, out);
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* Valid UTF-8 of at most 3 * size bytes; NULL when out of memory. */
static char *repair(const char *text, size_t size, size_t *repaired_size, bb_err *err)
{
    char  *out = bb_alloc(size, 3, err);
    size_t n = 0;
    if (!out) return NULL;
    for (size_t i = 0; i < size;) {
        uint32_t c = 0;
        unsigned used = decode((const unsigned char *)text + i, size - i, &c);
        if (!used || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) c = 0xFFFD;
        n += encode(c, out + n);
        i += used ? used : 1;
    }
    *repaired_size = n;
    return out;
}

bb_status bb_bpe_tokenize(const bb_tokenizer *t, const char *raw, size_t raw_size, bb_merger *m, bb_ids *out, bb_err *err)
{
    bb_status status = BB_OK;
    size_t   *ends = NULL, n = 0, first = 0, size, longest = 0;
    char     *spelled = NULL, *text = repair(raw, raw_size, &size, err);
    if (text && t->characters) text = mark_spaces(text, &size, err);
    if (!text) return BB_NOMEM;
    BB_TRY(bb_pre_split(t->pre, text, size, &ends, &n, err));
    for (size_t i = 0; i < n; first = ends[i++])
        if (ends[i] - first > longest) longest = ends[i] - first;
    if (!(spelled = bb_alloc(longest, 2, err))) {
        status = BB_NOMEM;
        goto done;
    }
    first = 0;
    for (size_t i = 0; i < n; first = ends[i++])
        BB_TRY(t->characters ? tokenize_characters(t, text, first, ends[i], m, out, err) : tokenize_word(t, text, first, ends[i], spelled, m, out, err));
done:
    bb_free(spelled);
    bb_free(ends);
    bb_free(text);
    return status;
}
