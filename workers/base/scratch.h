/* SPDX-License-Identifier: MIT */
/* scratch: memory of one worker thread, kept from job to job. */
#ifndef WORKERS_BASE_SCRATCH_H
#define WORKERS_BASE_SCRATCH_H

#include <stddef.h>

/* Grown as needed and reused. A zeroed struct is empty. */
struct scratch {
    void *memory;
    size_t bytes;
};
/* At least `bytes` bytes, 64-byte aligned, contents undefined; NULL when out of memory. */
void *scratch_take(struct scratch *scratch, size_t bytes);
/* Gives back what is larger than `most` bytes. */
void scratch_trim(struct scratch *scratch, size_t most);
void scratch_clear(struct scratch *scratch);

#endif
