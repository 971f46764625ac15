/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_outputs.c: what can be known at the start is said at the start: where files go, what they would overwrite, texts that are missing or too
 * short, another process at work; and two processes may share an option database. */
#include <errno.h>
#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/store.h"
#include "engine/outputs.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

static char model[600], text[600], short_text[600], foreign[600], folder[600];

static void make_inputs(void)
{
    tiny_spec s = tiny_default("llama");
    char      words[6000];
    size_t    n = 0;
    if (*model) return;
    snprintf(model, sizeof model, "%s", bb_test_path("m.gguf"));
    snprintf(text, sizeof text, "%s", bb_test_path("calib.txt"));
    snprintf(short_text, sizeof short_text, "%s", bb_test_path("short.txt"));
    snprintf(foreign, sizeof foreign, "%s", bb_test_path("foreign.gguf"));
    snprintf(folder, sizeof folder, "%s", bb_test_path("folder"));
    tiny_write(&s, model);
    tiny_write(&s, foreign);
    for (unsigned i = 0; n + 8 < sizeof words; i++) n += (size_t)snprintf(words + n, sizeof words - n, "%x ", i * 2654435761u % 4093u);
    bb_test_write(text, words, n);
    bb_test_write(short_text, "a b", 3);
    static const char steps[] = "seed: 1\nfinalise-steps: [lfq, magic]\n";
    bb_test_write(bb_test_path("steps.yaml"), steps, sizeof steps - 1);
    ck_assert_int_eq(mkdir(folder, 0755), 0);
    ck_assert_int_eq(link(model, bb_test_path("hard.gguf")), 0);
    bb_test_write(bb_test_path("folder/notes.txt"), "x", 1);
}

#define SMALL \
    "--formats Q8_0,Q4_0 --embd-formats Q8_0,Q4_0 --points 2 --min-bpw 7 --max-bpw 11 --ctx 16 --calib-windows 4 --measure-windows 1 " \
    "--refine-windows 2 --confirm-windows 4 --search-tokens 0.001 --sweeps 0 --no-finalise"

/* Words of a command: $M the model, $T the text, $D the test's folder. */
static void expand(char *out, size_t size, const char *command)
{
    size_t n = 0;
    for (const char *p = command; *p; p++) {
        const char *word = p[0] == '$' && p[1] == 'M' ? model : p[0] == '$' && p[1] == 'T' ? text : p[0] == '$' && p[1] == 'D' ? bb_test_path("") : NULL;
        ck_assert_uint_lt(n + 600, size);
        if (word) {
            n += (size_t)snprintf(out + n, size - n, "%s", word);
            if (p[1] == 'D' && out[n - 1] == '/') n--;
            p++;
        } else out[n++] = *p;
    }
    out[n] = '\0';
}

static bb_status command(bb_err *err, const char *words)
{
    char line[2000];
    make_inputs();
    expand(line, sizeof line, words);
    return bb_test_command(NULL, err, "%s", line);
}

static uint64_t hash_of(const char *path)
{
    char    *data;
    size_t   n;
    uint64_t h = 14695981039346656037u;
    ck_assert_int_eq(bb_file_read(path, &data, &n, NULL), BB_OK);
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)data[i]) * 1099511628211u;
    bb_free(data);
    return h;
}

/* ---- refusals ---- */

