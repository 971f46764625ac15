/* SPDX-License-Identifier: GPL-3.0-or-later
 * fuzz_chat.c: a model file may hold any bytes as its chat template.
 *
 * Properties: no memory error, no leak, an end; a failure is BB_UNSUPPORTED with a sentence. The seeds are the templates of tests/data/chat.json. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/io/jinja.h"
#include "tests/fuzz/fuzz.h"

static void require(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "fuzz_chat: %s\n", what);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const bb_jinja_message messages[] = {
        { "system", " Be brief\n" }, { "user", "Hi \xc3\xa9" }, { "assistant", "<think>x</think> y" }, { "user", "{{ 1 }}" }
    };
    static const bb_jinja_name names[] = { { "bos_token", { "<s>", 3 } }, { "eos_token", { "</s>", 4 } }, { "pad_token", { NULL, 0 } } };
    const size_t               before = bb_mem_live_bytes();
    bb_text                    out = { .data = NULL };
    bb_err                     err = BB_ERR_INIT;
    bb_status                  status = bb_jinja_render((bb_bytes) { (const char *)data, size }, messages, sizeof messages / sizeof *messages, names,
                                                        sizeof names / sizeof *names, 1700000000, &out, &err);
    require(status == BB_OK || (status == BB_UNSUPPORTED && err.msg[0]), "a failure with another status");
    bb_text_done(&out);
    require(bb_mem_live_bytes() == before, "memory was not freed");
    return 0;
}

bool fuzz_seed(unsigned i, unsigned char **data, size_t *size)
{
    json_t     *all = json_load_file("tests/data/chat.json", 0, NULL);
    const char *text = json_string_value(json_object_get(json_array_get(all, i), "template"));
    const bool  is = text != NULL;
    if (is) {
        *size = strlen(text);
        *data = (unsigned char *)bb_strdup(text, NULL);
    }
    json_decref(all);
    return is && *data != NULL;
}
