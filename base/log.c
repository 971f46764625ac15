/* SPDX-License-Identifier: GPL-3.0-or-later
 * log.c: see log.h. One mutex guards the stream, the log files and the progress lines.
 *
 * What is in progress is copied to a small stack here: the thread that prints it must not look into a caller's frame, which an error may have
 * left without bb_progress_end. What hooks are told is written down under that mutex and told without it, under one of their own. */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bb_log_level    shown = BB_LOG_INFO;
static FILE           *files[2];  /* the user's log file, the run directory's; or NULL */
static bool            line_open; /* a progress line stands on the terminal */

enum { MAX_NESTED = 64 };
static struct {
    const bb_progress *owner;
    bb_progress        copy;
    pthread_t          thread; /* that began it */
} nested[MAX_NESTED];
static size_t         n_nested;
static double         drawn_s, plain_s;             /* when the progress was last drawn on the terminal, and written as a line */
static double         job_ends_s, job_later_s = -1; /* when the piece at hand should end, and what comes behind it; negative: no job */
static pthread_cond_t started;
static pthread_t      ticker;
static bool           has_ticker, ticker_ends;

static pthread_mutex_t     hook_lock = PTHREAD_MUTEX_INITIALIZER; /* taken before or without `lock` */
static const bb_log_hooks *hooks;                                 /* changed under both */

static const double LEAST_MADE = 0.2; /* of a step: it then says how long the others take */
static const double REDRAW_S = 0.1, TICK_S = 1.0, PLAIN_LINE_S = 10.0;

/* The caller holds one of the locks. */
static bool is_terminal(void)
{
    static int known = -1;
    if (hooks) return false;
    if (known < 0) {
        const char *term = getenv("TERM");
        known = isatty(STDERR_FILENO) && (!term || strcmp(term, "dumb") != 0);
    }
    return known == 1;
}

static bool has_color(void)
{
    const char *no_color = getenv("NO_COLOR");
    return is_terminal() && !(no_color && *no_color);
}

void bb_log_set_level(bb_log_level level)
{
    pthread_mutex_lock(&lock);
    shown = level;
    pthread_mutex_unlock(&lock);
}

static bb_status open_log(FILE **place, const char *path, bb_err *err)
{
    /* NONBLOCK: a named pipe that nobody reads is refused, not waited for. */
    int   fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0666) : -1;
    FILE *opened = fd >= 0 ? fdopen(fd, "a") : NULL;
    if (path && !opened) {
        int reason = errno;
        if (fd >= 0) close(fd);
        return BB_FAIL(err, BB_IO, "%s: the log file cannot be opened: %s", path, strerror(reason));
    }
    pthread_mutex_lock(&lock);
    if (*place) fclose(*place);
    *place = opened;
    pthread_mutex_unlock(&lock);
    return BB_OK;
}

bb_status bb_log_to_file(const char *path, bb_err *err) { return open_log(&files[0], path, err); }
bb_status bb_log_to_run(const char *path, bb_err *err) { return open_log(&files[1], path, err); }

/* The caller holds the lock. */
static void clear_line(void)
{
    if (line_open) fputs("\r\033[K", stderr);
    line_open = false;
}

static void file_line(const char *mark, const char *text)
{
    char      now[32];
    struct tm tm;
    time_t    t = time(NULL);
    gmtime_r(&t, &tm);
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", &tm);
    for (int i = 0; i < 2; i++) {
        if (!files[i]) continue;
        fprintf(files[i], "%s %s%s\n", now, mark, text);
        fflush(files[i]);
    }
}

static void tell(bb_log_level level, const char *text)
{
    pthread_mutex_lock(&hook_lock);
    if (hooks && hooks->line) hooks->line(hooks->self, level, text);
    pthread_mutex_unlock(&hook_lock);
}

