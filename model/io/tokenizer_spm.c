/* SPDX-License-Identifier: GPL-3.0-or-later
 * tokenizer_spm.c: SentencePiece-BPE as llama.cpp does it: the text's characters merge by the score of the token that they form, highest
 * first, leftmost among equals; characters that end up as no token become the tokens of their bytes. See tokenizer_parts.h.
 *
 * The text is cut before merging wherever two neighbouring characters stand side by side in no token: no merge can ever span such a place,
 * so the pieces (mostly words) merge on their own with the same result, in small fast queues. The set of pairs is a hashed bit set; a false
 * hit only makes a piece longer.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/half.h"
#include "model/io/tokenizer_parts.h"

enum { JOIN_BITS = 1 << 21 };

static const char SPACE[] = "\xE2\x96\x81"; /* U+2581, which stands for a space inside tokens */

unsigned bb_utf8_size(unsigned char lead) { return lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4; }

/* A character's bytes as one number; size is cut at the end of the text. */
static uint32_t character(const char *text, size_t left, unsigned *size)
{
    uint32_t c = 0;
    *size = bb_utf8_size((unsigned char)text[0]);
    if (*size > left) *size = (unsigned)left;
    for (unsigned i = 0; i < *size; i++) c = c << 8 | (unsigned char)text[i];
    return c;
}

static uint32_t join_bit(uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 43) & (JOIN_BITS - 1);
}

static void note_joins(bb_tokenizer *t, bb_bytes text)
{
    uint32_t before = 0;
    unsigned size;
    for (uint64_t at = 0; at < text.size; at += size) {
        uint32_t c = character(text.data + at, text.size - at, &size);
        if (at) {
            uint32_t bit = join_bit(before, c);
            t->joins[bit / 8] |= (unsigned char)(1u << bit % 8);
        }
        before = c;
    }
}

bb_status bb_spm_load(bb_tokenizer *t, bb_err *err)
{
    if (!(t->joins = bb_calloc(JOIN_BITS / 8, 1, err))) return BB_NOMEM;
    for (uint32_t i = 0; i < t->n_vocab; i++) note_joins(t, t->strings.text[i]);
    for (int b = 0; b < 256; b++) {
        char     name[8], byte = (char)b;
        uint32_t id;
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        id = bb_strings_find(&t->strings, name, 6);
        if (id == BB_NONE) id = bb_strings_find(&t->strings, &byte, 1);
        t->byte_id[b] = id == BB_NONE ? t->unk : (int32_t)id;
    }
    return BB_OK;
}

/* Higher scores get lower numbers. */
static uint32_t priority_of(float score)
{
    uint32_t u = bb_float_bits(score + 0.0f); /* -0 becomes 0, so that both tie */
    return u >> 31 ? u : 0x7FFFFFFFu - u;
}

static bool may_merge(const bb_tokenizer *t, const char *text, const bb_symbol *l, const bb_symbol *r, uint32_t *priority, uint32_t *id)
{
    *id = bb_strings_find(&t->strings, text + l->at, (size_t)l->size + r->size);
    if (*id == BB_NONE) return false;
    *priority = priority_of(t->score[*id]);
    return true;
}

/* Appends the tokens of text[first, end). */
static bb_status tokenize_piece(const bb_tokenizer *t, const char *text, bb_merger *m, bb_ids *out, bb_err *err)
{
    bb_status status = BB_OK;
    if (m->n > 1) BB_TRY(bb_merger_run(m, t, text, may_merge, err));
    for (uint32_t i = 0; i != BB_NONE; i = m->symbol[i].next) {
        const bb_symbol *s = &m->symbol[i];
        if (s->id != BB_NONE) {
            BB_TRY(bb_ids_add(out, (int32_t)s->id, err));
            continue;
        }
        for (uint32_t j = 0; j < s->size; j++) {
            unsigned char b = (unsigned char)text[s->at + j];
            if (t->byte_id[b] < 0) return BB_FAIL(err, BB_BAD_FILE, "the vocabulary has no token for byte 0x%02X and no unknown token", b);
            BB_TRY(bb_ids_add(out, t->byte_id[b], err));
        }
    }
done:
    bb_merger_clear(m);
    return status;
}

static char *escape(const char *text, size_t size, bool space_first, size_t *escaped_size, bb_err *err)
{
    size_t n = space_first ? 3 : 0, at = 0;
    char  *escaped;
    for (size_t i = 0; i < size; i++) n += text[i] == ' ' ? 3 : 1;
    if (!(escaped = bb_alloc(n, 1, err))) return NULL;
    if (space_first) {
        memcpy(escaped, SPACE, 3);
        at = 3;
    }
    for (size_t i = 0; i < size; i++)
        if (text[i] == ' ') {
            memcpy(escaped + at, SPACE, 3);
            at += 3;
        } else {
            escaped[at++] = text[i];
        }
    *escaped_size = n;
    return escaped;
}

bb_status bb_spm_tokenize(const bb_tokenizer *t, const char *raw, size_t raw_size, bool space_first, bb_merger *m, bb_ids *out, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    size;
    uint32_t  before = 0;
    unsigned  n;
    char     *text = escape(raw, raw_size, space_first, &size, err);
    if (!text) return BB_NOMEM;
    bb_merger_clear(m);
    for (size_t at = 0; at < size; at += n) {
        uint32_t c = character(text + at, size - at, &n);
        if (m->n) {
            uint32_t bit = join_bit(before, c);
            if (!(t->joins[bit / 8] >> bit % 8 & 1)) BB_TRY(tokenize_piece(t, text, m, out, err));
        }
        BB_TRY(bb_merger_add(m, at, n, bb_strings_find(&t->strings, text + at, n), err));
        before = c;
    }
    if (m->n) BB_TRY(tokenize_piece(t, text, m, out, err));
done:
    bb_merger_clear(m);
    bb_free(text);
    return status;
}
