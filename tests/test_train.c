/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_train.c: the gradient of whole networks of every architecture against differences of the float64 oracle; the order of the data;
 * updates that no number of threads, saving or resuming changes; files that are not to be resumed from. */
#include <check.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/io/gguf.h"
#include "model/model.h"
#include "model/train/new_model.h"
#include "model/train/train.h"
#include "tests/support/guarded.h"
#include "tests/support/ref_net.h"
#include "tests/support/support.h"

enum { T = 11, TEXT = 150 };

static int32_t text[TEXT];

static void make_text(uint32_t n_vocab)
{
    uint64_t seed = 9;
    for (size_t i = 0; i < TEXT; i++) text[i] = (int32_t)((1 + ref_noise(&seed)) / 2 * n_vocab);
}

static bb_train_options options(uint64_t steps)
{
    bb_train_options o = { .ctx = T, .batch = 3, .adamw = BB_ADAMW_DEFAULT, .decay = 0.1, .clip = 1, .seed = 4 };
    o.schedule = (bb_schedule) { .kind = BB_SCHEDULE_CONSTANT, .n_steps = steps, .n_warmup = 2, .peak = 0.01 };
    return o;
}

static bb_training *trainer(const bb_net *net, const bb_train_options *o, int32_t bos)
{
    bb_train_data data = { text, TEXT, bos };
    bb_training  *t;
    bb_err        err = BB_ERR_INIT;
    ck_assert_msg(bb_training_create(&bb_backend_cpu, net, &data, o, &t, &err) == BB_OK, "%s", err.msg);
    return t;
}

/* ---- gradient ---- */

/* Mean cross-entropy of S windows, by definition. */
static double loss_of(const bb_net *net, const int32_t *tokens, const int32_t *targets, size_t S)
{
    size_t  V = net->n_vocab;
    double *z = BB_NEW(T * V, double, NULL), total = 0;
    for (size_t s = 0; s < S; s++) {
        ref_run(net, tokens + s * T, T, z);
        for (size_t t = 0; t < T; t++) total += ref_log_sum_exp(z + t * V, V) - z[t * V + (size_t)targets[s * T + t]];
    }
    bb_free(z);
    return total / (double)(S * T);
}

/* Rows that carry something for later blocks: such networks are tuned, not trained from a text. */
static bool is_refused(ref_model *m)
{
    const bb_train_data    data = { text, TEXT, 1 };
    const bb_train_options o = options(1);
    bb_training           *t;
    bb_err                 err = BB_ERR_INIT;
    if (!m->net.n_carried) return false;
    ck_assert_int_eq(bb_training_create(&bb_backend_cpu, &m->net, &data, &o, &t, &err), BB_UNSUPPORTED);
    ck_assert(strstr(err.msg, "share keys and values"));
    ref_model_free(m);
    return true;
}

/* Differences over 2e-3: the third derivative contributes about 1e-6 times itself; float32 rounding of sums over 22 tokens and 6 blocks about
 * 1e-6 of the array's largest gradient (measured: 5e-6), or, where terms nearly cancel, 1e-7 of the largest of the network. */
