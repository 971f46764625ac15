/* SPDX-License-Identifier: GPL-3.0-or-later
 * inspect_audit.h: inspect --audit: is a model file what it says it is, and whole? */
#ifndef BB_CLI_INSPECT_AUDIT_H
#define BB_CLI_INSPECT_AUDIT_H

#include "model/io/source.h"

/* The parts of a file; every byte of it belongs to exactly one. */
typedef enum bb_file_part { BB_FILE_EMBEDDING, BB_FILE_OUTPUT, BB_FILE_ATTENTION, BB_FILE_FFN, BB_FILE_NORMS, BB_FILE_METADATA, BB_N_FILE_PARTS } bb_file_part;

extern const char *const bb_file_part_names[BB_N_FILE_PARTS];
bb_file_part             bb_file_part_of(const char *tensor);
uint64_t                 bb_tensor_weights(const bb_tensor *t);

/* Prints what was found, as text or JSON. Architectures that this program does not read are audited too, by what all files have. BB_GUARD: a label is
 * wrong or something is missing; the sentence says what. BB_BAD_FILE: no model can be read from the path (a tensor twice is of these); JSON then holds path, ok and faults alone. */
bb_status bb_inspect_audit(const char *path, bool json, bb_err *err);

#endif
