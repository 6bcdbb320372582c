/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/system.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <zmq.h>

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

/* Ctrl-C */

static volatile sig_atomic_t came;

static void interrupt_note(int number)
{
    (void)number;
    came = 1;
}

/* Without SA_RESTART, so that a waiting poll returns; with SA_RESETHAND, so that a second one ends
 * a command that takes its time. */
void interrupt_catch(void)
{
    struct sigaction action = {.sa_handler = interrupt_note, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, 0);
    sigaction(SIGTERM, &action, 0);
}

bool interrupt_came(void)
{
    return came;
}

void (*memory_last)(void);

void memory_short(void)
{
    if (memory_last) {
        memory_last();
    }
    fputs("attnctl: out of memory\n", stderr);
    exit(1); /* CLI_FINDING */
}

static void *memory_check(void *memory)
{
    if (!memory) {
        memory_short();
    }
    return memory;
}

void *memory_new(size_t count, size_t size)
{
    return memory_check(calloc(count + !count, size));
}

void *memory_grow(void *memory, size_t count, size_t size)
{
    return memory_check(reallocarray(memory, count, size));
}
