/* SPDX-License-Identifier: MIT */
/* spool: standard input as a file that can be mapped. */
#ifndef CLIENTS_CLI_ARRAYS_SPOOL_H
#define CLIENTS_CLI_ARRAYS_SPOOL_H

#include <stdint.h>

/* Bytes of what a pipe gives at most. */
#define SPOOL_MAX (UINT64_C(16) << 30)

/* A descriptor that the caller closes: standard input itself when it is a file, otherwise a file
 * without a name in $TMPDIR, or /tmp, that all of it was copied to. Returns 0, or -1 with a
 * sentence (ARRAY_ERROR_MAX bytes). */
int spool_input(int *ret_fd, char *reterr);

#endif
