/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd.c: see cmd.h. */
#include "cli/cmd.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/effort.h"
#include "engine/version.h"

static const bb_command *const commands[] = {
#define X(name) &bb_command_##name,
    BB_COMMAND_LIST(X)
#undef X
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static const char global_options[] =
    "  --help                    show this text\n"
    "  -q, --quiet               say only what went wrong\n"
    "  -v, --verbose             say more\n"
    "  --log-file FILE           append what is said, with times, to FILE\n"
    "  --force                   replace files that bitbudget did not make, and use folders that hold other things\n"
    "  --threads N               threads to use (default: as many as affinity and control group let run at once); results do not depend on it\n";

static const char exit_codes[] = "  0  success\n"
                                 "  1  the operation failed\n"
                                 "  2  wrong usage\n"
                                 "  3  the budget cannot be met\n"
                                 "  4  a guard or a verification failed\n"
                                 "  5  a bad or unsupported input file\n"
                                 "  75 interrupted with a valid checkpoint: the same command goes on\n";

const bb_command *bb_command_at(size_t i) { return i < N_COMMANDS ? commands[i] : NULL; }

const bb_command *bb_command_find(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

const char *bb_command_nearest(const char *name)
{
    const char *nearest = NULL;
    size_t      best = strlen(name) / 2 + 1;
    for (size_t i = 0; i < N_COMMANDS; i++) {
        size_t distance = bb_edit_distance(name, commands[i]->name);
        if (distance >= best) continue;
        best = distance;
        nearest = commands[i]->name;
    }
    return nearest;
}

/* The value of the text option `name` in values that are already parsed; NULL without one. */
static const char *text_option(const bb_command *c, const void *values, const char *name)
{
    for (size_t i = 0; i < c->n_options; i++)
        if (strcmp(c->options[i].name, name) == 0 && c->options[i].type == BB_OPT_TEXT) return *(char *const *)((const char *)values + c->options[i].offset);
    return NULL;
}

/* Whether the option `time` of values that are already parsed is set. */
static bool has_time(const bb_command *c, const void *values)
{
    for (size_t i = 0; i < c->n_options; i++)
        if (strcmp(c->options[i].name, "time") == 0) return *(const double *)((const char *)values + c->options[i].offset) > 0;
    return false;
}

static const char by_time[] = "by time"; /* instead of a level: what is not given is marked, for bb_effort_unmark */

typedef struct arguments {
    int          argc;
    char       **argv;
    const char **positional;
    size_t       max_positional, *n_positional;
} arguments;

/* Once through all sources, the later ones winning. effort, config: NULL or what an earlier pass has found. */
static bb_status read_options(const bb_command *c, void *values, const char *effort, const char *config, const arguments *a, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_options_defaults(c->options, c->n_options, values, err));
    if (effort && strcmp(effort, by_time) == 0) bb_effort_mark(c->options, c->n_options, values);
    else if (effort) BB_TRY(bb_effort_apply(c->options, c->n_options, values, effort, err));
    if (config) BB_TRY(bb_options_yaml(c->options, c->n_options, values, config, err));
    if (config && text_option(c, values, "config")) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s: config: a configuration file cannot name another one", config);
        goto done;
    }
    BB_TRY(bb_options_environment(c->options, c->n_options, values, err));
    BB_TRY(bb_options_parse(c->options, c->n_options, values, a->argc, a->argv, a->positional, a->max_positional, a->n_positional, err));
done:
    return status;
}

/* The same again, with what the values of the last pass say about file and effort. */
static bb_status read_again(const bb_command *c, void *values, const char *effort, const char *config, const arguments *a, bb_err *err)
{
    char     *e = effort ? bb_strdup(effort, err) : NULL, *path = config ? bb_strdup(config, err) : NULL;
    bb_status status = (effort && !e) || (config && !path) ? BB_NOMEM : BB_OK;
    if (status == BB_OK) {
        bb_options_done(c->options, c->n_options, values);
        status = read_options(c, values, e, path, a, err);
    }
    bb_free(e);
    bb_free(path);
    return status;
}

bb_status bb_command_options(const bb_command *c, void *values, int argc, char **argv, const char **positional, size_t max_positional, size_t *n_positional,
                             bb_err *err)
{
    const arguments a = { argc, argv, positional, max_positional, n_positional };
    bb_status       status;
    BB_TRY(read_options(c, values, NULL, NULL, &a, err));
    if (text_option(c, values, "config")) BB_TRY(read_again(c, values, NULL, text_option(c, values, "config"), &a, err));
    if (has_time(c, values)) BB_TRY(read_again(c, values, by_time, text_option(c, values, "config"), &a, err));
    else if (text_option(c, values, "effort")) BB_TRY(read_again(c, values, text_option(c, values, "effort"), text_option(c, values, "config"), &a, err));
done:
    return status;
}

static bool is_given(int argc, char **argv, const char *option)
{
    const size_t n = strlen(option);
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strncmp(argv[i], option, n) == 0 && (argv[i][n] == '\0' || argv[i][n] == '=')) return true;
    return false;
}

bb_status bb_command_refuse_idle(int argc, char **argv, const bb_idle_option *options, size_t n, bb_err *err)
{
    for (size_t i = 0; i < n; i++)
        if (options[i].is_idle && is_given(argc, argv, options[i].option))
            return BB_FAIL(err, BB_USAGE, "%s has no effect %s: leave it out", options[i].option, options[i].why);
    return BB_OK;
}

