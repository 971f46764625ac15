/* SPDX-License-Identifier: GPL-3.0-or-later
 * chat.c: see chat.h. */
#include "model/io/chat.h"

#include <string.h>

#include "model/io/jinja_parts.h"

static bb_status check_roles(const bb_jinja_message *m, size_t n, bb_err *err)
{
    for (size_t i = 0; i < n; i++) {
        const bool system = strcmp(m[i].role, "system") == 0;
        if (!system && strcmp(m[i].role, "user") != 0 && strcmp(m[i].role, "assistant") != 0)
            return BB_FAIL(err, BB_USAGE, "there is no role '%.40s'; system, user and assistant are", m[i].role);
        if (system && i > 0) return BB_FAIL(err, BB_USAGE, "message %zu is a system message; only the first can be one", i + 1);
    }
    return BB_OK;
}

/* Does the text have the message in it, but for the space around it? */
static bool has_message(const char *text, size_t size, const char *message)
{
    const bb_item m = bb_jinja_trimmed((bb_item) { message, strlen(message) });
    for (size_t i = 0; i + m.n <= size; i++)
        if (m.n == 0 || memcmp(text + i, m.at, m.n) == 0) return true;
    return false;
}

/* The texts of special tokens, by the names that templates know them by. */
static bb_status find_names(const bb_source *s, bb_jinja_name names[4], bb_err *err)
{
    static const char *const keys[] = { "bos", "eos", "unknown", "padding" }, *const known[] = { "bos_token", "eos_token", "unk_token", "pad_token" };
    const bb_key *tokens = bb_source_find(s, "tokenizer.ggml.tokens");
    bb_status     status = BB_OK;
    for (size_t i = 0; i < 4; i++) {
        char     key[48] = "tokenizer.ggml.";
        uint32_t id = 0;
        bool     found = false;
        strncat(key, keys[i], 16);
        strncat(key, "_token_id", 10);
        BB_TRY(bb_source_u32(s, key, &id, &found, err));
        names[i] = (bb_jinja_name) { known[i], { NULL, 0 } };
        if (found && tokens && tokens->strings && id < tokens->count) names[i].text = tokens->strings[id];
    }
done:
    return status;
}

bb_status bb_chat_text(const bb_source *s, const bb_jinja_message *m, size_t n, time_t now, bb_text *out, bb_err *err)
{
    bb_bytes template = { NULL, 0 };
    bb_jinja_name names[4];
    bool          found = false;
    const size_t  before = out->size;
    bb_status     status;
    BB_TRY(check_roles(m, n, err));
    BB_TRY(find_names(s, names, err));
    BB_TRY(bb_source_text(s, "tokenizer.chat_template", &template, &found, err));
    if (!found || template.size == 0)
        return BB_FAIL(err, BB_UNSUPPORTED,
                       "the model has no chat template (tokenizer.chat_template): leave --chat and --system out, or give --prompt with "
                       "the special tokens in it, and --parse-special");
    BB_TRY(bb_jinja_render(template, m, n, names, 4, now, out, err));
    for (size_t i = 0; i < n; i++)
        if (strcmp(m[i].role, "assistant") != 0 && !has_message(out->data ? out->data + before : "", out->size - before, m[i].text))
            return BB_FAIL(err, BB_UNSUPPORTED, "the model's chat template leaves the %s message out%s", m[i].role,
                           strcmp(m[i].role, "system") == 0 ? ": leave --system out" : "");
done:
    return status;
}
