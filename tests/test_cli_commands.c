/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_commands.c: the command table, and the program's messages and exit codes (run as a program). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/cmd.h"
#include "engine/version.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"

typedef struct sample {
    char   *config, *name;
    int64_t seed;
} sample;

static const bb_option_row rows[] = {
    { "config", BB_OPT_TEXT, offsetof(sample, config), NULL, 1, 0, "FILE", "settings", NULL },
    { "name", BB_OPT_TEXT, offsetof(sample, name), "none", 1, 0, "TEXT", "a name", NULL },
    { "seed", BB_OPT_INT, offsetof(sample, seed), "1", 1, 0, "N", "a seed", NULL },
};
static const bb_command command = { "sample", "do nothing", "MODEL", "bitbudget sample m\nbitbudget sample n", rows, 3, NULL };

START_TEST(every_command_is_complete_and_found)
{
    size_t i = 0;
    for (const bb_command *c; (c = bb_command_at(i)); i++) {
        ck_assert_ptr_eq(bb_command_find(c->name), c);
        ck_assert_str_eq(bb_command_nearest(c->name), c->name);
        ck_assert(c->run && c->summary[0] && c->usage && strncmp(c->example, "bitbudget ", 10) == 0);
        bb_text help = { 0 };
        bb_help_command(c, &help);
        ck_assert_int_eq(help.status, BB_OK);
        for (size_t k = 0; k < c->n_options; k++) {
            static const char *const taken[] = { "help", "quiet", "verbose", "log-file", "threads", "version" };
            ck_assert_msg(c->options[k].help && c->options[k].help[0], "%s --%s has no help", c->name, c->options[k].name);
            for (size_t j = 0; j < 6; j++) ck_assert_str_ne(c->options[k].name, taken[j]);
        }
        bb_text_done(&help);
    }
    ck_assert_uint_ge(i, 1);
    ck_assert_ptr_null(bb_command_find("nonsense"));
    ck_assert_ptr_null(bb_command_nearest("zzzzzzzz"));
    ck_assert_str_eq(bb_command_nearest("reprot"), "report");
}
END_TEST

START_TEST(a_commands_defaults_parse)
{
    for (size_t i = 0; bb_command_at(i); i++) {
        const bb_command *c = bb_command_at(i);
        union {
            max_align_t align;
            char        bytes[4096];
        } values = { .bytes = { 0 } };
        bb_err err = BB_ERR_INIT;
        ck_assert_msg(bb_options_defaults(c->options, c->n_options, &values, &err) == BB_OK, "%s: %s", c->name, err.msg);
        bb_options_done(c->options, c->n_options, &values);
    }
}
END_TEST

/* Whatever odd YAML stands behind a name, for every option of every command: refused with the line and the name, or, for ~ where nothing is set
 * by default, the same as no line. */
START_TEST(odd_yaml_is_refused_for_every_option)
{
    static const struct {
        const char *text;
        bool        list;
    } odd[] = {
        /* list: may be right for one */
        { "#\n%s:\n", false },         { "#\n%s: ~\n", false },        { "#\n%s: null\n", false },   { "#\n%s: ''\n", false },   { "#\n%s: []\n", false },
        { "#\n%s: [a, ~]\n", false },  { "#\n%s: [a, [b]]\n", false }, { "#\n%s: {a: b}\n", false }, { "#\n%s: &a b\n", false }, { "#\n%s: *a\n", false },
        { "#\n%s: !!str a\n", false }, { "#\n%s: [1, 2]\n", true },    { "#\n? %s\n", false },
    };
    const char *path = bb_test_path("odd.yaml");
    for (size_t i = 0; bb_command_at(i); i++)
        for (size_t k = 0; k < bb_command_at(i)->n_options; k++) {
            const bb_command    *c = bb_command_at(i);
            const bb_option_row *row = &c->options[k];
            union {
                max_align_t align;
                char        bytes[4096];
            } values = { .bytes = { 0 } };
            for (size_t o = 0; o < sizeof odd / sizeof *odd; o++) {
                char   text[200], name[100];
                bb_err err = BB_ERR_INIT;
                int    n = snprintf(text, sizeof text, odd[o].text, row->name);
                bool   unset = (o == 1 || o == 2) && !row->default_text && row->type != BB_OPT_FLAG;
                bool   empty = o == 3 && row->default_text && !*row->default_text && (row->type == BB_OPT_TEXT || row->type == BB_OPT_LIST);
                snprintf(name, sizeof name, "line 2: %s", row->name);
                bb_test_write(path, text, (size_t)n);
                ck_assert_int_eq(bb_options_defaults(c->options, c->n_options, &values, &err), BB_OK);
                bb_status status = bb_options_yaml(c->options, c->n_options, &values, path, &err);
                if (unset || empty) ck_assert_msg(status == BB_OK, "%s: %s", c->name, err.msg);
                else if (!odd[o].list || row->type != BB_OPT_LIST)
                    ck_assert_msg(status == BB_BAD_FILE && strstr(err.msg, name), "%s takes '%s' (status %d): %s", c->name, text, (int)status, err.msg);
                bb_options_done(c->options, c->n_options, &values);
            }
        }
}
END_TEST

