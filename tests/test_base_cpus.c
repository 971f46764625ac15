/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_base_cpus.c: how many processors a process may use, by control groups of both versions and by affinity. */
#define _GNU_SOURCE /* CPU_SET */
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpus.h"
#include "base/file.h"
#include "base/mem.h"
#include "tests/support/support.h"

/* A file below root, its folders made. */
static void put(const char *root, const char *name, const char *text)
{
    char *path = bb_asprintf(NULL, "%s/%s", root, name), *folder = bb_strdup(path, NULL);
    *strrchr(folder, '/') = '\0';
    ck_assert_int_eq(bb_make_dirs(folder, NULL), BB_OK);
    bb_test_write(path, text, strlen(text));
    bb_free(folder);
    bb_free(path);
}

static const struct group {
    const char *name, *groups;
    struct {
        const char *name, *text;
    } files[4];
    double right;
} groups[] = {
    { "v2", "0::/job\n", { { "sys/fs/cgroup/job/cpu.max", "150000 100000\n" } }, 1.5 },
    { "v2-free", "0::/job\n", { { "sys/fs/cgroup/job/cpu.max", "max 100000\n" } }, HUGE_VAL },
    { "v2-outer", "0::/a/b\n", { { "sys/fs/cgroup/a/b/cpu.max", "max 100000\n" }, { "sys/fs/cgroup/a/cpu.max", "50000 100000\n" } }, 0.5 },
    { "v2-inside", "0::/only/the/host/knows\n", { { "sys/fs/cgroup/cpu.max", "200000 100000\n" } }, 2 },
    { "v2-hybrid", "1:cpu:/\n0::/u\n", { { "sys/fs/cgroup/unified/u/cpu.max", "300000 100000\n" } }, 3 },
    { "v1",
      "4:cpu,cpuacct:/job\n2:memory:/job\n",
      { { "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "250000\n" }, { "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n" } },
      2.5 },
    { "v1-free",
      "4:cpu:/job\n",
      { { "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n" }, { "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n" } },
      HUGE_VAL },
    { "v1-outer",
      "3:cpuset:/job\n4:cpuacct,cpu:/a/b\n",
      { { "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "100000\n" },
        { "sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "50000\n" },
        { "sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us", "400000\n" },
        { "sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us", "100000\n" } },
      2 },
    { "another controller's",
      "4:cpuset:/job\n",
      { { "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "100000\n" }, { "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n" } },
      HUGE_VAL },
    { "nonsense", "0::/job\nx\n::::\n\n7:cpu\n", { { "sys/fs/cgroup/job/cpu.max", "all of it\n" } }, HUGE_VAL },
    { "none", "", { { NULL, NULL } }, HUGE_VAL },
};

START_TEST(the_quota_of_a_group_and_of_those_around_it)
{
    const struct group *g = &groups[_i];
    char               *root = bb_asprintf(NULL, "%s", bb_test_path(g->name));
    put(root, "proc/self/cgroup", g->groups);
    for (size_t i = 0; i < sizeof g->files / sizeof *g->files && g->files[i].name; i++) put(root, g->files[i].name, g->files[i].text);
    const double quota = bb_cpus_quota(root);
    ck_assert_msg(quota == g->right, "%s: %g, should be %g", g->name, quota, g->right);
    bb_free(root);
}
END_TEST

START_TEST(no_control_groups_no_limit) { ck_assert(isinf(bb_cpus_quota(bb_test_path("nothing")))); }
END_TEST

START_TEST(affinity_counts)
{
    cpu_set_t before, one;
    size_t    first = 0;
    ck_assert_int_eq(sched_getaffinity(0, sizeof before, &before), 0);
    ck_assert_int_eq(bb_cpus_allowed(), CPU_COUNT(&before));
    while (!CPU_ISSET(first, &before)) first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    ck_assert_int_eq(sched_setaffinity(0, sizeof one, &one), 0);
    ck_assert_int_eq(bb_cpus_allowed(), 1);
    ck_assert_int_eq(sched_setaffinity(0, sizeof before, &before), 0);
}
END_TEST

START_TEST(a_part_of_a_processor_is_a_thread)
{
    char *root = bb_asprintf(NULL, "%s", bb_test_path("half"));
    put(root, "proc/self/cgroup", "0::/job\n");
    put(root, "sys/fs/cgroup/job/cpu.max", "50000 100000\n");
    ck_assert_int_eq(setenv("BB_CGROUP_ROOT", root, 1), 0);
    ck_assert_double_eq(bb_cpus_usable(), 0.5); /* read once: the first call of this program */
    unsetenv("OMP_NUM_THREADS");
    ck_assert_int_eq(bb_cpus_threads(8), 1);
    setenv("OMP_NUM_THREADS", "8", 1);
    ck_assert_int_eq(bb_cpus_threads(8), 8);
    unsetenv("BB_CGROUP_ROOT");
    bb_free(root);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("base_cpus");
    TCase *t = tcase_create("core");
    tcase_add_loop_test(t, the_quota_of_a_group_and_of_those_around_it, 0, (int)(sizeof groups / sizeof *groups));
    tcase_add_test(t, no_control_groups_no_limit);
    tcase_add_test(t, affinity_counts);
    tcase_add_test(t, a_part_of_a_processor_is_a_thread);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
