/* SPDX-License-Identifier: GPL-3.0-or-later
 * memory.h: what a run must hold in memory whatever it is allowed, counted from shapes and options; what it is allowed beyond that (--max-ram) goes
 * to caches. Pages of mapped files (the model, its options, hidden states that have no room) come and go: bb_map_limit (base/file.h) keeps them within what is left.
 */
#ifndef BB_ENGINE_MEMORY_H
#define BB_ENGINE_MEMORY_H

#include "engine/run.h"
#include "model/tune/tune.h"
#include "search/method.h"

/* The least --max-ram with which every stage of r (bb_run_preview) can do its work: with hidden states on disk, when it does not grow with the windows whose
 * states are kept; and with all in memory. */
uint64_t bb_memory_least_of_all(const bb_run *r);
uint64_t bb_memory_without_disk(const bb_run *r);
/* Do hidden states go to files of the run directory (bb_spill_to), because --max-ram has no room for them, or for the training of all matrices beside them?
 * The results are the same. And how many bytes of disk they may then take at once, caches included; 0: they do not. */
bool     bb_memory_spills(const bb_run *r);
uint64_t bb_memory_spilled(const bb_run *r);
/* From now on --max-ram holds for the process, and hidden states go where they should, until bb_memory_let_go, which is harmless for a run that does not hold it. */
bb_status bb_memory_hold(bb_run *r, bb_err *err);
void      bb_memory_let_go(bb_run *r);
/* What --max-ram leaves for caches; and what the run's evaluator may keep, on disk where it spills: at least the states that measuring needs. */
uint64_t bb_memory_for_caches(const bb_run *r);
uint64_t bb_memory_for_evaluator(const bb_run *r);
/* Of that, what each of the evaluators of --workers beside the first has. */
uint64_t bb_memory_for_worker(const bb_run *r);
/* From now on half of that, but for the states that measuring needs, is not for caches: a command keeps so many bytes beside the evaluator, which is made anew. Until
 * r->kept_room is 0 again. */
uint64_t bb_memory_keep_half(bb_run *r);
/* Is there room for a copy of the source in F16, where it is not that itself, beside an evaluator with its caches? *bytes: what the copy takes. */
bool bb_memory_copies_source(const bb_run *r, uint64_t *bytes);
/* Is there room to train all matrices together: what the trainer keeps of each weight, five floats and what it may know of a code, beside the least? *coarse:
 * not five, but three and an optimizer's moments of 8 bits, if that. Of the source, not of the plan, and of one thread: a step is for all plans or for none,
 * and the same one, whatever the number of threads. */
bool bb_memory_trains_all(const bb_run *r, bool *coarse, uint64_t *need);
/* Warns, once a run that is open, where it asks for a step that trains all matrices, and there is no room for it. */
void bb_memory_warn_of_training(bb_run *r);
/* How many of so many pieces may be under way at the same time, a thread each at least, where `room` bytes are left for all but the first: at least one. Plans that
 * are finished (*more: what all but the first take), networks that are evaluated, groups of options that are built. */
uint32_t bb_memory_for_plans(const bb_run *r, size_t plans, uint64_t room, uint64_t *more);
uint32_t bb_memory_for_networks(const bb_run *r, size_t networks, uint64_t room);
uint32_t bb_memory_for_options(const bb_run *r, size_t groups, uint64_t room);
/* What commands without a run directory hold: `quantize` of a file of so many bytes, with second moments of windows (none: nothing is calibrated), with a rebuild in
 * sequence, and of a rotated model, which is float32 in memory (on_disk: with hidden states there); `train` of a network of this shape on texts of so many bytes. The least --max-ram of each. */
uint64_t bb_memory_to_quantize(const bb_net *net, uint32_t windows, uint32_t ctx, bool rebuilds, bool by_gates, uint32_t output_windows, bool rotated,
                               uint64_t file_bytes, bool on_disk);
uint64_t bb_memory_to_train(const bb_net *net, uint32_t ctx, uint32_t batch, uint64_t text_bytes);
/* BB_INFEASIBLE where `given` (0: no limit) is less than `need`: what ("quantizing") needs how much, and what would need less. */
bb_status bb_memory_allows(uint64_t given, uint64_t need, const char *what, const char *less, bb_err *err);
/* BB_INFEASIBLE, with the least, where --max-ram is less. */
bb_status bb_memory_check(const bb_run *r, bb_err *err);
/* From now on r is one that also searches by m, as --search does: BB_INFEASIBLE as above where that has no room; else --max-ram is kept with it. What is trained at
 * the end stays as the run itself has it. Before the evaluator is made. */
bb_status bb_memory_count_method(bb_run *r, const bb_search_method *m, bb_err *err);

/* Low-bit training by itself (`bitbudget qat`): bytes beside the files, without kept states of training windows; n_held: held-out windows of all texts. */
uint64_t bb_qat_memory(const bb_net *full, const bb_net *student, const bb_tune_options *o, uint32_t ctx, uint32_t n_held);
/* Of its saved state. */
uint64_t bb_qat_state_bytes(const bb_net *student, bool coarse);

#endif
