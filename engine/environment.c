/* SPDX-License-Identifier: GPL-3.0-or-later
 * environment.c: see environment.h. */
#include "engine/environment.h"

#include <jansson.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/log.h"
#include "engine/version.h"
#include "kernels/blas.h"
#include "kernels/kernels.h"

const bb_backend *bb_engine_backend(void) { return &bb_backend_cpu; }

const char *bb_cpu_level(void) { return bb_kernels_get()->level; }

void bb_precision_use(const char *name, bool say)
{
    const bool fast = strcmp(name, "fast") == 0;
    bb_kernels_set_precision(fast ? BB_FAST : BB_EXACT);
    if (!fast || !say || bb_kernels_fast()) return;
    bb_info("--precision fast: %s",
            bb_kernels_fast_rough()
                ? "without AMX tiles of bfloat16 training, gradients and text that the model writes to learn from are faster here; other products are exact"
                : "only on a CPU with bfloat16 is anything faster than exact; products are exact here");
}

bb_status bb_environment_write(const char *path, const bb_model *m, bb_err *err)
{
    char   date[32], label[BB_MODEL_LABEL];
    time_t now = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime(&now));
    json_t   *j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:s, s:s, s:s}", "date", date, "version", BB_VERSION, "commit", bb_version_commit(),
                            "compiler", bb_version_compiler(), "cpu_level", bb_cpu_level(), "blas", bb_blas_name(), "bits", bb_kernels_bits(), "threads",
                            omp_get_max_threads(), "model", m->path, "model_sha256", bb_model_sha256(m), "model_label", bb_model_source_label(m, label));
    char     *text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
    bb_status status = text ? bb_file_write(path, text, strlen(text), err) : BB_FAIL(err, BB_NOMEM, "out of memory for %s", path);
    free(text);
    json_decref(j);
    return status;
}
