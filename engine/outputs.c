/* SPDX-License-Identifier: GPL-3.0-or-later
 * outputs.c: see outputs.h. */
#include "engine/outputs.h"

#include <dirent.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "model/io/gguf.h"

static bool forced;

void bb_outputs_force(bool force) { forced = force; }
bool bb_outputs_forced(void) { return forced; }

/* Our files carry the plan they were made of, or what they were converted from. */
static bool is_our_model(const char *path)
{
    bb_source g = { 0 };
    bool      ours = false;
    if (bb_gguf_open(path, &g, NULL) != BB_OK) return false;
    ours = bb_source_find(&g, "bitbudget.plan") || bb_source_find(&g, "bitbudget.converted_from");
    bb_source_close(&g);
    return ours;
}

static bool begins_with(const char *path, const char *text)
{
    bb_map map;
    if (bb_map_open(path, &map, NULL) != BB_OK) return false;
    size_t n = strlen(text);
    bool   same = map.size >= n && memcmp(map.data, text, n) == 0;
    bb_map_close(&map);
    return same;
}

/* A log file is appended to: empty, or beginning with a time as log.c writes it. */
static bool is_our_log(const char *path)
{
    static const char time[] = "dddd-dd-ddTdd:dd:ddZ ";
    bb_map            map;
    if (bb_map_open(path, &map, NULL) != BB_OK) return false;
    const unsigned char *p = map.data;
    bool                 ours = map.size == 0 || map.size >= sizeof time - 1;
    for (size_t i = 0; ours && map.size > 0 && i < sizeof time - 1; i++) ours = time[i] == 'd' ? p[i] >= '0' && p[i] <= '9' : p[i] == time[i];
    bb_map_close(&map);
    return ours;
}

static bool is_ours(const char *path, bb_output_kind kind, const char *header)
{
    switch (kind) {
    case BB_OUTPUT_MODEL: return is_our_model(path);
    case BB_OUTPUT_TABLE: return begins_with(path, header);
    case BB_OUTPUT_RECIPE: return begins_with(path, "^");
    case BB_OUTPUT_LOG: return is_our_log(path);
    case BB_OUTPUT_IDS: break;
    }
    return false;
}

/* The folder of a path, NULL where memory is short; *name: what is behind it. */
static char *split_path(const char *path, const char **name)
{
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    return slash ? bb_asprintf(NULL, "%.*s", (int)(slash - path) + 1, path) : bb_strdup(".", NULL);
}

/* Two files that are not there yet, and would be one. */
static bool would_be_same(const char *a, const char *b)
{
    const char *name_a, *name_b;
    char       *folder_a = split_path(a, &name_a), *folder_b = split_path(b, &name_b);
    const bool  same = folder_a && folder_b && strcmp(name_a, name_b) == 0 && bb_file_same(folder_a, folder_b) && !bb_file_exists(a) && !bb_file_exists(b);
    bb_free(folder_a);
    bb_free(folder_b);
    return same;
}

bb_status bb_output_check(const char *option, const char *path, bb_output_kind kind, const char *header, const bb_input *inputs, size_t n, bb_err *err)
{
    bb_err    why = BB_ERR_INIT;
    bb_status status = bb_file_check_output(path, &why);
    if (status != BB_OK) return BB_FAIL(err, status, "%s %s", option, why.msg);
    for (size_t i = 0; i < n; i++) {
        if (!inputs[i].path) continue;
        const bool all = bb_file_same(path, inputs[i].path) || would_be_same(inputs[i].path, path);
        if (all || bb_source_has_file(inputs[i].path, path))
            return BB_FAIL(err, BB_USAGE, "%s %s is %s%s%s, which is not overwritten: choose another name", option, path, all ? "" : "one of the files of ",
                           inputs[i].what, all ? " itself" : "");
    }
    if (forced || !bb_file_exists(path) || is_ours(path, kind, header)) return BB_OK;
    return BB_FAIL(err, BB_USAGE, "%s %s exists and %s: choose another name, or replace it with --force", option, path,
                   kind == BB_OUTPUT_IDS ? "may be anything" : "was not made by bitbudget");
}

static bool is_empty(const char *dir)
{
    DIR *d = opendir(dir);
    bool other = false;
    for (struct dirent *e; d && (e = readdir(d));) other |= strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    if (d) closedir(d);
    return !other;
}

bb_status bb_output_folder_check(const char *option, const char *dir, const bb_input *inputs, size_t n, bb_err *err)
{
    bb_err    why = BB_ERR_INIT;
    bb_status status = bb_folder_check_output(dir, &why);
    if (status != BB_OK) return BB_FAIL(err, status, "%s %s", option, why.msg);
    for (size_t i = 0; i < n; i++)
        if (inputs[i].path && bb_file_same(dir, inputs[i].path))
            return BB_FAIL(err, BB_USAGE, "%s %s is %s itself, which is not overwritten: choose another name", option, dir, inputs[i].what);
    if (forced || is_empty(dir)) return BB_OK;
    return BB_FAIL(err, BB_USAGE, "%s %s is not empty: choose another folder, or write into it with --force", option, dir);
}

bb_status bb_output_fits(const char *path, uint64_t bytes, bb_err *err)
{
    uint64_t room;
    char     need[32], have[32];
    if (bb_free_space(path, &room, NULL) != BB_OK || bytes <= room) return BB_OK;
    bb_format_size(bytes, need);
    bb_format_size(room, have);
    return BB_FAIL(err, BB_IO, "%s: %llu bytes (%s) are to be written, and there is room for %llu (%s)", path, (unsigned long long)bytes, need,
                   (unsigned long long)room, have);
}
