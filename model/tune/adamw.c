/* SPDX-License-Identifier: GPL-3.0-or-later
 * adamw.c: see adamw.h. */
#include "model/tune/adamw.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "model/tune/moments.h"

enum { PIECE = 4096, BLOCK = BB_MOMENTS_BLOCK }; /* PIECE: entries a task, and a partial sum of the norm */
_Static_assert(PIECE % BB_MOMENTS_BLOCK == 0, "a task has whole blocks");

struct bb_adamw {
    bb_param         *params;
    float           **m, **v; /* [n_params] into moments; coarse, scales, m8 and v8 instead */
    bb_moments_scale *scales; /* a block; each array begins with one of its own */
    uint8_t          *m8, *v8;
    void             *moments;
    size_t            n_params, n_entries, n_bytes;
    uint64_t          step;
    bb_adamw_options  o;
};

/* ---- life ---- */

bb_status bb_adamw_create(const bb_param *params, size_t n_params, const bb_adamw_options *o, bb_adamw **out, bb_err *err)
{
    static const bb_adamw_options usual = BB_ADAMW_DEFAULT;
    size_t                        n = 0, n_blocks = 0, at = 0;
    bb_adamw                     *a = BB_NEW0(1, bb_adamw, err);
    *out = NULL;
    if (!a) return BB_NOMEM;
    for (size_t i = 0; i < n_params; i++) {
        n += params[i].n;
        n_blocks += (params[i].n + BLOCK - 1) / BLOCK;
    }
    a->o = o ? *o : usual;
    a->n_bytes = a->o.coarse ? n_blocks * sizeof *a->scales + 2 * n : 2 * n * sizeof(float);
    a->params = BB_NEW(n_params, bb_param, err);
    a->m = BB_NEW(n_params, float *, err);
    a->v = BB_NEW(n_params, float *, err);
    a->moments = bb_calloc(a->n_bytes, 1, err);
    if (!a->params || !a->m || !a->v || !a->moments) {
        bb_adamw_destroy(a);
        return BB_NOMEM;
    }
    if (n_params) memcpy(a->params, params, n_params * sizeof *params);
    for (size_t i = 0; i < n_params && !a->o.coarse; at += params[i++].n) {
        a->m[i] = (float *)a->moments + at;
        a->v[i] = (float *)a->moments + n + at;
    }
    a->scales = a->moments;
    a->m8 = (uint8_t *)a->moments + n_blocks * sizeof *a->scales;
    a->v8 = a->m8 + n;
    a->n_params = n_params;
    a->n_entries = n;
    *out = a;
    return BB_OK;
}

void bb_adamw_destroy(bb_adamw *a)
{
    if (!a) return;
    bb_free(a->params);
    bb_free(a->m);
    bb_free(a->v);
    bb_free(a->moments);
    bb_free(a);
}

/* ---- steps ---- */

/* What one array's update needs, rounded to float32 once. */
typedef struct factors {
    float b1, b2, rate, root, eps, keep;
} factors;

static void update(const factors *f, float *w, const float *g, float *m, float *v, size_t n)
{
    const float c1 = 1 - f->b1, c2 = 1 - f->b2;
    for (size_t i = 0; i < n; i++) {
        m[i] = f->b1 * m[i] + c1 * g[i];
        v[i] = f->b2 * v[i] + c2 * g[i] * g[i];
        w[i] = f->keep * w[i] - f->rate * m[i] / (sqrtf(v[i]) * f->root + f->eps);
    }
}

/* One array whose moments are bytes; at, block: its first entry and its first block of all. */
static void update_coarse(bb_adamw *a, const factors *f, const bb_param *k, size_t at, size_t block)
{
    const ptrdiff_t n = (ptrdiff_t)k->n;
#pragma omp parallel for schedule(static) if (n > PIECE)
    for (ptrdiff_t i = 0; i < n; i += BLOCK) {
        const size_t      from = (size_t)i, part = k->n - from < BLOCK ? k->n - from : BLOCK, b = block + from / BLOCK;
        float             m[BLOCK], v[BLOCK];
        bb_moments_scale *s = &a->scales[b];
        uint8_t          *m8 = a->m8 + at + from, *v8 = a->v8 + at + from;
        bb_moments_get(s, m8, v8, part, m, v);
        update(f, k->w + from, k->g + from, m, v, part);
        bb_moments_put(m, v, part, (a->step << 40) + b * BLOCK, s, m8, v8);
    }
}

void bb_adamw_step(bb_adamw *a, double rate)
{
    size_t       at = 0, block = 0;
    const double t = (double)++a->step, unbias1 = 1 - pow(a->o.beta1, t), unbias2 = 1 - pow(a->o.beta2, t);
    for (size_t p = 0; p < a->n_params; at += a->params[p].n, block += (a->params[p].n + BLOCK - 1) / BLOCK, p++) {
        const bb_param *k = &a->params[p];
        const double    r = rate * (double)k->rate_factor;
        const factors   f = { (float)a->o.beta1,          (float)a->o.beta2, (float)(r / unbias1),
                              (float)(1 / sqrt(unbias2)), (float)a->o.eps,   (float)(1 - r * (double)k->decay) };
        const ptrdiff_t n = (ptrdiff_t)k->n;
        float          *m = a->m[p], *v = a->v[p];
        if (k->rate_factor == 0) continue;
        if (a->o.coarse) {
            update_coarse(a, &f, k, at, block);
            continue;
        }
#pragma omp parallel for schedule(static) if (n > PIECE)
        for (ptrdiff_t i = 0; i < n; i += PIECE) update(&f, k->w + i, k->g + i, m + i, v + i, (size_t)(n - i < PIECE ? n - i : PIECE));
    }
}