static const struct {
    const char *words;
    bb_status   status;
    const char *says;
} refused[] = {
    { "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --out $D/folder", BB_IO, "is a folder" },
    { "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --out $D/none/q.gguf", BB_IO, "No such file" },
    { "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --out $M", BB_USAGE, "is the source model itself" },
    { "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --out $D/hard.gguf", BB_USAGE, "is the source model itself" },
    { "quantize $M --format Q8_0 --embd-format Q8_0 --calib $T --ctx 16 --out $T", BB_USAGE, "is the calibration text itself" },
    { "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --eval $T --ctx 16 --out $T", BB_USAGE, "is the evaluation text itself" },
    { "quantize $M --like $D/foreign.gguf --method rtn --out $D/foreign.gguf", BB_USAGE, "is the file of --like itself" },
    { "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --out $D/foreign.gguf", BB_USAGE, "was not made by bitbudget" },
    { "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --out $D/folder/notes.txt", BB_USAGE, "--force" },
    { "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --ctx 16 --eval $D/missing.txt --out $D/q1.gguf", BB_BAD_FILE, "missing.txt" },
    { "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --ctx 16 --eval $D/short.txt --out $D/q1.gguf", BB_BAD_FILE, "short.txt" },
    { "quantize $M --format Q8_0 --embd-format Q8_0 --calib $T --ctx 16 --database $T --out $D/q1.gguf", BB_IO, "calib.txt" },
    /* two files of one name, whether it is there already or not */
    { "eval $M --text $T --ctx 16 --tasks tests/data/tasks --scores $D/q1.csv --answers $D/q1.csv", BB_USAGE, "is --scores itself" },
    { "eval $M --text $T --ctx 16 --tasks tests/data/tasks --scores $D/q1.csv --answers $D/folder/../q1.csv", BB_USAGE, "is --scores itself" },
    { "export $D/r1 --plan 1 --out $D/q1.gguf --recipe $D/q1.gguf", BB_USAGE, "is the file of --out itself" },
    { "train $D/q1.gguf --init $M --text $T --checkpoint $D/q1.gguf", BB_USAGE, "is the state of --checkpoint itself" },
    { "toga $M --text $T --salience none --low Q8_0 --policy $D/q1.gguf --out $D/q1.gguf", BB_USAGE, "is the file of --out itself" },
    { "tokenize $M --text $T --out $D/foreign.gguf.u32/x.u32", BB_IO, "No such file" },
    { "tokenize $M --text $T --out $D/ids.txt", BB_USAGE, ".u32" },
    { "eval $D/no-model.gguf --text $T --tasks tests/data/tasks,$D/missing.jsonl", BB_BAD_FILE, "missing.jsonl" },
    { "train $M --init $M --text $T", BB_USAGE, "is the model of --init itself" },
    { "train $D/foreign.gguf --init $M --text $T", BB_USAGE, "was not made by bitbudget" },
    { "train $D/none/x.gguf --init $M --text $T", BB_IO, "No such file" },
    { "sweep $M " SMALL " --calib $T --out $D/folder", BB_USAGE, "is not empty and holds no run" },
    { "sweep $M " SMALL " --calib $T --out $T", BB_IO, "is no folder" },
    { "sweep $M " SMALL " --calib $T --out $T/run", BB_IO, "is no folder" },
    { "sweep $M " SMALL " --calib $D/missing.txt --out $D/r1", BB_BAD_FILE, "missing.txt" },
    { "sweep $M " SMALL " --calib $T --eval $D/missing.txt --out $D/r1", BB_BAD_FILE, "missing.txt" },
    { "sweep $M " SMALL " --calib $T --eval $D/folder --out $D/r1", BB_BAD_FILE, "not a regular file" },
    { "sweep $M " SMALL " --calib $T --profile $D/missing.yaml --out $D/r1", BB_BAD_FILE, "missing.yaml" },
    { "sweep $M " SMALL " --calib $T --database $T --out $D/r1", BB_IO, "--database" },
    { "sweep $M " SMALL " --calib $T --out $D/r\xff", BB_USAGE, "no UTF-8 text" },
    { "estimate $M " SMALL " --calib $D/missing.txt", BB_BAD_FILE, "missing.txt" },
    { "estimate $M " SMALL " --calib $T --eval $D/missing.txt", BB_BAD_FILE, "missing.txt" },
    { "estimate $M " SMALL " --calib $T --profile $D/missing.yaml", BB_BAD_FILE, "missing.yaml" },
    { "run $M " SMALL " --target-size 20kB --target-bpw 8 --calib $T --out $D/r1", BB_USAGE, "both say how large" },
    { "estimate $M " SMALL " --target-size 20kB --target-bpw 8 --calib $T", BB_USAGE, "both say how large" },
    /* what has no effect as things are */
    { "eval $M --text $T --ctx 16 --limit 3", BB_USAGE, "--limit has no effect without --tasks" },
    { "eval $M --text $T --ctx 16 --seed=1", BB_USAGE, "--seed has no effect without --generation" },
    { "eval $M --text $T --ctx 16 --prompts 3", BB_USAGE, "--prompts has no effect" },
    { "eval $M --text $T --ctx 16 --prompt-tokens 3", BB_USAGE, "--prompt-tokens has no effect" },
    { "eval $M --text $T --ctx 16 --new-tokens 3", BB_USAGE, "--new-tokens has no effect" },
    { "eval $M --text $T --ctx 16 --spread", BB_USAGE, "--spread has no effect without --chunks" },
    { "eval $M --tasks tests/data/tasks --chunks 3", BB_USAGE, "--chunks has no effect without --text" },
    { "eval $M --tasks tests/data/tasks --protocol hf", BB_USAGE, "--protocol has no effect without --text" },
    { "quantize $M --format Q8_0 --method rtn --eval-windows 2 --out $D/q1.gguf", BB_USAGE, "--eval-windows has no effect without --eval" },
    { "quantize $M --format Q8_0 --method weighted --no-compensation --out $D/q1.gguf", BB_USAGE, "--no-compensation has no effect" },
    { "quantize $M --format Q8_0 --method rtn --json --csv --out $D/q1.gguf", BB_USAGE, "--csv has no effect with --json" },
    { "train $D/q1.gguf --init $M --text $T --layers 3", BB_USAGE, "--layers has no effect with --init" },
    { "train $D/q1.gguf --init $M --text $T --schedule cosine --decay-steps 3", BB_USAGE, "--decay-steps has no effect" },
    { "rivals $D/r1 --methods ours,random --times 3", BB_USAGE, "--times has no effect" },
    { "rivals $D/r1 --methods ours,random --offspring 3", BB_USAGE, "--offspring has no effect" },
    { "rivals $D/r1 --methods uniform,separable --tokens 3", BB_USAGE, "--tokens has no effect without ours or a method that searches" },
    { "quantize $M --like $M --embd-format Q8_0 --method rtn --out $D/q1.gguf", BB_USAGE, "--embd-format has no effect with --like" },
    { "qat $M --reference $M --out $D/q1.gguf --parse-special", BB_USAGE, "--parse-special has no effect where --text and --other are self" },
    { "finalise $D/r1 --texts $T", BB_USAGE, "--texts has no effect without --ladder" },
    { "finalise $D/r1 --windows 3", BB_USAGE, "--windows has no effect without --ladder" },
    { "finalise $D/r1 --ablate", BB_USAGE, "--ablate has no effect without --ladder" },
    { "run $M " SMALL " --target-size 20kB --calib $T --out $D/r1", BB_USAGE, "--points has no effect" },
    { "run $M --target-size 20kB --sizes 20kB --calib $T --out $D/r1", BB_USAGE, "--sizes has no effect" },
    { "estimate $M --target-size 20kB --min-bpw 2", BB_USAGE, "--min-bpw has no effect" },
    { "estimate $M --target-size 20kB --ledger-only", BB_USAGE, "--ledger-only has no effect" },
    { "sweep $M --sizes 20kB --points 3 --calib $T --out $D/r1", BB_USAGE, "--points has no effect with --sizes" },
    { "sweep $M " SMALL " --screen 2 --calib $T --out $D/r1", BB_USAGE, "--screen has no effect" },
    { "sweep $M --config $D/steps.yaml --calib $T --out $D/r1", BB_BAD_FILE, "steps.yaml" },
    { "sweep $M --config $D/steps.yaml --calib $T --out $D/r1", BB_BAD_FILE, "line 2" },
    { "sweep $M " SMALL " --target-size 20kB --calib $T --out $D/r1", BB_USAGE, "sweep takes --points or --sizes" },
};

