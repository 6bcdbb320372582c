/* SPDX-License-Identifier: MIT */
/* system: clocks and Ctrl-C. Any thread. */
#ifndef CLIENTS_CLI_BASE_SYSTEM_H
#define CLIENTS_CLI_BASE_SYSTEM_H

#include <stdbool.h>
#include <stdint.h>

/* Time since some start; never goes back. */
uint64_t now_ns(void);
int64_t now_ms(void);

/* Since 1970; may jump. */
uint64_t now_wall_ns(void);

/* From now on the first Ctrl-C or SIGTERM does not end the process; a poll returns early. */
void interrupt_catch(void);
bool interrupt_came(void);

#endif
