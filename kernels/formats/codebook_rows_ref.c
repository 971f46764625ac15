/* SPDX-License-Identifier: GPL-3.0-or-later
 * codebook_rows_ref.c: the search for many rows (codebook_rows.h) for any CPU. */
#define LANES 4
#define BB_ROWS_TABLE bb_cb_rows_ref
#include "kernels/formats/codebook_rows.inc"
