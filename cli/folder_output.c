/* SPDX-License-Identifier: GPL-3.0-or-later
 * folder_output.c: see folder_output.h. */
#include "cli/folder_output.h"

#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "engine/outputs.h"
#include "model/export/folder.h"

bb_status bb_write_folder(const bb_model *m, const char *from, const char *dir, bb_err *err)
{
    bb_text   notes = { .data = NULL };
    uint64_t  bytes;
    bb_status status;
    if (!from && bb_folder_has(m->path, "config.json")) from = m->path;
    BB_TRY(bb_export_folder_check(m, from, err));
    BB_TRY(bb_export_folder_bytes(m, from, &bytes, err));
    BB_TRY(bb_output_fits(dir, bytes, err));
    BB_TRY(bb_export_folder_write(m, from, dir, &notes, err));
    for (char *line = notes.data, *end; line && *line; line = end + 1) {
        if (!(end = strchr(line, '\n'))) break;
        *end = '\0';
        bb_info("%s", line);
    }
done:
    bb_text_done(&notes);
    return status;
}
