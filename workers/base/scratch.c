/* SPDX-License-Identifier: MIT */
/* scratch: one growing buffer per worker thread.
 *
 * A job takes all it needs in one call; the next job overwrites it. The old buffer is given back
 * before the larger one is asked for, since nothing in it is worth keeping. */
#include "workers/base/scratch.h"

#include "proto/err.h"

#include <stdlib.h>

#define SCRATCH_ALIGN 64

void *scratch_take(struct scratch *scratch, uint64_t bytes)
{
    if (bytes > SIZE_MAX - SCRATCH_ALIGN) {
        return NULL;
    }
    if (scratch->memory && bytes <= scratch->bytes) {
        return scratch->memory;
    }
    scratch_clear(scratch);
    size_t rounded = ((size_t)bytes / SCRATCH_ALIGN + 1) * SCRATCH_ALIGN;
    scratch->memory = aligned_alloc(SCRATCH_ALIGN, rounded);
    scratch->bytes = scratch->memory ? rounded : 0;
    return scratch->memory;
}

uint64_t scratch_bytes(scratch_lay *lay, void *data)
{
    struct scratch_pieces count = {0};
    lay(data, &count);
    return count.bytes;
}

int scratch_take_pieces(struct scratch *scratch, scratch_lay *lay, void *data)
{
    struct scratch_pieces pieces = {.memory = scratch_take(scratch, scratch_bytes(lay, data))};
    if (!pieces.memory) {
        return ERR_MEMORY;
    }
    lay(data, &pieces);
    return 0;
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
    pieces->bytes += (count * size + SCRATCH_ALIGN - 1) / SCRATCH_ALIGN * SCRATCH_ALIGN;
    return piece;
}