static void say(bb_log_level level, const char *format, va_list args)
{
    static const char *const marks[] = { "", "warning: ", "", "debug: " };
    char                     text[2048];
    vsnprintf(text, sizeof text, format, args);
    pthread_mutex_lock(&lock);
    const bool hooked = hooks;
    if (level <= shown && !hooked) {
        bool color = level == BB_LOG_WARN && has_color();
        clear_line();
        fprintf(stderr, "%s%s%s%s\n", color ? "\033[33m" : "", marks[level], color ? "\033[0m" : "", text);
    }
    /* The file keeps everything that a normal run says, however quiet the terminal is. */
    if (level <= BB_LOG_INFO || level <= shown) file_line(marks[level], text);
    pthread_mutex_unlock(&lock);
    if (hooked) tell(level, text);
}

#define SAY(level) \
    do { \
        va_list args; \
        va_start(args, format); \
        say((level), format, args); \
        va_end(args); \
    } while (0)

void bb_info(const char *format, ...) { SAY(BB_LOG_INFO); }
void bb_warn(const char *format, ...) { SAY(BB_LOG_WARN); }
void bb_debug(const char *format, ...) { SAY(BB_LOG_DEBUG); }

void bb_log_failure(const char *sentence)
{
    pthread_mutex_lock(&lock);
    clear_line();
    n_nested = 0;
    if (!hooks) fprintf(stderr, "bitbudget: %s\n", sentence);
    file_line("failed: ", sentence);
    pthread_mutex_unlock(&lock);
}

double bb_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double bb_cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- progress ---- */

/* ", job left 1h 20m", where `left` seconds of the piece are left by its own steps. The caller holds the lock. */
static void describe_job(double left, double now, bb_text *out)
{
    char text[32];
    if (job_later_s < 0) return;
    if (job_ends_s - now > left) left = job_ends_s - now;
    bb_format_time((left > 0 ? left : 0) + job_later_s, text);
    bb_text_addf(out, ", job left %s", text);
}

/* How many steps of the outermost are done within those that are under way: each thread's first work inside of it is one. The caller holds the lock. */
static double under_way(void)
{
    double sum = 0;
    for (size_t i = 1; i < n_nested; i++) {
        const bb_progress *p = &nested[i].copy;
        bool               is_first = true;
        for (size_t k = 1; k < i; k++) is_first &= !pthread_equal(nested[k].thread, nested[i].thread);
        if (is_first && p->total) sum += p->done < p->total ? (double)p->done / (double)p->total : 1;
    }
    return sum;
}

/* "label: 12/340 (3%) 8.1s, left 3m 40s"; without a total "label: 8.1s". Of the outermost also what is left of the job. */
static void describe(const bb_progress *p, bool outermost, double now, bb_text *out)
{
    char         spent[32], left[32];
    const double seconds = now - p->started_s;
    bb_format_time(seconds, spent);
    bb_text_addf(out, "%s: ", p->label);
    if (p->total)
        bb_text_addf(out, "%llu/%llu (%d%%) ", (unsigned long long)p->done, (unsigned long long)p->total,
                     p->done < p->total ? (int)(100.0 * (double)p->done / (double)p->total) : 100);
    bb_text_add(out, spent);
    double       own = 0;
    const double done = (double)p->done + (outermost ? under_way() : 0), made = done - (double)p->skipped;
    if (p->done < p->total && (p->done > p->skipped || made > LEAST_MADE)) {
        own = seconds * fmax(0, (double)p->total - done) / made;
        bb_format_time(own, left);
        bb_text_addf(out, ", left %s", left);
    }
    if (outermost) describe_job(own, now, out);
}

static bool of_one_work(size_t i, size_t k)
{
    return i == k || (strcmp(nested[i].copy.label, nested[k].copy.label) == 0 && !pthread_equal(nested[i].thread, nested[k].thread));
}

/* What stands at i with what other threads have begun of the same; false: it stands with an earlier one. The caller holds the lock. */
static bool gather(size_t i, bb_progress *out)
{
    *out = nested[i].copy;
    for (size_t k = 0; k < n_nested; k++) {
        const bb_progress *p = &nested[k].copy;
        if (k == i || !of_one_work(i, k)) continue;
        if (k < i) return false;
        out->done += p->done;
        out->total += p->total;
        out->skipped += p->skipped;
        if (p->started_s < out->started_s) out->started_s = p->started_s;
    }
    return true;
}