START_TEST(whole_gradient_agrees_with_differences)
{
    enum { S = 2, MOST = 5 };
    const double     delta = 1e-3;
    ref_model        m;
    bb_train_options o = options(1);
    const int32_t   *tokens, *targets;
    double           loss, worst = 0, floor = 0;
    ref_model_make(&ref_specs[_i], 3, &m);
    make_text(m.net.n_vocab);
    if (is_refused(&m)) return;
    bb_training *t = trainer(&m.net, &o, 1);
    bb_training_start_from(t, &m.net);
    const bb_trainable *k = bb_training_trainable(t);
    bb_training_batch(t, 0, &tokens, &targets);
    ck_assert_int_eq(bb_training_gradient(t, tokens, targets, S, &loss, NULL), BB_OK);
    ck_assert_double_eq_tol(loss, loss_of(&m.net, tokens, targets, S), 1e-5); /* the original, in its own types */
    for (size_t i = 0; i < k->n; i++) floor = fmax(floor, 1e-7 * fabs((double)k->g[i]));
    for (size_t p = 0; p < k->n_params; p++) {
        const bb_param *a = &k->params[p];
        const double    step = p == 0 ? delta / (double)bb_scale_of(m.net.embd_scale) : delta; /* the embedding moves the network by its factor */
        double          largest = 0;
        for (size_t i = 0; i < a->n; i++) largest = fmax(largest, fabs((double)a->g[i]));
        ck_assert_msg(largest > 0, "%s: array %zu has no gradient", ref_specs[_i].name, p);
        for (size_t j = 0; j < MOST && j < a->n; j++) {
            size_t i = a->n <= MOST ? j : (j * a->n + a->n / 2) / MOST;
            float  at = a->w[i];
            double up, down, span;
            a->w[i] = at + (float)step, span = (double)a->w[i], up = loss_of(&k->net, tokens, targets, S);
            a->w[i] = at - (float)step, span -= (double)a->w[i], down = loss_of(&k->net, tokens, targets, S);
            a->w[i] = at;
            worst = fmax(worst, fabs((double)a->g[i] - (up - down) / span) / largest);
            ck_assert_msg(fabs((double)a->g[i] - (up - down) / span) <= 2e-5 * largest + floor, "%s: array %zu[%zu]: %.7g, by differences %.7g (largest %.3g)",
                          ref_specs[_i].name, p, i, (double)a->g[i], (up - down) / span, largest);
        }
    }
    if (getenv("BB_VERBOSE")) fprintf(stderr, "%s: %.2g\n", ref_specs[_i].name, worst);
    bb_training_destroy(t);
    ref_model_free(&m);
}
END_TEST

static double deviation_of(const bb_matrix *m)
{
    const size_t n = (size_t)m->rows * m->cols;
    double       sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)((const float *)m->data)[i] * (double)((const float *)m->data)[i];
    return sqrt(sum / (double)n);
}

/* sqrt(2 / (5 C)); what writes to the residual stream of five blocks 2 / (5 sqrt(C)); norms 1, biases 0. */
START_TEST(first_weights_have_their_deviations)
{
    static const ref_shape five[] = { { 4, 2, 160 }, { 4, 2, 160 }, { 4, 2, 160 }, { 4, 2, 160 }, { 4, 2, 160 } };
    const ref_spec         spec = { "five", "qwen2", 40, 64, 5, 16, 16, true, true, 0, false, true, 1, BB_F32, five };
    const bb_train_options o = options(1);
    ref_model              m;
    ref_model_make(&spec, 1, &m);
    make_text(m.net.n_vocab);
    bb_training *t = trainer(&m.net, &o, -1);
    bb_training_start_random(t);
    const bb_net *net = bb_training_net(t);
    const double  usual = sqrt(2.0 / (5 * 64)), least = 2.0 / (5 * 8);
    ck_assert_double_eq_tol(deviation_of(&net->embd), usual, 0.05 * usual);
    ck_assert_double_eq_tol(deviation_of(&net->head), usual, 0.05 * usual);
    for (uint32_t i = 0; i < net->n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            if (!bb_block_has_part(&net->blocks[i], (bb_part)p)) continue;
            const double wanted = p == BB_PART_O || p == BB_PART_DOWN ? least : usual;
            ck_assert_msg(fabs(deviation_of(&net->blocks[i].w[p]) - wanted) <= 0.05 * wanted, "block %u, %s", i, bb_parts[p].name);
        }
    ck_assert(net->out_norm[3] == 1 && net->blocks[4].norm[BB_NORM_FFN][63] == 1 && net->blocks[2].w[BB_PART_K].bias[31] == 0);
    bb_training_destroy(t);
    ref_model_free(&m);
}
END_TEST

/* ---- data ---- */

START_TEST(an_epoch_has_each_window_once)
{
    enum { WINDOWS = TEXT / T - 1, EPOCHS = 3 };
    ref_model        m;
    bb_train_options o = options(1);
    size_t           seen[TEXT] = { 0 }, places[EPOCHS * WINDOWS];
    o.batch = 1;
    ref_model_make(&ref_specs[0], 1, &m);
    for (size_t i = 0; i < TEXT; i++) text[i] = (int32_t)(i % m.net.n_vocab); /* 40 apart, windows are told apart by T = 11 */
    bb_training *t = trainer(&m.net, &o, 7);
    for (size_t s = 0; s < EPOCHS * WINDOWS; s++) {
        const int32_t *tokens, *targets;
        size_t         found = TEXT;
        bb_training_batch(t, s, &tokens, &targets);
        ck_assert_int_eq(tokens[0], 7);
        ck_assert_int_eq(memcmp(tokens + 1, targets, (T - 1) * sizeof *tokens), 0);
        for (size_t i = 0; i + T < TEXT; i++)
            if (memcmp(text + i + 1, targets, T * sizeof *text) == 0 && !seen[i]) {
                found = i;
                break;
            }
        ck_assert_msg(found < TEXT, "step %zu has no window of the text that is not seen", s);
        seen[found] = 1;
        places[s] = found;
        if (s % WINDOWS == WINDOWS - 1) memset(seen, 0, sizeof seen);
    }
    ck_assert(memcmp(places, places + WINDOWS, WINDOWS * sizeof *places) != 0); /* another order in the next epoch */
    bb_training_destroy(t);
    ref_model_free(&m);
}
END_TEST

