/* SPDX-License-Identifier: MIT */
/* socket: the ZeroMQ functions that both sides of libattn need. */
#ifndef CLIENTS_C_SRC_SOCKET_H
#define CLIENTS_C_SRC_SOCKET_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

struct socket_option {
    int option, value;
};

/* A context; NULL when there is no memory, or when fewer descriptors are left than its threads and
 * sockets need. */
void *socket_context_new(void);

/* Makes a socket, sets its options and bounds incoming frames. Returns 0 or ATTN_E_TRANSPORT. */
int socket_open(void *context, int type, const struct socket_option *options, size_t count,
                int64_t frame_bytes_max, void **ret_socket);

/* Ends a context whose sockets are closed; waits for their linger. Accepts NULL. */
void socket_context_free(void *context);

/* Starts a thread that takes no signals: they are the program's business. Returns 0 or an errno. */
int socket_thread(pthread_t *ret_thread, void *(*run)(void *data), void *data);

/* Monotonic. */
uint64_t socket_now_ms(void);

#endif
