/* SPDX-License-Identifier: GPL-3.0-or-later
 * log.c: see log.h. One mutex guards the stream, the log file and the progress line. */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
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
static FILE           *file;          /* the log file or NULL */
static bool            line_open;     /* a progress line stands on the terminal */

static const double REDRAW_S = 0.1, PLAIN_LINE_S = 10.0;

static bool is_terminal(void)
{
    static int known = -1;
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

bb_status bb_log_to_file(const char *path, bb_err *err)
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
    if (file) fclose(file);
    file = opened;
    pthread_mutex_unlock(&lock);
    return BB_OK;
}

/* The caller holds the lock. */
static void clear_line(void)
{
    if (line_open) fputs("\r\033[K", stderr);
    line_open = false;
}

static void file_line(const char *mark, const char *text)
{
    char now[32];
    struct tm tm;
    time_t t = time(NULL);
    if (!file) return;
    gmtime_r(&t, &tm);
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", &tm);
    fprintf(file, "%s %s%s\n", now, mark, text);
    fflush(file);
}

static void say(bb_log_level level, const char *format, va_list args)
{
    static const char *const marks[] = { "", "warning: ", "", "debug: " };
    char text[2048];
    vsnprintf(text, sizeof text, format, args);
    pthread_mutex_lock(&lock);
    if (level <= shown) {
        bool color = level == BB_LOG_WARN && has_color();
        clear_line();
        fprintf(stderr, "%s%s%s%s\n", color ? "\033[33m" : "", marks[level], color ? "\033[0m" : "", text);
    }
    /* The file keeps everything that a normal run says, however quiet the terminal is. */
    if (level <= BB_LOG_INFO || level <= shown) file_line(marks[level], text);
    pthread_mutex_unlock(&lock);
}

#define SAY(level)                   \
    do {                             \
        va_list args;                \
        va_start(args, format);      \
        say((level), format, args);  \
        va_end(args);                \
    } while (0)

void bb_info(const char *format, ...) { SAY(BB_LOG_INFO); }
void bb_warn(const char *format, ...) { SAY(BB_LOG_WARN); }
void bb_debug(const char *format, ...) { SAY(BB_LOG_DEBUG); }

void bb_log_failure(const char *sentence)
{
    pthread_mutex_lock(&lock);
    clear_line();
    fprintf(stderr, "bitbudget: %s\n", sentence);
    file_line("failed: ", sentence);
    pthread_mutex_unlock(&lock);
}

double bb_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The caller holds the lock. */
static void show(bb_progress *p, double now)
{
    char left[32] = "", spent[32];
    double seconds = now - p->started_s;
    int percent = p->total ? (int)(100.0 * (double)p->done / (double)p->total) : 100;
    bb_format_time(seconds, spent);
    if (p->done > 0 && p->done < p->total) bb_format_time(seconds * (double)(p->total - p->done) / (double)p->done, left);
    p->shown_s = now;
    if (shown < BB_LOG_INFO) return;
    clear_line();
    fprintf(stderr, "%s: %llu/%llu (%d%%) %s%s%s", p->label, (unsigned long long)p->done, (unsigned long long)p->total, percent, spent,
            *left ? ", left " : "", left);
    if (is_terminal()) {
        line_open = true;
        fflush(stderr);
    } else {
        fputc('\n', stderr);
    }
}

void bb_progress_start(bb_progress *p, const char *label, uint64_t total)
{
    memset(p, 0, sizeof *p);
    snprintf(p->label, sizeof p->label, "%s", label);
    p->total = total;
    p->started_s = p->shown_s = bb_now_s();
}

void bb_progress_add(bb_progress *p, uint64_t n)
{
    pthread_mutex_lock(&lock);
    double now = bb_now_s();
    p->done += n;
    if (now - p->shown_s >= (is_terminal() ? REDRAW_S : PLAIN_LINE_S)) show(p, now);
    pthread_mutex_unlock(&lock);
}

void bb_progress_end(bb_progress *p)
{
    char spent[32], text[160];
    pthread_mutex_lock(&lock);
    bb_format_time(bb_now_s() - p->started_s, spent);
    snprintf(text, sizeof text, "%s: %llu/%llu in %s", p->label, (unsigned long long)p->done, (unsigned long long)p->total, spent);
    clear_line();
    if (shown >= BB_LOG_INFO) fprintf(stderr, "%s\n", text);
    file_line("", text);
    pthread_mutex_unlock(&lock);
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

bool bb_interrupted(void) { return raised != 0; }
void bb_interrupt_raise(void) { raised = 1; }

void bb_interrupt_clear(void)
{
    raised = 0;
    n_sigint = 0;
}
