/* SPDX-License-Identifier: MIT */
/* scratch: memory of one worker thread, kept from job to job, and the thread's way to make room for
 * others. */
#ifndef WORKERS_BASE_SCRATCH_H
#define WORKERS_BASE_SCRATCH_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Grown as needed and reused. A zeroed struct is empty, and nobody waits for its thread. */
struct scratch {
    void *memory;
    size_t bytes;
    /* set by the pool (pool.c) */
    void (*pause)(void *data);
    void *pause_data;
    const _Atomic uint32_t *contended; /* 0: nothing to pause for; NULL = never */
};
/* Gives back what is larger than `most` bytes. */
void scratch_trim(struct scratch *scratch, size_t most);
void scratch_clear(struct scratch *scratch);

/* At least `bytes` bytes, 64-byte aligned, contents undefined; NULL when out of memory. */
void *scratch_take(struct scratch *scratch, uint64_t bytes);

/* Memory laid out in pieces, each 64-byte aligned; without memory they are only counted. */
struct scratch_pieces {
    unsigned char *memory; /* NULL: only counts, and every piece is NULL */
    uint64_t bytes;
};
void *scratch_carve(struct scratch_pieces *pieces, uint64_t count, size_t size);

/* Carves all pieces that `data` works with, in the same order each time. */
typedef void scratch_lay(void *data, struct scratch_pieces *pieces);
/* The bytes of these pieces. */
uint64_t scratch_bytes(scratch_lay *lay, void *data);
/* Takes as much, and lays the pieces out in it. Returns 0 or ERR_MEMORY. */
int scratch_take_pieces(struct scratch *scratch, scratch_lay *lay, void *data);

/* Kernels call it between pieces of work, of a millisecond at most, and without a lock: when others
 * are due, the thread waits here and goes on later. The scratch stays as it is. */
static inline void scratch_pause(struct scratch *scratch)
{
    if (scratch->contended && atomic_load_explicit(scratch->contended, memory_order_relaxed) != 0) {
        scratch->pause(scratch->pause_data);
    }
}

#endif