static double plain_interval(void)
{
    const char *text = getenv("BB_PROGRESS_S");
    double      seconds;
    return text && bb_parse_double(text, &seconds, NULL) == BB_OK && seconds >= 0 ? seconds : PLAIN_LINE_S;
}

/* What the hook for progress is to be told. */
typedef struct news {
    bool        due;
    bb_progress outer;
    char        text[512];
} news;

/* Shows what is in progress where it is due: the line on a terminal, plain lines elsewhere and in the log files; in n for the hook. The caller holds
 * the lock, and calls tell_progress when it has given it back. */
static void show(double redraw_s, news *n)
{
    const double now = bb_now_s();
    const bool   on_terminal = is_terminal() && shown >= BB_LOG_INFO && now - drawn_s >= redraw_s, plain = now - plain_s >= plain_interval();
    bb_text      text = { 0 };
    n->due = hooks && n_nested && now - drawn_s >= redraw_s;
    if (n_nested == 0 || (!on_terminal && !plain && !n->due)) return;
    for (size_t i = 0; i < n_nested; i++) {
        bb_progress together;
        if (!gather(i, &together)) continue;
        if (i > 0) bb_text_add(&text, "; ");
        describe(&together, i == 0, now, &text);
    }
    if (text.status == BB_OK) {
        if (on_terminal) {
            clear_line();
            fprintf(stderr, "%s", text.data);
            line_open = true;
            drawn_s = now;
            fflush(stderr);
        }
        if (plain) {
            if (!hooks && !is_terminal() && shown >= BB_LOG_INFO) fprintf(stderr, "%s\n", text.data);
            file_line("", text.data);
            plain_s = now;
        }
    }
    if (n->due) {
        n->outer = nested[0].copy;
        snprintf(n->text, sizeof n->text, "%s", text.status == BB_OK ? text.data : n->outer.label);
        drawn_s = now;
    }
    bb_text_done(&text);
}

static void tell_progress(const news *n)
{
    if (!n->due) return;
    pthread_mutex_lock(&hook_lock);
    if (hooks && hooks->progress) hooks->progress(hooks->self, &n->outer, n->text);
    pthread_mutex_unlock(&hook_lock);
}

/* Shows the progress also while a single step lasts; sleeps while there is none. */
static void *tick(void *unused)
{
    news n;
    pthread_mutex_lock(&lock);
    while (!ticker_ends) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += (time_t)TICK_S;
        if (n_nested) pthread_cond_timedwait(&started, &lock, &until);
        else pthread_cond_wait(&started, &lock);
        show(TICK_S, &n);
        pthread_mutex_unlock(&lock);
        tell_progress(&n);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return unused;
}

static void lock_all(void) { pthread_mutex_lock(&lock); }
static void unlock_all(void) { pthread_mutex_unlock(&lock); }

static void unlock_child(void)
{
    has_ticker = false; /* a forked process has one thread */
    pthread_mutex_unlock(&lock);
}

/* The caller holds the lock. Without the thread (it could not be started) lines appear at steps only. */
static void start_ticker(void)
{
    static bool        prepared;
    pthread_condattr_t attributes;
    sigset_t           all, before;
    if (has_ticker) return;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&started, &attributes);
    pthread_condattr_destroy(&attributes);
    if (!prepared) pthread_atfork(lock_all, unlock_all, unlock_child);
    prepared = true;
    ticker_ends = false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for those who work */
    has_ticker = pthread_create(&ticker, NULL, tick, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void end_ticker(void)
{
    pthread_mutex_lock(&lock);
    const bool ends = has_ticker;
    ticker_ends = true;
    has_ticker = false;
    if (ends) pthread_cond_signal(&started);
    pthread_mutex_unlock(&lock);
    if (ends) pthread_join(ticker, NULL);
}

void bb_log_set_hooks(const bb_log_hooks *h)
{
    end_ticker(); /* it belongs to who set the last ones */
    pthread_mutex_lock(&hook_lock);
    pthread_mutex_lock(&lock);
    hooks = h;
    n_nested = 0;
    job_later_s = -1;
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&hook_lock);
}

