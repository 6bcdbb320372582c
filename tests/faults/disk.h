/* SPDX-License-Identifier: MIT */
/* disk: a file system under SQLite that fails on demand, and that can lose its power. It is the
 * default of SQLite from disk_begin on, keeps files where they are, and waits for no real disk. Any
 * thread. */
#ifndef TESTS_FAULTS_DISK_H
#define TESTS_FAULTS_DISK_H

#include <stdbool.h>
#include <stdint.h>

/* How an operation fails. */
enum disk_fault {
    DISK_SOUND,       /* none does */
    DISK_READ,        /* EIO */
    DISK_SHORT_READ,  /* the rest is zeros, as SQLite wants it */
    DISK_WRITE,       /* EIO, nothing is written */
    DISK_SHORT_WRITE, /* EIO, half is written */
    DISK_FULL,        /* ENOSPC; also where a file is made longer */
    DISK_SYNC,        /* EIO */
    DISK_OTHER,       /* open, truncate, size, delete, lock, shared memory */
    DISK_FAULTS
};

void disk_begin(void);
void disk_end(void);

/* The nth operation of this kind from now on fails, and so do those after it, `count` in all. */
void disk_fail(enum disk_fault fault, uint64_t nth, uint64_t count);
/* Operations of this kind since then, and how many of them failed. */
uint64_t disk_seen(void);
uint64_t disk_failed(void);

/* Writes, truncations and syncs since disk_begin. */
uint64_t disk_changes(void);

/* Copies of the files as they are after a power failure, made in front of a change. All that was
 * synced is there; of each later write every sector of 512 bytes is there or is not. `at` says
 * before which change, `every` how many later the next one, up to `most`. Copies are
 * DIRECTORY/0, DIRECTORY/1...; `promise` is what `ask` returned at the last sync of a log. */
struct disk_loss {
    uint64_t at, every;
    uint32_t most;
    const char *directory;
    int64_t (*ask)(void *data);
    void *data;
    uint32_t count;       /* returned: copies made */
    int64_t promise[256]; /* returned: by copy */
};

/* NULL: no more copies. */
void disk_lose(struct disk_loss *loss);

#endif
