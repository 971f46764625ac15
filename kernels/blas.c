/* SPDX-License-Identifier: GPL-3.0-or-later
 * blas.c: see blas.h. Row-major products map onto CBLAS directly.
 *
 * Core repair: an OpenBLAS that is older than the CPU does not know its model number and falls back to its oldest kernels
 * (0.3.21 on an AVX-512 Xeon of 2023 takes "Prescott": 32 instead of 145 GFLOP/s a core). Its dynamic builds choose the core
 * in gotoblas_dynamic_init, from OPENBLAS_CORETYPE if that is set; so before the first BLAS call we let them choose again
 * with the core that fits the CPU's features. A core chosen by the user is kept, builds for one core are not touched.
 */
#include "kernels/blas.h"

#include <cblas.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/mem.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char           name[256], core[96];

#if defined(__x86_64__)
/* Exported by OpenBLAS when built with DYNAMIC_ARCH, absent otherwise. */
extern void gotoblas_dynamic_init(void) __attribute__((weak));
extern void gotoblas_dynamic_quit(void) __attribute__((weak));

static void repair_core(void)
{
    if (!gotoblas_dynamic_init || !gotoblas_dynamic_quit || getenv("OPENBLAS_CORETYPE")) return;
    if (strcmp(openblas_get_corename(), "Prescott") != 0) return;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return;
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
    if (setenv("OPENBLAS_CORETYPE", avx512 ? "SkylakeX" : "Haswell", 1) != 0) return;
    gotoblas_dynamic_quit();
    gotoblas_dynamic_init();
    unsetenv("OPENBLAS_CORETYPE");
}
#else
static void repair_core(void) {}
#endif

static void init(void)
{
    repair_core();
    openblas_set_num_threads(1);
    const char *config = openblas_get_config(); /* "OpenBLAS VERSION ..." */
    size_t      library = strcspn(config, " ");
    if (config[library]) library += 1 + strcspn(config + library + 1, " ");
    snprintf(name, sizeof name, "%s core %s", config, openblas_get_corename());
    snprintf(core, sizeof core, "%.*s, core %s", (int)library, config, openblas_get_corename());
}

/* Exported by OpenBLAS, for its own kernels: what is given back stays in its pool. */
extern void *blas_memory_alloc(int) __attribute__((weak));
extern void  blas_memory_free(void *) __attribute__((weak));

bool bb_blas_is_limited(void)
{
    struct rlimit space, data;
    return (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY) || (getrlimit(RLIMIT_DATA, &data) == 0 && data.rlim_cur != RLIM_INFINITY);
}

bb_status bb_blas_reserve(int threads, bb_err *err)
{
    enum { MOST = 256 };
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static int             reserved;
    const size_t           room = (size_t)160 << 20; /* the buffer, its alignment, and a little for what it is needed for */
    void                  *buffers[MOST] = { NULL };
    int                    n = 0;
    bb_status              status = BB_OK;
    if (!blas_memory_alloc || !blas_memory_free || !bb_blas_is_limited()) return BB_OK;
    threads = threads < 1 ? 1 : threads > MOST ? MOST : threads;
    pthread_mutex_lock(&mutex);
    for (; reserved < threads && n < threads && status == BB_OK; n++) {
        void *probe = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (probe == MAP_FAILED) {
            status = BB_FAIL(err, BB_NOMEM,
                             "the limit on this process's memory (ulimit -v or -d) leaves no room for what OpenBLAS takes, 128 MiB of addresses for each of "
                             "%d threads: raise the limit, or give a smaller --threads",
                             threads);
            break;
        }
        munmap(probe, room);
        buffers[n] = blas_memory_alloc(0);
    }
    for (int i = 0; i < n; i++) blas_memory_free(buffers[i]);
    if (status == BB_OK && reserved < threads) reserved = threads;
    pthread_mutex_unlock(&mutex);
    return status;
}

void bb_blas_init(void) { pthread_once(&once, init); }

int bb_blas_pin(void)
{
    const int threads = openblas_get_num_threads();
    bb_blas_init();
    openblas_set_num_threads(1);
    return threads;
}

void bb_blas_unpin(int threads) { openblas_set_num_threads(threads); }

const char *bb_blas_name(void)
{
    bb_blas_init();
    return name;
}

const char *bb_blas_core(void)
{
    bb_blas_init();
    return core;
}

static blasint dim(size_t n)
{
    BB_ASSERT(n <= INT_MAX);
    return (blasint)n;
}

/* CBLAS wants a row stride of at least 1 even for empty operands. */
static blasint stride(size_t ld) { return dim(ld ? ld : 1); }

void bb_sgemm_nt(size_t m, size_t n, size_t k, float alpha, const float *x, size_t ldx, const float *w, size_t ldw, float beta, float *y, size_t ldy)
{
    if (m == 0 || n == 0) return;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, dim(m), dim(n), dim(k), alpha, x, stride(ldx), w, stride(ldw), beta, y, stride(ldy));
}

void bb_sgemm_nn(size_t m, size_t n, size_t k, float alpha, const float *x, size_t ldx, const float *b, size_t ldb, float beta, float *y, size_t ldy)
{
    if (m == 0 || n == 0) return;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, dim(m), dim(n), dim(k), alpha, x, stride(ldx), b, stride(ldb), beta, y, stride(ldy));
}

void bb_sgemm_tn(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda, const float *b, size_t ldb, float beta, float *y, size_t ldy)
{
    if (m == 0 || n == 0) return;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, dim(m), dim(n), dim(k), alpha, a, stride(lda), b, stride(ldb), beta, y, stride(ldy));
}

void bb_dgemm_nn(size_t m, size_t n, size_t k, double alpha, const double *x, size_t ldx, const double *b, size_t ldb, double beta, double *y, size_t ldy)
{
    if (m == 0 || n == 0) return;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, dim(m), dim(n), dim(k), alpha, x, stride(ldx), b, stride(ldb), beta, y, stride(ldy));
}
