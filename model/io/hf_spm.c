/* SPDX-License-Identifier: GPL-3.0-or-later
 * hf_spm.c: a SentencePiece model (tokenizer.model) as a vocabulary: see hf_parts.h.
 *
 * The file is a protocol buffer: fields of a number and a kind, each message bytes inside its parent. Read are of ModelProto: pieces (1: piece 1,
 * score 2, type 3), trainer_spec (2: model_type 3), normalizer_spec (3: add_dummy_prefix 3); everything else is skipped by its kind.
 */
#include <string.h>

#include "model/io/hf_parts.h"

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };
enum { UNIGRAM = 1, BPE = 2 };

typedef struct field {
    uint64_t             number, value; /* value: of VARINT and FIXED32 */
    const unsigned char *data;          /* of BYTES */
    size_t               size;
    unsigned             kind;
} field;

typedef struct cursor {
    const unsigned char *at, *end;
} cursor;

static bool take_varint(cursor *c, uint64_t *v)
{
    *v = 0;
    for (int shift = 0; shift < 64 && c->at < c->end; shift += 7) {
        const unsigned char byte = *c->at++;
        *v |= (uint64_t)(byte & 127) << shift;
        if (!(byte & 128)) return true;
    }
    return false;
}

static bool take_field(cursor *c, field *f)
{
    uint64_t tag, n = 0;
    if (!take_varint(c, &tag)) return false;
    *f = (field) { .number = tag >> 3, .kind = tag & 7 };
    switch (f->kind) {
    case VARINT: return take_varint(c, &f->value);
    case FIXED64: n = 8; break;
    case FIXED32: n = 4; break;
    case BYTES:
        if (!take_varint(c, &n)) return false;
        break;
    default: return false;
    }
    if (n > (uint64_t)(c->end - c->at)) return false;
    f->data = c->at;
    f->size = (size_t)n;
    if (f->kind == FIXED32) {
        uint32_t bits;
        memcpy(&bits, c->at, 4);
        f->value = bits;
    }
    c->at += n;
    return true;
}

static bb_status truncated(bb_err *err) { return BB_FAIL(err, BB_BAD_FILE, "this is no SentencePiece model: a field reaches beyond its end"); }

static bb_status read_piece(const field *piece, uint64_t id, bb_hf_vocab *v, bb_err *err)
{
    cursor      c = { piece->data, piece->data + piece->size };
    field       f;
    const char *text = "";
    size_t      size = 0;
    float       score = 0;
    uint64_t    type = BB_TOKEN_NORMAL; /* SentencePiece's numbers are GGUF's */
    while (c.at < c.end) {
        if (!take_field(&c, &f)) return truncated(err);
        if (f.number == 1 && f.kind == BYTES) {
            text = (const char *)f.data;
            size = f.size;
        } else if (f.number == 2 && f.kind == FIXED32) {
            const uint32_t bits = (uint32_t)f.value;
            memcpy(&score, &bits, 4);
        } else if (f.number == 3 && f.kind == VARINT) {
            type = f.value;
        }
    }
    if (type < BB_TOKEN_NORMAL || type > BB_TOKEN_BYTE)
        return BB_FAIL(err, BB_BAD_FILE, "piece %llu has type %llu; types are 1 to 6", (unsigned long long)id, (unsigned long long)type);
    return bb_hf_vocab_put(v, id, text, size, score, (bb_token_type)type, err);
}

/* The varint `number` of a message; `otherwise` when it is not there. */
static bool varint_of(const field *message, uint64_t number, uint64_t otherwise, uint64_t *out)
{
    cursor c = { message->data, message->data + message->size };
    field  f;
    *out = otherwise;
    while (c.at < c.end) {
        if (!take_field(&c, &f)) return false;
        if (f.number == number && f.kind == VARINT) *out = f.value;
    }
    return true;
}

bb_status bb_hf_spm_read(const unsigned char *data, size_t size, bb_hf_vocab *v, bool *prefix, bb_err *err)
{
    cursor    c = { data, data + size };
    field     f;
    uint64_t  id = 0, model = UNIGRAM, dummy = 1;
    bb_status status = BB_OK;
    while (c.at < c.end) {
        if (!take_field(&c, &f)) return truncated(err);
        if (f.kind != BYTES) continue;
        if (f.number == 1) BB_TRY(read_piece(&f, id++, v, err));
        if (f.number == 2 && !varint_of(&f, 3, model, &model)) return truncated(err);
        if (f.number == 3 && !varint_of(&f, 3, dummy, &dummy)) return truncated(err);
    }
    if (id == 0) return BB_FAIL(err, BB_BAD_FILE, "this is no SentencePiece model: it has no pieces");
    if (model != BPE) return BB_FAIL(err, BB_UNSUPPORTED, "a SentencePiece model of type %llu; BPE (2) is supported", (unsigned long long)model);
    *prefix = dummy != 0;
done:
    return status;
}
