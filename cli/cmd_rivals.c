/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_rivals.c: `bitbudget rivals`: other search methods at the sizes of a run. */
#include <string.h>

#include "cli/cmd.h"
#include "engine/outputs.h"
#include "engine/rivals.h"
#include "search/method.h"

#define FIELD(name) offsetof(bb_rivals_config, name)
static const bb_option_row options[] = {
    { "methods", BB_OPT_LIST, FIELD(methods), "ours,uniform,separable,quantization,random,annealing,nsga2,amq,evopress", 1, 0, "LIST",
      "what is compared; the first one with all others", NULL },
    { "sizes", BB_OPT_LIST, FIELD(sizes), "", 1, 0, "LIST", "file sizes; empty: those of the run", NULL },
    { "times", BB_OPT_DOUBLE, FIELD(times), "20", 0.01, 1e6, "X", "EvoPress and RCO get this many times our tokens", NULL },
    { "offspring", BB_OPT_INT, FIELD(offspring), "32", 1, 4096, "N", "EvoPress: plans of a generation (its authors': 64 to 128)", NULL },
    { "tokens", BB_OPT_DOUBLE, FIELD(tokens), "0", 0, 1e9, "MILLIONS", "tokens a size that count as ours; 0: those of the run's search and measuring", NULL },
    { "finish", BB_OPT_FLAG, FIELD(finish), NULL, 1, 0, NULL,
      "also put every plan through the run's finalise steps, as RUN/models/HASH.gguf, and compare the files", NULL },
    { "out", BB_OPT_TEXT, FIELD(out), "", 1, 0, "FILE", "table to write; empty: RUN/search.csv", NULL },
    { "ledger-only", BB_OPT_FLAG, FIELD(only), NULL, 1, 0, NULL, "replay: fail instead of evaluating anything new", NULL },
};
enum { N_OPTIONS = sizeof options / sizeof *options };

/* Whether --tokens is: the cost of ours is in the table, and methods that search get as many. */
static bool has_tokens(const char *methods)
{
    bool any = bb_list_has(methods, "ours");
    for (size_t i = 0; bb_method_at(i); i++) any |= !bb_method_at(i)->plan && bb_list_has(methods, bb_method_at(i)->name);
    return any;
}

/* Whether --times is for one of the methods. */
static bool has_many_tokens(const char *methods)
{
    for (size_t i = 0; bb_method_at(i); i++)
        if (bb_method_at(i)->many_tokens && bb_list_has(methods, bb_method_at(i)->name)) return true;
    return false;
}

static bb_status rivals(int argc, char **argv, bb_err *err)
{
    bb_rivals_config c = { 0 };
    bb_run           r = { 0 };
    const char      *dir = NULL;
    size_t           n = 0;
    bb_status        status;
    BB_TRY(bb_command_options(&bb_command_rivals, &c, argc, argv, &dir, 1, &n, err));
    if (n != 1) {
        status = BB_FAIL(err, BB_USAGE, "rivals needs a run directory, as made by `bitbudget run` or `bitbudget sweep`");
        goto done;
    }
    const bb_idle_option idle[] = { { "--tokens", "without ours or a method that searches in --methods", !has_tokens(c.methods) },
                                    { "--times", "without evopress or rco in --methods", !has_many_tokens(c.methods) },
                                    { "--offspring", "without evopress in --methods", !bb_list_has(c.methods, bb_method_evopress.name) } };
    BB_TRY(bb_command_refuse_idle(argc, argv, idle, sizeof idle / sizeof *idle, err));
    if (*c.out) BB_TRY(bb_output_check("--out", c.out, BB_OUTPUT_TABLE, "budget_bytes,method,", NULL, 0, err));
    BB_TRY(bb_run_reopen(&r, dir, err));
    BB_TRY(bb_rivals(&r, &c, stdout, err));
done:
    bb_options_done(options, N_OPTIONS, &c);
    bb_run_close(&r);
    return status;
}

const bb_command bb_command_rivals = { "rivals", "other search methods beside ours, at the same bytes",
                                       "RUN",    "bitbudget rivals results/runs/front --methods ours,separable,evopress --times 20",
                                       options,  N_OPTIONS,
                                       rivals };
