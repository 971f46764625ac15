/* SPDX-License-Identifier: GPL-3.0-or-later
 * eval_text.c: see eval_text.h. */
#include "cli/eval_text.h"

#include "base/log.h"

static uint32_t context_of(const bb_model *m, int64_t ctx)
{
    const uint32_t trained = m->net.n_ctx_train;
    if (ctx) return (uint32_t)ctx;
    return trained && trained < 512 ? trained : 512;
}

bb_status bb_eval_text_load(const bb_model *m, const char *path, const bb_eval_text_spec *spec, bb_eval_text *out, bb_err *err)
{
    const uint32_t ctx = context_of(m, spec->ctx);
    bb_status      status = BB_OK;
    out->protocol = bb_protocol_named(spec->protocol);
    if (m->net.n_ctx_train && ctx > m->net.n_ctx_train)
        bb_warn("windows of %u tokens are longer than the %u that %s was trained with", ctx, m->net.n_ctx_train, path);
    BB_TRY(bb_tokens_load(m, spec->path, spec->parse_special, &out->tokens, err));
    BB_TRY(bb_tokens_bos(m, &out->bos, err));
    BB_TRY(bb_windows_make(&out->tokens, out->protocol, ctx, out->bos, (uint32_t)spec->chunks, spec->spread, &out->w, err));
done:
    return status;
}

void bb_eval_text_done(bb_eval_text *t)
{
    bb_windows_done(&t->w);
    bb_tokens_done(&t->tokens);
}

bb_status bb_eval_check_reference(const bb_model *m, const char *path, const bb_model *reference, const char *reference_path, bool on_text, bb_err *err)
{
    const bb_status status = bb_model_same_vocabulary(m, reference, err);
    if (status != BB_OK || !on_text || m->net.n_embd == reference->net.n_embd) return status;
    return BB_FAIL(err, BB_BAD_FILE, "%s is %u wide and %s %u: the reference must be the model that the file was made from", path, m->net.n_embd,
                   reference_path, reference->net.n_embd);
}

void bb_eval_warn_reference(const bb_model *reference, const char *path)
{
    char label[BB_MODEL_LABEL];
    if (bb_model_is_quantized(reference))
        bb_warn("%s is quantized itself: distances are from %s, not from full precision", path, bb_model_source_label(reference, label));
}