START_TEST(is_refused_at_the_start)
{
    bb_err err = BB_ERR_INIT;
    make_inputs();
    uint64_t m = hash_of(model), t = hash_of(text), f = hash_of(foreign);
    ck_assert_msg(command(&err, refused[_i].words) == refused[_i].status, "%s: %d %s", refused[_i].words, (int)err.status, err.msg);
    if (refused[_i].says) ck_assert_msg(strstr(err.msg, refused[_i].says) != NULL, "%s: %s", refused[_i].words, err.msg);
    ck_assert(m == hash_of(model) && t == hash_of(text) && f == hash_of(foreign));
    ck_assert(!bb_file_exists(bb_test_path("r1")) && !bb_file_exists(bb_test_path("q1.gguf")) && !bb_file_exists(bb_test_path("q1.gguf.work")));
}
END_TEST

static char *first_plan(const char *run)
{
    static char hash[32];
    char        path[700];
    bb_csv      t;
    snprintf(path, sizeof path, "%s/plans.csv", bb_test_path(run));
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    snprintf(hash, sizeof hash, "%s", bb_csv_text(&t, 0, (size_t)bb_csv_column(&t, "plan_hash")));
    bb_csv_done(&t);
    return hash;
}

/* Every command that writes a large file looks for room before it works. */
START_TEST(a_disk_without_room_is_refused_at_the_start)
{
    bb_err err = BB_ERR_INIT;
    char   line[2000];
    ck_assert_msg(command(&err, "sweep $M " SMALL " --calib $T --out $D/room") == BB_OK, "%s", err.msg);
    snprintf(line, sizeof line, "export $D/room --plan %s --out $D/room.gguf", first_plan("room"));
    const char *const words[] = { line, "train $D/room.gguf --tokenizer $M --text $T --layers 1 --width 16 --heads 2 --ctx 16 --steps 1 --batch 1",
                                  "train $D/room.gguf --init $M --text $T --ctx 16 --steps 1 --batch 1",
                                  "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --out $D/room.gguf",
                                  "sweep $M " SMALL " --calib $T --out $D/room2" };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        bb_free_space_limit(2000);
        bb_status status = command(&err, words[i]);
        bb_free_space_limit(UINT64_MAX);
        ck_assert_msg(status == BB_IO && strstr(err.msg, "there is room for 2000"), "%s: %d %s", words[i], (int)status, err.msg);
        ck_assert(!bb_file_exists(bb_test_path("room.gguf")) && !bb_file_exists(bb_test_path("room2")));
    }
    ck_assert_msg(command(&err, line) == BB_OK, "%s", err.msg);
}
END_TEST