START_TEST(sources_of_options_have_their_order)
{
    const char *path = bb_test_path("c.yaml"), *pos[1];
    size_t      n;
    sample      v;
    bb_test_write(path, "name: file\nseed: 2\n", 19);
    char  a[] = "sample", b[] = "m", c[] = "--config", d[512], e[] = "--seed=4";
    char *argv[] = { a, b, c, d, e, NULL };
    snprintf(d, sizeof d, "%s", path);
    size_t before = bb_mem_live_bytes();
    ck_assert_int_eq(bb_command_options(&command, &v, 5, argv, pos, 1, &n, NULL), BB_OK);
    ck_assert_str_eq(v.name, "file");
    ck_assert_int_eq(v.seed, 4);
    ck_assert_uint_eq(n, 1);
    ck_assert_str_eq(pos[0], "m");
    bb_options_done(rows, 3, &v);
    setenv("BB_NAME", "environment", 1);
    ck_assert_int_eq(bb_command_options(&command, &v, 5, argv, pos, 1, &n, NULL), BB_OK);
    ck_assert_str_eq(v.name, "environment");
    unsetenv("BB_NAME");
    bb_options_done(rows, 3, &v);
    bb_test_write(path, "nam: file\n", 10);
    bb_err err = BB_ERR_INIT;
    ck_assert_int_eq(bb_command_options(&command, &v, 5, argv, pos, 1, &n, &err), BB_BAD_FILE);
    ck_assert_ptr_nonnull(strstr(err.msg, "line 1: there is no setting 'nam'; did you mean name?"));
    bb_options_done(rows, 3, &v);
    bb_test_write(path, "config: x\n", 10);
    bb_err_clear(&err);
    ck_assert_int_eq(bb_command_options(&command, &v, 5, argv, pos, 1, &n, &err), BB_BAD_FILE);
    ck_assert_ptr_nonnull(strstr(err.msg, "cannot name another one"));
    bb_options_done(rows, 3, &v);
    ck_assert_uint_eq(bb_mem_live_bytes(), before);
}
END_TEST

START_TEST(the_manual_escapes_troff)
{
    bb_text t = { 0 };
    bb_help_manual(&t);
    ck_assert_int_eq(t.status, BB_OK);
    ck_assert_ptr_nonnull(strstr(t.data, ".SS report\n"));
    ck_assert_ptr_nonnull(strstr(t.data, "\\-\\-threads"));
    bb_text_done(&t);
}
END_TEST

/* ---- the program ---- */

typedef struct answer {
    int  code;
    char text[131072];
} answer; /* the manual page of all commands fits */

static void run(answer *a, const char *arguments) { a->code = bb_test_program(arguments, a->text, sizeof a->text); }

