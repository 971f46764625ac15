/* SPDX-License-Identifier: GPL-3.0-or-later
 * folder_output.h: a model written as a Hugging Face folder by a command, with what is to be said about it. */
#ifndef BB_CLI_FOLDER_OUTPUT_H
#define BB_CLI_FOLDER_OUTPUT_H

#include "model/model.h"

/* m as the folder dir (model/export/folder.h), after a look at the room for it; what is missing, or other than in m, goes to the log. from: the folder that
 * m comes from; NULL: where m is one itself, that. */
bb_status bb_write_folder(const bb_model *m, const char *from, const char *dir, bb_err *err);

#endif
