/* SPDX-License-Identifier: MIT */
/* interrupt: Ctrl-C and SIGTERM as a flag, for commands that run until then. */
#ifndef CLIENTS_CLI_BASE_INTERRUPT_H
#define CLIENTS_CLI_BASE_INTERRUPT_H

#include <stdbool.h>

/* From now on the first of them does not end the process; a waiting poll returns early. */
void interrupt_catch(void);
bool interrupt_came(void);

#endif
