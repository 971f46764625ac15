/* SPDX-License-Identifier: GPL-3.0-or-later
 * pareto.c: the Pareto front of a model through libbitbudget, as CSV on stdout, and the file that won.
 *
 *   cc pareto.c $(pkg-config --cflags --libs bitbudget) -o pareto
 *   ./pareto MODEL.gguf RUN_DIR BEST.gguf [option=value | BYTES] ...
 *
 * Ctrl-C ends it with what it has on disk (exit code 75); the same command goes on.
 */
#include <bitbudget/bitbudget.h>

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bitbudget *working;

static void on_signal(int number)
{
    (void)number;
    bitbudget_cancel(working);
}

static int on_progress(void *self, const bitbudget_progress *p)
{
    (void)self;
    fprintf(stderr, "\r\033[K%.78s", p->text);
    return 0;
}

/* "calib=text.txt" is an option, "2157632" a size. */
static bitbudget_status take_arguments(bitbudget *b, char **argument, int n)
{
    uint64_t sizes[64];
    size_t   n_sizes = 0;
    for (int i = 0; i < n; i++) {
        char *is = strchr(argument[i], '=');
        if (is) {
            *is = '\0';
            bitbudget_status status = bitbudget_set(b, argument[i], is + 1);
            if (status != BITBUDGET_OK) return status;
        } else if (n_sizes < 64) {
            sizes[n_sizes++] = strtoull(argument[i], NULL, 10);
        }
    }
    return n_sizes ? bitbudget_set_sizes(b, sizes, n_sizes) : BITBUDGET_OK;
}

static bitbudget_status work(bitbudget *b, const char *dir, const char *best, char **argument, int n_arguments)
{
    bitbudget_model       model;
    bitbudget_forecast    forecast;
    const bitbudget_plan *plans;
    size_t                n;
    bitbudget_status      status;
    if ((status = bitbudget_inspect(b, &model)) != BITBUDGET_OK) return status;
    fprintf(stderr, "%s: %s, %" PRIu64 " weights in %" PRIu64 " bytes\n", model.name, model.architecture, model.n_weights, model.bytes);
    if ((status = bitbudget_set(b, "out", dir)) != BITBUDGET_OK) return status;
    if ((status = take_arguments(b, argument, n_arguments)) != BITBUDGET_OK) return status;
    if ((status = bitbudget_estimate(b, &forecast)) != BITBUDGET_OK) return status;
    fprintf(stderr, "%zu sizes between %" PRIu64 " and %" PRIu64 " bytes, about %.0f to %.0f s\n", forecast.n_sizes, forecast.smallest_bytes,
            forecast.largest_bytes, forecast.seconds_low, forecast.seconds_high);
    status = bitbudget_run(b);
    fprintf(stderr, "\n");
    if (status != BITBUDGET_OK) return status;
    if ((status = bitbudget_front(b, &plans, &n)) != BITBUDGET_OK) return status;
    printf("plan,bytes,kl_nats,perplexity,winner\n");
    for (size_t i = 0; i < n; i++) printf("%s,%" PRIu64 ",%.9g,%.9g,%d\n", plans[i].hash, plans[i].bytes, plans[i].kl, plans[i].perplexity, plans[i].is_winner);
    return bitbudget_export(b, NULL, best);
}

int main(int argc, char **argv)
{
    bitbudget       *b;
    bitbudget_status status;
    if (argc < 4) {
        fprintf(stderr, "usage: pareto MODEL.gguf RUN_DIR BEST.gguf [option=value | BYTES] ...\n");
        return 2;
    }
    status = bitbudget_open(argv[1], &b);
    if (status == BITBUDGET_OK) {
        working = b;
        signal(SIGINT, on_signal);
        bitbudget_on_progress(b, on_progress, NULL);
        status = work(b, argv[2], argv[3], argv + 4, argc - 4);
        signal(SIGINT, SIG_DFL);
    }
    if (status != BITBUDGET_OK) fprintf(stderr, "pareto: %s\n", b ? bitbudget_message(b) : bitbudget_status_text(status));
    bitbudget_close(b);
    return (int)status;
}
