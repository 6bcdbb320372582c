/* SPDX-License-Identifier: MIT */
/* system: clocks, Ctrl-C and memory. Any thread. */
#ifndef CLIENTS_CLI_BASE_SYSTEM_H
#define CLIENTS_CLI_BASE_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Time since some start; never goes back. */
uint64_t now_ns(void);
int64_t now_ms(void);

/* Since 1970; may jump. */
uint64_t now_wall_ns(void);

/* From now on the first Ctrl-C or SIGTERM does not end the process; a poll returns early. */
void interrupt_catch(void);
bool interrupt_came(void);

/* Memory for `count` things of `size` bytes, all zero; and memory that is there for as many. Where
 * there is none attnctl says so, after memory_last unless that is NULL, and ends with CLI_FINDING.
 */
extern void (*memory_last)(void);
void *memory_new(size_t count, size_t size);
void *memory_grow(void *memory, size_t count, size_t size);
_Noreturn void memory_short(void); /* the same end for whoever asks elsewhere */

#endif
