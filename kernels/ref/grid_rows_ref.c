/* SPDX-License-Identifier: GPL-3.0-or-later
 * grid_rows_ref.c: fields of many rows (kernels/formats/grid_rows.inc) for any CPU. */
#define LANES 4
#define BB_LEVEL ref
#include "kernels/formats/grid_rows.inc"
