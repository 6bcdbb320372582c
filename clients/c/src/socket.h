/* SPDX-License-Identifier: MIT */
/* socket: what both sides of libattn need of ZeroMQ. */
#ifndef ATTN_SOCKET_H
#define ATTN_SOCKET_H

#include <stddef.h>
#include <stdint.h>

#define ENDPOINT_MAX 256

struct socket_option {
    int option, value;
};

/* Makes a socket, sets its options, bounds incoming frames, and connects. Returns 0 or
 * ATTN_E_TRANSPORT. */
int socket_open(void *context, int type, const struct socket_option *options, size_t count,
                int64_t frame_bytes_max, const char *endpoint, void **ret_socket);

/* Ends a context whose sockets are closed; waits for their linger. */
void socket_context_free(void *context);

/* Waits up to timeout_ms (< 0: for ever) for something to receive. Returns 1, 0, or
 * ATTN_E_TRANSPORT. An interrupted wait is 0: look at the clock and wait again. */
int socket_wait(void *socket, long timeout_ms);

/* Monotonic. */
uint64_t socket_now_ms(void);

#endif
