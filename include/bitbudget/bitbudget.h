/* SPDX-License-Identifier: GPL-3.0-or-later
 * bitbudget.h: libbitbudget: the best compressed version of a language model for a byte budget, from C and C++.
 *
 *   bitbudget *b;
 *   if (bitbudget_open("model.gguf", &b) == BITBUDGET_OK && bitbudget_set(b, "out", "runs/first") == BITBUDGET_OK
 *       && bitbudget_set_budget(b, 3355443) == BITBUDGET_OK && bitbudget_run(b) == BITBUDGET_OK)
 *       bitbudget_export(b, NULL, "small.gguf");
 *   else
 *       fprintf(stderr, "%s\n", bitbudget_message(b));
 *   bitbudget_close(b);
 *
 * Every call returns a status, and one that fails leaves one sentence (bitbudget_message). Nothing is printed, nothing exits, and what a call changes
 * of the process it puts back before it returns. One call at a time in a process: another one, from a callback or another thread, is refused with
 * BITBUDGET_BUSY; bitbudget_cancel, _message, _status_text and _version may always be called. docs/api.md says all of it with an example.
 *
 * Before version 1.0 the interface may change with the number in the library's name (libbitbudget.so.0).
 */
#ifndef BB_BITBUDGET_H
#define BB_BITBUDGET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BITBUDGET_API __attribute__((visibility("default")))
#else
#define BITBUDGET_API
#endif

typedef enum bitbudget_status {
    BITBUDGET_OK = 0,
    BITBUDGET_FAILED = 1,     /* the operation failed */
    BITBUDGET_USAGE = 2,      /* an argument or option is wrong, or this place is another's */
    BITBUDGET_INFEASIBLE = 3, /* the budget cannot be met; the sentence says what can */
    BITBUDGET_GUARD = 4,      /* a guard or a verification failed */
    BITBUDGET_BAD_FILE = 5,   /* a bad input file */
    BITBUDGET_NOMEM = 6,
    BITBUDGET_IO = 7,
    BITBUDGET_NUMERIC = 8, /* a numerical failure (NaN, singular) */
    BITBUDGET_UNSUPPORTED = 9,
    BITBUDGET_NOT_FOUND = 10,
    BITBUDGET_BUSY = 20,       /* another call is in progress in this process; the handle's sentence is left as it is */
    BITBUDGET_INTERRUPTED = 75 /* cancelled; the same call goes on from what is on disk */
} bitbudget_status;

/* A model or a run directory, the options for it, and what is open of it. */
typedef struct bitbudget bitbudget;

BITBUDGET_API const char *bitbudget_version(void);                        /* "0.1.0" */
BITBUDGET_API const char *bitbudget_status_text(bitbudget_status status); /* "the budget cannot be met" */

/* ---- opening and closing ---- */

/* Opens a model file (GGUF), which is mapped, not read. *out is set also on failure, for bitbudget_message, and is to be closed; NULL only when memory
 * is short. */
BITBUDGET_API bitbudget_status bitbudget_open(const char *model_path, bitbudget **out);
/* Opens a run directory that bitbudget_run, `bitbudget run` or `bitbudget sweep` made, with the options that it was made with. */
BITBUDGET_API bitbudget_status bitbudget_open_run(const char *run_dir, bitbudget **out);
BITBUDGET_API void             bitbudget_close(bitbudget *b); /* NULL: nothing */

/* The sentence of the handle's last failure: what was found, where, what would be right; "" after a call that went well. Lives until the next call. */
BITBUDGET_API const char *bitbudget_message(const bitbudget *b);

/* ---- options ---- */

/* An option of `bitbudget help run` by its name without the dashes ("out", "calib", "effort", "formats"), the value as on the command line ("true",
 * "false" for a flag); besides "threads" (1 .. 4096; default: as OpenMP has it) and "force" (as --force). "out", the run directory, has no default
 * here. The environment is not looked at. Names that do not exist (BITBUDGET_NOT_FOUND) and values that are none are refused here, what depends on the
 * model at the first stage. Options set after a stage hold from the next one; what is on disk and still means the same is kept. */
BITBUDGET_API bitbudget_status bitbudget_set(bitbudget *b, const char *option, const char *value);
/* One file of at most this many bytes. */
BITBUDGET_API bitbudget_status bitbudget_set_budget(bitbudget *b, uint64_t bytes);
/* A front of these sizes; n 0: of the options "points", "min-bpw", "max-bpw", which is also what holds while nothing is set. */
BITBUDGET_API bitbudget_status bitbudget_set_sizes(bitbudget *b, const uint64_t *bytes, size_t n);

/* ---- hearing of it, and stopping it ---- */

