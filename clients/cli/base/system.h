/* SPDX-License-Identifier: MIT */
/* system: clocks, Ctrl-C, and options of sockets. Any thread. */
#ifndef CLIENTS_CLI_BASE_SYSTEM_H
#define CLIENTS_CLI_BASE_SYSTEM_H

#include <stdbool.h>
#include <stdint.h>

/* Time since some start; never goes back. */
uint64_t now_ns(void);
int64_t now_ms(void);

/* Since 1970; may jump. */
uint64_t now_wall_ns(void);

/* Options of a ZeroMQ socket that is not connected yet. `option` is one that takes an int, `value`
 * one that it allows. */
void sockopt_int(void *socket, int option, int value);

/* The limit of incoming frames: the sender of a larger one loses the connection. */
void sockopt_frame_max(void *socket, uint64_t bytes);

/* From now on the first Ctrl-C or SIGTERM does not end the process; a poll returns early. */
void interrupt_catch(void);
bool interrupt_came(void);

#endif
