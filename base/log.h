/* SPDX-License-Identifier: GPL-3.0-or-later
 * log.h: talk on stderr (and in a log file), progress with ETA, and the interrupt flag.
 *
 * stdout is data, stderr is talk. On a terminal the progress line is redrawn in place; elsewhere, and in the log files, a plain line appears every
 * ten seconds (BB_PROGRESS_S in the environment: other seconds, 0 for every step), also while one step takes longer: a thread of its own prints
 * it. NO_COLOR and TERM=dumb are respected. Thread-safe.
 */
#ifndef BB_BASE_LOG_H
#define BB_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef enum bb_log_level { BB_LOG_QUIET, BB_LOG_WARN, BB_LOG_INFO, BB_LOG_DEBUG } bb_log_level;

void bb_log_set_level(bb_log_level level);
/* Both append timestamped lines, whatever the level of the terminal; NULL closes. The first is the user's (--log-file), the second that of the run
 * directory which was opened last: it stays open behind the run, so that it hears how the command ended. */
bb_status bb_log_to_file(const char *path, bb_err *err);
bb_status bb_log_to_run(const char *path, bb_err *err);
void      bb_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void      bb_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
void      bb_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));
void      bb_log_failure(const char *sentence); /* "bitbudget: sentence", at every level; for main() */

typedef struct bb_progress {
    char     label[64];
    uint64_t done, total; /* total 0: not known beforehand, only the time is shown */
    uint64_t skipped;     /* of done: found finished, so that it says nothing about the speed */
    double   started_s;   /* monotonic seconds */
} bb_progress;

/* One inside another is shown behind it; those of one label that several threads have begun are shown as one, with their sums. An outer end also ends what an
 * error on its thread has left open inside, bb_progress_leave all that this thread has begun. The end of one inside another has a line only if it took as long as
 * from one plain line to the next. */
void bb_progress_start(bb_progress *p, const char *label, uint64_t total);
void bb_progress_add(bb_progress *p, uint64_t n); /* thread-safe, as the next one */
void bb_progress_skip(bb_progress *p, uint64_t n);
void bb_progress_end(bb_progress *p);
void bb_progress_leave(void);

/* Progress is part of a job: the piece of work at hand should take `piece` seconds from now, and what comes behind it `later` seconds. From then on what
 * is shown says how long the whole job is left: the piece's own steps tell when they are slower than that. Negative: there is no job. */
void bb_progress_job(double piece, double later);

/* For a library inside another program: while hooks are set nothing is written to stderr and the terminal is not asked about; the log files go on.
 * Both may be NULL. They are called by any thread, one call at a time, and must not set hooks themselves. */
typedef struct bb_log_hooks {
    void (*line)(void *self, bb_log_level level, const char *text);
    /* At the start of each piece of work, at its steps at most ten times a second, and once a second while a step lasts. outer: what stands first in
     * the text, which is what a terminal would show. */
    void (*progress)(void *self, const bb_progress *outer, const char *text);
    void *self;
} bb_log_hooks;
/* NULL takes them back; none is called any more when it returns, and the thread that watches the progress has ended. *hooks is borrowed till then. */
void bb_log_set_hooks(const bb_log_hooks *hooks);

double bb_now_s(void); /* monotonic seconds */
double bb_cpu_s(void); /* processor seconds of all threads of the process */

/* SIGINT, SIGTERM and SIGUSR1 set a flag that long loops poll: they then save their checkpoint and return
 * BB_INTERRUPTED. A second SIGINT ends the process at once. SIGXFSZ is ignored: writing fails instead. */
void bb_interrupt_install(void);
bool bb_interrupted(void);
/* From bb_now_s() == when on it is as if a signal had come, until it is set again; 0: never. bb_interrupt_late: that is why, and no signal came. */
void bb_interrupt_at(double when);
bool bb_interrupt_late(void);
void bb_interrupt_raise(void); /* as a signal does; for the library and tests, as the next one */
void bb_interrupt_clear(void);

#endif