/* ---- runs ---- */

static void run_to(bb_training *t, uint64_t n)
{
    bb_train_step done;
    while (bb_training_steps(t) < n) ck_assert_int_eq(bb_training_step(t, &done, NULL), BB_OK);
}

static bool same_weights(bb_training *a, bb_training *b)
{
    return memcmp(bb_training_trainable(a)->w, bb_training_trainable(b)->w, bb_training_weights(a) * sizeof(float)) == 0;
}

START_TEST(threads_and_resuming_change_nothing)
{
    ref_model        m;
    bb_train_options o = options(9), longer = options(20);
    int              threads = omp_get_max_threads();
    char             path[512];
    snprintf(path, sizeof path, "%s", bb_test_path("state"));
    ref_model_make(&ref_specs[_i], 3, &m);
    make_text(m.net.n_vocab);
    if (is_refused(&m)) return;
    bb_training *a = trainer(&m.net, &o, -1), *b = trainer(&m.net, &o, -1), *c = trainer(&m.net, &longer, -1);
    bb_training *all[] = { a, b, c };
    for (int i = 0; i < 3; i++) bb_training_start_random(all[i]);
    ck_assert(same_weights(a, b));
    omp_set_num_threads(3);
    run_to(a, 9);
    omp_set_num_threads(1);
    run_to(b, 4);
    ck_assert(!same_weights(a, b));
    ck_assert_int_eq(bb_training_save(b, path, NULL), BB_OK);
    run_to(b, 5); /* off the way, and back by loading */
    ck_assert_int_eq(bb_training_load(b, path, NULL), BB_OK);
    ck_assert_uint_eq(bb_training_steps(b), 4);
    run_to(b, 9);
    ck_assert(same_weights(a, b));
    ck_assert_int_eq(bb_training_load(c, path, NULL), BB_OK); /* a longer run with the same rates so far */
    run_to(c, 9);
    ck_assert(same_weights(a, c));
    omp_set_num_threads(threads);
    for (int i = 0; i < 3; i++) bb_training_destroy(all[i]);
    ref_model_free(&m);
}
END_TEST

START_TEST(foreign_and_damaged_states)
{
    ref_model        m;
    bb_train_options o = options(9), other;
    bb_err           err = BB_ERR_INIT;
    char             path[512], *data;
    size_t           size;
    bb_training     *b;
    snprintf(path, sizeof path, "%s", bb_test_path("state"));
    ref_model_make(&ref_specs[0], 3, &m);
    make_text(m.net.n_vocab);
    bb_training *t = trainer(&m.net, &o, -1);
    bb_training_start_random(t);
    run_to(t, 3);
    ck_assert_int_eq(bb_training_save(t, path, NULL), BB_OK);
    for (int i = 0; i < 6; i++) {
        other = o;
        if (i == 0) other.seed = 5;
        if (i == 1) other.clip = 2;
        if (i == 2) other.schedule.peak = 0.02;
        if (i == 3) other.schedule.n_steps = 2;
        if (i == 4) text[TEXT - 1] ^= 1;
        b = trainer(&m.net, &other, i == 5 ? 1 : -1);
        bb_training_start_random(b);
        ck_assert_msg(bb_training_load(b, path, &err) == BB_BAD_FILE, "%d", i);
        bb_training_destroy(b);
        if (i == 4) text[TEXT - 1] ^= 1;
    }
    ck_assert_int_eq(bb_file_read(path, &data, &size, NULL), BB_OK);
    for (size_t i = 0; i < size; i += size / 61) {
        data[i] ^= 4;
        bb_test_write(path, data, size);
        ck_assert_msg(bb_training_load(t, path, &err) == BB_BAD_FILE, "byte %zu", i);
        data[i] ^= 4;
        bb_test_write(path, data, i);
        ck_assert_msg(bb_training_load(t, path, &err) == BB_BAD_FILE, "cut at %zu", i);
    }
    bb_test_write(path, data, size);
    ck_assert_int_eq(bb_training_load(t, path, NULL), BB_OK);
    bb_free(data);
    bb_training_destroy(t);
    ref_model_free(&m);
}
END_TEST

