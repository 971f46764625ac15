/* SPDX-License-Identifier: GPL-3.0-or-later
 * environment.h: what a number depends on besides its inputs: program, compiler, CPU level, libraries, threads. */
#ifndef BB_ENGINE_ENVIRONMENT_H
#define BB_ENGINE_ENVIRONMENT_H

#include "model/model.h"
#include "model/net/backend.h"

/* Where the networks of a run and of a command compute: the one place outside model/net that names a backend. */
const bb_backend *bb_engine_backend(void);

const char *bb_cpu_level(void); /* "ref", "avx2", "avx512" or "amx": results are bit-identical within a level and a BLAS core (bb_kernels_bits) */
bb_status   bb_environment_write(const char *path, const bb_model *m, bb_err *err); /* env.json */

/* The option of every command that forwards a network: how its products are made (bb_precision, kernels.h), for the process. say: tell where fast
 * changes nothing. */
#define BB_PRECISIONS "exact|fast"
#define BB_MAX_RAM_HELP "memory that the command may have resident; refused at once when it needs more; 0: no limit"
#define BB_PRECISION_HELP \
    "products of networks: exact, or fast where the CPU has bfloat16 (AMX tiles; AVX-512: for training alone): another rounding, a millionth of a KL"
void bb_precision_use(const char *name, bool say);

#endif
