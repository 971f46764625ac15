/* SPDX-License-Identifier: GPL-3.0-or-later
 * chat.h: a conversation as the text that a model was trained on: what its chat template (tokenizer.chat_template, a program: model/io/jinja.h) makes of it. */
#ifndef BB_MODEL_IO_CHAT_H
#define BB_MODEL_IO_CHAT_H

#include "model/io/jinja.h"

/* Appends the conversation up to where the assistant begins to write. The text of special tokens stands for them; BOS is there if the template writes it.
 * Messages: "system" (only the first), "user", "assistant"; another role, or a system message elsewhere, is BB_USAGE.
 * BB_UNSUPPORTED: no template, one that cannot be run (bb_jinja_render), or one that leaves a message of the system or the user out. */
bb_status bb_chat_text(const bb_source *s, const bb_jinja_message *m, size_t n, time_t now, bb_text *out, bb_err *err);

#endif
