/* SPDX-License-Identifier: MIT */
/* accept4 as libzmq calls it in attnd: the program's own symbol comes before that of the C library.
 *
 * libzmq (4.3.4 and 4.3.5) ends the process when a Unix socket has a connection to accept and there
 * is no descriptor left, or no memory: whoever opens connections without end would end attnd. Here
 * such a connection is refused instead: one descriptor in reserve accepts it and closes it. The
 * peer sees a connection that ends, and tries again later; without the reserve it would stay in the
 * backlog, and the I/O thread would turn on the spot. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* By this name to the linker: headers declare the other one with types of their own. */
__attribute__((visibility("default"))) int accept_or_refuse(int fd, struct sockaddr *address,
                                                            socklen_t *size,
                                                            int flags) __asm__("accept4");

static pthread_mutex_t reserve_lock = PTHREAD_MUTEX_INITIALIZER;
static int reserve = -1;

static int accept_now(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    return (int)syscall(SYS_accept4, fd, address, size, flags);
}

static int take_reserve(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static int is_unix(int fd)
{
    int domain = 0;
    socklen_t size = sizeof domain;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX;
}

static void refuse_one(int fd)
{
    pthread_mutex_lock(&reserve_lock);
    if (reserve >= 0) {
        close(reserve);
    }
    int peer = accept_now(fd, NULL, NULL, SOCK_CLOEXEC);
    if (peer >= 0) {
        close(peer);
    }
    reserve = take_reserve();
    pthread_mutex_unlock(&reserve_lock);
}

int accept_or_refuse(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    int peer = accept_now(fd, address, size, flags);
    int error = errno;
    if (peer >= 0 || !is_unix(fd) || (error != EMFILE && error != ENOBUFS && error != ENOMEM)) {
        errno = error;
        return peer;
    }
    refuse_one(fd);
    errno = ECONNABORTED; /* which libzmq takes for a peer that has gone */
    return -1;
}

/* While there are enough. */
__attribute__((constructor)) static void keep_reserve(void)
{
    reserve = take_reserve();
}
