/* SPDX-License-Identifier: GPL-3.0-or-later
 * output_moments.c: see output_moments.h. */
#include "model/compress/output_moments.h"

#include <string.h>

#include "base/mem.h"

static const char magic[9] = "BBOUTM01";

bool bb_output_moments_has(const bb_net *net, uint32_t layer, bb_part part)
{
    return net->blocks[layer].w[part].rows > 0 && net->blocks[layer].w[part].rows <= BB_OUTPUT_ROWS;
}

static size_t bytes_of(const bb_net *net, uint32_t layer, bb_part part)
{
    const size_t rows = net->blocks[layer].w[part].rows;
    return bb_output_moments_has(net, layer, part) ? rows * (rows + 1) / 2 * sizeof(float) : 0;
}

bb_status bb_output_moments_open(const char *path, const char *name, const bb_net *net, bb_output_moments *out, bb_err *err)
{
    const size_t n = (size_t)net->n_layer * BB_N_PARTS;
    bb_status    status = BB_NOMEM;
    *out = (bb_output_moments) { 0 };
    snprintf(out->name, sizeof out->name, "%s", name);
    if (!(out->at = BB_NEW(n, size_t, err))) return BB_NOMEM;
    size_t end = 8;
    for (uint32_t i = net->n_layer; i-- > 0;)
        for (uint32_t p = 0; p < BB_N_PARTS; p++) {
            out->at[i * BB_N_PARTS + p] = end;
            end += bytes_of(net, i, (bb_part)p);
        }
    BB_TRY(bb_map_open(path, &out->map, err));
    if (out->map.size != end || memcmp(out->map.data, magic, 8) != 0)
        status = BB_FAIL(err, BB_BAD_FILE, "%s: not the output moments of this model: remove it, and it is made again", path);
done:
    if (status != BB_OK) bb_output_moments_done(out);
    return status;
}

void bb_output_moments_done(bb_output_moments *m)
{
    bb_map_close(&m->map);
    bb_free(m->at);
    *m = (bb_output_moments) { 0 };
}

static const float *triangle_of(const bb_output_moments *m, uint32_t layer, bb_part part)
{
    return (const float *)(const void *)(m->map.data + m->at[layer * BB_N_PARTS + (uint32_t)part]);
}

void bb_output_moments_read(const bb_output_moments *m, uint32_t layer, bb_part part, uint32_t rows, const uint32_t *row, uint32_t n, float *g)
{
    const float *from = triangle_of(m, layer, part);
#pragma omp parallel for schedule(static)
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n; k++) {
            const size_t a = row ? row[i] : i, b = row ? row[k] : k, less = a < b ? a : b, more = a < b ? b : a;
            g[(size_t)i * n + k] = from[less * rows - less * (less + 1) / 2 + more];
        }
}

bb_status bb_output_moments_begin(FILE *f, bb_err *err)
{
    return fwrite(magic, 1, 8, f) == 8 ? BB_OK : BB_FAIL(err, BB_IO, "the output moments cannot be written");
}

bb_status bb_output_moments_add(FILE *f, const bb_output_moments *before, uint32_t n, uint32_t layer, bb_part part, const float *g, uint32_t rows, bb_err *err)
{
    const float *old = before ? triangle_of(before, layer, part) : NULL, last = 1.0f / (float)n;
    float       *row = BB_NEW(rows, float, err);
    bool         good = true;
    if (!row) return BB_NOMEM;
    for (size_t i = 0; i < rows && good; i++) {
        for (size_t k = i; k < rows; k++) row[k] = old ? last * g[i * rows + k] + (1 - last) * *old++ : g[i * rows + k];
        good = fwrite(row + i, sizeof *g, rows - i, f) == rows - i;
    }
    bb_free(row);
    return good ? BB_OK : BB_FAIL(err, BB_IO, "the output moments cannot be written");
}