void bb_progress_start(bb_progress *p, const char *label, uint64_t total)
{
    news n = { .due = false };
    memset(p, 0, sizeof *p);
    snprintf(p->label, sizeof p->label, "%s", label);
    p->total = total;
    pthread_mutex_lock(&lock);
    p->started_s = bb_now_s();
    if (n_nested == 0) drawn_s = plain_s = p->started_s;
    if (n_nested < MAX_NESTED) {
        nested[n_nested].owner = p;
        nested[n_nested].thread = pthread_self();
        nested[n_nested++].copy = *p;
    }
    start_ticker();
    pthread_cond_signal(&started);
    if (hooks) show(0, &n);
    pthread_mutex_unlock(&lock);
    tell_progress(&n);
}

void bb_progress_job(double piece, double later)
{
    pthread_mutex_lock(&lock);
    job_ends_s = bb_now_s() + piece;
    job_later_s = later;
    pthread_mutex_unlock(&lock);
}

static void advance(bb_progress *p, uint64_t n, bool skip)
{
    news what;
    pthread_mutex_lock(&lock);
    p->done += n;
    if (skip) p->skipped += n;
    for (size_t i = 0; i < n_nested; i++)
        if (nested[i].owner == p) nested[i].copy = *p;
    show(REDRAW_S, &what);
    pthread_mutex_unlock(&lock);
    tell_progress(&what);
}

void bb_progress_add(bb_progress *p, uint64_t n) { advance(p, n, false); }
void bb_progress_skip(bb_progress *p, uint64_t n) { advance(p, n, true); }

/* What this thread has begun goes, from `at` on. The caller holds the lock. */
static void drop_own(size_t at)
{
    size_t n = at;
    for (size_t i = at; i < n_nested; i++)
        if (!pthread_equal(nested[i].thread, pthread_self())) nested[n++] = nested[i];
    n_nested = n < n_nested ? n : n_nested;
}

void bb_progress_leave(void)
{
    pthread_mutex_lock(&lock);
    drop_own(0);
    pthread_mutex_unlock(&lock);
}

void bb_progress_end(bb_progress *p)
{
    char   spent[32], text[160];
    size_t at = 0;
    pthread_mutex_lock(&lock);
    while (at < n_nested && nested[at].owner != p) at++;
    const bool   outermost = at == 0;
    const double seconds = bb_now_s() - p->started_s;
    drop_own(at);
    /* What is done once a batch inside of something longer would fill a log with its ends. */
    const bool said = outermost || seconds >= plain_interval(), hooked = hooks;
    bb_format_time(seconds, spent);
    if (p->total) snprintf(text, sizeof text, "%s: %llu/%llu in %s", p->label, (unsigned long long)p->done, (unsigned long long)p->total, spent);
    else snprintf(text, sizeof text, "%s: %s", p->label, spent);
    if (said) {
        clear_line();
        if (shown >= BB_LOG_INFO && !hooked) fprintf(stderr, "%s\n", text);
        file_line("", text);
    }
    pthread_mutex_unlock(&lock);
    if (said && hooked) tell(BB_LOG_INFO, text);
}

/* ---- interruption ---- */

static volatile sig_atomic_t raised, n_sigint;

static void on_signal(int signal_number)
{
    if (signal_number == SIGINT && ++n_sigint > 1) {
        signal(SIGINT, SIG_DFL); /* the second one is for those who do not want to wait */
        raise(SIGINT);
    }
    raised = 1;
}

void bb_interrupt_install(void)
{
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file over the limit of its size then fails as on a full disk: with a reason, and nothing is left behind */
}

static _Atomic double interrupt_at_s;

static bool is_late(void)
{
    const double when = interrupt_at_s;
    return when > 0 && bb_now_s() >= when;
}

void bb_interrupt_at(double when) { interrupt_at_s = when; }
bool bb_interrupt_late(void) { return raised == 0 && is_late(); }
bool bb_interrupted(void) { return raised != 0 || is_late(); }
void bb_interrupt_raise(void) { raised = 1; }

void bb_interrupt_clear(void)
{
    interrupt_at_s = 0;
    raised = 0;
    n_sigint = 0;
}
