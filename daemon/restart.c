/* SPDX-License-Identifier: MIT */
#include "daemon/restart.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LEAST_NS UINT64_C(1000000000)
/* Sockets that a service manager has passed begin here. */
#define FIRST_SOCKET 3
#define MARK         "ATTND_RESTARTED"
/* With more variables in its environment attnd does not begin again. */
#define VARIABLES_MAX 4096

/* All that is needed: between abort and the new program there is no malloc. */
static struct {
    char program[PATH_MAX], mark[sizeof MARK "=" + 20];
    char **argv, *environment[VARIABLES_MAX + 2];
    sigset_t blocked; /* libzmq's threads have others, which would stay */
    int sockets;
    uint64_t began_ns;
} restart;

static void begin_again(int number)
{
    if (clock_since_ns(restart.began_ns, clock_monotonic_ns()) >= LEAST_NS) {
        for (int i = 0; i < restart.sockets; i++) {
            fcntl(FIRST_SOCKET + i, F_SETFD, 0);
        }
        pthread_sigmask(SIG_SETMASK, &restart.blocked, NULL);
        execve(restart.program, restart.argv, restart.environment);
    }
    signal(number, SIG_DFL);
    raise(number);
}

/* Returns whether there was room for it. */
static bool copy_environment(void)
{
    size_t count = 0;
    for (; environ[count] && count < VARIABLES_MAX; count++) {
        restart.environment[count] = environ[count];
    }
    snprintf(restart.mark, sizeof restart.mark, "%s=%ld", MARK, (long)getpid());
    restart.environment[count] = restart.mark;
    return !environ[count];
}

void restart_on_abort(char **argv)
{
    const char *marked = getenv(MARK), *sockets = getenv("LISTEN_FDS");
    if (marked && strtol(marked, NULL, 10) == (long)getpid()) {
        log_event(LOG_WARNING, "restarted",
                  LOG_STR("detail", "attnd was ended by abort, and has begun again; messages that "
                                    "were not saved are counted as lost"));
    }
    unsetenv(MARK);
    ssize_t length = readlink("/proc/self/exe", restart.program, sizeof restart.program - 1);
    if (length <= 0 || !copy_environment()) {
        return; /* then it ends, as any program does */
    }
    restart.argv = argv;
    restart.sockets = sockets ? (int)strtol(sockets, NULL, 10) : 0;
    restart.began_ns = clock_monotonic_ns();
    pthread_sigmask(SIG_SETMASK, NULL, &restart.blocked);
    signal(SIGABRT, begin_again);
}