/* What a method does not use is said, and not refused: one set of options can be tried with every method. */
START_TEST(what_a_method_does_not_use_is_said)
{
    static const struct {
        const char *words, *says;
    } unused[] = {
        { "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --calib $T --out $D/u.gguf", "--calib has no effect with --method rtn" },
        { "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --ctx 16 --out $D/u.gguf", "--ctx has no effect with --method rtn and without --eval" },
        { "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --precision fast --out $D/u.gguf", "--precision has no effect with --method rtn" },
        { "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --effort quick --out $D/u.gguf", "--effort has no effect with --method rtn" },
        { "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --seed 2 --out $D/u.gguf", "--seed has no effect with --method rtn" },
        { "quantize $M --format Q8_0 --embd-format Q8_0 --method weighted --calib $T --ctx 16 --calib-windows 4 --sweeps 2 --out $D/u.gguf",
          "--sweeps has no effect with --method weighted" },
        { "quantize $M --format Q8_0 --embd-format Q8_0 --method weighted --prune-ffn 0.99 --ffn-widths own --calib $T --ctx 16 --calib-windows 4 --out "
          "$D/u.gguf",
          "--prune-ffn 0.99 would remove 63 more FFN channels" }, /* two FFNs of 64 keep a block of 32 */
        { "estimate $M " SMALL " --calib $T --eval-windows 3", "--eval-windows has no effect without --eval" },
        { "estimate $M " SMALL " --calib $T --finalise-steps lfq", "--finalise-steps has no effect with --no-finalise" },
        { "estimate $M " SMALL " --calib $T --qat-rate 0.01", "--qat-rate has no effect with --no-finalise" },
        { "estimate $M " SMALL " --calib $T --output-windows 3", "--output-windows has no effect with --no-finalise" },
        { "estimate $M " SMALL " --calib $T --method rtn", "--sweeps has no effect without --method feedback" },
        { "estimate $M " SMALL " --calib $T --search separable --search-tokens 1", "--search-tokens has no effect with a --search that needs none" },
        { "estimate $M " SMALL " --calib $T --search evopress --sketch signed", "--sketch has no effect with a --search that goes by no local scores" },
    };
    static char line[2000], said[8000];
    make_inputs();
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++) {
        expand(line, sizeof line, unused[i].words);
        int code = bb_test_program(line, said, sizeof said);
        ck_assert_msg(code == 0 && strstr(said, unused[i].says), "%d: %s", code, said);
    }
    /* The seed of a rotation has an effect. */
    expand(line, sizeof line, "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --rotate r1 --seed 2 --out $D/u.gguf");
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 0);
    ck_assert_msg(!strstr(said, "no effect"), "%s", said);
}
END_TEST

