/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_rotate.c: a rotated network computes what the original computes, by the float64 oracle of support/ref_net.h, on random tiny networks of
 * all architectures; and the rotation does what it is for: an outlier is spread. */
#include <check.h>
#include <float.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/mem.h"
#include "model/compress/rotate.h"
#include "model/compress/statistics.h"
#include "tests/support/ref_net.h"
#include "tests/support/support.h"

enum { T = 12 };

static void run(const bb_net *net, double *z)
{
    int32_t tokens[T];
    for (int i = 0; i < T; i++) tokens[i] = (int32_t)((uint32_t)(i * i * 7 + 3) % net->n_vocab);
    ref_run(net, tokens, T, z);
}

/* Why a network cannot be rotated so; NULL: it can. */
static const char *refusal(const ref_spec *spec, const bb_net *net, unsigned which)
{
    for (uint32_t i = 0; (which & BB_ROTATE_VALUES) && i < net->n_layer; i++)
        if (net->blocks[i].lacks || bb_head_dim(net, &net->blocks[i]) != net->head_dim) return "its values cannot be rotated";
    return (spec->norms & REF_POST_NORMS) && (which & BB_ROTATE_STREAM) ? "norms of what joins the residual stream" : NULL;
}

/* Matrices are rounded to float32 once: logits move by about u sqrt(C) of their size a block. Measured here: at most 1e-6 of the largest. */
START_TEST(logits_are_those_of_the_original)
{
    const ref_spec *spec = &ref_specs[_i / 3];
    const unsigned  which = (unsigned)(_i % 3) + 1;
    ref_model       m;
    bb_rotated      r;
    bb_err          err = BB_ERR_INIT;
    double          largest = 0, worst = 0, moved = 0;
    ref_model_make(spec, 5, &m);
    for (uint32_t i = 0; i < m.net.n_embd; i++) ck_assert(m.net.out_norm[i] != 1.0f); /* else a forgotten gain would not show */
    bb_model    source = { .net = m.net };
    const char *why = refusal(spec, &m.net, which);
    if (why) {
        ck_assert_int_eq(bb_rotate(&source, which, 9, &r, &err), BB_UNSUPPORTED);
        ck_assert_msg(strstr(err.msg, why) != NULL, "%s", err.msg);
        ref_model_free(&m);
        return;
    }
    ck_assert_msg(bb_rotate(&source, which, 9, &r, &err) == BB_OK, "%s: %s", spec->name, err.msg);
    size_t  n = (size_t)T * m.net.n_vocab;
    double *a = BB_NEW(n, double, NULL), *b = BB_NEW(n, double, NULL);
    run(&m.net, a);
    run(&r.model.net, b);
    for (size_t i = 0; i < n; i++) {
        largest = fmax(largest, fabs(a[i]));
        worst = fmax(worst, fabs(a[i] - b[i]));
    }
    ck_assert_msg(worst <= 1e-5 * largest, "%s, rotation %u: logits differ by %g of %g", spec->name, which, worst, largest);
    if (which & BB_ROTATE_STREAM) {
        const float *e = r.model.net.embd.data, *f = bb_matrix_decode(&m.net.embd, NULL);
        for (uint32_t i = 0; i < m.net.n_embd; i++) moved = fmax(moved, fabs((double)e[i] - (double)f[i]));
        ck_assert(moved > 1e-3 && r.model.net.head.rows == m.net.n_vocab); /* it is not the identity, and the head is its own */
        union {
            const float *c;
            void        *p;
        } decoded = { f };
        bb_free(decoded.p);
    }
    ck_assert_str_ne(bb_model_sha256(&r.model), bb_model_sha256(&source));
    bb_free(a);
    bb_free(b);
    bb_rotated_done(&r);
    ref_model_free(&m);
}
END_TEST

START_TEST(an_outlier_is_spread)
{
    ref_model  m;
    bb_rotated r, again;
    ref_model_make(&ref_specs[0], 5, &m);
    size_t   C = m.net.n_embd, V = m.net.n_vocab;
    float   *e = BB_NEW0(V * C, float, NULL);
    bb_model source = { .net = m.net };
    e[3] = 1;
    source.net.embd = (bb_matrix) { .type = BB_F32, .rows = (uint32_t)V, .cols = (uint32_t)C, .data = e };
    ck_assert_int_eq(bb_rotate(&source, BB_ROTATE_STREAM, 1, &r, NULL), BB_OK);
    omp_set_num_threads(2);
    ck_assert_int_eq(bb_rotate(&source, BB_ROTATE_STREAM, 1, &again, NULL), BB_OK);
    const float *turned = r.model.net.embd.data;
    double       energy = 0;
    for (size_t i = 0; i < C; i++) {
        energy += (double)turned[i] * (double)turned[i];
        if ((C & (C - 1)) == 0) ck_assert(fabs(fabs((double)turned[i]) - 1 / sqrt((double)C)) < 1e-6);
        else ck_assert(fabs((double)turned[i]) < 0.9);
    }
    ck_assert(fabs(energy - 1) < 1e-6);
    ck_assert_int_eq(memcmp(turned, again.model.net.embd.data, C * sizeof *turned), 0);
    bb_rotated_done(&r);
    bb_rotated_done(&again);
    bb_free(e);
    ref_model_free(&m);
}
END_TEST

START_TEST(memory_that_ends_is_said)
{
    ref_model  m;
    bb_rotated r;
    bb_err     err = BB_ERR_INIT;
    long       n = 0;
    ref_model_make(&ref_specs[0], 5, &m);
    bb_model source = { .net = m.net };
    omp_set_num_threads(1);
    for (;; n++) {
        bb_mem_fail_after(n);
        bb_status status = bb_rotate(&source, 3, 1, &r, &err);
        bb_mem_fail_after(-1);
        if (status == BB_OK) break;
        ck_assert_int_eq(status, BB_NOMEM);
        ck_assert_int_lt(n, 1000);
    }
    ck_assert_int_gt(n, 10);
    bb_rotated_done(&r);
    ref_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rotate");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, logits_are_those_of_the_original, 0, 3 * (int)ref_n_specs);
    tcase_add_test(t, an_outlier_is_spread);
    tcase_add_test(t, memory_that_ends_is_said);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
