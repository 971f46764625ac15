/* SPDX-License-Identifier: GPL-3.0-or-later
 * bench_quantize.c: speed and error of the matrices of an option database, format by format.
 *
 * usage: bench_quantize MODEL CALIBRATION DIR [key=value ...]
 *   formats=Q2_K,...  blocks=0,4  calib=32  ctx=256  sweeps=2  damping=0.1  method=feedback|weighted|rtn
 * DIR keeps the second moments for the next time. Prints CSV: format,us_per_weight,error: CPU time of all threads; errors
 * tr(dW H dW') / tr(W H W'), geometric mean over the matrices of the blocks.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/mem.h"
#include "kernels/blas.h"
#include "model/compress/feedback.h"
#include "model/compress/statistics.h"
#include "model/io/tokenizer.h"

typedef struct sums {
    double seconds, weights, log_error;
    int    n;
} sums;

static double cpu_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const char *value_of(int argc, char **argv, const char *key, const char *fallback)
{
    for (int i = 4; i < argc; i++)
        if (strncmp(argv[i], key, strlen(key)) == 0 && argv[i][strlen(key)] == '=') return argv[i] + strlen(key) + 1;
    return fallback;
}

static bb_status statistics_of(const bb_model *m, const char *text_path, const char *dir, uint32_t n_windows, uint32_t ctx, bb_statistics *s, bb_err *err)
{
    bb_tokenizer *t = NULL;
    char         *text = NULL;
    int32_t      *ids = NULL;
    size_t        size, n;
    bb_status     status;
    BB_TRY(bb_make_dirs(dir, err));
    BB_TRY(bb_tokenizer_create(&m->source, &t, err));
    BB_TRY(bb_file_read(text_path, &text, &size, err));
    BB_TRY(bb_tokenize(t, text, size, true, true, &ids, &n, err));
    if (n < (size_t)n_windows * ctx) {
        status = BB_FAIL(err, BB_USAGE, "%s: holds %zu tokens, %u windows of %u were asked for", text_path, n, n_windows, ctx);
        goto done;
    }
    const bb_statistics_config c = { dir, m, &bb_backend_cpu, ids, n_windows, ctx, 32, false };
    BB_TRY(bb_statistics_open(&c, s, err));
done:
    bb_tokenizer_destroy(t);
    bb_free(text);
    bb_free(ids);
    return status;
}

static bb_status one_matrix(const bb_matrix *w, const bb_hessian *h, const bb_factor *factor, const bb_format *f, const bb_quant_options *o, sums *total,
                            bb_err *err)
{
    float         *dense = bb_matrix_decode(w, err);
    unsigned char *packed = bb_alloc(w->rows, bb_format_row_bytes(f, w->cols), err);
    bb_quant_stats e = { 0 };
    bb_status      status = dense && packed ? BB_OK : BB_NOMEM;
    if (status != BB_OK) goto done;
    const double t0 = cpu_now();
    BB_TRY(bb_quantize_prepared(dense, w->rows, w->cols, h, factor, f->type, o, packed, &e, err));
    total->seconds += cpu_now() - t0;
    total->weights += (double)w->rows * w->cols;
    total->log_error += log(e.error);
    total->n++;
done:
    bb_free(dense);
    bb_free(packed);
    return status;
}

static bb_status one_format(const bb_model *m, const bb_statistics *s, const bb_format *f, const char *blocks, const bb_quant_options *o, bb_err *err)
{
    sums        total = { 0 };
    bb_factor   factor = { 0 };
    bb_status   status = BB_OK;
    const char *at = blocks;
    for (char *end; *at; at = *end == ',' ? end + 1 : end) {
        const unsigned long i = strtoul(at, &end, 10);
        if (end == at || i >= m->net.n_layer) {
            status = BB_FAIL(err, BB_USAGE, "blocks=%s: not a list of blocks", blocks);
            goto done;
        }
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix  *w = &m->net.blocks[i].w[p];
            const bb_hessian *h = &s->blocks[i].in[bb_parts[p].feed];
            if (w->rows == 0 || w->cols % f->block) continue;
            if (!factor.h || factor.h != h->h) {
                bb_factor_done(&factor);
                BB_TRY(bb_factor_make(h, o->damping, &factor, err));
            }
            BB_TRY(one_matrix(w, h, &factor, f, o, &total, err));
        }
    }
    printf("%s,%.3f,%.6g\n", f->name, 1e6 * total.seconds / total.weights, exp(total.log_error / total.n));
    fflush(stdout);
done:
    bb_factor_done(&factor);
    return status;
}

int main(int argc, char **argv)
{
    bb_err           err = BB_ERR_INIT;
    bb_model         m = { 0 };
    bb_statistics    s = { 0 };
    char             formats[512], *save = NULL;
    bb_quant_options o = { 0 };
    bb_status        status;
    if (argc < 4) {
        fprintf(stderr, "usage: bench_quantize MODEL CALIBRATION DIR [key=value ...]\n");
        return argc == 1 ? 0 : 2; /* `make bench` runs them all */
    }
    bb_blas_init();
    const char *method = value_of(argc, argv, "method", "feedback");
    o.method = strcmp(method, "rtn") == 0 ? BB_METHOD_RTN : strcmp(method, "weighted") == 0 ? BB_METHOD_WEIGHTED : BB_METHOD_FEEDBACK;
    o.damping = strtod(value_of(argc, argv, "damping", "0.1"), NULL);
    o.sweeps = (unsigned)strtoul(value_of(argc, argv, "sweeps", "2"), NULL, 10);
    const uint32_t n_windows = (uint32_t)strtoul(value_of(argc, argv, "calib", "32"), NULL, 10);
    const uint32_t ctx = (uint32_t)strtoul(value_of(argc, argv, "ctx", "256"), NULL, 10);
    const char    *blocks = value_of(argc, argv, "blocks", "0,4");
    snprintf(formats, sizeof formats, "%s", value_of(argc, argv, "formats", "Q1_0,IQ1_S,IQ1_M,IQ2_XXS,IQ2_XS,IQ2_S,Q2_K,IQ3_XXS,Q3_K,IQ3_S,IQ4_XS,Q4_K"));
    BB_TRY(bb_model_open(argv[1], &m, &err));
    BB_TRY(statistics_of(&m, argv[2], argv[3], n_windows, ctx, &s, &err));
    printf("format,us_per_weight,error\n");
    for (char *f = strtok_r(formats, ",", &save); f; f = strtok_r(NULL, ",", &save)) {
        const bb_format *format = bb_format_find(f);
        if (!format) {
            status = BB_FAIL(&err, BB_USAGE, "formats: %s is not a format", f);
            goto done;
        }
        BB_TRY(one_format(&m, &s, format, blocks, &o, &err));
    }
done:
    if (status != BB_OK) fprintf(stderr, "bench_quantize: %s\n", err.msg);
    bb_statistics_close(&s);
    bb_model_close(&m);
    return bb_status_exit_code(status);
}
