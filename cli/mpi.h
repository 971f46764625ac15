/* SPDX-License-Identifier: GPL-3.0-or-later
 * mpi.h: `mpirun -n N bitbudget ...`: the processes of one job as a crew (base/crew.h), by MPI where it was built in.
 *
 * Rank 0 is the program; the others wait for its jobs and do them, silently. A rank sleeps while it waits: it takes no processor from those that work. While
 * jobs run, one thread of each process listens, so that rank 0 works too, and a rank that works can be told to stop. A job may be one that all do together:
 * then the threads that work talk to each other beside it (base/peers.h), one call of MPI at a time.
 */
#ifndef BB_CLI_MPI_H
#define BB_CLI_MPI_H

#include "base/crew.h"
#include "base/peers.h"

typedef struct bb_mpi {
    int      rank, size; /* 0 and 1 where no mpirun started this process */
    bb_crew  crew;       /* of rank 0, where size > 1 */
    bb_peers peers;      /* of every rank, where size > 1 */
} bb_mpi;

/* What the program was built with: "Open MPI 4.1.4", or "none". */
const char *bb_mpi_name(void);

/* To be called once, when arguments (argv[1..argc-1], without the options that may differ between ranks) are known. Rank 0 gets BB_USAGE when the program was
 * built without MPI and mpirun started several of it, and when the ranks got different arguments; m is right all the same, and bb_mpi_end is to be called. */
bb_status bb_mpi_start(bb_mpi *m, int argc, char **argv, bb_err *err);
/* The other ranks: does jobs until rank 0 ends. */
void bb_mpi_serve(bb_mpi *m);
/* Rank 0 sends the others home. */
void bb_mpi_end(bb_mpi *m);

#endif
