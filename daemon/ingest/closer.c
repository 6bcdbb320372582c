/* SPDX-License-Identifier: MIT */
/* The pipe has room for more descriptors than there usually are; beyond that the caller closes. */
#include "daemon/ingest/closer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <unistd.h>

static void *closer_main(void *data)
{
    int from = (int)(intptr_t)data, fd;
    pthread_setname_np(pthread_self(), "attnd-closer");
    while (read(from, &fd, sizeof fd) == (ssize_t)sizeof fd) {
        close(fd);
    }
    close(from);
    return NULL;
}

int closer_start(int *ret_closer)
{
    int ends[2];
    pthread_t thread;
    sigset_t all, before;
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return errno;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&thread, NULL, closer_main, (void *)(intptr_t)ends[0]);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        close(ends[0]);
        close(ends[1]);
        return rc;
    }
    pthread_detach(thread);
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    *ret_closer = ends[1];
    return 0;
}

void closer_close(int closer, int fd)
{
    if (write(closer, &fd, sizeof fd) != (ssize_t)sizeof fd) {
        close(fd);
    }
}

void closer_stop(int closer)
{
    close(closer);
}
