/* SPDX-License-Identifier: GPL-3.0-or-later
 * main.c: the bitbudget command: global options, dispatch through the table of cmd.h, messages and exit codes. */
#include <fcntl.h>
#include <gsl/gsl_errno.h>
#include <locale.h>
#include <omp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cpus.h"
#include "base/file.h"
#include "base/log.h"
#include "engine/version.h"
#include "cli/cmd.h"
#include "cli/mpi.h"
#include "engine/outputs.h"
#include "engine/environment.h"
#include "kernels/blas.h"

typedef struct globals {
    bool        help, version;
    bool        quiet, verbose, force;
    const char *log_file, *threads;
} globals;

/* --name VALUE or --name=VALUE at argv[*i]; true when it is that option. */
static bool take_value(const char *name, int argc, char **argv, int *i, const char **value, bb_err *err)
{
    size_t n = strlen(name);
    if (strncmp(argv[*i], name, n) != 0 || (argv[*i][n] != '\0' && argv[*i][n] != '=')) return false;
    if (argv[*i][n] == '=') *value = argv[*i] + n + 1;
    else if (*i + 1 < argc && strncmp(argv[*i + 1], "--", 2) != 0) *value = argv[++*i];
    else BB_FAIL(err, BB_USAGE, "%s needs a value", name);
    return true;
}

/* Removes the global options from argv, in place. */
static bb_status take_globals(int *argc, char **argv, globals *g, bb_err *err)
{
    int kept = 1, i = 1;
    for (; i < *argc && strcmp(argv[i], "--") != 0; i++) {
        const char *a = argv[i];
        if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0) g->help = true;
        else if (strcmp(a, "--version") == 0) g->version = true;
        else if (strcmp(a, "-q") == 0 || strcmp(a, "--quiet") == 0) g->quiet = true;
        else if (strcmp(a, "--force") == 0) g->force = true;
        else if (strcmp(a, "-v") == 0 || strcmp(a, "--verbose") == 0) g->verbose = true;
        else if (take_value("--log-file", *argc, argv, &i, &g->log_file, err) || take_value("--threads", *argc, argv, &i, &g->threads, err)) {
            if (err->status != BB_OK) return err->status;
        } else argv[kept++] = argv[i];
    }
    for (; i < *argc; i++) argv[kept++] = argv[i];
    argv[ *argc = kept] = NULL;
    return BB_OK;
}

static bb_status apply_globals(const globals *g, bb_err *err)
{
    int64_t   threads;
    uint64_t  bytes;
    bb_status status = BB_OK;
    if (g->quiet) bb_log_set_level(BB_LOG_QUIET);
    bb_outputs_force(g->force);
    if (g->verbose) bb_log_set_level(BB_LOG_DEBUG);
    omp_set_num_threads(bb_cpus_threads(omp_get_max_threads()));
    if (g->threads) {
        if (bb_parse_int(g->threads, &threads, NULL) != BB_OK || threads < 1 || threads > 4096)
            return BB_FAIL(err, BB_USAGE, "--threads: '%.40s' should be a whole number from 1 to 4096", g->threads);
        omp_set_num_threads((int)threads);
    }
    if (!g->log_file) return BB_OK;
    if (bb_file_size(g->log_file, &bytes, NULL) == BB_OK) status = bb_output_check("--log-file", g->log_file, BB_OUTPUT_LOG, NULL, NULL, 0, err);
    return status == BB_OK ? bb_log_to_file(g->log_file, err) : status;
}

static bb_status unknown_command(const char *name, bb_err *err)
{
    const char *nearest = bb_command_nearest(name);
    if (nearest) return BB_FAIL(err, BB_USAGE, "there is no command '%.60s'; did you mean '%s'?", name, nearest);
    return BB_FAIL(err, BB_USAGE, "there is no command '%.60s'; 'bitbudget help' lists them", name);
}

static bb_status print(bb_text *text, bb_err *err)
{
    bb_status status = text->status;
    if (status != BB_OK) BB_FAIL(err, status, "out of memory");
    else fwrite(text->data, 1, text->size, stdout);
    bb_text_done(text);
    return status;
}

static bb_status help(const char *name, bb_err *err)
{
    bb_text           text = { 0 };
    const bb_command *c = name ? bb_command_find(name) : NULL;
    if (name && strcmp(name, "--man") == 0) bb_help_manual(&text);
    else if (name && strcmp(name, "--completion") == 0) bb_help_completion(&text);
    else if (name && !c) return unknown_command(name, err);
    else if (c) bb_help_command(c, &text);
    else bb_help_overview(&text);
    return print(&text, err);
}

