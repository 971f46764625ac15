/* SPDX-License-Identifier: GPL-3.0-or-later
 * sizes.h: exact file sizes of the plans of a space, by table: bb_export_size of bb_plan_space_shape, in about a microsecond and without a lock.
 */
#ifndef BB_MODEL_EXPORT_SIZES_H
#define BB_MODEL_EXPORT_SIZES_H

#include "base/plan_space.h"
#include "model/model.h"

typedef struct bb_export_sizes bb_export_sizes;

/* m and s are borrowed for the table's life; s: units of model/compress/plan_units.h, a matrix without a unit keeps its type. */
bb_status bb_export_sizes_create(const bb_model *m, const bb_plan_space *s, bb_export_sizes **out, bb_err *err);
void      bb_export_sizes_destroy(bb_export_sizes *t);
uint32_t  bb_export_sizes_alignment(const bb_export_sizes *t); /* of the tensors of the files */

uint64_t bb_export_sizes_experimental(void); /* of the key of files with types that stock llama.cpp does not read */

/* Bytes of the file of plan x; false: the exporter refuses it (bb_export_check says why). Reads constants only: any number of threads may ask. */
bool bb_export_sizes_of(const bb_export_sizes *t, const uint16_t *x, uint64_t *bytes);

#endif
