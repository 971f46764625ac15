/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_tokenize.c: bitbudget tokenize MODEL.gguf --text FILE [--out ids.u32]: the token ids that eval and calibration work on, to look
 * at or to keep: the written file can stand for the text everywhere. --decode: back to text, of what the model wrote for its own calibration too (calib-self-*.u32 of a
 * run), which other programs can then calibrate on as well. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/cmd.h"
#include "engine/outputs.h"
#include "eval/evaluate.h"
#include "model/io/tokenizer.h"

typedef struct tokenize_options {
    char *text, *out;
    bool  parse_special, decode;
} tokenize_options;

static const bb_option_row rows[] = {
    { "text", BB_OPT_TEXT, offsetof(tokenize_options, text), NULL, 1, 0, "FILE", "the text; one newline at its end is left out", NULL },
    { "out", BB_OPT_TEXT, offsetof(tokenize_options, out), NULL, 1, 0, "IDS.u32",
      "write the ids as 32-bit (.u32) or 16-bit (.u16) little-endian numbers; of --decode the text", NULL },
    { "parse-special", BB_OPT_FLAG, offsetof(tokenize_options, parse_special), NULL, 1, 0, NULL, "text of special tokens (\"<|im_end|>\") becomes these tokens",
      NULL },
    { "decode", BB_OPT_FLAG, offsetof(tokenize_options, decode), NULL, 1, 0, NULL, "--text is a file of ids (.u32, .u16): write their text", NULL },
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static unsigned bytes_of(const char *path)
{
    size_t n = strlen(path);
    if (n >= 4 && strcmp(path + n - 4, ".u16") == 0) return 2;
    return n >= 4 && strcmp(path + n - 4, ".u32") == 0 ? 4 : 0;
}

static bb_status write_ids(const char *path, const bb_tokens *t, bb_err *err)
{
    bb_status status = BB_OK;
    unsigned  bytes = bytes_of(path);
    char     *data = NULL;
    if (!(data = bb_alloc(t->n, bytes, err))) return BB_NOMEM;
    for (size_t i = 0; i < t->n; i++) {
        uint32_t id = (uint32_t)t->ids[i];
        if (bytes == 2 && id > UINT16_MAX) {
            status = BB_FAIL(err, BB_USAGE, "--out %s: id %u needs more than 16 bits; use .u32", path, id);
            goto done;
        }
        for (unsigned b = 0; b < bytes; b++) data[i * bytes + b] = (char)(id >> 8 * b);
    }
    status = bb_file_write(path, data, t->n * bytes, err);
done:
    bb_free(data);
    return status;
}

static bb_status print_ids(const bb_tokens *t, bb_err *err)
{
    for (size_t i = 0; i < t->n; i++) printf("%d\n", t->ids[i]);
    return ferror(stdout) ? BB_FAIL(err, BB_IO, "standard output could not be written") : BB_OK;
}

/* To path or, NULL, to standard output. */
static bb_status write_text(const bb_model *m, const bb_tokens *t, const char *path, bb_err *err)
{
    bb_tokenizer *tokenizer = NULL;
    char         *text = NULL;
    size_t        size = 0;
    bb_status     status;
    BB_TRY(bb_tokenizer_create(&m->source, &tokenizer, err));
    BB_TRY(bb_detokenize(tokenizer, t->ids, t->n, &text, &size, err));
    if (path) BB_TRY(bb_file_write(path, text, size, err));
    else if (fwrite(text, 1, size, stdout) != size) status = BB_FAIL(err, BB_IO, "standard output could not be written");
done:
    bb_free(text);
    bb_tokenizer_destroy(tokenizer);
    return status;
}

static bb_status run(int argc, char **argv, bb_err *err)
{
    tokenize_options o = { NULL, NULL, false, false };
    const char      *path = NULL;
    size_t           n = 0;
    bb_model         m = { .path = NULL };
    bb_tokens        t = { .ids = NULL };
    bb_status        status;
    BB_TRY(bb_command_options(&bb_command_tokenize, &o, argc, argv, &path, 1, &n, err));
    if (n == 0 || !o.text) {
        status = BB_FAIL(err, BB_USAGE, "tokenize needs a model file and --text FILE");
        goto done;
    }
    const bb_idle_option idle[] = { { "--parse-special", "with --decode: ids are no text", o.decode } };
    BB_TRY(bb_command_refuse_idle(argc, argv, idle, 1, err));
    if (o.decode && !bytes_of(o.text)) {
        status = BB_FAIL(err, BB_USAGE, "--decode: --text %s should be a file of token ids, with a name in .u32 or .u16", o.text);
        goto done;
    }
    if (o.out) {
        const bb_input inputs[] = { { "the model", path }, { "the text", o.text } };
        if (!o.decode && !bytes_of(o.out)) {
            status = BB_FAIL(err, BB_USAGE, "--out %s: the name should end in .u32 or .u16", o.out);
            goto done;
        }
        BB_TRY(bb_output_check("--out", o.out, BB_OUTPUT_IDS, NULL, inputs, 2, err));
    }
    BB_TRY(bb_model_open(path, &m, err));
    BB_TRY(bb_tokens_load(&m, o.text, o.parse_special, &t, err));
    if (o.decode) {
        BB_TRY(write_text(&m, &t, o.out, err));
    } else if (o.out) {
        BB_TRY(write_ids(o.out, &t, err));
        printf("tokens        %zu\nsha256        %s (of the ids as 32-bit little-endian numbers)\nwritten       %s\n", t.n, t.sha256, o.out);
    } else {
        BB_TRY(print_ids(&t, err));
    }
done:
    bb_tokens_done(&t);
    bb_model_close(&m);
    bb_options_done(rows, N_ROWS, &o);
    return status;
}

const bb_command bb_command_tokenize = {
    .name = "tokenize",
    .summary = "turn text into the token ids of a model",
    .usage = "MODEL.gguf --text FILE",
    .example = "bitbudget tokenize model.gguf --text calib.txt --out calib.u32",
    .options = rows,
    .n_options = N_ROWS,
    .run = run,
};
