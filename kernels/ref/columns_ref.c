/* SPDX-License-Identifier: GPL-3.0-or-later
 * columns_ref.c: the inner loops of error feedback for any CPU. */
#define BB_LEVEL ref
#include "kernels/columns.inc"
