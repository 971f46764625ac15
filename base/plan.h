/* SPDX-License-Identifier: GPL-3.0-or-later
 * plan.h: one option for each unit, by name: a plan as it stands in files and tables. Inside the program it is indices (base/plan_space.h).
 *
 * Genes are sorted by unit name (byte order); unit names are unique. Text form: one line "unit=option\n" a gene, in that
 * order. The hash of a plan is the first 16 hex digits of the SHA-256 of its text form.
 *
 * Unit names: "token_embd", "output", "blk.N.attn_q|attn_k|attn_v|attn_output|ffn_gate|ffn_up|ffn_down" with a format
 * name as option ("Q4_K"); "blk.N.kv" with the number of kept KV groups ("0" = attention dropped); "blk.N.ffn" with
 * the kept FFN width ("0" = FFN dropped); "512g": those that the order of the gates keeps (docs/search.md). A unit that is absent keeps what the source model has.
 */
#ifndef BB_BASE_PLAN_H
#define BB_BASE_PLAN_H

#include <stdbool.h>

#include "base/hash.h"
#include "base/status.h"

typedef struct bb_gene {
    char *unit, *option;
} bb_gene;
typedef struct bb_plan {
    size_t   n;
    bb_gene *genes;
} bb_plan; /* owns; zero-initialise */

bb_status   bb_plan_set(bb_plan *p, const char *unit, const char *option, bb_err *err); /* inserts or replaces */
const char *bb_plan_get(const bb_plan *p, const char *unit);                            /* NULL when absent; borrows */
void        bb_plan_done(bb_plan *p);
bb_status   bb_plan_print(const bb_plan *p, char **text, bb_err *err);               /* gives; bb_free */
bb_status   bb_plan_parse(const char *text, size_t size, bb_plan *out, bb_err *err); /* untrusted */
void        bb_plan_hash(const bb_plan *p, char hash[17]);

bool bb_plan_is_name(const char *s); /* of a unit or an option: printable ASCII without spaces and '=', not empty */
/* The hash piece by piece: genes in the order of the text. */
void bb_plan_hash_gene(bb_sha256 *s, const char *unit, const char *option);
void bb_plan_hash_end(bb_sha256 *s, char hash[17]);

#endif
