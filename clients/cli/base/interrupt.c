/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/interrupt.h"

#include <signal.h>

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
