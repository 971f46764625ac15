/* SPDX-License-Identifier: GPL-3.0-or-later
 * imatrix.c: see imatrix.h.
 *
 * GGUF: F32 tensors NAME.in_sum2 (columns, experts), sums of squares, and NAME.counts (1, experts), tokens. The mean is their quotient.
 * .dat: i32 number of entries; each: i32 length, name, i32 calls, i32 values, float32 sums that are means times calls; behind them what is not needed here.
 */
#include "model/io/imatrix.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static int by_name(const void *a, const void *b) { return strcmp(((const bb_importance *)a)->name, ((const bb_importance *)b)->name); }

const bb_importance *bb_imatrix_find(const bb_imatrix *m, const char *name)
{
    bb_importance key;
    snprintf(key.name, sizeof key.name, "%s", name);
    return m->n ? bsearch(&key, m->entries, m->n, sizeof *m->entries, by_name) : NULL;
}

void bb_imatrix_done(bb_imatrix *m)
{
    for (size_t i = 0; i < m->n; i++) bb_free(m->entries[i].mean);
    bb_free(m->entries);
    *m = (bb_imatrix) { .n = 0 };
}

/* sums (n, unaligned) over count, checked; room for the entry is there. */
static bb_status add(bb_imatrix *m, bb_bytes name, const unsigned char *sums, uint64_t n, double count, bb_err *err)
{
    bb_importance *e = &m->entries[m->n];
    char           shown[BB_SHOWN];
    bool           any = false;
    memset(e, 0, sizeof *e);
    if (name.size == 0 || name.size >= sizeof e->name || memchr(name.data, 0, (size_t)name.size))
        return BB_FAIL(err, BB_BAD_FILE, "an entry has a name of %llu bytes; 1 to 64 without NUL are possible", (unsigned long long)name.size);
    if (!(count >= 0 && count < 1e18)) return BB_FAIL(err, BB_BAD_FILE, "the count of '%s' is %g", bb_show(name, shown), count);
    memcpy(e->name, name.data, (size_t)name.size);
    e->n = n;
    if (!(e->mean = BB_NEW((size_t)n, float, err))) return BB_NOMEM;
    m->n++;
    for (uint64_t i = 0; i < n; i++) {
        float v;
        memcpy(&v, sums + i * sizeof v, sizeof v);
        if (!(v >= 0) || isinf(v))
            return BB_FAIL(err, BB_BAD_FILE, "value %llu of '%s' is %g; sums of squares are needed", (unsigned long long)i, bb_show(name, shown), (double)v);
        e->mean[i] = count > 0 ? (float)((double)v / count) : 0.0f;
        if (isinf(e->mean[i]))
            return BB_FAIL(err, BB_BAD_FILE, "value %llu of '%s' is %g of a count of %g: no mean square", (unsigned long long)i, bb_show(name, shown),
                           (double)v, count);
        any |= e->mean[i] > 0;
    }
    if (any) return BB_OK;
    bb_free(e->mean);
    e->mean = NULL;
    return BB_OK;
}

/* ---- GGUF ---- */

static const char sum_end[] = ".in_sum2", count_end[] = ".counts";

static bool ends(const char *name, const char *end, size_t *cut)
{
    const size_t n = strlen(name), k = strlen(end);
    *cut = n - k;
    return n > k && strcmp(name + n - k, end) == 0;
}

static bb_status add_tensor(bb_imatrix *m, const bb_source *g, const bb_tensor *sums, size_t cut, bb_err *err)
{
    char             name[80], shown[BB_SHOWN];
    const bb_tensor *counts;
    float            count;
    snprintf(name, sizeof name, "%.*s%s", (int)cut, sums->name, count_end);
    bb_show((bb_bytes) { sums->name, cut }, shown);
    if (!(counts = bb_source_tensor(g, name))) return BB_FAIL(err, BB_BAD_FILE, "'%s' has sums and no counts", shown);
    if (sums->type != BB_F32 || counts->type != BB_F32) return BB_FAIL(err, BB_BAD_FILE, "sums and counts of '%s' are not both F32", shown);
    if (sums->ne[1] * sums->ne[2] * sums->ne[3] != 1 || counts->ne[0] * counts->ne[1] * counts->ne[2] * counts->ne[3] != 1)
        return BB_FAIL(err, BB_UNSUPPORTED, "'%s' has importance of several experts; only dense models are supported", shown);
    memcpy(&count, counts->data, sizeof count);
    return add(m, (bb_bytes) { sums->name, cut }, sums->data, sums->ne[0], count, err);
}

static bb_status read_gguf(const bb_map *map, bb_imatrix *m, bb_err *err)
{
    bb_source g;
    bb_bytes  type = { "", 0 };
    char      shown[BB_SHOWN];
    bool      found;
    bb_status status = bb_gguf_parse(map->data, map->size, &g, err);
    if (status != BB_OK) return status;
    BB_TRY(bb_source_text(&g, "general.type", &type, &found, err));
    if (type.size != 7 || memcmp(type.data, "imatrix", 7) != 0) {
        status = BB_FAIL(err, BB_BAD_FILE, "general.type is '%s'; a file of llama-imatrix has 'imatrix'", bb_show(type, shown));
        goto done;
    }
    status = BB_NOMEM;
    if (!(m->entries = BB_NEW0((size_t)g.n_tensors + 1, bb_importance, err))) goto done;
    for (uint64_t i = 0; i < g.n_tensors; i++) {
        size_t cut;
        if (ends(g.tensors[i].name, sum_end, &cut)) BB_TRY(add_tensor(m, &g, &g.tensors[i], cut, err));
        else if (!ends(g.tensors[i].name, count_end, &cut)) {
            status = BB_FAIL(err, BB_BAD_FILE, "tensor '%s' is neither .in_sum2 nor .counts",
                             bb_show((bb_bytes) { g.tensors[i].name, strlen(g.tensors[i].name) }, shown));
            goto done;
        }
    }
    status = BB_OK;
done:
    bb_source_close(&g);
    return status;
}

