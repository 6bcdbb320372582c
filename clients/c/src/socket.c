/* SPDX-License-Identifier: MIT */
#include "clients/c/src/socket.h"

#include "clients/c/include/attn/attn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#define SPARE 16

void *socket_context_new(void)
{
    int spare[SPARE], count = 0;
    while (count < SPARE && (spare[count] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0) {
        count++;
    }
    for (int i = 0; i < count; i++) {
        close(spare[i]);
    }
    return count == SPARE ? zmq_ctx_new() : NULL;
}

int socket_open(void *context, int type, const struct socket_option *options, size_t count,
                int64_t frame_bytes_max, void **ret_socket)
{
    void *socket = zmq_socket(context, type);
    const int no_limit = 0;
    if (!socket) {
        return ATTN_E_TRANSPORT;
    }
    if (zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &frame_bytes_max, sizeof frame_bytes_max) != 0 ||
        zmq_setsockopt(socket, ZMQ_RCVHWM, &no_limit, sizeof no_limit) != 0) {
        goto err_after_socket;
    }
    for (size_t i = 0; i < count; i++) {
        if (zmq_setsockopt(socket, options[i].option, &options[i].value, sizeof options[i].value) !=
            0) {
            goto err_after_socket;
        }
    }
    *ret_socket = socket;
    return 0;
err_after_socket:
    zmq_close(socket);
    return ATTN_E_TRANSPORT;
}

void socket_context_free(void *context)
{
    while (context && zmq_ctx_term(context) != 0 && errno == EINTR) {
        continue;
    }
}

int socket_thread(pthread_t *ret_thread, void *(*run)(void *data), void *data)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(ret_thread, NULL, run, data);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

uint64_t socket_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
