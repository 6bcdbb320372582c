/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/now.h"

#include <time.h>

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

int64_t now_ms(void)
{
    return (int64_t)(now_ns() / 1000000u);
}

uint64_t now_wall_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}
