/* SPDX-License-Identifier: GPL-3.0-or-later
 * shipped.c: see shipped.h. */
#include "engine/shipped.h"

#include <string.h>

#include "base/mem.h"
#include "base/text.h"

/* The files' bytes, from bb_NAME to bb_NAME_end. The makefile says that this object depends on them. */
#define TEXT(name, file) \
    __asm__(".pushsection .rodata\n.hidden bb_" #name "\n.hidden bb_" #name "_end\n.global bb_" #name "\n.global bb_" #name "_end\n" \
            "bb_" #name ":\n.incbin \"configs/calibration/" file "\"\nbb_" #name "_end:\n.byte 0\n.popsection\n"); \
    extern const char bb_##name[], bb_##name##_end[]

TEXT(text_prose, "prose.txt");
TEXT(text_code, "code.txt");
TEXT(text_dialogue, "dialogue.txt");
TEXT(text_languages, "languages.txt");
TEXT(probe_prose, "probe-prose.txt");
TEXT(probe_code, "probe-code.txt");
TEXT(probe_dialogue, "probe-dialogue.txt");
TEXT(probe_language, "probe-language.txt");

const bb_shipped_text bb_shipped_mixture[BB_N_SHIPPED_MIXTURE] = {
    { "prose", bb_text_prose, bb_text_prose_end },
    { "code", bb_text_code, bb_text_code_end },
    { "dialogue", bb_text_dialogue, bb_text_dialogue_end },
    { "languages", bb_text_languages, bb_text_languages_end },
};
const bb_shipped_text bb_shipped_probes[BB_N_SHIPPED_PROBES] = {
    { "prose", bb_probe_prose, bb_probe_prose_end },
    { "code", bb_probe_code, bb_probe_code_end },
    { "dialogue", bb_probe_dialogue, bb_probe_dialogue_end },
    { "another language", bb_probe_language, bb_probe_language_end },
};

/* Is the mark one token? */
static bb_status is_token(const bb_model *m, const char *mark, bool *is, bb_err *err)
{
    bb_tokenizer *t = NULL;
    int32_t      *ids = NULL;
    size_t        n = 0;
    bb_status     status;
    BB_TRY(bb_tokenizer_create(&m->source, &t, err));
    BB_TRY(bb_tokenize(t, mark, strlen(mark), false, true, &ids, &n, err));
    *is = n == 1;
done:
    bb_free(ids);
    bb_tokenizer_destroy(t);
    return status;
}

/* The conversations with words in place of the marks of ChatML. */
static void without_marks(const bb_shipped_text *t, bb_text *out)
{
    static const char *const marks[][2] = {
        { "<|im_start|>system\n", "" }, { "<|im_start|>user\n", "User: " }, { "<|im_start|>assistant\n", "Assistant: " }, { "<|im_end|>", "" }
    };
    for (const char *p = t->data; p < t->end;) {
        size_t i = 0, n = 0;
        for (; i < sizeof marks / sizeof *marks; i++) {
            n = strlen(marks[i][0]);
            if ((size_t)(t->end - p) >= n && memcmp(p, marks[i][0], n) == 0) break;
        }
        if (i < sizeof marks / sizeof *marks) {
            bb_text_add(out, marks[i][1]);
            p += n;
        } else bb_text_addn(out, p++, 1);
    }
}

bb_status bb_shipped_tokens(const bb_model *m, const bb_shipped_text *t, bb_tokens *out, bb_err *err)
{
    const size_t size = (size_t)(t->end - t->data);
    bb_text      plain = { 0 };
    bool         chat;
    bb_status    status;
    *out = (bb_tokens) { 0 };
    if (!bb_source_find(&m->source, "tokenizer.ggml.tokens"))
        return BB_FAIL(err, BB_USAGE, "%s has no vocabulary, which a text needs: --calib self, or token ids (.u32, .npy)", m->path);
    BB_TRY(is_token(m, "<|im_start|>", &chat, err));
    if (!chat && size > 12 && memcmp(t->data, "<|im_start|>", 12) == 0) {
        without_marks(t, &plain);
        BB_TRY(plain.status);
        BB_TRY(bb_tokens_from_text(m, t->name, false, plain.data, plain.size, out, err));
    } else BB_TRY(bb_tokens_from_text(m, t->name, true, t->data, size, out, err));
done:
    bb_text_done(&plain);
    return status;
}
