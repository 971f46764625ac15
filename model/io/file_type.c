/* SPDX-License-Identifier: GPL-3.0-or-later
 * file_type.c: see file_type.h. The numbers are those of llama.h; the recipes those of llama-quantize. */
#include "model/io/file_type.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#define ONE(number, name, type) \
    { \
        number, name, type, type \
    }

static const bb_file_type labels[] = {
    ONE(0, "F32", BB_F32),          ONE(1, "F16", BB_F16),
    ONE(2, "Q4_0", BB_Q4_0),        ONE(3, "Q4_1", BB_Q4_1),
    ONE(7, "Q8_0", BB_Q8_0),        ONE(8, "Q5_0", BB_Q5_0),
    ONE(9, "Q5_1", BB_Q5_1),        ONE(10, "Q2_K", BB_Q2_K),
    ONE(11, "Q3_K_S", BB_Q3_K),     ONE(12, "Q3_K_M", BB_Q3_K),
    ONE(13, "Q3_K_L", BB_Q3_K),     ONE(14, "Q4_K_S", BB_Q4_K),
    ONE(15, "Q4_K_M", BB_Q4_K),     ONE(16, "Q5_K_S", BB_Q5_K),
    ONE(17, "Q5_K_M", BB_Q5_K),     ONE(18, "Q6_K", BB_Q6_K),
    ONE(19, "IQ2_XXS", BB_IQ2_XXS), ONE(20, "IQ2_XS", BB_IQ2_XS),
    ONE(21, "Q2_K_S", BB_Q2_K),     { 22, "IQ3_XS", BB_IQ3_S, BB_IQ3_XXS },
    ONE(23, "IQ3_XXS", BB_IQ3_XXS), ONE(24, "IQ1_S", BB_IQ1_S),
    ONE(25, "IQ4_NL", BB_IQ4_NL),   ONE(26, "IQ3_S", BB_IQ3_S),
    ONE(27, "IQ3_M", BB_IQ3_S),     { 28, "IQ2_S", BB_IQ2_XS, BB_IQ2_S },
    ONE(29, "IQ2_M", BB_IQ2_S),     ONE(30, "IQ4_XS", BB_IQ4_XS),
    ONE(31, "IQ1_M", BB_IQ1_M),     ONE(32, "BF16", BB_BF16),
    ONE(36, "TQ1_0", BB_TQ1_0),     ONE(37, "TQ2_0", BB_TQ2_0),
    ONE(38, "MXFP4", BB_MXFP4),     ONE(39, "NVFP4", BB_NVFP4),
    ONE(40, "Q1_0", BB_Q1_0),       ONE(41, "Q2_0", BB_Q2_0),
    ONE(42, "IQ2_NL", BB_IQ2_NL),   ONE(43, "IQ3_NL", BB_IQ3_NL),
};
enum { N_LABELS = sizeof labels / sizeof *labels };

const bb_file_type *bb_file_type_at(size_t i) { return i < N_LABELS ? &labels[i] : NULL; }

const bb_file_type *bb_file_type_numbered(uint32_t number)
{
    for (size_t i = 0; i < N_LABELS; i++)
        if (labels[i].number == number) return &labels[i];
    return NULL;
}

/* Bytes of text from its start that are this name, as a word; 0: it does not begin so. */
static size_t begins(const char *text, size_t length, const char *name)
{
    const size_t n = strlen(name);
    return n <= length && strncasecmp(text, name, n) == 0 && (n == length || !isalnum((unsigned char)text[n])) ? n : 0;
}

const bb_file_type *bb_file_type_in(const char *text, size_t length)
{
    const bb_file_type *found = NULL;
    for (size_t i = 0; i < length; i++) {
        size_t longest = 0;
        if (i > 0 && isalnum((unsigned char)text[i - 1])) continue;
        for (size_t k = 0; k < 2 * (size_t)N_LABELS; k++) { /* recipes first: "Q4_K_XL" is none, and then of the type Q4_K */
            const bb_file_type *label = &labels[k % N_LABELS];
            const size_t        n = begins(text + i, length - i, k < N_LABELS ? label->name : bb_format_get(label->type)->name);
            if (n <= longest) continue;
            longest = n;
            found = label;
        }
    }
    return found;
}

uint32_t bb_file_type_of(bb_type type)
{
    static const bb_type mixtures[][2] = { { BB_Q3_K, 12 }, { BB_Q4_K, 15 }, { BB_Q5_K, 17 }, { BB_IQ2_S, 28 } };
    for (size_t i = 0; i < sizeof mixtures / sizeof *mixtures; i++)
        if (mixtures[i][0] == type) return (uint32_t)mixtures[i][1];
    for (size_t i = 0; i < N_LABELS; i++)
        if (labels[i].type == type && labels[i].also == type) return labels[i].number;
    return type == BB_LC2 ? BB_FILE_TYPE_GUESSED : 0;
}

bool bb_file_type_promises(const bb_file_type *f, bb_type type) { return f->type == type || f->also == type; }
