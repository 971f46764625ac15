/* SPDX-License-Identifier: GPL-3.0-or-later
 * output_moments.c: see output_moments.h. */
#include "eval/output_moments.h"

#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "eval/gradient.h"
#include "kernels/kernels.h"

/* Some of the windows, the mean being of them and of those of all rounds before. */
typedef struct one_round {
    bb_windows windows;
    char       name[65], *path; /* of the file with the mean */
} one_round;

/* before: the name of the mean before it; "": it is the first. n: of how many, as one that is removed for the next is not to be the last of fewer windows. */
static void name_round(const bb_model *m, const bb_output_moments_options *o, const char *before, uint32_t n, one_round *r)
{
    bb_sha256 s;
    char      hex[65], text[128];
    bb_sha256_init(&s);
    bb_sha256_text(&s, "bitbudget output moments 1");
    bb_sha256_text(&s, bb_kernels_bits());
    bb_sha256_text(&s, bb_model_sha256(m));
    bb_sha256_text(&s, before);
    bb_windows_hash(&r->windows, hex);
    bb_sha256_text(&s, hex);
    snprintf(text, sizeof text, "labels %u, seed %llu, rows %d", o->labels, (unsigned long long)o->seed, BB_OUTPUT_ROWS);
    bb_sha256_text(&s, text);
    snprintf(text, sizeof text, "%u rounds", n);
    if (n > 1) bb_sha256_text(&s, text);
    bb_sha256_hex(&s, r->name);
}

static bb_status make_rounds(const bb_model *m, const bb_database *db, const bb_output_moments_options *o, uint32_t all, uint32_t n, one_round *r, bb_err *err)
{
    bb_status status = BB_OK;
    for (uint32_t i = 0; i < n; i++) {
        BB_TRY(bb_gradient_windows(o->windows, all, i, n, &r[i].windows, err));
        name_round(m, o, i ? r[i - 1].name : "", n, &r[i]);
        if (!(r[i].path = bb_asprintf(err, "%s/outputs-%.32s.bin", bb_database_dir(db), r[i].name))) return BB_NOMEM;
    }
done:
    return status;
}

typedef struct writing {
    bb_writer                file;
    const bb_net            *net;
    const bb_output_moments *mean; /* of the rounds before; NULL: this is the first */
    uint32_t                 n;    /* rounds with this one */
} writing;

static bb_status write_block(void *self, uint32_t layer, const bb_block *block, const bb_matrix_gradient *part, bb_err *err)
{
    writing  *w = self;
    bb_status status = BB_OK;
    (void)block; /* it is the network's own */
    for (int p = 0; p < BB_N_PARTS; p++)
        if (bb_output_moments_has(w->net, layer, (bb_part)p))
            BB_TRY(bb_output_moments_add(w->file.stream, w->mean, w->n, layer, (bb_part)p, part[p].out, part[p].rows, err));
done:
    return status;
}

/* Writes the mean of this round and the k before, which `moments` has and does not have any more. */
static bb_status measure_round(const bb_model *m, const bb_backend *backend, const bb_output_moments_options *o, const one_round *r, uint32_t k,
                               bb_output_moments *moments, bb_err *err)
{
    writing                   w = { .net = &m->net, .mean = k ? moments : NULL, .n = k + 1 };
    const bb_gradient_options of = {
        .level = 0, .windows = &r->windows, .widest = &m->net, .labels = o->labels, .seed = o->seed, .second = true, .rows = BB_OUTPUT_ROWS
    };
    const bb_gradient_visitor visitor = { .self = &w, .block = write_block };
    bb_net_evaluator         *e = NULL;
    bb_evaluation             at;
    bb_status                 status;
    BB_TRY(bb_net_evaluator_create(backend, m, &r->windows, 1, UINT64_MAX, &e, err));
    BB_TRY(bb_writer_open(&w.file, r->path, err));
    BB_TRY(bb_output_moments_begin(w.file.stream, err));
    BB_TRY(bb_gradient_run(e, &m->net, &of, &visitor, &at, err));
    BB_TRY(bb_writer_commit(&w.file, err));
    bb_output_moments_done(moments);
done:
    bb_writer_abort(&w.file);
    bb_net_evaluator_destroy(e);
    return status;
}

bb_status bb_output_moments_measure(const bb_model *m, const bb_backend *backend, const bb_database *db, const bb_output_moments_options *o,
                                    bb_output_moments *out, bb_err *err)
{
    const uint32_t all = o->n < o->windows->n ? o->n : o->windows->n, most = bb_gradient_count(&m->net, all, o->windows->ctx, o->most ? o->most : all);
    enum { TRIALS = 8 };
    const uint32_t n = (all + most - 1) / most;
    one_round     *r = BB_NEW0(n, one_round, err);
    uint32_t       k = n;
    bb_status      status = r ? BB_OK : BB_NOMEM;
    *out = (bb_output_moments) { 0 };
    BB_TRY(status);
    BB_TRY(make_rounds(m, db, o, all, n, r, err));
    /* Looked for anew after each round: a process with the same database that is farther removes what it has no use for. */
    for (uint32_t trials = 0;; trials++) {
        for (k = n; k > 0 && !(bb_file_exists(r[k - 1].path) && bb_output_moments_open(r[k - 1].path, r[k - 1].name, &m->net, out, NULL) == BB_OK);) k--;
        if (k == n) break;
        if (trials == n + TRIALS) status = BB_FAIL(err, BB_IO, "%s: output moments that were just written are not there", r[k].path);
        BB_TRY(status);
        BB_TRY(measure_round(m, backend, o, &r[k], k, out, err));
        if (k) unlink(r[k - 1].path);
    }
done:
    for (uint32_t i = 0; r && i < n; i++) {
        bb_windows_done(&r[i].windows);
        bb_free(r[i].path);
    }
    bb_free(r);
    if (status != BB_OK) bb_output_moments_done(out);
    return status;
}
