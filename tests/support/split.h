/* SPDX-License-Identifier: GPL-3.0-or-later
 * split.h: a GGUF of ours as the files that it would be split over, for tests. */
#ifndef BB_TESTS_SUPPORT_SPLIT_H
#define BB_TESTS_SUPPORT_SPLIT_H

#include <stdbool.h>
#include <stdint.h>

/* What one part of a split model says about itself, where it is not the truth. */
typedef struct split_lie {
    uint32_t part;                  /* which, from 1; 0: none */
    int      no, count, tensors;    /* split.no, split.count, split.tensors.count; 0: the truth, -1: no such key */
    bool     missing, twice, leave; /* the file is not written; it also has the first tensor of all; its last tensor is left out */
} split_lie;

/* STEM-00001-of-0000n.gguf, ...: all keys in the first, tensors in order, as many in each as in every other, or one more; lie may be NULL. Aborts on
 * an error. Part k's path is split_path(stem, k, n), one of 16 rotating static buffers. */
void        split_write(const char *gguf, const char *stem, uint32_t n, const split_lie *lie);
const char *split_path(const char *stem, uint32_t part, uint32_t n);

#endif
