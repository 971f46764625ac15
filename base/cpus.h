/* SPDX-License-Identifier: GPL-3.0-or-later
 * cpus.h: the processors that this process may use: by affinity, and by the quota of its control group (version 1 and 2, of the group and of
 * those around it).
 */
#ifndef BB_BASE_CPUS_H
#define BB_BASE_CPUS_H

/* Processors that the affinity of the process allows. */
int bb_cpus_allowed(void);
/* Processors' worth of time that the control group gives in a period, such as 1.5; HUGE_VAL without a limit. Read from root/proc/self/cgroup and
 * root/sys/fs/cgroup; root "": the system's. What cannot be read is no limit. */
double bb_cpus_quota(const char *root);
/* The smaller of both, of this process; BB_CGROUP_ROOT in the environment stands for root. Read once. */
double bb_cpus_usable(void);
/* Threads to use where nobody has said: as many as that, rounded up, and no more than OpenMP would start. With OMP_NUM_THREADS set: what OpenMP says. */
int bb_cpus_threads(int openmp);

#endif