/* A log file is appended to before a command looks at its own options: no other file gains lines. */
START_TEST(a_log_is_appended_to_logs_only)
{
    static char said[4000];
    char        line[2000];
    bb_err      err = BB_ERR_INIT;
    make_inputs();
    uint64_t          m = hash_of(model), t = hash_of(text);
    const char *const others[] = { model, text };
    for (int i = 0; i < 2; i++) {
        snprintf(line, sizeof line, "inspect %s --log-file %s", model, others[i]);
        ck_assert_int_eq(bb_test_program(line, said, sizeof said), 2);
        ck_assert_msg(strstr(said, "--log-file") && strstr(said, "was not made by bitbudget"), "%s", said);
    }
    ck_assert(m == hash_of(model) && t == hash_of(text));
    bb_test_write(bb_test_path("empty.log"), "", 0);
    for (int i = 0; i < 2; i++) { /* an empty file, and then one of ours */
        uint64_t before = 0, after = 0;
        snprintf(line, sizeof line, "inspect %s --log-file %s", bb_test_path("no-such.gguf"), bb_test_path("empty.log"));
        ck_assert_int_eq(bb_file_size(bb_test_path("empty.log"), &before, &err), BB_OK);
        ck_assert_int_eq(bb_test_program(line, said, sizeof said), 5);
        ck_assert_int_eq(bb_file_size(bb_test_path("empty.log"), &after, &err), BB_OK);
        ck_assert_uint_gt(after, before);
    }
}
END_TEST

START_TEST(a_short_evaluation_text_is_refused_before_calibration)
{
    bb_err err = BB_ERR_INIT;
    ck_assert_int_eq(command(&err, "sweep $M " SMALL " --calib $T --eval $D/short.txt --out $D/r2"), BB_BAD_FILE);
    ck_assert_ptr_nonnull(strstr(err.msg, "short.txt"));
    ck_assert(!bb_file_exists(bb_test_path("r2/database")));
}
END_TEST

