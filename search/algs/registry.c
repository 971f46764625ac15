/* SPDX-License-Identifier: GPL-3.0-or-later
 * registry.c: the list of algorithms. */
#include <string.h>

#include "search/algs/algorithm.h"

static const bb_algorithm *const all[] = {&bb_random_search, &bb_annealing, &bb_nsga2, &bb_evopress, &bb_amq, NULL};

const bb_algorithm *const *bb_algorithms(void) { return all; }

const bb_algorithm *bb_algorithm_by_name(const char *name)
{
    for (size_t i = 0; all[i]; i++)
        if (strcmp(all[i]->name, name) == 0) return all[i];
    return NULL;
}
