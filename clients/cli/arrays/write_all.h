/* SPDX-License-Identifier: MIT */
/* write_all: writes all bytes, or fails. Any thread. */
#ifndef CLIENTS_CLI_ARRAYS_WRITE_ALL_H
#define CLIENTS_CLI_ARRAYS_WRITE_ALL_H

#include <stddef.h>

/* Goes on after signals and short writes. Returns 0, or -errno. */
int write_all(int fd, const void *data, size_t size);

#endif