START_TEST(failures_say_so)
{
    ref_model        m;
    bb_train_options o = options(9), wrong = o;
    bb_train_step    done;
    bb_training     *t;
    bb_train_data    data = { text, TEXT, -1 };
    bb_status        status = BB_NOMEM;
    ref_model_make(&ref_specs[0], 3, &m);
    make_text(m.net.n_vocab);
    size_t live = bb_mem_live_bytes();
    wrong.batch = 0;
    ck_assert_int_eq(bb_training_create(&bb_backend_cpu, &m.net, &data, &wrong, &t, NULL), BB_USAGE);
    wrong = o, wrong.ctx = TEXT;
    ck_assert_int_eq(bb_training_create(&bb_backend_cpu, &m.net, &data, &wrong, &t, NULL), BB_BAD_FILE);
    text[5] = (int32_t)m.net.n_vocab;
    ck_assert_int_eq(bb_training_create(&bb_backend_cpu, &m.net, &data, &o, &t, NULL), BB_BAD_FILE);
    text[5] = 0;
    t = trainer(&m.net, &o, -1);
    bb_training_start_random(t);
    bb_training_trainable(t)->w[0] = (float)NAN;
    bb_training_trainable(t)->w[(size_t)text[0] * m.net.n_embd] = (float)NAN;
    ck_assert_int_eq(bb_training_step(t, &done, NULL), BB_NUMERIC);
    bb_training_destroy(t);
    for (long n = 0; status != BB_OK; n++) {
        bb_mem_fail_after(n);
        status = bb_training_create(&bb_backend_cpu, &m.net, &data, &o, &t, NULL);
        if (status == BB_OK) {
            bb_training_start_random(t);
            status = bb_training_step(t, &done, NULL);
            if (status == BB_OK) status = bb_training_save(t, bb_test_path("state"), NULL);
            bb_training_destroy(t);
        }
        bb_mem_fail_after(-1);
        ck_assert(status == BB_OK || status == BB_NOMEM);
        ck_assert_uint_eq(bb_mem_live_bytes(), live);
    }
    ref_model_free(&m);
}
END_TEST

/* ---- new models ---- */

START_TEST(new_models_are_read_back)
{
    bb_new_shape         s = { .n_vocab = 512,
                               .n_layer = 3,
                               .n_embd = 24,
                               .n_head = 6,
                               .n_kv = 2,
                               .head_dim = 8,
                               .n_ff = 20,
                               .n_ctx = 64,
                               .rope_base = 5000,
                               .norm_eps = 1e-6f,
                               .tied = _i == 0 };
    static const bb_type types[] = { BB_F32, BB_F16, BB_BF16 };
    char                 path[512];
    bb_source            vocabulary;
    bb_net               shape, net;
    bb_trainable         t = { .w = NULL };
    bb_model             m;
    void                *owned;
    int32_t              ids[T] = { 1, 511, 3, 99, 0, 5, 200, 17, 1, 2, 3 };
    double              *a = BB_NEW(T * 512, double, NULL), *b = BB_NEW(T * 512, double, NULL);
    bb_err               err = BB_ERR_INIT;
    snprintf(path, sizeof path, "%s", bb_test_path("new.gguf"));
    ck_assert_int_eq(bb_gguf_open("tests/data/stories260K.gguf", &vocabulary, NULL), BB_OK);
    ck_assert_int_eq(bb_new_net(&s, &shape, NULL), BB_OK);
    ck_assert_int_eq(bb_trainable_create(&shape, &t, NULL), BB_OK);
    bb_trainable_random(&t, 3);
    ck_assert_int_eq(bb_net_as_type(&t.net, types[_i], &net, &owned, NULL), BB_OK);
    ck_assert_msg(bb_new_write(&vocabulary, &net, "a name", path, &err) == BB_OK, "%s", err.msg);
    ck_assert_msg(bb_model_open(path, &m, &err) == BB_OK, "%s", err.msg);
    ck_assert(m.net.n_ctx_train == 64 && m.net.rope_base == 5000 && m.net.norm_eps == 1e-6f && (m.net.head.rows == 0) == s.tied);
    ref_run(&net, ids, T, a);
    ref_run(&m.net, ids, T, b);
    ck_assert_int_eq(memcmp(a, b, T * 512 * sizeof *a), 0);
    ref_run(&t.net, ids, T, b);
    for (size_t i = 0; i < T * 512; i++) ck_assert(fabs(a[i] - b[i]) <= (types[_i] == BB_F32 ? 0 : 0.02));
    bb_model_close(&m);
    bb_free(net.blocks);
    bb_free(owned);
    ((float *)(uintptr_t)t.net.blocks[1].w[BB_PART_UP].data)[5] = 1e30f; /* too large for F16 alone */
    ck_assert_int_eq(bb_net_as_type(&t.net, types[_i], &net, &owned, NULL), types[_i] == BB_F16 ? BB_NUMERIC : BB_OK);
    bb_free(net.blocks);
    bb_free(owned);
    bb_trainable_done(&t);
    bb_free(shape.blocks);
    bb_source_close(&vocabulary);
    bb_free(a);
    bb_free(b);
}
END_TEST

