/* SPDX-License-Identifier: MIT */
/* faults: allocations and system calls that fail on demand. libfaults is linked first or preloaded;
 * it counts the calls that come from the program itself and from libattn, not those of other
 * libraries, and makes one of them fail as the kernel or the allocator would.
 *
 * Preloaded it takes FAULTS_FILE from the environment: a file of one struct faults, whose `nth` is
 * read at the start and whose other fields say, also of a program that has crashed, what happened.
 * FAULTS_MODULES adds libraries: parts of their names, between commas. Any thread. */
#ifndef TESTS_FAULTS_FAULTS_H
#define TESTS_FAULTS_FAULTS_H

#include <stdint.h>

/* injection.py reads the same layout. */
struct faults {
    uint64_t nth;         /* which call fails, from 1; 0 = none */
    uint64_t count;       /* calls so far */
    uint64_t failed;      /* 1 once it has failed */
    uint64_t caller;      /* who called: offset in its module */
    uint64_t live;        /* blocks that were allocated and not freed: at the end, by the exit */
    uint64_t live_caller; /* who allocated one of them */
    uint64_t open;        /* descriptors that were opened and not closed, likewise */
    uint64_t pid;         /* whose numbers these are: the first process that took the file */
    char what[32];        /* the name of the call that failed */
};

/* Counts from 0 again; the nth call from now on fails. Blocks that live now are forgotten. */
void faults_arm(uint64_t nth);
/* Ends counting. Returns what there is to know, `live` and `open` included. */
struct faults faults_disarm(void);

#endif
