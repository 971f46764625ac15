/* SPDX-License-Identifier: GPL-3.0-or-later
 * fuzz.h: what a fuzz target gives: the entry point that libFuzzer also calls, and seeds for our own driver (driver.c).
 *
 * `make fuzz` links each tests/fuzz/fuzz_<name>.c with driver.c under ASan and UBSan and makes a bounded, repeatable run. With clang and
 * libFuzzer: leave driver.c out and link with -fsanitize=fuzzer,address,undefined.
 */
#ifndef BB_TESTS_FUZZ_FUZZ_H
#define BB_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size); /* 0; aborts when a property of the target is broken */

/* Valid inputs to mutate: the bytes of seed i (bb_free), false when there is no such seed. */
bool fuzz_seed(unsigned i, unsigned char **data, size_t *size);

#endif
