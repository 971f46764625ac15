/* SPDX-License-Identifier: GPL-3.0-or-later
 * cpus.c: see cpus.h. A group's time is bounded by its own quota and by that of every group around it; inside a container the path that the kernel
 * tells may be one that only the host knows: then what is mounted is the container's own group, and the walk up ends there. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "base/cpus.h"

#include <math.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int bb_cpus_allowed(void)
{
    cpu_set_t set;
    long      n;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
    n = sysconf(_SC_NPROCESSORS_ONLN); /* more processors than the set has room for */
    return n > 0 ? (int)n : 1;
}

/* The first line of a file, without its end; false: there is none. */
static bool first_line(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "re");
    bool  found = f && fgets(text, (int)size, f);
    if (f) fclose(f);
    if (found) text[strcspn(text, "\n")] = '\0';
    return found;
}

static double share(double quota, double period) { return quota > 0 && period > 0 ? quota / period : HUGE_VAL; }

/* cpu.max: "max 100000" or "150000 100000", microseconds of time in microseconds. */
static double quota_v2(const char *folder)
{
    char   path[4200], text[128];
    double quota, period;
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    return first_line(path, text, sizeof text) && sscanf(text, "%lf %lf", &quota, &period) == 2 ? share(quota, period) : HUGE_VAL;
}

static double quota_v1(const char *folder)
{
    char   path[4200], text[128];
    double quota, period;
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!first_line(path, text, sizeof text) || sscanf(text, "%lf", &quota) != 1) return HUGE_VAL;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    return first_line(path, text, sizeof text) && sscanf(text, "%lf", &period) == 1 ? share(quota, period) : HUGE_VAL;
}

/* The least of mount/group, of the groups around it, and of mount itself. */
static double least_quota(const char *mount, const char *group, double (*quota)(const char *folder))
{
    char   path[4096];
    double least;
    size_t root = strlen(mount);
    if (snprintf(path, sizeof path, "%s%s", mount, group) >= (int)sizeof path) return HUGE_VAL;
    for (least = quota(path); strlen(path) > root; least = fmin(least, quota(path))) *strrchr(path, '/') = '\0';
    return least;
}

static bool lists_cpu(const char *controllers, size_t n)
{
    for (const char *at = controllers; at < controllers + n; at += strcspn(at, ",:") + 1)
        if (strncmp(at, "cpu", 3) == 0 && (at[3] == ',' || at[3] == ':')) return true;
    return false;
}

double bb_cpus_quota(const char *root)
{
    static const char *const v2[] = { "", "/unified" }, *const v1[] = { "/cpu", "/cpu,cpuacct", "/cpuacct,cpu" };
    char   path[4096], mount[4096], line[4096];
    double least = HUGE_VAL;
    FILE  *f;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    if (!(f = fopen(path, "re"))) return HUGE_VAL;
    while (fgets(line, sizeof line, f)) { /* "4:cpu,cpuacct:/group", "0::/group" */
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group || group[1] != '/') continue;
        controllers++;
        group++;
        group[strcspn(group, "\n")] = '\0';
        const size_t n = (size_t)(group - 1 - controllers);
        for (size_t i = 0; n == 0 && i < sizeof v2 / sizeof *v2; i++) {
            snprintf(mount, sizeof mount, "%.2000s/sys/fs/cgroup%s", root, v2[i]);
            least = fmin(least, least_quota(mount, group, quota_v2));
        }
        for (size_t i = 0; n && lists_cpu(controllers, n) && i < sizeof v1 / sizeof *v1; i++) {
            snprintf(mount, sizeof mount, "%.2000s/sys/fs/cgroup%s", root, v1[i]);
            least = fmin(least, least_quota(mount, group, quota_v1));
        }
    }
    fclose(f);
    return least;
}

double bb_cpus_usable(void)
{
    static double usable;
    if (usable > 0) return usable;
    const char *root = getenv("BB_CGROUP_ROOT");
    return usable = fmin((double)bb_cpus_allowed(), bb_cpus_quota(root ? root : ""));
}

int bb_cpus_threads(int openmp)
{
    const int most = (int)fmax(1, ceil(bb_cpus_usable() - 1e-9));
    return getenv("OMP_NUM_THREADS") || openmp < most ? openmp : most;
}
