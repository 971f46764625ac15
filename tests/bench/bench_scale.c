/* SPDX-License-Identifier: GPL-3.0-or-later
 * bench_scale.c: what a block of a large model costs: time and memory of its statistics and of its matrices in some formats.
 *
 * usage: bench_scale DIR [key=value ...]
 *   blocks=1 width=2048 heads=32 kv=8 ffn=8192 vocab=4096 windows=16 ctx=256 sweeps=4 formats=IQ2_XXS,Q4_K
 * The defaults are a block of Llama-3.2-1B with another vocabulary. Writes DIR/scale.gguf (at most 16 blocks of random weights in F16) and
 * DIR/database, calibrates on random tokens; windows=0: the model alone, docs/scale.md. Prints CSV: step,weights,wall_s,cpu_s,peak_mib: the step's own time, of all threads in
 * cpu_s; peak_mib: resident memory of the process so far (mapped files included).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/blas.h"
#include "model/compress/database.h"
#include "tests/support/tiny_model.h"

static double cpu_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double peak_mib(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (double)u.ru_maxrss / 1024 : 0;
}

static const char *value_of(int argc, char **argv, const char *key, const char *fallback)
{
    for (int i = 2; i < argc; i++)
        if (strncmp(argv[i], key, strlen(key)) == 0 && argv[i][strlen(key)] == '=') return argv[i] + strlen(key) + 1;
    return fallback;
}

static uint32_t number_of(int argc, char **argv, const char *key, const char *fallback)
{
    return (uint32_t)strtoul(value_of(argc, argv, key, fallback), NULL, 10);
}

/* Times of the steps so far. */
typedef struct watch {
    double wall, cpu;
} watch;

static void row(watch *w, const char *step, double weights)
{
    const double wall = bb_now_s(), cpu = cpu_now();
    printf("%s,%.0f,%.1f,%.1f,%.0f\n", step, weights, wall - w->wall, cpu - w->cpu, peak_mib());
    fflush(stdout);
    *w = (watch) { bb_now_s(), cpu_now() };
}

static void write_model(int argc, char **argv, const char *path)
{
    tiny_spec s = tiny_default("llama");
    s.n_layer = number_of(argc, argv, "blocks", "1");
    if (s.n_layer > TINY_MAX_LAYERS) s.n_layer = TINY_MAX_LAYERS;
    s.n_embd = number_of(argc, argv, "width", "2048");
    for (uint32_t i = 0; i < s.n_layer; i++) {
        s.n_head[i] = number_of(argc, argv, "heads", "32");
        s.n_kv[i] = number_of(argc, argv, "kv", "8");
        s.n_ff[i] = number_of(argc, argv, "ffn", "8192");
    }
    s.head_dim = s.n_embd / s.n_head[0];
    s.n_vocab = number_of(argc, argv, "vocab", "4096");
    s.n_ctx = number_of(argc, argv, "ctx", "256");
    tiny_set_type(&s, BB_F16);
    tiny_write(&s, path);
}

static bb_status formats(bb_database *db, const bb_model *m, const char *list, watch *w, bb_err *err)
{
    bb_status status = BB_OK;
    char      names[512], *save = NULL;
    snprintf(names, sizeof names, "%s", list);
    for (char *name = strtok_r(names, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
        const bb_format *f = bb_format_find(name);
        double           weights = 0;
        if (!f) return BB_FAIL(err, BB_USAGE, "formats: %s is not a format", name);
        for (uint32_t i = 0; i < m->net.n_layer; i++)
            for (int p = 0; p < BB_N_PARTS; p++) {
                const bb_block *b = &m->net.blocks[i];
                bb_matrix       out;
                BB_TRY(bb_database_matrix(db, i, (bb_part)p, bb_part_kept(b, (bb_part)p), f->type, &out, NULL, err));
                weights += (double)b->w[p].rows * b->w[p].cols;
            }
        row(w, f->name, weights);
    }
done:
    return status;
}

static bb_status run(int argc, char **argv, bb_err *err)
{
    const uint32_t n_windows = number_of(argc, argv, "windows", "16"), ctx = number_of(argc, argv, "ctx", "256");
    bb_model       m = { 0 };
    bb_database   *db = NULL;
    int32_t       *tokens = BB_NEW((size_t)n_windows * ctx, int32_t, err);
    char          *path = bb_asprintf(err, "%s/scale.gguf", argv[1]), *dir = bb_asprintf(err, "%s/database", argv[1]);
    watch          w = { bb_now_s(), cpu_now() };
    bb_rng         r;
    bb_status      status = tokens && path && dir ? BB_OK : BB_NOMEM;
    if (status != BB_OK) goto done;
    printf("step,weights,wall_s,cpu_s,peak_mib\n");
    BB_TRY(bb_make_dirs(argv[1], err));
    if (!bb_file_exists(path)) write_model(argc, argv, path);
    BB_TRY(bb_model_open(path, &m, err));
    bb_rng_init(&r, 1, "scale tokens");
    for (size_t i = 0; i < (size_t)n_windows * ctx; i++) tokens[i] = (int32_t)(bb_rng_uniform(&r) * m.net.n_vocab);
    row(&w, "model", 0);
    if (n_windows == 0) goto done;
    const bb_database_config c = { .dir = dir,
                                   .model = &m,
                                   .backend = &bb_backend_cpu,
                                   .tokens = tokens,
                                   .n_windows = n_windows,
                                   .ctx = ctx,
                                   .quant = { BB_METHOD_FEEDBACK, 0.01, number_of(argc, argv, "sweeps", "4") },
                                   .ffn_step = 32 };
    BB_TRY(bb_database_open(&c, &db, err));
    row(&w, "statistics", (double)n_windows * ctx);
    BB_TRY(formats(db, &m, value_of(argc, argv, "formats", "IQ2_XXS,Q4_K"), &w, err));
done:
    bb_database_close(db);
    bb_model_close(&m);
    bb_free(tokens);
    bb_free(path);
    bb_free(dir);
    return status;
}

int main(int argc, char **argv)
{
    bb_err err = BB_ERR_INIT;
    if (argc < 2) {
        fprintf(stderr, "usage: bench_scale DIR [key=value ...]\n");
        return argc == 1 ? 0 : 2; /* `make bench` runs them all */
    }
    bb_blas_init();
    bb_status status = run(argc, argv, &err);
    if (status != BB_OK) fprintf(stderr, "bench_scale: %s\n", err.msg);
    return bb_status_exit_code(status);
}
