/* SPDX-License-Identifier: MIT */
#include "daemon/base/crash.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How often the point was passed; there is one such point of each kind per process. */
static atomic_ulong crash_passed, stall_passed;

/* Whether this is the point that the variable names, passed as often as it says: once, unless there
 * is a number. */
static bool crash_is_meant(const char *variable, const char *name, atomic_ulong *passed)
{
    const char *at = getenv(variable);
    size_t length = strlen(name);
    if (!at || strncmp(at, name, length) != 0 || (at[length] != '\0' && at[length] != ':')) {
        return false;
    }
    unsigned long nth = at[length] == ':' ? strtoul(at + length + 1, NULL, 10) : 1;
    return atomic_fetch_add(passed, 1) + 1 == nth;
}

void crash_point(const char *name)
{
    if (crash_is_meant("ATTND_CRASH_AT", name, &crash_passed)) {
        raise(SIGKILL);
    }
}

void stall_point(const char *name)
{
    if (crash_is_meant("ATTND_STALL_AT", name, &stall_passed)) {
        for (;;) {
            pause();
        }
    }
}