START_TEST(impossible_shapes)
{
    static const bb_new_shape good = { 512, 3, 24, 6, 2, 8, 20, 64, 5000, 1e-6f, true };
    bb_net                    net;
    for (int i = 0; i < 7; i++) {
        bb_new_shape s = good;
        if (i == 0) s.n_kv = 4;
        if (i == 1) s.head_dim = 7;
        if (i == 2) s.n_layer = 0;
        if (i == 3) s.n_ff = 0;
        if (i == 4) s.rope_base = 0;
        if (i == 5) s.norm_eps = (float)NAN;
        if (i == 6) s.n_embd = 1u << 31;
        ck_assert_msg(bb_new_net(&s, &net, NULL) == BB_USAGE, "%d", i);
    }
}
END_TEST

/* Weights change at every step, so copies of them that a backend made before must not be used again. */
START_TEST(another_backend_trains_the_same)
{
    bb_train_options    o = options(3);
    ref_model           m;
    guarded             g;
    bb_training        *t[2];
    const bb_train_data data = { text, TEXT, 1 };
    ref_model_make(&ref_specs[_i], 3, &m);
    make_text(m.net.n_vocab);
    if (is_refused(&m)) return;
    guarded_make(&g);
    t[0] = trainer(&m.net, &o, 1);
    ck_assert_int_eq(bb_training_create(&g.backend, &m.net, &data, &o, &t[1], NULL), BB_OK);
    for (int i = 0; i < 2; i++) bb_training_start_random(t[i]);
    for (int step = 0; step < 3; step++) {
        bb_train_step done[2];
        for (int i = 0; i < 2; i++) ck_assert_int_eq(bb_training_step(t[i], &done[i], NULL), BB_OK);
        ck_assert(done[0].loss == done[1].loss && done[0].norm == done[1].norm);
    }
    const bb_trainable *a = bb_training_trainable(t[0]), *b = bb_training_trainable(t[1]);
    ck_assert_int_eq(memcmp(a->w, b->w, a->n * sizeof *a->w), 0);
    for (int i = 0; i < 2; i++) bb_training_destroy(t[i]);
    ck_assert_uint_eq(g.n_weights, 0);
    guarded_done(&g);
    ref_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("train");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, whole_gradient_agrees_with_differences, 0, (int)ref_n_specs);
    tcase_add_test(t, first_weights_have_their_deviations);
    tcase_add_test(t, an_epoch_has_each_window_once);
    tcase_add_loop_test(t, threads_and_resuming_change_nothing, 0, (int)ref_n_specs);
    tcase_add_loop_test(t, another_backend_trains_the_same, 0, (int)ref_n_specs);
    tcase_add_test(t, foreign_and_damaged_states);
    tcase_add_test(t, failures_say_so);
    tcase_add_loop_test(t, new_models_are_read_back, 0, 3);
    tcase_add_test(t, impossible_shapes);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
