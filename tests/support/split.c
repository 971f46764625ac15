/* SPDX-License-Identifier: GPL-3.0-or-later
 * split.c: see split.h. */
#include "tests/support/split.h"

#include <stdio.h>
#include <stdlib.h>

#include "model/io/gguf.h"

static void must(bb_status status)
{
    if (status != BB_OK) abort();
}

const char *split_path(const char *stem, uint32_t part, uint32_t n)
{
    static char     paths[16][600];
    static unsigned next;
    char           *path = paths[next++ % 16];
    snprintf(path, sizeof paths[0], "%s-%05u-of-%05u.gguf", stem, part, n);
    return path;
}

static void put_place(bb_gguf_out *out, const char *key, int said, uint32_t truth)
{
    if (said >= 0) must(bb_gguf_put_u32(out, key, said ? (uint32_t)said : truth, NULL));
}

static void write_part(const bb_source *g, const char *stem, uint32_t part, uint32_t n, const split_lie *lie)
{
    const uint64_t first = g->n_tensors * (part - 1) / n, end = g->n_tensors * part / n;
    bb_gguf_out   *out;
    must(bb_gguf_out_create(&out, NULL));
    for (uint64_t i = 0; part == 1 && i < g->n_kv; i++) must(bb_gguf_put_copy(out, &g->kv[i], NULL));
    put_place(out, "split.no", lie->no, part - 1);
    put_place(out, "split.count", lie->count, n);
    put_place(out, "split.tensors.count", lie->tensors, (uint32_t)g->n_tensors);
    if (lie->twice) must(bb_gguf_put_tensor(out, &g->tensors[0], NULL));
    for (uint64_t i = first; i < end - lie->leave; i++) must(bb_gguf_put_tensor(out, &g->tensors[i], NULL));
    must(bb_gguf_out_write(out, split_path(stem, part, n), NULL));
    bb_gguf_out_destroy(out);
}

void split_write(const char *gguf, const char *stem, uint32_t n, const split_lie *lie)
{
    static const split_lie none;
    bb_source              g;
    must(bb_gguf_open(gguf, &g, NULL));
    for (uint32_t part = 1; part <= n; part++) {
        const split_lie *l = lie && lie->part == part ? lie : &none;
        remove(split_path(stem, part, n));
        if (!l->missing) write_part(&g, stem, part, n, l);
    }
    bb_source_close(&g);
}
