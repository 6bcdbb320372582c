/* SPDX-License-Identifier: MIT */
#include "crash.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* How often the point was passed; there is one such point per process. */
static atomic_ulong passed;

/* Which passing is meant: 1 without a number. */
static unsigned long nth_of(const char *suffix)
{
    return *suffix == ':' ? strtoul(suffix + 1, NULL, 10) : 1;
}

void crash_point(const char *name)
{
    const char *at = getenv("ATTND_CRASH_AT");
    size_t length = strlen(name);
    if (!at || strncmp(at, name, length) != 0 || (at[length] != '\0' && at[length] != ':'))
        return;
    if (atomic_fetch_add(&passed, 1) + 1 == nth_of(at + length))
        raise(SIGKILL);
}
