/* SPDX-License-Identifier: GPL-3.0-or-later
 * kernels.c: the levels (kernels.h), the choice among them, and the running logit sums composed from them. */
#include "kernels/kernels.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels/blas.h"

#define BB_KERNEL(result, name, arguments, avx2, avx512, bf16, amx) .name = bb_##name##_ref,
static const bb_kernels ref = {
    .level = "ref",
    .bits = "ref",
    .panel = BB_PANEL_REF,
#include "kernels/table.inc"
};

#if defined(__x86_64__)
#define BB_KERNEL(result, name, arguments, avx2, avx512, bf16, amx) .name = bb_##name##_##avx2,
static const bb_kernels level_avx2 = {
    .level = "avx2",
    .bits = "avx2",
    .panel = BB_PANEL_AVX2,
#include "kernels/table.inc"
};

#define BB_KERNEL(result, name, arguments, avx2, avx512, bf16, amx) .name = bb_##name##_##avx512,
static bb_kernels level_avx512 = {
    .level = "avx512",
    .bits = "avx512",
    .panel = BB_PANEL_AVX512,
#include "kernels/table.inc"
};

#define BB_KERNEL(result, name, arguments, avx2, avx512, bf16, amx) .name = bb_##name##_##bf16,
static const bb_kernels level_bf16 = {
    .level = "bf16",
    .bits = "avx512",
    .panel = BB_PANEL_AVX512,
    .pairs = true,
#include "kernels/table.inc"
};

#define BB_KERNEL(result, name, arguments, avx2, avx512, bf16, amx) .name = bb_##name##_##amx,
static const bb_kernels level_amx = {
    .level = "amx",
    .bits = "avx512",
    .panel = BB_PANEL_AVX512,
    .splits = true,
#include "kernels/table.inc"
};

/* Its registers are those of AVX-512. */
static bool has_bf16(void)
{
    enum { AVX512_BF16 = 1 << 5 };
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & AVX512_BF16);
}

/* AMX tiles are registers that the system gives to a process on request. */
static bool may_use_tiles(void)
{
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { ASK = 0x1023 /* ARCH_REQ_XCOMP_PERM */, TILE_DATA = 18, AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & AMX_BF16) || !(d & AMX_TILE)) return false;
    return syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
#else
    return false;
#endif
}
#endif

static const bb_kernels *levels[5] = { &ref };
static const bb_kernels *chosen = &ref;
static pthread_once_t    once = PTHREAD_ONCE_INIT;
static char              bits[2][128];
static atomic_int        precision = BB_EXACT;

/* __builtin_cpu_supports also asks the operating system (XGETBV) whether the registers are saved. */
static void detect(void)
{
    size_t n = 1;
#if defined(__x86_64__)
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
    if (avx2) levels[n++] = &level_avx2;
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    if (vnni) { /* the same bits: no level of its own */
        level_avx512.integer_product = bb_integer_product_vnni;
        level_avx512.peak_integer = bb_peak_integer_vnni;
    }
    if (avx512) levels[n++] = &level_avx512;
    if (vnni && has_bf16()) {
        levels[n++] = &level_bf16;
        if (may_use_tiles()) levels[n++] = &level_amx;
    }
#endif
    const char *cap = getenv("BB_CPU");
    chosen = levels[n - 1];
    for (size_t i = 0; cap && i < n; i++)
        if (strcmp(levels[i]->level, cap) == 0) chosen = levels[i];
    snprintf(bits[BB_EXACT], sizeof *bits, "%s, %s", chosen->bits, bb_blas_core());
    snprintf(bits[BB_FAST], sizeof *bits, "%s%s, %s", chosen->bits,
             chosen->splits  ? " with split products, backward too"
             : chosen->pairs ? " with rough products of pairs"
                             : "",
             bb_blas_core());
}

const bb_kernels *bb_kernels_get(void)
{
    pthread_once(&once, detect);
    return chosen;
}

const char *bb_kernels_bits(void)
{
    pthread_once(&once, detect);
    return bits[atomic_load(&precision)];
}

