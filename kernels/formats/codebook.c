/* SPDX-License-Identifier: GPL-3.0-or-later
 * codebook.c: the codebooks of the IQ formats, unfolded from their sets of words, and codes -> weights. */
#include "kernels/formats/codebook.h"

#include <math.h>
#include <pthread.h>

static bb_book        books[BB_BOOK_COUNT];
static pthread_once_t books_once = PTHREAD_ONCE_INIT;

static void book_set_shape(bb_book *b, bb_book_id id)
{
    static const float levels_iq1[8] = { -1, 0, 1 }, levels_iq2[8] = { 8, 25, 43 };
    const bool         is_iq3 = id == BB_BOOK_IQ3_XXS || id == BB_BOOK_IQ3_S;
    b->dims = is_iq3 ? 4 : 8;
    b->half_dims = b->dims / 2;
    b->n_levels = is_iq3 ? 8 : 3;
    b->n_halves = is_iq3 ? 64 : 81;
    for (unsigned i = 0; i < b->n_levels; i++) {
        if (id == BB_BOOK_IQ3_S) b->level[i] = (float)(2 * i + 1);
        else if (id == BB_BOOK_IQ3_XXS) b->level[i] = i < 7 ? (float)(8 * i + 4) : 62.0f;
        else b->level[i] = id == BB_BOOK_IQ1 ? levels_iq1[i] : levels_iq2[i];
    }
}

static void book_build(bb_book *b, bb_book_id id)
{
    uint8_t first[BB_BOOK_MAX_WORDS], second[BB_BOOK_MAX_WORDS];
    book_set_shape(b, id);
    for (unsigned pattern = 0; pattern < b->n_halves * b->n_halves; pattern++) {
        if (!(bb_book_bits[id][pattern / 32] >> pattern % 32 & 1u)) continue;
        unsigned k = b->n_words++, rest = pattern;
        for (unsigned i = 0; i < b->dims; i++, rest /= b->n_levels) {
            b->digit[k][i] = (uint8_t)(rest % b->n_levels);
            b->value[k][i] = b->level[rest % b->n_levels];
        }
        first[k] = (uint8_t)(pattern % b->n_halves);
        second[k] = (uint8_t)(pattern / b->n_halves);
    }
    float sum = 0.0f;
    for (unsigned k = 0; k < b->n_words; k++)
        for (unsigned i = 0; i < b->dims; i++) sum += b->value[k][i] * b->value[k][i]; /* exact: integers below 2^24 */
    for (unsigned p = 0; p < b->n_halves; p++)
        for (unsigned i = 0, rest = p; i < b->half_dims; i++, rest /= b->n_levels) b->half_level[p][i] = b->half_level_of[i][p] = b->level[rest % b->n_levels];
    b->rms = sqrtf(sum / (float)(b->n_words * b->dims));
    unsigned n = 0;
    for (unsigned p = 0; p < b->n_halves; p++) {
        b->start[p] = (uint16_t)n;
        for (unsigned k = 0; k < b->n_words; k++) {
            if (first[k] != p) continue;
            b->second[n] = second[k];
            b->word[n++] = (uint16_t)k;
        }
    }
    b->start[b->n_halves] = (uint16_t)n;
}

/* Words are in order of their pattern, last level most significant, so the words below a node are neighbours. */
static void book_build_tree(bb_book *b)
{
    static uint16_t first_word[BB_BOOK_MAX_NODES + 1];
    unsigned        begin = 0, end = 1;
    first_word[0] = 0;
    for (unsigned depth = 0; depth < b->dims; depth++) {
        unsigned n = end;
        for (unsigned x = begin; x < end; x++) {
            const unsigned stop = x + 1 < end ? first_word[x + 1] : b->n_words, i = b->dims - 1 - depth;
            b->child[x] = (uint16_t)n;
            for (unsigned k = first_word[x]; k < stop; k++) {
                if (k > first_word[x] && b->digit[k][i] == b->digit[k - 1][i]) continue;
                b->node_digit[n] = b->digit[k][i];
                first_word[n++] = (uint16_t)k;
            }
        }
        begin = end;
        end = n;
    }
    b->child[begin] = (uint16_t)end;
    b->first_leaf = begin;
}

/* Eight signs as factors. */
static float sign_of[256][8];

static void signs_build(void)
{
    for (unsigned signs = 0; signs < 256; signs++)
        for (unsigned i = 0; i < 8; i++) sign_of[signs][i] = signs >> i & 1u ? -1 : 1;
}