static bb_status dispatch(int argc, char **argv, const globals *g, bb_err *err)
{
    if (g->version) {
        printf("bitbudget %s (%s, %s)\n", BB_VERSION, bb_version_commit(), bb_version_compiler());
        if (g->verbose) /* what decides bits */
            printf("commit: %s\ncompiler: %s\nCPU level: %s\nBLAS: %s\nMPI: %s\n", bb_version_commit(), bb_version_compiler(), bb_cpu_level(), bb_blas_name(),
                   bb_mpi_name());
        return BB_OK;
    }
    if (argc < 2) return g->help ? help(NULL, err) : BB_FAIL(err, BB_USAGE, "a command is needed; 'bitbudget help' lists them");
    if (strcmp(argv[1], "help") == 0 && argc > 3) return BB_FAIL(err, BB_USAGE, "help takes one command: '%.60s' is too many", argv[3]);
    if (strcmp(argv[1], "help") == 0) return help(argc > 2 ? argv[2] : NULL, err);
    const bb_command *c = bb_command_find(argv[1]);
    if (!c && argv[1][0] == '-') return BB_FAIL(err, BB_USAGE, "there is no option '%.60s' before the command; 'bitbudget help' lists both", argv[1]);
    if (!c) return unknown_command(argv[1], err);
    if (g->help) return help(c->name, err);
    return c->run(argc - 1, argv + 1, err);
}

/* Waiting threads sleep: where other work shares the machine, threads that spin at the end of every small parallel loop take the processors from
 * those that they wait for. The OpenMP runtime reads its settings once, before main, and has no call for this one: the program starts itself again
 * with them set. What the user has set stays; where this fails, the program only is slower under load. */
static void sleep_while_waiting(char **argv)
{
    char    path[4096];
    ssize_t n;
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || setenv("OMP_WAIT_POLICY", "passive", 0) != 0) return;
    if ((n = readlink("/proc/self/exe", path, sizeof path - 1)) < 0) return;
    path[n] = '\0';
    setenv("OPENBLAS_NUM_THREADS", "1", 0); /* our threads call it, it needs none of its own (bb_blas_init), and is told so before it starts them */
    execv(path, argv);
}

/* A stream that the caller has closed gives its number to the next file that is opened, a table of results or a model, and what is printed would then be in that
 * file. Opened for reading alone, so that printing fails as it does on a closed one. */
static void hold_streams(void)
{
    for (int fd = open("/dev/null", O_RDONLY); fd >= 0; fd = open("/dev/null", O_RDONLY)) {
        if (fd <= STDERR_FILENO) continue;
        close(fd);
        return;
    }
}

/* A rank behind the first one: it says nothing, rank 0 finds what is wrong with the arguments. */
static int follow(bb_mpi *mpi, globals *g)
{
    g->log_file = NULL;
    apply_globals(g, NULL);
    bb_log_set_level(BB_LOG_QUIET);
    bb_mpi_serve(mpi);
    if (bb_blas_is_limited()) _exit(0);
    return 0;
}

int main(int argc, char **argv)
{
    bb_err  err = BB_ERR_INIT;
    globals g = { 0 };
    hold_streams();
    sleep_while_waiting(argv);
    setlocale(LC_ALL, "C");
    gsl_set_error_handler_off();
    bb_blas_init();
    bb_interrupt_install();
    bb_map_watch();
    bb_mpi    mpi;
    bb_status status = take_globals(&argc, argv, &g, &err), joined = bb_mpi_start(&mpi, argc, argv, &err);
    if (mpi.rank > 0) return follow(&mpi, &g);
    if (status == BB_OK) status = joined;
    if (status == BB_OK) status = apply_globals(&g, &err);
    if (status == BB_OK) status = dispatch(argc, argv, &g, &err);
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == BB_OK) status = BB_FAIL(&err, BB_IO, "standard output could not be written");
    if (status != BB_OK) bb_log_failure(err.status != BB_OK ? err.msg : bb_status_text(status));
    if (status != BB_OK && err.file) bb_debug("noticed at %s:%d (%s)", err.file, err.line, bb_status_text(status));
    bb_log_to_file(NULL, NULL);
    bb_log_to_run(NULL, NULL);
    bb_mpi_end(&mpi);
    if (bb_blas_is_limited()) { /* a thread of OpenBLAS may wait for memory for ever, and its library for the thread */
        fflush(NULL);
        _exit(bb_status_exit_code(status));
    }
    return bb_status_exit_code(status);
}
