/* SPDX-License-Identifier: MIT */
/* glibc gives each thread an arena of its own, up to eight for each core. One thread receives here,
 * others compute, save and free: what is freed lies between what is not, in arenas whose threads do
 * not need it, and twice to four times what is in use stays resident. So there are few arenas, and
 * their free pages go back from time to time.
 *
 * A fixed threshold for mmap would do the same, and have the kernel clear each large tensor's pages
 * anew. Other C libraries give back by themselves. */
#include "daemon/arenas.h"

#include <stdlib.h> /* __GLIBC__ */

#ifdef __GLIBC__
#include <malloc.h>

#define ARENAS 2

void arenas_limit(void)
{
    mallopt(M_ARENA_MAX, ARENAS);
}

void arenas_trim(void)
{
    malloc_trim(0);
}
#else
void arenas_limit(void)
{
}

void arenas_trim(void)
{
}
#endif
