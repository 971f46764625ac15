/* SPDX-License-Identifier: GPL-3.0-or-later
 * chat.h: a conversation as the text that a model was trained on, from tokenizer.chat_template.
 *
 * Templates are programs (Jinja); this runs none. The common forms are recognised by the marks that they write, and what differs between templates of
 * one form (spaces, line ends, a standing system text, whether there is a system role) is read from the template's text. What is not recognised is refused.
 */
#ifndef BB_MODEL_IO_CHAT_H
#define BB_MODEL_IO_CHAT_H

#include "base/text.h"
#include "model/io/source.h"

typedef struct bb_chat bb_chat;

typedef struct bb_chat_message {
    const char *role; /* "system" (only first), "user", "assistant" */
    const char *text;
} bb_chat_message;

/* BB_UNSUPPORTED: no template, or none that is known, with what was found. */
bb_status bb_chat_open(const bb_source *s, bb_chat **out, bb_err *err);
/* The same of a template by itself; eos: the text of the vocabulary's EOS token, which some forms write behind an answer. */
bb_status   bb_chat_of(bb_bytes template, bb_bytes eos, bb_chat **out, bb_err *err);
void        bb_chat_close(bb_chat *c);
const char *bb_chat_name(const bb_chat *c); /* of the form: "chatml", "llama3", ... */
/* Does the template also write what only its program can say (today's date, modes)? That is left out. */
bool bb_chat_leaves_out(const bb_chat *c);

/* Appends the conversation up to where the assistant begins to write; no BOS, which the vocabulary says. The text of special tokens stands for them.
 * BB_UNSUPPORTED: a system message where the template has no such role. BB_USAGE: other roles, or a system message that is not the first. */
bb_status bb_chat_text(const bb_chat *c, const bb_chat_message *m, size_t n, bb_text *out, bb_err *err);

#endif