static void books_build(void)
{
    signs_build();
    for (int i = 0; i < BB_BOOK_COUNT; i++) {
        book_build(&books[i], (bb_book_id)i);
        book_build_tree(&books[i]);
    }
}

const bb_book *bb_book_get(bb_book_id id)
{
    pthread_once(&books_once, books_build);
    return &books[id];
}

static void value_of(const bb_cb_spec *s, const bb_book *b, float a, float shift, uint32_t q, float *out)
{
    const float *first = b->value[s->n_words == 2 ? q & 255u : q & 0xFFFFu];
    const float *second = s->n_words == 2 ? b->value[q >> 8 & 255u] : first + 4;
    for (unsigned i = 0; i < s->vec; i++) {
        float z = (i < 4 ? first[i] : second[i - 4]) + shift;
        bool  negative = s->has_signs && (q >> (16 + i) & 1u);
        out[i] = a * (negative ? -z : z);
    }
}

static float shift_of(const bb_cb_spec *s, const bb_code *c, unsigned group, uint32_t q)
{
    if (s->shift == BB_SHIFT_NONE) return 0.0f;
    bool negative = s->shift == BB_SHIFT_GROUP ? c->mn[group] != 0 : (q >> 16 & 1u) != 0;
    return negative ? -0.125f : 0.125f;
}

void bb_cb_value(const bb_cb_spec *s, const bb_code *c, unsigned v, float *out)
{
    const unsigned g = v * s->vec / s->group;
    value_of(s, bb_book_get(s->book), bb_cb_scale(s, c, g), shift_of(s, c, g, c->q[v]), c->q[v], out);
}

/* a times levels with their signs, as value_of has them, in loops that the compiler makes vectors of. */
static inline void signed_values(const float *level, const float *sign, float a, unsigned n, float *restrict out)
{
    for (unsigned i = 0; i < n; i++) out[i] = a * level[i] * sign[i];
}

static inline void shifted_values(const float *level, float shift, float a, float *restrict out)
{
    for (unsigned i = 0; i < 8; i++) out[i] = a * (level[i] + shift);
}

void bb_cb_expand(const bb_cb_spec *s, const bb_code *c, float *out)
{
    const bb_book *b = bb_book_get(s->book);
    const unsigned share = s->group / s->vec; /* vectors of a group */
    for (unsigned g = 0, v = 0; g < BB_CB_SUPER / s->group; g++) {
        const float a = bb_cb_scale(s, c, g);
        for (unsigned last = v + share; v < last; v++, out += s->vec) {
            const uint32_t q = c->q[v];
            const float   *sign = sign_of[q >> 16 & 255u];
            if (s->shift != BB_SHIFT_NONE) shifted_values(b->value[q & 0xFFFFu], shift_of(s, c, g, q), a, out);
            else if (s->n_words == 2) {
                signed_values(b->value[q & 255u], sign, a, 4, out);
                signed_values(b->value[q >> 8 & 255u], sign + 4, a, 4, out + 4);
            } else if (s->vec == 8) signed_values(b->value[q & 0xFFFFu], sign, a, 8, out);
            else signed_values(b->value[q & 0xFFFFu], sign, a, 4, out);
        }
    }
}

/* The shift of IQ1's books is an eighth, which makes all their levels eighths. */
void bb_cb_scales(const bb_cb_spec *s, const bb_code *c, float *a, float *b)
{
    for (unsigned g = 0; g < BB_CB_SUPER / s->group; g++) {
        a[g] = bb_cb_scale(s, c, g) * (s->shift == BB_SHIFT_NONE ? 1 : 0.125f);
        b[g] = -0.0f;
    }
}

const float bb_cb_levels_iq1[] = { -9, -7, -1, 1, 7, 9 };
const float bb_cb_levels_iq2[] = { -43, -25, -8, 8, 25, 43 };
const float bb_cb_levels_iq3_xxs[] = { -62, -52, -44, -36, -28, -20, -12, -4, 4, 12, 20, 28, 36, 44, 52, 62 };
const float bb_cb_levels_iq3_s[] = { -15, -13, -11, -9, -7, -5, -3, -1, 1, 3, 5, 7, 9, 11, 13, 15 };

float bb_cb_dot(const bb_cb_spec *s, const bb_code *c, const float *x)
{
    float w[BB_CB_SUPER], lane[8] = { 0 };
    bb_cb_expand(s, c, w);
    for (unsigned i = 0; i < BB_CB_SUPER; i += 8)
        for (unsigned j = 0; j < 8; j++) lane[j] += w[i + j] * x[i + j];
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}