/* ---- .dat ---- */

typedef struct reader {
    const unsigned char *at;
    size_t               left;
} reader;

static bool take(reader *r, size_t n, const unsigned char **p)
{
    if (n > r->left) return false;
    *p = r->at;
    r->at += n;
    r->left -= n;
    return true;
}

static bool take_i32(reader *r, int32_t *v)
{
    const unsigned char *p;
    if (!take(r, sizeof *v, &p)) return false;
    memcpy(v, p, sizeof *v);
    return true;
}

static bb_status read_dat(const bb_map *map, bb_imatrix *m, bb_err *err)
{
    reader  r = { map->data, map->size };
    int32_t n;
    if (!take_i32(&r, &n) || n < 1 || (size_t)n > r.left / 13)
        return BB_FAIL(err, BB_BAD_FILE, "this is no importance matrix: neither a GGUF file nor the older layout, which begins with its number of entries");
    if (!(m->entries = BB_NEW0((size_t)n, bb_importance, err))) return BB_NOMEM;
    for (int32_t i = 0; i < n; i++) {
        const unsigned char *name, *values;
        int32_t              length, calls, n_values;
        bb_status            status;
        if (!take_i32(&r, &length) || length < 1 || !take(&r, (size_t)length, &name) || !take_i32(&r, &calls) || !take_i32(&r, &n_values) || n_values < 1 ||
            !take(&r, (size_t)n_values * sizeof(float), &values))
            return BB_FAIL(err, BB_BAD_FILE, "entry %d of %d does not fit into the rest of the file (is this an importance matrix?)", i + 1, n);
        status = add(m, (bb_bytes) { (const char *)name, (uint64_t)length }, values, (uint64_t)n_values, calls, err);
        if (status != BB_OK) return status;
    }
    return BB_OK;
}

bb_status bb_imatrix_load(const char *path, bb_imatrix *out, bb_err *err)
{
    bb_map    map = { NULL, 0 };
    bb_err    inner = BB_ERR_INIT;
    bb_sha256 s;
    bb_status status;
    *out = (bb_imatrix) { .n = 0 };
    BB_TRY(bb_map_open(path, &map, err));
    status = map.size >= 4 && memcmp(map.data, "GGUF", 4) == 0 ? read_gguf(&map, out, &inner) : read_dat(&map, out, &inner);
    if (status == BB_OK && out->n == 0) status = BB_FAIL(&inner, BB_BAD_FILE, "the importance matrix has no entry");
    if (status == BB_OK) qsort(out->entries, out->n, sizeof *out->entries, by_name);
    for (size_t i = 1; i < out->n && status == BB_OK; i++)
        if (by_name(&out->entries[i - 1], &out->entries[i]) == 0) status = BB_FAIL(&inner, BB_BAD_FILE, "entry '%s' occurs twice", out->entries[i].name);
    if (status != BB_OK) {
        BB_FAIL(err, status, "%s: %s", path, inner.msg);
        goto done;
    }
    bb_sha256_init(&s);
    bb_sha256_update(&s, map.data, map.size);
    bb_sha256_hex(&s, out->sha256);
done:
    if (map.data) bb_map_close(&map);
    if (status != BB_OK) bb_imatrix_done(out);
    return status;
}

/* ---- writing ---- */

bb_status bb_imatrix_keys(bb_gguf_out *out, const char *dataset, uint32_t chunks, uint32_t chunk_size, bb_err *err)
{
    const bb_bytes name = { dataset, strlen(dataset) };
    bb_status      status;
    BB_TRY(bb_gguf_put_text(out, "general.type", "imatrix", err));
    BB_TRY(bb_gguf_put_text_array(out, "imatrix.datasets", &name, 1, err));
    BB_TRY(bb_gguf_put_u32(out, "imatrix.chunk_count", chunks, err));
    BB_TRY(bb_gguf_put_u32(out, "imatrix.chunk_size", chunk_size, err));
done:
    return status;
}

bb_status bb_imatrix_put(bb_gguf_out *out, const char *name, const float *sums, const float *counts, uint64_t n, bb_err *err)
{
    bb_tensor s = { .type = BB_F32, .n_dims = 2, .ne = { n, 1, 1, 1 }, .data = sums },
              c = { .type = BB_F32, .n_dims = 2, .ne = { 1, 1, 1, 1 }, .data = counts };
    bb_status status;
    snprintf(s.name, sizeof s.name, "%.50s%s", name, sum_end);
    snprintf(c.name, sizeof c.name, "%.50s%s", name, count_end);
    BB_TRY(bb_gguf_put_tensor(out, &s, err));
    BB_TRY(bb_gguf_put_tensor(out, &c, err));
done:
    return status;
}
