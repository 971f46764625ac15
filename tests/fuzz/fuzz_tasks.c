/* SPDX-License-Identifier: GPL-3.0-or-later
 * fuzz_tasks.c: any bytes may be given as a file of zero-shot tasks. The first byte chooses the ending of its name.
 *
 * Properties: no memory error, no leak; a failure is BB_BAD_FILE with a sentence; what is read has a right option, and texts inside
 * its buffer, neither of them empty. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "eval/tasks.h"
#include "tests/fuzz/fuzz.h"

static void require(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "fuzz_tasks: %s\n", what);
    abort();
}

static void check(const bb_task *t)
{
    require(t->n_items > 0, "a task without items");
    for (size_t i = 0; i < t->n_items; i++) {
        const bb_task_item *item = &t->items[i];
        require(item->first + item->n <= t->n_options && item->gold < item->n, "an item out of bounds");
    }
    for (size_t i = 0; i < t->n_options; i++) {
        const bb_task_option *o = &t->options[i];
        require(o->n_context > 0 && o->n_continuation > o->n_delimiter && o->context + o->n_context == o->continuation &&
                    o->continuation + o->n_continuation <= t->text.size,
                "an option out of bounds");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t    before = bb_mem_live_bytes();
    bb_task   t;
    bb_err    err = BB_ERR_INIT;
    bb_status status;
    if (size == 0) return 0;
    status = bb_task_parse(data[0] % 2 ? "x.txt" : "x.jsonl", (const char *)data + 1, size - 1, 0, &t, &err);
    require(status == BB_OK || (status == BB_BAD_FILE && err.msg[0]), "a failure with another status");
    if (status == BB_OK) {
        check(&t);
        bb_task_done(&t);
    }
    require(bb_mem_live_bytes() == before, "memory was not freed");
    return 0;
}

bool fuzz_seed(unsigned i, unsigned char **data, size_t *size)
{
    static const char *const seeds[] = {
        "0{\"query\": \"a b\", \"choices\": [\"c\", \"d\"], \"gold\": 1}\n{\"query\": \"Question: q\", \"choices\": [\"c\", \"d\"], \"gold\": 0}\n",
        "0{\"context_options\": [\"a\", \"b\"], \"continuation\": \"c\", \"gold\": 0}\n",
        "0{\"context\": \"a\\u00e9\", \"continuation\": \"b\"}\n\n{\"context\": \"a\", \"continuation\": \"\\u0000\"}\n",
        "1a\n0\nb\nc\nd\ne\nf\n3\ng\nh\ni\nj\n",
    };
    if (i >= sizeof seeds / sizeof *seeds) return false;
    *size = strlen(seeds[i]);
    *data = (unsigned char *)bb_strdup(seeds[i], NULL);
    return *data != NULL;
}