START_TEST(what_is_ours_is_replaced_and_what_is_not_with_force)
{
    const char *quantize = "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --out $D/ours.gguf", *tokenize = "tokenize $M --text $T --out $D/ids.u32";
    bb_err      err = BB_ERR_INIT;
    ck_assert_msg(command(&err, quantize) == BB_OK, "%s", err.msg);
    ck_assert_msg(command(&err, quantize) == BB_OK, "%s", err.msg);
    ck_assert_msg(command(&err, tokenize) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(command(&err, tokenize), BB_USAGE);
    ck_assert_ptr_nonnull(strstr(err.msg, "--force"));
    bb_err_clear(&err);
    bb_outputs_force(true);
    ck_assert_msg(command(&err, tokenize) == BB_OK, "%s", err.msg);
    bb_test_write(bb_test_path("any.gguf"), "x", 1);
    ck_assert_msg(command(&err, "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --out $D/any.gguf") == BB_OK, "%s", err.msg);
    ck_assert_int_eq(command(&err, "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --out $M"), BB_USAGE); /* an input never */
    bb_err_clear(&err);
    ck_assert_int_eq(mkdir(bb_test_path("inside"), 0755), 0);
    ck_assert_int_eq(link(model, bb_test_path("inside/model.gguf")), 0);
    ck_assert_int_eq(command(&err, "sweep $D/inside/model.gguf " SMALL " --calib $T --out $D/inside"), BB_USAGE);
    ck_assert_ptr_nonnull(strstr(err.msg, "which is the source model"));
    bb_outputs_force(false);
}
END_TEST

static void interrupt_evaluation(void *self, const bb_progress *outer, const char *what)
{
    (void)outer;
    int *n = self;
    if (strncmp(what, "evaluate", 8) == 0 && !(*n)++) bb_interrupt_raise();
}

/* The file is there by then, and the same command has no more to do than to measure it. */
START_TEST(an_interrupted_evaluation_keeps_the_work)
{
    const char        *words = "quantize $M --format Q8_0 --embd-format Q8_0 --calib $T --ctx 16 --calib-windows 4 --eval $T --out $D/late.gguf";
    int                n = 0;
    const bb_log_hooks hooks = { NULL, interrupt_evaluation, &n };
    bb_err             err = BB_ERR_INIT;
    char               file[600];
    snprintf(file, sizeof file, "%s", bb_test_path("late.gguf"));
    make_inputs();
    bb_log_set_level(BB_LOG_INFO);
    bb_log_set_hooks(&hooks);
    const bb_status status = command(&err, words);
    bb_log_set_hooks(NULL);
    bb_log_set_level(BB_LOG_QUIET);
    bb_interrupt_clear();
    ck_assert_msg(n > 0 && status == BB_INTERRUPTED, "%d %s", status, err.msg);
    ck_assert(bb_file_exists(file));
    ck_assert(bb_file_exists(bb_test_path("late.gguf.work")));
    const uint64_t hash = hash_of(file);
    ck_assert_msg(command(&err, words) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(hash_of(file), hash);
    ck_assert(!bb_file_exists(bb_test_path("late.gguf.work")));
}
END_TEST

/* A full disk while the file is written: nothing is left, neither half a file nor a folder. */
START_TEST(quantize_on_a_full_disk_leaves_nothing)
{
    const char *words = "quantize $M --format Q8_0 --embd-format Q8_0 --method rtn --out $D/full.gguf";
    bb_err      err = BB_ERR_INIT;
    make_inputs();
    long n = bb_file_operations();
    ck_assert_msg(command(&err, words) == BB_OK, "%s", err.msg);
    n = bb_file_operations() - n;
    ck_assert_int_gt(n, 10);
    ck_assert_int_eq(unlink(bb_test_path("full.gguf")), 0);
    for (long k = 0; k < n; k += 1 + n / 30) {
        bb_file_fail_after(k, 1000000, ENOSPC);
        bb_status status = command(&err, words);
        bb_file_fail_after(-1, 0, 0);
        ck_assert_int_ne(status, BB_OK);
        ck_assert_msg(strstr(err.msg, strerror(ENOSPC)) && strstr(err.msg, bb_test_path("")), "%ld: %s", k, err.msg);
        ck_assert(!bb_file_exists(bb_test_path("full.gguf")) && !bb_file_exists(bb_test_path("full.gguf.work")));
    }
}
END_TEST

/* ---- a run's folder ---- */

START_TEST(one_process_works_in_a_run)
{
    bb_err  err = BB_ERR_INIT;
    bb_lock theirs = { .held = false };
    char    pid[32];
    ck_assert_int_eq(bb_make_dirs(bb_test_path("locked"), NULL), BB_OK);
    ck_assert_int_eq(bb_lock_take(&theirs, bb_test_path("locked/run.lock"), NULL), BB_OK); /* another opening: as good as another process */
    ck_assert_int_eq(command(&err, "sweep $M " SMALL " --calib $T --out $D/locked"), BB_FAILED);
    snprintf(pid, sizeof pid, "PID %ld", (long)getpid());
    ck_assert_msg(strstr(err.msg, pid) && strstr(err.msg, "locked"), "%s", err.msg);
    bb_lock_release(&theirs);
    bb_err_clear(&err);
    bb_test_write(bb_test_path("locked/front.csv.bbtmp-1-1"), "half", 4); /* of a process that was killed */
    ck_assert_int_eq(mkdir(bb_test_path("locked/models"), 0755), 0);
    bb_test_write(bb_test_path("locked/models/x.gguf.bbtmp-1-1"), "half", 4);
    ck_assert_msg(command(&err, "sweep $M " SMALL " --calib $T --out $D/locked") == BB_OK, "%s", err.msg);
    ck_assert(!bb_file_exists(bb_test_path("locked/front.csv.bbtmp-1-1")) && !bb_file_exists(bb_test_path("locked/models/x.gguf.bbtmp-1-1")));
    ck_assert_int_eq(bb_lock_take(&theirs, bb_test_path("locked/run.lock"), NULL), BB_OK);
    ck_assert_int_eq(command(&err, "finalise $D/locked"), BB_FAILED);
    bb_err_clear(&err);
    ck_assert_int_eq(command(&err, "clean $D/locked"), BB_FAILED);
    bb_err_clear(&err);
    ck_assert_msg(command(&err, "report $D/locked") == BB_OK, "%s", err.msg); /* looking does no harm */
    bb_lock_release(&theirs);
    ck_assert_msg(command(&err, "measure $D/locked") == BB_OK, "%s", err.msg);
}
END_TEST

/* Two programs at once on one database, and one alone without it: the same files. */
START_TEST(two_processes_share_a_database)
{
    char  line[2][2500], words[2000], path[700], said[4000];
    FILE *p[2];
    make_inputs();
    for (int i = 0; i < 2; i++) {
        snprintf(words, sizeof words, "sweep $M " SMALL " --calib $T --threads 1 -q --database $D/shared --out $D/shared%d 2>&1", i);
        snprintf(line[i], sizeof line[i], "%s/bitbudget ", bb_test_build());
        expand(line[i] + strlen(line[i]), sizeof line[i] - strlen(line[i]), words);
    }
    for (int i = 0; i < 2; i++) ck_assert_ptr_nonnull(p[i] = popen(line[i], "r"));
    for (int i = 0; i < 2; i++) {
        said[fread(said, 1, sizeof said - 1, p[i])] = '\0';
        ck_assert_msg(pclose(p[i]) == 0, "%s", said);
    }
    snprintf(path, sizeof path, "%s", bb_test_path("shared0/model.gguf"));
    ck_assert(hash_of(path) == hash_of(bb_test_path("shared1/model.gguf")));
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(command(&err, "sweep $M " SMALL " --calib $T --out $D/alone") == BB_OK, "%s", err.msg);
    ck_assert(hash_of(path) == hash_of(bb_test_path("alone/model.gguf")));
}
END_TEST

/* OpenBLAS would try for ever. */
START_TEST(a_limit_on_memory_is_refused_and_not_waited_for)
{
    char line[2500], said[4000];
    make_inputs();
#ifdef __SANITIZE_ADDRESS__
    return; /* needs terabytes of addresses for itself */
#endif
    snprintf(line, sizeof line, "ulimit -v 150000; exec timeout -s KILL 60 %s/bitbudget ", bb_test_build());
    expand(line + strlen(line), sizeof line - strlen(line), "sweep $M " SMALL " --calib $T -q --out $D/limited 2>&1");
    FILE *p = popen(line, "r");
    ck_assert_ptr_nonnull(p);
    said[fread(said, 1, sizeof said - 1, p)] = '\0';
    int state = pclose(p);
    ck_assert_msg(WIFEXITED(state) && WEXITSTATUS(state) == 1 && strstr(said, "ulimit -v"), "%d: %s", state, said);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("outputs");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 300);
    bb_log_set_level(BB_LOG_QUIET);
    gsl_set_error_handler_off();
    tcase_add_loop_test(t, is_refused_at_the_start, 0, (int)(sizeof refused / sizeof *refused));
    tcase_add_test(t, what_a_method_does_not_use_is_said);
    tcase_add_test(t, a_disk_without_room_is_refused_at_the_start);
    tcase_add_test(t, a_log_is_appended_to_logs_only);
    tcase_add_test(t, a_short_evaluation_text_is_refused_before_calibration);
    tcase_add_test(t, what_is_ours_is_replaced_and_what_is_not_with_force);
    tcase_add_test(t, an_interrupted_evaluation_keeps_the_work);
    tcase_add_test(t, quantize_on_a_full_disk_leaves_nothing);
    tcase_add_test(t, one_process_works_in_a_run);
    tcase_add_test(t, two_processes_share_a_database);
    tcase_add_test(t, a_limit_on_memory_is_refused_and_not_waited_for);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
