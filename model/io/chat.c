/* SPDX-License-Identifier: GPL-3.0-or-later
 * chat.c: see chat.h. A form is a row: the marks by which it is known, and what it writes around a message of each role. */
#include "model/io/chat.h"

#include <string.h>

#include "base/mem.h"

typedef enum wraps {
    WRAPS_ALONE,    /* a system message has a place of its own */
    WRAPS_IN_USER,  /* it stands before the first message of the user, an empty line between */
    WRAPS_IN_MARKS, /* the same between <<SYS>> marks */
} wraps;

#define EOS "\1" /* in the texts of a form: the text of the vocabulary's EOS */

typedef struct form {
    const char *name;
    const char *marks[3];                     /* all must be there */
    const char *system, *user, *assistant;    /* before a message of this role */
    const char *after_user, *after_assistant; /* behind it; after_user: behind a system message too */
    const char *begin;                        /* where the assistant begins to write */
    wraps       system_place;
} form;

/* In the order in which they are looked for. [INST] forms have their spaces from the template. */
static const form forms[] = {
    { "llama2", { "[INST]", "<<SYS>>", NULL }, "", "[INST] ", " ", " [/INST]", " " EOS, "", WRAPS_IN_MARKS },
    { "mistral-system", { "[INST]", "[SYSTEM_PROMPT]", NULL }, "[SYSTEM_PROMPT]", "[INST]", "", "[/INST]", EOS, "", WRAPS_ALONE },
    { "mistral", { "[INST]", "[/INST]", NULL }, "", "[INST]", "", "[/INST]", EOS, "", WRAPS_IN_USER },
    { "chatml",
      { "<|im_start|>", "<|im_end|>", NULL },
      "<|im_start|>system\n",
      "<|im_start|>user\n",
      "<|im_start|>assistant\n",
      "<|im_end|>\n",
      "<|im_end|>\n",
      "<|im_start|>assistant\n",
      WRAPS_ALONE },
    { "llama3",
      { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" },
      "<|start_header_id|>system<|end_header_id|>\n\n",
      "<|start_header_id|>user<|end_header_id|>\n\n",
      "<|start_header_id|>assistant<|end_header_id|>\n\n",
      "<|eot_id|>",
      "<|eot_id|>",
      "<|start_header_id|>assistant<|end_header_id|>\n\n",
      WRAPS_ALONE },
    { "gemma",
      { "<start_of_turn>", "<end_of_turn>", NULL },
      "",
      "<start_of_turn>user\n",
      "<start_of_turn>model\n",
      "<end_of_turn>\n",
      "<end_of_turn>\n",
      "<start_of_turn>model\n",
      WRAPS_IN_USER },
    { "phi3", { "<|assistant|>", "<|end|>", NULL }, "<|system|>\n", "<|user|>\n", "<|assistant|>\n", "<|end|>\n", "<|end|>\n", "<|assistant|>\n", WRAPS_ALONE },
    { "zephyr",
      { "<|assistant|>", "<|user|>", "eos_token" },
      "<|system|>\n",
      "<|user|>\n",
      "<|assistant|>\n",
      EOS "\n",
      EOS "\n",
      "<|assistant|>\n",
      WRAPS_ALONE },
    { "plain", { "content", NULL }, "", "", "", "", "", "", WRAPS_ALONE },
};

struct bb_chat {
    const form *form;
    char *template;              /* with line ends for \n */
    char *eos, *standing_system; /* the latter NULL: none */
    bool  trims, has_system, no_line_ends, space_before, space_behind, space_system;
};

static bool has(const bb_chat *c, const char *part) { return strstr(c->template, part) != NULL; }

/* ---- recognising ---- */

/* A copy in which the two characters \n of string literals are line ends, as files have either. */
static char *unescaped(bb_bytes t, bb_err *err)
{
    char  *out = bb_alloc((size_t)t.size + 1, 1, err);
    size_t n = 0;
    for (uint64_t i = 0; out && i < t.size; i++) {
        const bool line_end = t.data[i] == '\\' && i + 1 < t.size && t.data[i + 1] == 'n';
        out[n++] = line_end ? '\n' : t.data[i] ? t.data[i] : ' ';
        i += line_end;
    }
    if (out) out[n] = '\0';
    return out;
}

static bool is_form(const bb_chat *c, const form *f)
{
    for (size_t i = 0; i < sizeof f->marks / sizeof *f->marks && f->marks[i]; i++)
        if (!has(c, f->marks[i])) return false;
    /* Without marks of a role in it, nothing but the messages is written. */
    return strcmp(f->name, "plain") != 0 || !(has(c, "role") || has(c, "<|") || has(c, "###") || has(c, ":"));
}

/* A system text that the template writes when there is none: a literal of its own, in quotes or bare. */
static bb_status find_standing(bb_chat *c, bb_err *err)
{
    const size_t n = strlen(c->form->system);
    if (strcmp(c->form->name, "chatml") != 0) return BB_OK;
    for (const char *p = c->template; (p = strstr(p, c->form->system)); p += n) {
        const char *text = p + n, *end = strstr(text, c->form->after_user);
        const char  quote = p > c->template && (p[-1] == '\'' || p[-1] == '"') ? p[-1] : '{';
        if (!end || end == text || memchr(text, quote, (size_t)(end - text)) || memchr(text, '{', (size_t)(end - text))) continue;
        return (c->standing_system = bb_item_text((bb_item) { text, (size_t)(end - text) }, err)) ? BB_OK : BB_NOMEM;
    }
    return BB_OK;
}

static char before(const bb_chat *c, const char *mark)
{
    const char *p = strstr(c->template, mark);
    return p && p > c->template ? p[-1] : '\0';
}

static char behind(const bb_chat *c, const char *mark)
{
    const char *p = strstr(c->template, mark);
    return p ? p[strlen(mark)] : '\0';
}

/* What templates of one form do differently. */
static void find_ways(bb_chat *c)
{
    const bool any_role = has(c, "'role'] +") || has(c, "\"role\"] +") || has(c, ".role +") || has(c, "'role'] ~") || has(c, "role'] }}") ||
                          has(c, "role']}}") || has(c, ".role }}") || has(c, ".role}}");
    c->trims = has(c, "| trim") || has(c, "|trim") || has(c, ".strip()");
    c->has_system = !has(c, "ystem role not supported") && (any_role || has(c, "system") || strcmp(c->form->name, "plain") == 0);
    c->space_before = behind(c, "[INST]") == ' ';
    c->space_behind = before(c, "[/INST]") == ' ';
    c->space_system = behind(c, "[SYSTEM_PROMPT]") == ' ';
    /* Phi 4 mini writes no line ends; Phi 3 writes them behind both marks. */
    c->no_line_ends = strcmp(c->form->name, "phi3") == 0 && behind(c, "<|end|>") != '\n';
}

bb_status bb_chat_of(bb_bytes template, bb_bytes eos, bb_chat **out, bb_err *err)
{
    bb_status status = BB_OK;
    char      shown[BB_SHOWN];
    bb_chat  *c = bb_calloc(1, sizeof *c, err);
    *out = NULL;
    if (!c || !(c->template = unescaped(template, err)) || !(c->eos = bb_item_text((bb_item) { eos.data, (size_t)eos.size }, err))) {
        bb_chat_close(c);
        return BB_NOMEM;
    }
    for (size_t i = 0; i < sizeof forms / sizeof *forms && !c->form; i++)
        if (is_form(c, &forms[i])) c->form = &forms[i];
    if (!c->form) {
        status = BB_FAIL(err, BB_UNSUPPORTED,
                         "the chat template begins with \"%s\" and has none of the known forms (ChatML, Llama 2 and 3, Mistral, Gemma, Phi 3, Zephyr, plain): "
                         "give --prompt with the special tokens in it, and --parse-special",
                         bb_show(template, shown));
        goto done;
    }
    find_ways(c);
    BB_TRY(find_standing(c, err));
    *out = c;
    c = NULL;
done:
    bb_chat_close(c);
    return status;
}

bb_status bb_chat_open(const bb_source *s, bb_chat **out, bb_err *err)
{
    bb_bytes template = { NULL, 0 }, eos = { "</s>", 4 };
    const bb_key *tokens = bb_source_find(s, "tokenizer.ggml.tokens");
    uint32_t      id = 0;
    bool          found = false;
    bb_status     status = BB_OK;
    *out = NULL;
    BB_TRY(bb_source_u32(s, "tokenizer.ggml.eos_token_id", &id, &found, err));
    if (found && tokens && tokens->strings && id < tokens->count) eos = tokens->strings[id];
    BB_TRY(bb_source_text(s, "tokenizer.chat_template", &template, &found, err));
    if (!found || template.size == 0)
        status = BB_FAIL(err, BB_UNSUPPORTED,
                         "the model has no chat template (tokenizer.chat_template): leave --chat and --system out, or give --prompt with "
                         "the special tokens in it, and --parse-special");
    else status = bb_chat_of(template, eos, out, err);
done:
    return status;
}

void bb_chat_close(bb_chat *c)
{
    if (!c) return;
    bb_free(c->template);
    bb_free(c->eos);
    bb_free(c->standing_system);
    bb_free(c);
}

const char *bb_chat_name(const bb_chat *c) { return c->form->name; }
bool        bb_chat_leaves_out(const bb_chat *c) { return has(c, "strftime_now") || has(c, "date_string") || has(c, "reasoning_mode"); }

/* ---- writing ---- */

static bool is_space(char b) { return b == ' ' || (b >= '\t' && b <= '\r'); }

static void put_message(const bb_chat *c, const char *text, bb_text *out)
{
    size_t n = strlen(text);
    while (c->trims && n > 0 && is_space(*text)) text++, n--;
    while (c->trims && n > 0 && is_space(text[n - 1])) n--;
    bb_text_addn(out, text, n);
}

/* What stands around messages: the text of EOS put in, line ends left out where the template has none. */
static void put_frame(const bb_chat *c, const char *text, bb_text *out)
{
    for (; *text; text++)
        if (*text == EOS[0]) bb_text_add(out, c->eos);
        else if (*text != '\n' || !c->no_line_ends) bb_text_addn(out, text, 1);
}

static bool is_inst(const bb_chat *c) { return strncmp(c->form->name, "mistral", 7) == 0; }

static void put_system(const bb_chat *c, const char *text, bb_text *out)
{
    const form *f = c->form;
    if (f->system_place == WRAPS_ALONE) {
        put_frame(c, f->system, out);
        if (c->space_system) bb_text_add(out, " ");
        put_message(c, text, out);
        put_frame(c, is_inst(c) ? "[/SYSTEM_PROMPT]" : f->after_user, out);
        return;
    }
    if (f->system_place == WRAPS_IN_MARKS) bb_text_add(out, "<<SYS>>\n");
    put_message(c, text, out);
    bb_text_add(out, f->system_place == WRAPS_IN_MARKS ? "\n<</SYS>>\n\n" : "\n\n");
}

static void put_user(const bb_chat *c, const char *system, const char *text, bb_text *out)
{
    put_frame(c, c->form->user, out);
    if (is_inst(c) && c->space_before) bb_text_add(out, " ");
    if (system) put_system(c, system, out);
    put_message(c, text, out);
    if (is_inst(c) && c->space_behind) bb_text_add(out, " ");
    put_frame(c, c->form->after_user, out);
}

static void put_assistant(const bb_chat *c, const char *text, bool more, bb_text *out)
{
    put_frame(c, c->form->assistant, out);
    if (is_inst(c) && c->space_behind) bb_text_add(out, " ");
    put_message(c, text, out);
    put_frame(c, c->form->after_assistant, out);
    if (more && c->form->system_place == WRAPS_IN_MARKS) bb_text_add(out, "<s>"); /* Llama 2: each exchange is a text of its own */
}

static bb_status check_messages(const bb_chat *c, const bb_chat_message *m, size_t n, bb_err *err)
{
    for (size_t i = 0; i < n; i++) {
        const bool system = strcmp(m[i].role, "system") == 0;
        if (!system && strcmp(m[i].role, "user") != 0 && strcmp(m[i].role, "assistant") != 0)
            return BB_FAIL(err, BB_USAGE, "there is no role '%.40s'; system, user and assistant are", m[i].role);
        if (system && i > 0) return BB_FAIL(err, BB_USAGE, "message %zu is a system message; only the first can be one", i + 1);
        if (system && !c->has_system)
            return BB_FAIL(err, BB_UNSUPPORTED, "the model's chat template (of the %s form) has no system role: leave --system out", c->form->name);
    }
    return BB_OK;
}

bb_status bb_chat_text(const bb_chat *c, const bb_chat_message *m, size_t n, bb_text *out, bb_err *err)
{
    const char *system = c->standing_system;
    bb_status   status = check_messages(c, m, n, err);
    if (status != BB_OK) return status;
    if (n > 0 && strcmp(m->role, "system") == 0) system = m->text, m++, n--;
    if (system && c->form->system_place == WRAPS_ALONE) {
        put_system(c, system, out);
        system = NULL;
    }
    for (size_t i = 0; i < n; i++) {
        if (strcmp(m[i].role, "assistant") == 0) {
            put_assistant(c, m[i].text, i + 1 < n, out);
            continue;
        }
        put_user(c, system, m[i].text, out);
        system = NULL;
    }
    put_frame(c, c->form->begin, out);
    return out->status == BB_OK ? BB_OK : BB_FAIL(err, out->status, "out of memory");
}
