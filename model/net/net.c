/* SPDX-License-Identifier: GPL-3.0-or-later
 * net.c: see net.h. */
#include "model/net/net.h"

const char *const bb_part_names[BB_N_PARTS] = { "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down" };
