/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_convert.c: bitbudget convert MODEL OUT.gguf: a Hugging Face folder, or a GGUF that is split over files, as one GGUF file, every tensor as it is. */
#include <stdio.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/cmd.h"
#include "engine/outputs.h"
#include "model/io/gguf.h"
#include "model/model.h"

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

static bb_status run(int argc, char **argv, bb_err *err)
{
    const char *paths[2] = { NULL, NULL };
    bb_input    inputs[] = { { "the model", NULL } };
    size_t      n = 0;
    bb_model    m = { .path = NULL };
    bb_status   status;
    BB_TRY(bb_command_options(&bb_command_convert, NULL, argc, argv, paths, 2, &n, err));
    if (n != 2) {
        status = BB_FAIL(err, BB_USAGE, "convert needs a model's folder, or a part of a split file, and the file to write: bitbudget convert MODEL OUT.gguf");
        goto done;
    }
    inputs[0].path = paths[0];
    BB_TRY(bb_output_check("the second argument", paths[1], BB_OUTPUT_MODEL, NULL, inputs, 1, err));
    BB_TRY(bb_model_open(paths[0], &m, err));
    BB_TRY(bb_output_fits(paths[1], m.source.size_bytes, err));
    BB_TRY(write_source(&m.source, paths[1], err));
    printf("%s\n", paths[1]);
done:
    bb_model_close(&m);
    return status;
}

const bb_command bb_command_convert = {
    .name = "convert",
    .summary = "write a Hugging Face folder, or a split GGUF, as one GGUF file",
    .usage = "MODEL OUT.gguf",
    .example = "bitbudget convert SmolLM2-135M-Instruct SmolLM2-135M-Instruct.gguf\n"
               "bitbudget convert large-00001-of-00003.gguf large.gguf\n"
               "bitbudget run SmolLM2-135M-Instruct --target-size 60MB    # every command takes the folder itself",
    .run = run,
};