void         bb_kernels_set_precision(bb_precision p) { atomic_store(&precision, p); }
bb_precision bb_kernels_precision(void) { return (bb_precision)atomic_load(&precision); }
bool         bb_kernels_can_be_fast(void) { return bb_kernels_get()->splits; }
bool         bb_kernels_can_be_fast_rough(void) { return bb_kernels_get()->splits || bb_kernels_get()->pairs; }
bool         bb_kernels_fast(void) { return bb_kernels_can_be_fast() && bb_kernels_precision() == BB_FAST; }
bool         bb_kernels_fast_rough(void) { return bb_kernels_can_be_fast_rough() && bb_kernels_precision() == BB_FAST; }

const bb_kernels *bb_kernels_at(size_t i)
{
    pthread_once(&once, detect);
    return i < sizeof levels / sizeof *levels ? levels[i] : NULL;
}

size_t bb_packed_floats(size_t n, size_t k, size_t panel) { return (n + panel - 1) / panel * panel * k; }

size_t bb_split_numbers(unsigned parts, size_t n, size_t k, size_t rows)
{
    return parts * ((n + rows - 1) / rows * rows) * ((k + BB_SPLIT_DEPTH - 1) / BB_SPLIT_DEPTH * BB_SPLIT_DEPTH);
}

void bb_pack_panels(const float *w, size_t ldw, size_t n, size_t k, size_t panel, float *out)
{
    enum { STRIP = 16 }; /* columns at a time: the strip of all rows of a panel stays in L1 */
    for (size_t j = 0; j < n; j += panel, out += k * panel) {
        size_t rows = n - j < panel ? n - j : panel;
        for (size_t c = 0; c < k; c += STRIP) {
            size_t to = k - c < STRIP ? k : c + STRIP;
            for (size_t i = 0; i < panel; i++)
                for (size_t l = c; l < to; l++) out[l * panel + i] = i < rows ? w[(j + i) * ldw + l] : 0;
        }
    }
}

void bb_pack_panels_transposed(const float *wt, size_t ldw, size_t n, size_t k, size_t panel, float *out)
{
    for (size_t j = 0; j < n; j += panel)
        for (size_t c = 0; c < k; c++, out += panel) {
            size_t columns = n - j < panel ? n - j : panel;
            memcpy(out, wt + c * ldw + j, columns * sizeof *out);
            memset(out + columns, 0, (panel - columns) * sizeof *out);
        }
}

/* Moves the shift of s to the larger maximum, returns the factor that its sums were scaled with. */
static double raise_max(bb_logsum *s, const float *z, size_t at)
{
    if (s->n > 0 && !(z[at] > s->max)) return 1;
    double factor = s->n > 0 ? exp((double)s->max - (double)z[at]) : 0;
    s->max = z[at];
    s->arg_max = s->n + at;
    s->sum *= factor;
    return factor;
}

void bb_logsum_add(const bb_kernels *k, bb_logsum *s, const float *z, size_t n)
{
    if (n == 0) return;
    raise_max(s, z, k->arg_max(z, n));
    s->sum += k->sum_exp(z, s->max, n);
    s->n += n;
}

double bb_logsum_value(const bb_logsum *s) { return (double)s->max + log(s->sum); }

void bb_klsum_add(const bb_kernels *k, bb_klsum *s, const float *z_ref, const float *z, size_t n)
{
    double cross;
    if (n == 0) return;
    s->cross *= raise_max(&s->ref, z_ref, k->arg_max(z_ref, n));
    s->ref.sum += k->sum_exp_cross(z_ref, s->ref.max, z, n, &cross);
    s->cross += cross;
    s->ref.n += n;
    bb_logsum_add(k, &s->net, z, n);
}

double bb_klsum_value(const bb_klsum *s)
{
    double kl = s->cross / s->ref.sum - bb_logsum_value(&s->ref) + bb_logsum_value(&s->net);
    return kl < 0 ? 0 : kl;
}
