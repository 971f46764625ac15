/* SPDX-License-Identifier: GPL-3.0-or-later
 * json.h: what the commands' JSON has in common. */
#ifndef BB_CLI_JSON_H
#define BB_CLI_JSON_H

#include <jansson.h>
#include <math.h>

/* A number that does not exist is null. */
static inline json_t *bb_json_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

/* A text, a path above all; null where it is no UTF-8, which JSON has no place for. */
static inline json_t *bb_json_text(const char *text)
{
    json_t *s = text ? json_string(text) : NULL;
    return s ? s : json_null();
}

#endif
