/* SPDX-License-Identifier: GPL-3.0-or-later
 * file_type.h: the labels of files: general.file_type (llama_ftype) and the names that people put into file names, and which weight types each of them
 * promises. A label is of a recipe ("Q4_K_M"), not of a type: most weights of the blocks have one of its types. */
#ifndef BB_MODEL_IO_FILE_TYPE_H
#define BB_MODEL_IO_FILE_TYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/format.h"

typedef struct bb_file_type {
    uint32_t    number; /* general.file_type */
    const char *name;   /* "Q4_K_M" */
    bb_type     type;   /* what the recipe gives to a matrix that it does not name */
    bb_type     also;   /* what it may give to more weights than that; the same where there is none */
} bb_file_type;

const bb_file_type *bb_file_type_at(size_t i);              /* NULL past the end */
const bb_file_type *bb_file_type_numbered(uint32_t number); /* NULL: not known */
/* The last label in a text ("SmolLM2-135M-Q4_K_M.gguf"), as a word and in any case; "Q4_K" and "Q4_K_XL" are labels of the type Q4_K. NULL: there is
 * none. */
const bb_file_type *bb_file_type_in(const char *text, size_t length);
enum { BB_FILE_TYPE_GUESSED = 1024 };   /* the runtime's number for "look at the tensors": that of LC2 */
uint32_t bb_file_type_of(bb_type type); /* what llama.cpp calls a file whose weights are mostly of this type */
bool     bb_file_type_promises(const bb_file_type *f, bb_type type);

#endif
