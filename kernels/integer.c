/* SPDX-License-Identifier: GPL-3.0-or-later
 * integer.c: see integer.h. */
#include "kernels/integer.h"

#include <math.h>
#include <string.h>

#include "base/status.h"
#include "kernels/half.h"

/* Files of others hold every code that their decoder knows. */
static unsigned levels_of(const bb_format *f) { return f->n_read ? f->n_read : f->n_levels; }

bool bb_integers_shape(bb_integers *m, const bb_format *f, size_t rows, size_t cols)
{
    *m = (bb_integers) { .format = f, .rows = rows, .cols = cols };
    if (f->vec == 0) return false;
    BB_ASSERT(f->block % BB_INTEGER_GROUP == 0 && cols % f->block == 0 && f->group % BB_INTEGER_HALF == 0);
    m->bits = levels_of(f) <= 4 ? 2 : levels_of(f) <= BB_INTEGER_LEVELS ? 4 : 8;
    m->groups = f->group < BB_INTEGER_GROUP ? 2 : 1;
    for (unsigned i = 0; m->bits < 8 && i < levels_of(f); i++) m->table[i] = (int8_t)f->levels[i];
    bb_code zero = { .d = 1, .dmin = 1 };
    float   a[BB_MAX_GROUPS], b[BB_MAX_GROUPS];
    for (int g = 0; g < BB_MAX_GROUPS; g++) zero.mn[g] = 1;
    f->scales(&zero, a, b);
    m->offsets = b[0] < 0 || b[0] > 0;
    m->codes_at = sizeof(float) * BB_INTEGER_ROWS + cols / BB_INTEGER_GROUP * m->groups * (m->offsets ? 2 : 1) * BB_INTEGER_ROWS * sizeof(uint16_t);
    m->codes_at = (m->codes_at + 63) / 64 * 64;
    m->panel_bytes = m->codes_at + cols / BB_INTEGER_GROUP * 64 * m->bits;
    return true;
}

size_t bb_integers_panels(const bb_integers *m) { return (m->rows + BB_INTEGER_ROWS - 1) / BB_INTEGER_ROWS; }
size_t bb_integers_bytes(const bb_integers *m) { return bb_integers_panels(m) * m->panel_bytes; }

/* What a block decodes to, as integers: z [block]; a, b [block / group]. */
static void block_integers(const bb_format *f, const unsigned char *block, int8_t *z, float *a, float *b)
{
    bb_code c;
    f->unpack(block, &c);
    f->scales(&c, a, b);
    if (f->vec == 1) {
        for (unsigned i = 0; i < f->block; i++) z[i] = (int8_t)f->levels[c.q[i]];
        return;
    }
    float unit[BB_MAX_GROUPS], zero[BB_MAX_GROUPS], value[8];
    c.d = 1; /* the true one may be 0 */
    f->scales(&c, unit, zero);
    for (unsigned v = 0; v < (unsigned)f->block / f->vec; v++) {
        f->value(&c, v, value);
        for (unsigned i = 0; i < f->vec; i++) z[v * f->vec + i] = (int8_t)lrintf(value[i] / unit[v * f->vec / f->group]);
    }
}

/* The largest power of two by which x, divided, stays a binary16; x finite, at least 0. */
static float unit_of(float x)
{
    int exponent;
    if (!(x > 0) || !isfinite(x)) return 1;
    frexpf(x, &exponent);
    return ldexpf(1, exponent < -110 ? -125 : exponent - 15);
}

/* Row r of a panel from its blocks: the fields twice, first for the largest of the row. */
static void pack_row(const bb_integers *m, const unsigned char *blocks, unsigned char *panel, size_t r)
{
    const bb_format *f = m->format;
    const size_t     width = BB_INTEGER_GROUP / m->groups;
    uint8_t          code_of[256] = { 0 };
    int8_t           z[BB_MAX_BLOCK];
    float            a[BB_MAX_GROUPS], b[BB_MAX_GROUPS], largest = 0, unit;
    for (unsigned i = 0; m->bits < 8 && i < levels_of(f); i++) code_of[(uint8_t)m->table[i]] = (uint8_t)i;
    for (size_t at = 0; at < m->cols; at += f->block) {
        bb_code c;
        f->unpack(blocks + at / f->block * f->block_bytes, &c);
        f->scales(&c, a, b);
        for (unsigned g = 0; g < (unsigned)f->block / f->group; g++) largest = fmaxf(largest, fmaxf(fabsf(a[g]), fabsf(b[g])));
    }
    unit = unit_of(largest);
    memcpy(panel + sizeof(float) * r, &unit, sizeof unit);
    for (size_t at = 0; at < m->cols; at += f->block) {
        block_integers(f, blocks + at / f->block * f->block_bytes, z, a, b);
        for (size_t c = 0; c < f->block; c += width) {
            const size_t column = at + c, part = (column % BB_INTEGER_GROUP / width * BB_INTEGER_ROWS + r) * sizeof(uint16_t), g = c / f->group;
            bb_store_u16(panel + bb_integer_fields(m, column, 0) + part, bb_float_to_half(a[g] / unit));
            if (m->offsets) bb_store_u16(panel + bb_integer_fields(m, column, 1) + part, bb_float_to_half(b[g] / unit));
        }
        for (size_t c = 0; c < f->block; c++) {
            unsigned char *codes = panel + bb_integer_codes(m, at + c) + bb_integer_at(m->bits, r, (at + c) % BB_INTEGER_GROUP);
            if (m->bits == 8) *codes = (unsigned char)(z[c] + 128);
            else *codes = (unsigned char)(*codes | code_of[(uint8_t)z[c]] << bb_integer_shift(m->bits, (at + c) % BB_INTEGER_GROUP));
        }
    }
}

void bb_integers_pack(const bb_integers *m, const void *data, size_t i)
{
    const size_t   row_bytes = bb_format_row_bytes(m->format, m->cols), first = i * BB_INTEGER_ROWS;
    unsigned char *panel = m->panels + i * m->panel_bytes;
    memset(panel, 0, m->panel_bytes);
    for (size_t r = 0; r < BB_INTEGER_ROWS && first + r < m->rows; r++) pack_row(m, (const unsigned char *)data + (first + r) * row_bytes, panel, r);
}
