/* SPDX-License-Identifier: GPL-3.0-or-later
 * lanes_ref.c: the inner loops of a fit for any CPU. */
#define BB_LEVEL ref
#include "kernels/formats/lanes.inc"
