/* SPDX-License-Identifier: GPL-3.0-or-later
 * vocabulary.c: bb_model_same_vocabulary (model.h). */
#include <string.h>

#include "model/model.h"

static bb_bytes text_of(const bb_key *kv) { return (bb_bytes) { (const char *)kv->value, kv->value_bytes }; }

static bool equal(bb_bytes a, bb_bytes b) { return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, (size_t)a.size) == 0); }

/* A text that one of the two files lacks decides nothing: old files name no pre-tokenizer. */
static bb_status same_text(const bb_model *a, const bb_model *b, const char *key, bb_err *err)
{
    const bb_key *x = bb_source_find(&a->source, key), *y = bb_source_find(&b->source, key);
    char          p[BB_SHOWN], q[BB_SHOWN];
    if (!x || !y || x->kind != BB_KIND_STRING || y->kind != BB_KIND_STRING || equal(text_of(x), text_of(y))) return BB_OK;
    return BB_FAIL(err, BB_BAD_FILE, "%s and %s have other tokenizers: %s is '%s' in the first and '%s' in the second", a->path, b->path, key,
                   bb_show(text_of(x), p), bb_show(text_of(y), q));
}

static bb_status same_strings(const bb_model *a, const bb_model *b, const char *key, const char *what, bb_err *err)
{
    const bb_key *x = bb_source_find(&a->source, key), *y = bb_source_find(&b->source, key);
    char          p[BB_SHOWN], q[BB_SHOWN];
    if (!x || !y || !x->strings || !y->strings) return BB_OK;
    if (x->count != y->count)
        return BB_FAIL(err, BB_BAD_FILE, "%s and %s have other vocabularies: %llu and %llu entries in %s", a->path, b->path, (unsigned long long)x->count,
                       (unsigned long long)y->count, key);
    for (uint64_t i = 0; i < x->count; i++)
        if (!equal(x->strings[i], y->strings[i]))
            return BB_FAIL(err, BB_BAD_FILE, "%s and %s have other vocabularies: %s %llu is '%.40s' in the first and '%.40s' in the second", a->path, b->path,
                           what, (unsigned long long)i, bb_show(x->strings[i], p), bb_show(y->strings[i], q));
    return BB_OK;
}

bb_status bb_model_same_vocabulary(const bb_model *a, const bb_model *b, bb_err *err)
{
    bb_status status = BB_OK;
    if (a->net.n_vocab != b->net.n_vocab)
        return BB_FAIL(err, BB_BAD_FILE, "%s and %s have other vocabularies: %u and %u tokens", a->path, b->path, a->net.n_vocab, b->net.n_vocab);
    BB_TRY(same_text(a, b, "tokenizer.ggml.model", err));
    BB_TRY(same_text(a, b, "tokenizer.ggml.pre", err));
    BB_TRY(same_strings(a, b, "tokenizer.ggml.tokens", "token", err));
    BB_TRY(same_strings(a, b, "tokenizer.ggml.merges", "merge", err));
done:
    return status;
}
