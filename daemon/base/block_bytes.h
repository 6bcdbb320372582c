/* SPDX-License-Identifier: MIT */
/* block_bytes: the bytes of the heap that an allocation takes: glibc keeps 8 bytes beside each
 * block, and gives out units of 16, at least two. */
#ifndef DAEMON_BASE_BLOCK_BYTES_H
#define DAEMON_BASE_BLOCK_BYTES_H

#include <stdint.h>

static inline uint64_t block_bytes(uint64_t bytes)
{
    uint64_t block = (bytes + 8 + 15) / 16 * 16;
    return bytes == 0 ? 0 : block < 32 ? 32 : block;
}

#endif