uint64_t bb_adamw_steps(const bb_adamw *a) { return a->step; }

void bb_adamw_reset(bb_adamw *a)
{
    a->step = 0;
    memset(a->moments, 0, a->n_bytes);
}

/* ---- gradients ---- */

static double piece_square(const float *g, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)g[i] * (double)g[i];
    return sum;
}

double bb_grads_norm(const bb_param *params, size_t n_params)
{
    enum { ROUND = 64 }; /* pieces whose sums are kept at a time */
    double total = 0, sums[ROUND];
    for (size_t p = 0; p < n_params; p++)
        for (size_t from = 0; from < params[p].n; from += (size_t)ROUND * PIECE) {
            const size_t    left = params[p].n - from, part = left < (size_t)ROUND * PIECE ? left : (size_t)ROUND * PIECE;
            const ptrdiff_t n = (ptrdiff_t)((part + PIECE - 1) / PIECE);
            const float    *g = params[p].g + from;
#pragma omp parallel for schedule(static) if (n > 1)
            for (ptrdiff_t i = 0; i < n; i++) {
                size_t at = (size_t)i * PIECE;
                sums[i] = piece_square(g + at, part - at < PIECE ? part - at : PIECE);
            }
            for (ptrdiff_t i = 0; i < n; i++) total += sums[i];
        }
    return sqrt(total);
}

double bb_grads_clip(const bb_param *params, size_t n_params, double limit)
{
    const double norm = bb_grads_norm(params, n_params);
    const float  scale = (float)(limit / norm);
    if (!(limit > 0 && norm > limit) || !isfinite(norm)) return norm;
    for (size_t p = 0; p < n_params; p++) {
        float          *g = params[p].g;
        const ptrdiff_t n = (ptrdiff_t)params[p].n;
#pragma omp parallel for schedule(static) if (n > PIECE)
        for (ptrdiff_t i = 0; i < n; i++) g[i] *= scale;
    }
    return norm;
}

void bb_grads_zero(const bb_param *params, size_t n_params)
{
    for (size_t p = 0; p < n_params; p++) memset(params[p].g, 0, params[p].n * sizeof *params[p].g);
}

/* ---- state ---- */

size_t bb_adamw_state_bytes(const bb_adamw *a) { return 2 * sizeof(uint64_t) + a->n_bytes; }

void bb_adamw_state_save(const bb_adamw *a, void *out)
{
    const uint64_t head[2] = { a->step, a->n_entries };
    memcpy(out, head, sizeof head);
    memcpy((char *)out + sizeof head, a->moments, a->n_bytes);
}

bb_status bb_adamw_state_load(bb_adamw *a, const void *state, size_t size, bb_err *err)
{
    uint64_t head[2] = { 0, 0 };
    if (size >= sizeof head) memcpy(head, state, sizeof head);
    if (size != bb_adamw_state_bytes(a) || head[1] != a->n_entries)
        return BB_FAIL(err, BB_BAD_FILE, "optimizer state of %zu bytes for %llu entries: expected %zu bytes for %zu", size, (unsigned long long)head[1],
                       bb_adamw_state_bytes(a), a->n_entries);
    a->step = head[0];
    memcpy(a->moments, (const char *)state + sizeof head, a->n_bytes);
    return BB_OK;
}

void *bb_adamw_moments(bb_adamw *a, size_t *bytes)
{
    *bytes = a->n_bytes;
    return a->moments;
}

void bb_adamw_set_steps(bb_adamw *a, uint64_t steps) { a->step = steps; }

/* ---- schedules ---- */

/* From peak to last as x goes from 0 to 1. */
static double decayed(const bb_schedule *s, double x)
{
    const double pi = 3.14159265358979323846;
    if (s->kind == BB_SCHEDULE_COSINE) return s->last + (s->peak - s->last) * 0.5 * (1 + cos(pi * x));
    return s->peak + (s->last - s->peak) * x;
}

double bb_schedule_rate(const bb_schedule *s, uint64_t step)
{
    const uint64_t end = s->n_steps > 0 ? s->n_steps - 1 : 0;
    uint64_t       begin = s->n_warmup; /* the last step at the peak */
    if (step < s->n_warmup) return s->peak * (double)(step + 1) / (double)s->n_warmup;
    if (s->kind == BB_SCHEDULE_CONSTANT) return s->peak;
    if (s->kind == BB_SCHEDULE_WSD && end >= s->n_decay && end - s->n_decay > begin) begin = end - s->n_decay;
    if (step >= end) return s->last;
    if (step <= begin) return s->peak;
    return decayed(s, (double)(step - begin) / (double)(end - begin));
}