void bb_command_warn_idle(int argc, char **argv, const bb_idle_option *options, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (options[i].is_idle && is_given(argc, argv, options[i].option)) bb_warn("%s has no effect %s", options[i].option, options[i].why);
}

void bb_help_overview(bb_text *out)
{
    bb_text_add(out, "bitbudget " BB_VERSION ": the best compressed version of a language model for a byte budget\n\n"
                     "Usage: bitbudget COMMAND [ARGUMENTS] [OPTIONS]\n\nCommands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++) bb_text_addf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    bb_text_addf(out, "\nOptions of every command:\n%s", global_options);
    bb_text_addf(out, "\nExit status:\n%s", exit_codes);
    bb_text_add(out, "\n'bitbudget help COMMAND' shows a command's own options and an example; 'bitbudget --version' the version.\n");
}

/* Each line of text, indented by two spaces. */
static void add_lines(bb_text *out, const char *text)
{
    while (*text) {
        size_t n = strcspn(text, "\n");
        bb_text_addf(out, "  %.*s\n", (int)n, text);
        text += n + (text[n] == '\n');
    }
}

void bb_help_command(const bb_command *c, bb_text *out)
{
    bb_text_addf(out, "Usage: bitbudget %s %s [OPTIONS]\n\n%c%s.\n", c->name, c->usage, toupper((unsigned char)c->summary[0]), c->summary + 1);
    if (c->n_options > 0) {
        bb_text_add(out, "\nOptions:\n");
        bb_options_print_help(c->options, c->n_options, out);
        bb_effort_print_help(c->options, c->n_options, out);
        bb_text_add(out, "\nEach option can also be set in the environment: --some-name as BB_SOME_NAME.\n");
    }
    bb_text_addf(out, "\nOptions of every command:\n%s\nExample:\n", global_options);
    add_lines(out, c->example);
}

/* Text as troff shows it unchanged, inside .nf. */
static void add_troff(bb_text *out, const char *text)
{
    for (bool start = true; *text; start = *text++ == '\n') {
        if (start && (*text == '.' || *text == '\'')) bb_text_add(out, "\\&");
        if (*text == '\\') bb_text_add(out, "\\e");
        else if (*text == '-') bb_text_add(out, "\\-");
        else bb_text_addn(out, text, 1);
    }
}

void bb_help_manual(bb_text *out)
{
    bb_text_add(out, ".TH BITBUDGET 1 \"\" \"bitbudget " BB_VERSION "\"\n.SH NAME\nbitbudget \\- the best compressed version of a language "
                     "model for a byte budget\n.SH SYNOPSIS\n.B bitbudget\n.I COMMAND\n[\\fIARGUMENTS\\fR] [\\fIOPTIONS\\fR]\n.SH COMMANDS\n");
    for (size_t i = 0; i < N_COMMANDS; i++) {
        bb_text help = { 0 };
        bb_help_command(commands[i], &help);
        bb_text_addf(out, ".SS %s\n.nf\n", commands[i]->name);
        if (help.status == BB_OK) add_troff(out, help.data);
        else if (out->status == BB_OK) out->status = help.status;
        bb_text_add(out, ".fi\n");
        bb_text_done(&help);
    }
    bb_text_add(out, ".SH EXIT STATUS\n.nf\n");
    add_troff(out, exit_codes);
    bb_text_add(out, ".fi\n");
}

static void add_choices(bb_text *out, const char *choices)
{
    for (const char *p = choices; *p; p++) bb_text_addn(out, *p == '|' ? " " : p, 1);
}

void bb_help_completion(bb_text *out)
{
    bb_text_add(out, "# bash completion of bitbudget " BB_VERSION ", made by `bitbudget help --completion`\n"
                     "_bitbudget() {\n"
                     "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} words='--help --quiet --verbose "
                     "--log-file --force --threads'\n"
                     "    COMPREPLY=()\n"
                     "    if [ \"$COMP_CWORD\" -eq 1 ] || { [ \"$COMP_CWORD\" -eq 2 ] && [ \"$command\" = help ]; }; then\n"
                     "        words='help --help --version");
    for (size_t i = 0; i < N_COMMANDS; i++) bb_text_addf(out, " %s", commands[i]->name);
    bb_text_add(out, "'\n    else\n        case $command,$prev in\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        for (size_t k = 0; k < commands[i]->n_options; k++) {
            if (!commands[i]->options[k].choices) continue;
            bb_text_addf(out, "        %s,--%s) words='", commands[i]->name, commands[i]->options[k].name);
            add_choices(out, commands[i]->options[k].choices);
            bb_text_add(out, "' ;;\n");
        }
    bb_text_add(out, "        *) case $cur in -*) ;; *) return ;; esac\n            case $command in\n");
    for (size_t i = 0; i < N_COMMANDS; i++) {
        bb_text_addf(out, "            %s) words=\"$words", commands[i]->name);
        for (size_t k = 0; k < commands[i]->n_options; k++) bb_text_addf(out, " --%s", commands[i]->options[k].name);
        bb_text_add(out, "\" ;;\n");
    }
    bb_text_add(out, "            esac ;;\n        esac\n    fi\n    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\n"
                     "complete -o default -F _bitbudget bitbudget\n"); /* without words of ours: files */
}
