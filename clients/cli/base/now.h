/* SPDX-License-Identifier: MIT */
/* now: reads the clocks. Any thread. */
#ifndef CLIENTS_CLI_BASE_NOW_H
#define CLIENTS_CLI_BASE_NOW_H

#include <stdint.h>

/* Since some start; never goes back. */
uint64_t now_ns(void);
int64_t now_ms(void);

/* Since 1970; may jump. */
uint64_t now_wall_ns(void);

#endif
