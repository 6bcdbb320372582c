/* SPDX-License-Identifier: MIT */
/* sockopt: options of a ZeroMQ socket that is not connected yet. */
#ifndef CLIENTS_CLI_BASE_SOCKOPT_H
#define CLIENTS_CLI_BASE_SOCKOPT_H

#include <stdint.h>

/* `option` is one of ZeroMQ's that take an int, `value` one that it allows. */
void sockopt_int(void *socket, int option, int value);

/* The limit of incoming frames: the sender of a larger one loses the connection. */
void sockopt_frame_max(void *socket, uint64_t bytes);

#endif