typedef enum bitbudget_log_level { BITBUDGET_LOG_WARNING = 1, BITBUDGET_LOG_INFO = 2, BITBUDGET_LOG_DEBUG = 3 } bitbudget_log_level;

/* Callbacks are called by the thread of the call in progress or by threads that it has started, one callback at a time, and should return soon. */
typedef void (*bitbudget_log_fn)(void *self, bitbudget_log_level level, const char *line);

typedef struct bitbudget_progress {
    const char *label;       /* of the work in progress: "build options", "search, tokens"; as the next one, lives until the callback returns */
    const char *text;        /* the same with what goes on inside it, for a status line: "finalise: 1/3 (33%) 8.1s, left 16s; blocks: ..." */
    uint64_t    done, total; /* total 0: not known beforehand */
    double      seconds;     /* since it began */
} bitbudget_progress;

/* Called when work begins, at its steps at most ten times a second, and once a second while a step lasts. Any value but 0 cancels the call in
 * progress: it saves what it has and returns BITBUDGET_INTERRUPTED. */
typedef int (*bitbudget_progress_fn)(void *self, const bitbudget_progress *p);

BITBUDGET_API bitbudget_status bitbudget_on_log(bitbudget *b, bitbudget_log_fn f, void *self); /* f NULL: nobody hears */
BITBUDGET_API bitbudget_status bitbudget_on_progress(bitbudget *b, bitbudget_progress_fn f, void *self);
/* Cancels the call in progress on b; nothing without one. From any thread, a callback or a signal handler. */
BITBUDGET_API void bitbudget_cancel(bitbudget *b);

/* ---- before a run ---- */

typedef struct bitbudget_model {
    char     architecture[32], name[128]; /* cut where they are longer */
    char     precision[32];               /* "full precision", or "source (Q4_1)" of a file that is quantized itself */
    uint64_t bytes, n_weights;
    double   bits_per_weight; /* of the whole file */
    uint32_t n_layer, n_embd, n_vocab, n_ctx;
} bitbudget_model;

BITBUDGET_API bitbudget_status bitbudget_inspect(bitbudget *b, bitbudget_model *out);

typedef struct bitbudget_forecast {
    uint64_t smallest_bytes, largest_bytes;      /* files that these options can reach */
    uint64_t ram_bytes;                          /* beside the mapped model */
    uint64_t disk_bytes;                         /* option database, second moments, and hidden states that max-ram has no room for */
    double   tokens;                             /* forwarded, without tuning and evaluation */
    double   seconds, seconds_low, seconds_high; /* on a quiet machine */
    size_t   n_sizes;                            /* that the search serves */
} bitbudget_forecast;

/* What a run with these options would take; about a second of the run's own work is timed for it, and nothing is written. BITBUDGET_INFEASIBLE: a size
 * cannot be reached. */
BITBUDGET_API bitbudget_status bitbudget_estimate(bitbudget *b, bitbudget_forecast *out);

/* ---- stages ---- */

/* All stages in the run directory, from calibrate to evaluate: model.gguf, front.csv and the evidence, as `bitbudget run` writes them, byte for byte
 * (no report.html: `bitbudget report DIR` makes it). What is finished is found on disk and not done again. */
BITBUDGET_API bitbudget_status bitbudget_run(bitbudget *b);
/* One stage, which needs what those before it left on disk. */
BITBUDGET_API bitbudget_status bitbudget_run_stage(bitbudget *b, const char *stage);
/* Their names in order: "calibrate", ...; NULL past the end. */
BITBUDGET_API const char *bitbudget_stage_name(size_t i);

/* ---- after a run ---- */

typedef struct bitbudget_plan {
    char     hash[24], source[48]; /* its name in the directory; who found it */
    uint64_t bytes;
    double   bits_per_weight;
    double   kl, kl_se; /* nats a token to the model itself, standard error */
    double   perplexity, perplexity_se;
    double   same_top, pruned; /* shares: same most likely token; weights of the blocks removed */
    int      is_winner;        /* its file is model.gguf */
    int      is_source;        /* the model itself on the same windows; its hash is "-" */
} bitbudget_plan;

/* The front as evaluated, ascending in bytes, the model itself last. *plans lives until the next call with b. BITBUDGET_NOT_FOUND: nothing was
 * evaluated in the run directory. */
BITBUDGET_API bitbudget_status bitbudget_front(bitbudget *b, const bitbudget_plan **plans, size_t *n);
/* Writes a plan of the run, by the beginning of its hash, as a model file; NULL: the winner. A file that bitbudget did not make is replaced only
 * with the option "force". */
BITBUDGET_API bitbudget_status bitbudget_export(bitbudget *b, const char *plan, const char *path);

#ifdef __cplusplus
}
#endif

#endif
