/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_convert.c: bitbudget convert MODEL OUT: a Hugging Face folder, or a GGUF that is split over files, as one GGUF file, every tensor as it is; or a GGUF
 * as a Hugging Face folder (model/export/folder.h). */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/cmd.h"
#include "cli/folder_output.h"
#include "engine/outputs.h"
#include "model/io/gguf.h"
#include "model/model.h"

typedef struct convert_options {
    char *from;
} convert_options;

static const bb_option_row rows[] = {
    { "from", BB_OPT_TEXT, offsetof(convert_options, from), "", 1, 0, "FOLDER",
      "of a folder that is written: take config.json and the tokenizer's files from this one, which the model comes from", NULL },
};
enum { N_ROWS = sizeof rows / sizeof *rows };

/* Keys and tensors as the source has them. */
static bb_status write_source(const bb_source *s, const char *path, bb_err *err)
{
    bb_gguf_out *out = NULL;
    bb_status    status;
    BB_TRY(bb_gguf_out_create(&out, err));
    for (uint64_t i = 0; i < s->n_kv; i++) BB_TRY(bb_gguf_put_copy(out, &s->kv[i], err));
    for (uint64_t i = 0; i < s->n_tensors; i++) BB_TRY(bb_gguf_put_tensor(out, &s->tensors[i], err));
    BB_TRY(bb_gguf_put_text(out, "bitbudget.converted_from", s->reader->name, err)); /* by which the file is known as ours */
    BB_TRY(bb_gguf_out_write(out, path, err));
done:
    bb_gguf_out_destroy(out);
    return status;
}

static bool is_gguf_name(const char *path)
{
    const size_t n = strlen(path);
    return n >= 5 && strcmp(path + n - 5, ".gguf") == 0;
}

static bb_status run(int argc, char **argv, bb_err *err)
{
    convert_options o = { NULL };
    const char     *paths[2] = { NULL, NULL };
    bb_input        inputs[] = { { "the model", NULL }, { "the folder of --from", NULL } };
    size_t          n = 0;
    bb_model        m = { .path = NULL };
    bb_status       status;
    BB_TRY(bb_command_options(&bb_command_convert, &o, argc, argv, paths, 2, &n, err));
    if (n != 2) {
        status = BB_FAIL(err, BB_USAGE, "convert needs a model and what to write: bitbudget convert FOLDER OUT.gguf, or MODEL.gguf FOLDER");
        goto done;
    }
    inputs[0].path = paths[0];
    inputs[1].path = o.from;
    const bb_idle_option idle[] = { { "--from", "where a GGUF file is written: a name that does not end in .gguf is a folder", is_gguf_name(paths[1]) } };
    BB_TRY(bb_command_refuse_idle(argc, argv, idle, 1, err));
    if (!is_gguf_name(paths[1])) {
        BB_TRY(bb_output_folder_check("the second argument", paths[1], inputs, 2, err));
        BB_TRY(bb_model_open(paths[0], &m, err));
        BB_TRY(bb_write_folder(&m, *o.from ? o.from : NULL, paths[1], err));
    } else {
        BB_TRY(bb_output_check("the second argument", paths[1], BB_OUTPUT_MODEL, NULL, inputs, 1, err));
        BB_TRY(bb_model_open(paths[0], &m, err));
        BB_TRY(bb_output_fits(paths[1], m.source.size_bytes, err));
        BB_TRY(write_source(&m.source, paths[1], err));
    }
    printf("%s\n", paths[1]);
done:
    bb_options_done(rows, N_ROWS, &o);
    bb_model_close(&m);
    return status;
}

const bb_command bb_command_convert = {
    .name = "convert",
    .summary = "a Hugging Face folder or a split GGUF as one GGUF file, or a GGUF as a folder",
    .usage = "MODEL OUT.gguf | MODEL.gguf FOLDER [--from FOLDER]",
    .example = "bitbudget convert SmolLM2-135M-Instruct SmolLM2-135M-Instruct.gguf\n"
               "bitbudget convert large-00001-of-00003.gguf large.gguf\n"
               "bitbudget convert small-q4_0.gguf small-q4_0 --from SmolLM2-135M-Instruct    # for vLLM and transformers\n"
               "bitbudget run SmolLM2-135M-Instruct --target-size 60MB    # every command takes the folder itself",
    .options = rows,
    .n_options = N_ROWS,
    .run = run,
};
