/* SPDX-License-Identifier: GPL-3.0-or-later
 * codebook_rows_ref.c: the search for many rows (kernels/formats/codebook_rows.h) for any CPU. */
#define LANES 4
#define BB_LEVEL ref
#include "kernels/formats/codebook_rows.inc"
