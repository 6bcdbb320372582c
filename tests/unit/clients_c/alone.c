/* SPDX-License-Identifier: MIT */
/* connect as libattn calls it in a test: the program's own symbol comes before that of the C
 * library. An attnd that runs on this machine, where clients look for one, is not there. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

__attribute__((visibility("default"))) int connect_but_to_them(int fd,
                                                               const struct sockaddr *address,
                                                               socklen_t size) __asm__("connect");

int connect_but_to_them(int fd, const struct sockaddr *address, socklen_t size)
{
    const char *path = ((const struct sockaddr_un *)address)->sun_path;
    if (address->sa_family == AF_UNIX &&
        (strncmp(path, "/run/", 5) == 0 || strncmp(path, "/tmp/attnd-", 11) == 0)) {
        errno = ENOENT;
        return -1;
    }
    return (int)syscall(SYS_connect, fd, address, size);
}
