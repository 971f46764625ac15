/* SPDX-License-Identifier: GPL-3.0-or-later
 * export.h: a network to a GGUF file that llama.cpp loads, and the exact size of that file without writing it.
 *
 * Uniform shapes keep the source architecture; pruned shapes become arch `deci` (a tied qwen3: `openelm`) with the traps avoided:
 * key_length, value_length and rope.dimension_count always written; a removed FFN on a block that keeps attention is a 1-wide zero
 * FFN; removed attention in block 0 is one zero head; qwen2's rope order is permuted; a block without both sublayers is left out, so
 * the file's block numbers may be smaller than the plan's. The metadata of the source (tokenizer and the rest) is carried over.
 */
#ifndef BB_MODEL_EXPORT_EXPORT_H
#define BB_MODEL_EXPORT_EXPORT_H

#include "model/model.h"

bb_status bb_export_size(const bb_model *source, const bb_net *net, uint64_t *bytes, bb_err *err); /* net's data may be NULL */

/* What the file says of where it comes from, as keys behind those of the source. Each takes the same bytes whatever it says, so that the size above is
 * exact; nothing in it depends on time, place or machine. */
typedef struct bb_provenance {
    const char *plan;         /* bitbudget.plan: 16 digits, the hash; NULL: zeros */
    const char *program;      /* bitbudget.program: version and commit, cut or filled with blanks to 40 bytes; NULL: unknown */
    const char *calib_sha256; /* bitbudget.calibration.sha256: of the token ids as little-endian u32 (bb_tokens), or of an imatrix file; NULL or "": zeros */
    uint64_t    calib_tokens; /* bitbudget.calibration.tokens; 0: no text */
    bool        has_kl;       /* else bitbudget.kl is "not measured" */
    double      kl;           /* nats a token from the source, as 12 bytes of text */
} bb_provenance;

/* The keys above as they are now: whoever keeps a file under a key of what it was made from adds this. */
#define BB_EXPORT_LAYOUT "file 2"

/* from: NULL: nothing is known. */
bb_status bb_export_write(const bb_model *source, const bb_net *net, const bb_provenance *from, const char *path, bb_err *err);
/* BB_OK when the runtime can load this shape and these types; BB_UNSUPPORTED with the reason otherwise. */
bb_status bb_export_check(const bb_model *source, const bb_net *net, bb_err *err);

#endif