START_TEST(the_program_answers)
{
    static const struct {
        const char *arguments;
        int         code;
        const char *says;
    } cases[] = {
        { "--version", 0, "bitbudget " BB_VERSION " (" },
        { "--version --verbose", 0, "\nBLAS: OpenBLAS" },
        { "--help", 0, "Commands:" },
        { "help", 0, "report" },
        { "-h", 0, "Exit status" },
        { "help report", 0, "Usage: bitbudget report RUN" },
        { "report --help", 0, "Example:" },
        { "report x -h", 0, "Example:" },
        { "help --man", 0, ".TH BITBUDGET" },
        { "", 2, "bitbudget: a command is needed" },
        { "reprot", 2, "bitbudget: there is no command 'reprot'; did you mean 'report'?" },
        { "help reprot", 2, "did you mean 'report'?" },
        { "help run sweep", 2, "'sweep' is too many" },
        { "help --man run", 2, "'run' is too many" },
        { "--frobnicate", 2, "there is no option '--frobnicate'" },
        { "report", 2, "bitbudget: report needs the folder of a run" },
        { "report --frobnicate x", 2, "bitbudget: there is no option --frobnicate" },
        { "report a b", 2, "unexpected argument 'b'" },
        { "report /nonexistent", 5, "bitbudget: /nonexistent: there is no front.csv in it" },
        { "-q report -- --threads", 5, "--threads: there is no front.csv" },
        { "report x --threads 0", 2, "whole number from 1" },
        { "report x --threads", 2, "--threads needs a value" },
        { "report x --log-file --threads 1", 2, "--log-file needs a value" },
        { "report x --log-file=/nonexistent/log", 1, "the log file cannot be opened" },
        { "-v report /nonexistent", 5, "noticed at cli/report/report_data.c:" },
        { "help >/dev/full", 1, "standard output could not be written" },
        { "help >&-", 1, "standard output could not be written" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        static answer a;
        run(&a, cases[i].arguments);
        ck_assert_msg(a.code == cases[i].code, "bitbudget %s: exit code %d, expected %d: %.400s", cases[i].arguments, a.code, cases[i].code, a.text);
        ck_assert_msg(strstr(a.text, cases[i].says) != NULL, "bitbudget %s: '%.400s' lacks '%s'", cases[i].arguments, a.text, cases[i].says);
    }
}
END_TEST

/* Every word of the table: bash completes a command, an option of that command alone, and a choice; elsewhere it is left to files. */
START_TEST(bash_completes_commands_options_and_choices)
{
    static const struct {
        const char *words, *completed;
    } cases[] = {
        { "sw", "sweep" },
        { "help sw", "sweep" },
        { "run --eff", "--effort" },
        { "run --effort th", "thorough" },
        { "train --valid-e", "--valid-every" },
        { "inspect --eff", "" },
        { "inspect --q", "--quiet" },
        { "run mod", "" },
    };
    const char *script = bb_test_path("completion.sh"), *probe = bb_test_path("probe.sh");
    char        said[8192], line[1200];
    bb_text     text = { 0 };
    bb_help_completion(&text);
    ck_assert_int_eq(text.status, BB_OK);
    bb_test_write(script, text.data, text.size);
    for (size_t i = 0; bb_command_at(i); i++)
        for (size_t k = 0; k < bb_command_at(i)->n_options; k++) {
            char option[80];
            snprintf(option, sizeof option, " --%s", bb_command_at(i)->options[k].name);
            ck_assert_ptr_nonnull(strstr(text.data, option));
        }
    bb_text_done(&text);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int n = snprintf(line, sizeof line, ". %s\nCOMP_WORDS=(bitbudget %s)\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_bitbudget\necho \"${COMPREPLY[*]}\"\n",
                         script, cases[i].words);
        bb_test_write(probe, line, (size_t)n);
        snprintf(line, sizeof line, "bash %s 2>&1", probe);
        FILE *p = popen(line, "r");
        ck_assert_ptr_nonnull(p);
        said[fread(said, 1, sizeof said - 1, p)] = '\0';
        ck_assert_int_eq(pclose(p), 0);
        said[strcspn(said, "\n")] = '\0';
        ck_assert_msg(strcmp(said, cases[i].completed) == 0, "'%s' is completed to '%s', not '%s'", cases[i].words, said, cases[i].completed);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, every_command_is_complete_and_found);
    tcase_add_test(t, a_commands_defaults_parse);
    tcase_add_test(t, odd_yaml_is_refused_for_every_option);
    tcase_add_test(t, sources_of_options_have_their_order);
    tcase_add_test(t, the_manual_escapes_troff);
    tcase_add_test(t, the_program_answers);
    tcase_add_test(t, bash_completes_commands_options_and_choices);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
