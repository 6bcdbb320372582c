/* SPDX-License-Identifier: MIT */
/* scratch: one growing buffer per worker thread.
 *
 * A job takes all it needs in one call and carves it up itself; the next job overwrites it. The old
 * buffer is given back before the larger one is asked for, since nothing in it is worth keeping. */
#include "workers/base/scratch.h"

#include <stdlib.h>

#define SCRATCH_ALIGN 64

void *scratch_take(struct scratch *scratch, size_t bytes)
{
    if (bytes > SIZE_MAX - SCRATCH_ALIGN) {
        return NULL;
    }
    if (scratch->memory && bytes <= scratch->bytes) {
        return scratch->memory;
    }
    scratch_clear(scratch);
    size_t rounded = (bytes / SCRATCH_ALIGN + 1) * SCRATCH_ALIGN;
    scratch->memory = aligned_alloc(SCRATCH_ALIGN, rounded);
    scratch->bytes = scratch->memory ? rounded : 0;
    return scratch->memory;
}

void scratch_trim(struct scratch *scratch, size_t most)
{
    if (scratch->bytes > most) {
        scratch_clear(scratch);
    }
}

void scratch_clear(struct scratch *scratch)
{
    free(scratch->memory);
    scratch->memory = NULL;
    scratch->bytes = 0;
}

void *scratch_carve(struct scratch_pieces *pieces, uint64_t count, size_t size)
{
    void *piece = pieces->memory ? pieces->memory + pieces->bytes : NULL;
    pieces->bytes += (count * size + 63) / 64 * 64;
    return piece;
}
