/* SPDX-License-Identifier: GPL-3.0-or-later
 * keys.h: what the things that a run directory keeps are keyed by: the content that they were computed from. docs/keys.md is the whole table.
 *
 * key          model, calibration tokens, CPU level and BLAS core, and every setting that changes a score: the identity, one a directory
 * search_key   the identity, the space of plans, and every option that decides which plans are chosen
 * options_key  search_key, how the chosen are finalised, and the evaluation text: what the tables of the directory are made from
 */
#ifndef BB_ENGINE_KEYS_H
#define BB_ENGINE_KEYS_H

#include "base/text.h"
#include "engine/run.h"

/* Whether the directory, whose store is open, is one of this identity as far as that is known without the calibration tokens: asked before they are
 * sampled. BB_USAGE, in a sentence that names the first thing that differs. */
bb_status bb_keys_check(bb_run *r, bb_err *err);

/* Sets r->key, r->search_key and r->options_key; the first must be the one that the store has from before (as bb_keys_check). The calibration
 * tokens are loaded. */
bb_status bb_keys_claim(bb_run *r, bb_err *err);

/* Sets r->key alone, and appends the identity that it is the hash of: lines "name: value". For who has no store. */
bb_status bb_keys_identify(bb_run *r, bb_text *identity, bb_err *err);
/* The first line in which two identities differ, as "name WAS X IS Y". */
void bb_keys_difference(const char *before, size_t n_before, const char *now, const char *was, const char *is, char *out, size_t size);

/* Units and options by name and bytes: what stored candidates, which are indices, mean. */
void bb_key_space(const bb_run *r, char hex[65]);

/* The last two again, after options have changed that are not of the identity. */
bb_status bb_keys_options(bb_run *r, bb_err *err);

/* Removes what an earlier call wrote into the directory with other options and this one may not write again: tables of optional commands, tables
 * of stages that are now left out, the files made from all of them. Costly things (run.db, database/, models/) stay. */
bb_status bb_keys_remove_old(bb_run *r, bb_err *err);
/* Remembers that OUT/name is of the present options. Every table that bb_run_table begins is. */
bb_status bb_keys_made(const bb_run *r, const char *name, bb_err *err);

#endif
