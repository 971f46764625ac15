/* SPDX-License-Identifier: GPL-3.0-or-later
 * proxy.c: see proxy.h. */
#include "eval/proxy.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

static uint32_t n_options(const bb_units *s, uint32_t u) { return s->offset[u + 1] - s->offset[u]; }
static uint32_t n_rows(const bb_units *s, uint32_t u) { return s->controller[u] < 0 ? 1 : n_options(s, (uint32_t)s->controller[u]); }

/* Width of unit u when its controller has option c. */
static double width_at(const bb_units *s, uint32_t u, uint32_t c) { return s->controller[u] < 0 ? 1 : s->width[s->offset[s->controller[u]] + c]; }

static bb_status init(const bb_units *units, const char *name, bb_proxy *p, bb_err *err)
{
    memset(p, 0, sizeof *p);
    p->units = units;
    snprintf(p->name, sizeof p->name, "%s", name);
    p->linear = BB_NEW0(units->n, double *, err);
    p->anchor_width = BB_NEW(units->n, double, err);
    if (!p->linear || !p->anchor_width) return BB_NOMEM;
    for (uint32_t u = 0; u < units->n; u++) {
        p->anchor_width[u] = 1;
        if (!(p->linear[u] = BB_NEW0((size_t)n_rows(units, u) * n_options(units, u), double, err))) return BB_NOMEM;
    }
    return BB_OK;
}

void bb_proxy_done(bb_proxy *p)
{
    for (uint32_t u = 0; p->linear && u < p->units->n; u++) bb_free(p->linear[u]);
    bb_free(p->linear);
    bb_free(p->gram);
    bb_free(p->anchor_width);
    memset(p, 0, sizeof *p);
}

bb_status bb_proxy_from_costs(const bb_units *units, const char *name, const double *cost, bb_proxy *out, bb_err *err)
{
    bb_status status = init(units, name, out, err);
    for (uint32_t u = 0; status == BB_OK && u < units->n; u++)
        for (uint32_t c = 0; c < n_rows(units, u); c++)
            for (uint32_t o = 0; o < n_options(units, u); o++) out->linear[u][c * n_options(units, u) + o] = cost[units->offset[u] + o] * width_at(units, u, c);
    if (status != BB_OK) bb_proxy_done(out);
    return status;
}

/* A measured KL against the anchor's, as the shape says. */
static double shaped(const bb_sensitivity *s, double kl, double power)
{
    double a = s->anchor_kl;
    if (!(a > 0) || power == 1) return kl - a;
    return a / power * (pow(fmax(kl, 0) / a, power) - 1);
}

/* The change of one option around the anchor, at width c of its unit: in proportion to the width, from the fallback where the anchor cannot say. */
static double change_at(const bb_proxy *p, const bb_sensitivity *s, const uint16_t *anchor, const double *fallback, double power, uint32_t u, uint32_t c,
                        uint32_t o)
{
    const bb_units *units = p->units;
    size_t          i = units->offset[u] + o, own = units->offset[u] + (anchor ? anchor[u] : 0u);
    double          width = width_at(units, u, c);
    bool            dropped = anchor && units->controller[u] >= 0 && !(width_at(units, u, anchor[units->controller[u]]) > 0);
    if (!dropped && !isnan(s->changes[i].kl)) return shaped(s, s->changes[i].kl, power) * width / p->anchor_width[u];
    if (!fallback) return 0;
    return (fallback[i] - (dropped || !anchor ? 0 : fallback[own])) * width;
}

static bb_status add_pairs(bb_proxy *p, const bb_sensitivity *s, double pairs, bb_err *err)
{
    const bb_units *units = p->units;
    size_t          M = units->offset[units->n];
    bb_status       status;
    if (!(p->gram = BB_NEW(M * M, float, err))) return BB_NOMEM;
    BB_TRY(bb_sensitivity_gram(s, p->gram, err));
    for (size_t i = 0; i < M * M; i++) p->gram[i] *= (float)pairs;
    for (uint32_t u = 0; u < units->n; u++)
        for (size_t i = units->offset[u]; i < units->offset[u + 1]; i++)
            for (size_t j = units->offset[u]; j < units->offset[u + 1]; j++) p->gram[i * M + j] = 0; /* one option of a unit at a time */
done:
    return status;
}

bb_status bb_proxy_from_sensitivity(const bb_units *units, const char *name, const bb_sensitivity *s, const uint16_t *anchor, const double *fallback,
                                    const bb_proxy_shape *shape, bb_proxy *out, bb_err *err)
{
    bb_status status = BB_OK;
    BB_ASSERT(s->n == units->offset[units->n]);
    BB_TRY(init(units, name, out, err));
    out->constant = s->anchor_kl;
    out->tokens = s->n_forwarded;
    for (uint32_t u = 0; anchor && u < units->n; u++) {
        double w = units->controller[u] < 0 ? 1 : width_at(units, u, anchor[units->controller[u]]);
        if (w > 0) out->anchor_width[u] = w;
    }
    for (uint32_t u = 0; u < units->n; u++)
        for (uint32_t c = 0; c < n_rows(units, u); c++)
            for (uint32_t o = 0; o < n_options(units, u); o++)
                out->linear[u][c * n_options(units, u) + o] = change_at(out, s, anchor, fallback, shape->power, u, c, o);
    if (shape->pairs > 0) BB_TRY(add_pairs(out, s, shape->pairs, err));
done:
    if (status != BB_OK) bb_proxy_done(out);
    return status;
}

static uint32_t row_of(const bb_units *s, const uint16_t *x, uint32_t u) { return s->controller[u] < 0 ? 0u : x[s->controller[u]]; }

double bb_proxy_score(const bb_proxy *p, const uint16_t *x)
{
    const bb_units *s = p->units;
    size_t          M = s->offset[s->n];
    double          total = p->constant, pairs = 0;
    for (uint32_t u = 0; u < s->n; u++) {
        uint32_t c = row_of(s, x, u);
        total += p->linear[u][(size_t)c * n_options(s, u) + x[u]];
        double a = sqrt(width_at(s, u, c) / p->anchor_width[u]);
        if (!p->gram || !(a > 0)) continue;
        const float *row = p->gram + (s->offset[u] + x[u]) * M;
        double       sum = 0;
        for (uint32_t v = 0; v < u; v++) sum += sqrt(width_at(s, v, row_of(s, x, v)) / p->anchor_width[v]) * (double)row[s->offset[v] + x[v]];
        pairs += a * sum; /* each pair once: the half of both orders */
    }
    return total + pairs;
}

bb_status bb_proxy_mix(bb_proxy *a, const bb_proxy *b, double t, bb_err *err)
{
    const bb_units *s = a->units;
    size_t          M = s->offset[s->n];
    BB_ASSERT(b->units == s);
    if (b->gram && !a->gram && !(a->gram = BB_NEW0(M * M, float, err))) return BB_NOMEM;
    a->constant = (1 - t) * a->constant + t * b->constant;
    for (uint32_t u = 0; u < s->n; u++) {
        a->anchor_width[u] = (1 - t) * a->anchor_width[u] + t * b->anchor_width[u];
        for (size_t i = 0; i < (size_t)n_rows(s, u) * n_options(s, u); i++) a->linear[u][i] = (1 - t) * a->linear[u][i] + t * b->linear[u][i];
    }
    for (size_t i = 0; a->gram && i < M * M; i++) a->gram[i] = (float)((1 - t) * (double)a->gram[i] + (b->gram ? t * (double)b->gram[i] : 0));
    a->tokens += b->tokens;
    a->seconds += b->seconds;
    return BB_OK;
}
