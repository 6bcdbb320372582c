/* SPDX-License-Identifier: MIT */
/* A command: posix_spawn, a pipe, and waiting with a time limit.
 *
 * The process gets a group of its own, so that what it started ends with it when it takes too long,
 * and none of the daemon's descriptors and signal settings. The pipe is written without blocking: a
 * command need not read its input. That a process has ended is asked for every few milliseconds:
 * waiting for SIGCHLD in a library's thread would take it from whoever else waits. */
#include "daemon/alerts/notify_internal.h"

#include "daemon/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS_MAX 64
#define MS        UINT64_C(1000000)
/* Between two questions whether it has ended. */
#define ASK_FIRST_NS (1 * MS)
#define ASK_LAST_NS  (20 * MS)
/* How long a killed process may take to be gone. */
#define KILL_NS (1000 * MS)

struct notify_command {
    uint64_t timeout_ns;
    char *text; /* owned; words[] point into it */
    char *words[WORDS_MAX + 1];
};

/* Words */

static int notify_command_split(struct notify_command *command)
{
    char *rest = NULL;
    size_t count = 0;
    for (char *word = strtok_r(command->text, " ", &rest); word;
         word = strtok_r(NULL, " ", &rest)) {
        if (count == WORDS_MAX) {
            return -1;
        }
        command->words[count++] = word;
    }
    return 0;
}

int command_new(const char *text, uint64_t timeout_ns, struct notify_command **ret_command,
                char reterr_reason[NOTIFY_REASON_MAX])
{
    struct notify_command *command = calloc(1, sizeof *command);
    snprintf(reterr_reason, NOTIFY_REASON_MAX, "out of memory");
    if (!command) {
        return -1;
    }
    command->timeout_ns = timeout_ns;
    command->text = strdup(text);
    int result = command->text ? notify_command_split(command) : -1;
    if (command->text && result != 0) {
        snprintf(reterr_reason, NOTIFY_REASON_MAX, "more than %d words", WORDS_MAX);
    }
    if (result == 0 && (!command->words[0] || access(command->words[0], X_OK) != 0)) {
        snprintf(reterr_reason, NOTIFY_REASON_MAX, "cannot be run: %s",
                 command->words[0] ? strerror(errno) : "it names no program");
        result = -1;
    }
    if (result != 0) {
        command_free(&command);
        return -1;
    }
    *ret_command = command;
    return 0;
}

void command_free(struct notify_command **command)
{
    if (!*command) {
        return;
    }
    free((*command)->text);
    free(*command);
    *command = NULL;
}

/* Starting */

/* Returns 0 or an errno. */
static int spawn(const struct notify_command *command, int input, pid_t *ret_pid)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    int error = posix_spawn_file_actions_init(&files);
    if (error) {
        return error;
    }
    error = posix_spawnattr_init(&attributes);
    if (error) {
        posix_spawn_file_actions_destroy(&files);
        return error;
    }
    /* Standard input from the pipe, standard output nowhere, nothing else but standard error; a
     * group of its own, and signals as if attnd had never touched them. */
    const short flags = POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    error = posix_spawn_file_actions_adddup2(&files, input, STDIN_FILENO);
    error = error
                ? error
                : posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    error = error ? error : posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
    error = error ? error : posix_spawnattr_setflags(&attributes, flags);
    error = error ? error : posix_spawnattr_setpgroup(&attributes, 0);
    error = error ? error : posix_spawnattr_setsigmask(&attributes, &none);
    error = error ? error : posix_spawnattr_setsigdefault(&attributes, &all);
    error = error ? error
                  : posix_spawn(ret_pid, command->words[0], &files, &attributes, command->words,
                                environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    return error;
}

/* Feeding and waiting */

static int left_ms(uint64_t until_ns)
{
    uint64_t now = clock_monotonic_ns();
    return now >= until_ns ? 0 : (int)((until_ns - now) / MS + 1);
}

/* Writes the line; a reader that closes early, or does not read in time, gets what it took.
 * Stopping is looked at between two waits. */
static void notify_command_feed(int output, const char *line, struct notify_stop *stop,
                                uint64_t until_ns)
{
    size_t left = strlen(line);
    while (left > 0 && left_ms(notify_stop_before(stop, until_ns)) > 0) {
        struct pollfd ready = {.fd = output, .events = POLLOUT};
        ssize_t written = write(output, line, left);
        if (written > 0) {
            line += written;
            left -= (size_t)written;
        } else if (errno == EAGAIN) {
            poll(&ready, 1, (int)(ASK_LAST_NS / MS));
        } else if (errno != EINTR) {
            return;
        }
    }
}

/* Whether it ended until then. */
static bool notify_command_wait_for(pid_t pid, struct notify_stop *stop, uint64_t until_ns,
                                    int *ret_status)
{
    for (uint64_t pause = ASK_FIRST_NS;;
         pause = pause * 2 < ASK_LAST_NS ? pause * 2 : ASK_LAST_NS) {
        pid_t ended = waitpid(pid, ret_status, WNOHANG);
        uint64_t now = clock_monotonic_ns();
        if (ended == pid) {
            return true;
        }
        if (ended < 0 && errno != EINTR) {
            *ret_status = 0; /* somebody else took its status */
            return true;
        }
        if (now >= notify_stop_before(stop, until_ns)) {
            return false;
        }
        notify_stop_wait(stop, now + pause);
    }
}

/* With all of its group; SIGKILL takes no time except for a process that hangs in the kernel. */
static void kill_and_reap(pid_t pid)
{
    uint64_t until = clock_monotonic_ns() + KILL_NS;
    struct timespec pause = {.tv_nsec = (long)ASK_FIRST_NS};
    int status;
    kill(-pid, SIGKILL);
    while (waitpid(pid, &status, WNOHANG) == 0 && clock_monotonic_ns() < until) {
        nanosleep(&pause, NULL);
    }
}

int command_run(const struct notify_command *command, const char *line, struct notify_stop *stop,
                char reterr_reason[NOTIFY_REASON_MAX])
{
    int pipe_ends[2], status = 0;
    pid_t pid;
    uint64_t until = clock_monotonic_ns() + command->timeout_ns;
    if (pipe2(pipe_ends, O_CLOEXEC) != 0) {
        snprintf(reterr_reason, NOTIFY_REASON_MAX, "no pipe: %s", strerror(errno));
        return -1;
    }
    int error = spawn(command, pipe_ends[0], &pid);
    close(pipe_ends[0]);
    if (error) {
        close(pipe_ends[1]);
        snprintf(reterr_reason, NOTIFY_REASON_MAX, "cannot be run: %s", strerror(error));
        return -1;
    }
    fcntl(pipe_ends[1], F_SETFL, O_NONBLOCK);
    notify_command_feed(pipe_ends[1], line, stop, until);
    close(pipe_ends[1]);
    if (notify_command_wait_for(pid, stop, until, &status)) {
        if (WIFSIGNALED(status)) {
            snprintf(reterr_reason, NOTIFY_REASON_MAX, "ended by signal %d", WTERMSIG(status));
        } else {
            snprintf(reterr_reason, NOTIFY_REASON_MAX, "exit status %d", WEXITSTATUS(status));
        }
        return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
    }
    kill_and_reap(pid);
    snprintf(reterr_reason, NOTIFY_REASON_MAX, "%s",
             clock_monotonic_ns() >= until ? "killed: it took longer than alerts.timeout"
                                           : "killed: attnd stops");
    return -1;
}
