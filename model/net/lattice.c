/* SPDX-License-Identifier: GPL-3.0-or-later
 * lattice.c: see lattice.h. */
#include "model/net/lattice.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/half.h"

bool   bb_lattice_can(uint32_t rows, uint32_t cols) { return cols % BB_LATTICE_DIM == 0 && bb_turn_can(rows) && bb_turn_can(cols); }
size_t bb_lattice_code_bytes(uint32_t rows, uint32_t cols) { return (size_t)rows * (cols / BB_LATTICE_DIM); }
size_t bb_lattice_side_numbers(uint32_t rows, uint32_t cols) { return (size_t)BB_LATTICE_MAP + cols + rows; }
size_t bb_lattice_bytes(uint32_t rows, uint32_t cols) { return bb_lattice_code_bytes(rows, cols) + 2 * bb_lattice_side_numbers(rows, cols); }

bb_lattice_box *bb_lattice_box_new(uint32_t rows, uint32_t cols, bb_err *err)
{
    const size_t    weights = (size_t)rows * cols * sizeof(float), head = (sizeof(bb_lattice_box) + 15) / 16 * 16;
    char           *p = bb_alloc(head + weights + bb_lattice_bytes(rows, cols), 1, err);
    bb_lattice_box *box = (bb_lattice_box *)(void *)p;
    if (!p) return NULL;
    box->w = (float *)(void *)(p + head);
    box->bytes = (unsigned char *)p + head + weights;
    box->view = (bb_lattice) { box->bytes, box->bytes + bb_lattice_code_bytes(rows, cols) };
    return box;
}

void bb_lattice_view(const bb_lattice_box *box, bb_matrix *m)
{
    m->type = BB_F32;
    m->data = box->w;
    m->lattice = &box->view;
}

bb_status bb_lattice_frame_init(bb_lattice_frame *f, uint32_t rows, uint32_t cols, bb_err *err)
{
    bb_status status;
    *f = (bb_lattice_frame) { .rows = rows, .cols = cols };
    BB_TRY(bb_turn_init(&f->of_rows, rows, err));
    BB_TRY(bb_turn_init(&f->of_cols, cols, err));
done:
    if (status != BB_OK) bb_lattice_frame_done(f);
    return status;
}

void bb_lattice_frame_done(bb_lattice_frame *f)
{
    bb_turn_done(&f->of_rows);
    bb_turn_done(&f->of_cols);
}

void bb_lattice_turn(const bb_lattice_frame *f, double *d, bool turned)
{
    const double scale = 1 / sqrt((double)f->of_rows.p * (double)f->of_cols.p);
    const size_t n = (size_t)f->rows * f->cols;
    bb_turn_rows(&f->of_cols, d, f->rows, !turned);
    bb_turn_columns(&f->of_rows, d, f->cols, !turned);
    for (size_t i = 0; i < n; i++) d[i] *= scale;
}

void bb_lattice_points(const float map[BB_LATTICE_MAP], double points[BB_LATTICE_POINTS][BB_LATTICE_DIM])
{
    for (unsigned byte = 0; byte < BB_LATTICE_POINTS; byte++)
        for (unsigned i = 0; i < BB_LATTICE_DIM; i++) {
            double sum = (double)map[BB_LATTICE_DIM * BB_LATTICE_DIM + i];
            for (unsigned j = 0; j < BB_LATTICE_DIM; j++) sum += (double)map[BB_LATTICE_DIM * i + j] * (double)(byte >> 2 * j & 3);
            points[byte][i] = sum;
        }
}

void bb_lattice_weights(const bb_lattice_frame *f, const unsigned char *codes, const float map[BB_LATTICE_MAP], const float *s_in, const float *s_out,
                        double *d, float *w)
{
    const size_t n_codes = bb_lattice_code_bytes(f->rows, f->cols);
    double       points[BB_LATTICE_POINTS][BB_LATTICE_DIM];
    bb_lattice_points(map, points);
    for (size_t k = 0; k < n_codes; k++) memcpy(d + BB_LATTICE_DIM * k, points[codes[k]], sizeof points[0]);
    bb_lattice_turn(f, d, false);
#pragma omp parallel for schedule(static)
    for (uint32_t r = 0; r < f->rows; r++)
        for (size_t c = 0, at = (size_t)r * f->cols; c < f->cols; c++, at++) w[at] = (float)((double)s_out[r] * d[at] * (double)s_in[c]);
}

void bb_lattice_side_read(const unsigned char *side, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) out[i] = bb_half_to_float(bb_load_u16(side + 2 * i));
}

void bb_lattice_side_write(const float *numbers, size_t n, unsigned char *side)
{
    const float most = 65504.0f;
    for (size_t i = 0; i < n; i++) bb_store_u16(side + 2 * i, bb_float_to_half(fminf(fmaxf(numbers[i], -most), most)));
}

bb_status bb_lattice_decode(const bb_lattice *l, uint32_t rows, uint32_t cols, float *w, bb_err *err)
{
    const size_t     n = (size_t)rows * cols, n_side = bb_lattice_side_numbers(rows, cols);
    bb_lattice_frame frame = { 0 };
    double          *d = NULL;
    float           *side = NULL;
    bb_status        status;
    if (!bb_lattice_can(rows, cols)) return BB_FAIL(err, BB_BAD_FILE, "%u x %u weights cannot be a lattice", cols, rows);
    BB_TRY(bb_lattice_frame_init(&frame, rows, cols, err));
    status = BB_NOMEM;
    d = BB_NEW(n, double, err);
    side = BB_NEW(n_side, float, err);
    if (!d || !side) goto done;
    bb_lattice_side_read(l->side, n_side, side);
    for (size_t i = 0; i < n_side; i++)
        if (!isfinite(side[i])) {
            status = BB_FAIL(err, BB_BAD_FILE, "its number %zu (of A, b and the scales) is none: the file is damaged", i);
            goto done;
        }
    bb_lattice_weights(&frame, l->codes, side, side + BB_LATTICE_MAP, side + BB_LATTICE_MAP + cols, d, w);
    status = BB_OK; /* none is beyond float32: numbers of 2^20, turned by at most 2^24, times two of 2^16 */
done:
    bb_lattice_frame_done(&frame);
    bb_free(d);
    bb_free(side);
    return status;
}
