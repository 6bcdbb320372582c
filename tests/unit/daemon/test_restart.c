/* SPDX-License-Identifier: MIT */
#include "daemon/restart.h"
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define OLD_ENOUGH_US 1100000

/* Statuses of the program that has begun again. */
enum { AS_IT_WAS = 7, SIGNALS_BLOCKED, SOCKET_GONE, ENVIRONMENT_DIFFERS };

static void *abort_as_libzmq(void *unused)
{
    (void)unused;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    abort();
}

/* The status of a child that aborts after `age_us`. */
static int end_of(useconds_t age_us)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        char name[] = "attnd", again[] = "again", *arguments[] = {name, again, NULL};
        pthread_t thread;
        setrlimit(RLIMIT_CORE, &(struct rlimit){0});
        dup2(open("/dev/null", O_RDONLY), 3);
        fcntl(3, F_SETFD, FD_CLOEXEC);
        setenv("LISTEN_FDS", "1", 1);
        restart_on_abort(arguments);
        unsetenv("LISTEN_FDS"); /* as attnd does with what is for it alone */
        usleep(age_us);
        pthread_create(&thread, NULL, abort_as_libzmq, NULL);
        pthread_join(thread, NULL);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static int look_around(void)
{
    sigset_t blocked;
    const char *sockets = getenv("LISTEN_FDS"), *mark = getenv("ATTND_RESTARTED");
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    for (int number = 1; number < SIGRTMIN; number++) {
        if (sigismember(&blocked, number)) {
            return SIGNALS_BLOCKED;
        }
    }
    if (fcntl(3, F_GETFD) < 0) {
        return SOCKET_GONE;
    }
    bool same = sockets && strcmp(sockets, "1") == 0 && mark && atol(mark) == getpid();
    return same ? AS_IT_WAS : ENVIRONMENT_DIFFERS;
}

TEST(it_begins_again_as_it_was_started)
{
    int status = end_of(OLD_ENOUGH_US);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), AS_IT_WAS);
}

TEST(one_that_has_just_begun_ends)
{
    int status = end_of(0);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

int main(int argc, char **argv)
{
    return argc > 1 && strcmp(argv[1], "again") == 0 ? look_around() : unit_run(NULL, NULL);
}
