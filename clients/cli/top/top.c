/* SPDX-License-Identifier: MIT */
/* top: runs on the whole terminal. The loop waits for keys, signals, answers and the next moment
 * to look, whichever comes first, and for nothing else; what is known is in the model, what is
 * asked in the asker. */
#include "clients/cli/base/cli.h"
#include "clients/cli/top/internal.h"
#include "clients/cli/base/system.h"
#include "clients/cli/base/unknown.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define INTERVAL_S 1
#define FRAME_MS   40 /* drawings are this far apart at least */
#define DEAF_MAX   100
#define REDRAW_KEY ('l' & 0x1f) /* Ctrl-L, as everywhere */

struct top {
    struct cli *cli;
    struct model *model;
    struct asker asker;
    struct screen screen;
    int64_t interval_ms, next_tick_ms, drawn_ms;
    bool changed; /* since it was drawn */
    int deaf;     /* times that standard input was ready and had no key */
    int end;      /* the signal that ends top; 0 = none */
};

/* Signals are read in their turn, from a pipe, so that none ends the process while ncurses has the
 * terminal. A signalfd would not do: a library's threads do not block signals, and get them. */
static const int caught[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH};
enum { CAUGHT = sizeof caught / sizeof caught[0] };
static int signal_pipe[2] = {-1, -1};

static void top_pass_on(int number)
{
    int before = errno;
    unsigned char byte = (unsigned char)number;
    ssize_t written = write(signal_pipe[1], &byte, 1);
    (void)written; /* a full pipe has one of them already */
    errno = before;
}

/* Returns 0, or -1 when there are no descriptors left. */
static int open_signals(struct sigaction ret_before[CAUGHT])
{
    struct sigaction action = {.sa_handler = top_pass_on, .sa_flags = SA_RESTART};
    if (pipe2(signal_pipe, O_NONBLOCK | O_CLOEXEC) != 0) {
        return -1;
    }
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < CAUGHT; i++) {
        sigaction(caught[i], &action, &ret_before[i]);
    }
    return 0;
}

static void resize(struct top *top)
{
    int width, height;
    terminal_measure(&width, &height);
    if (screen_resize(&top->screen, width, height) != 0) {
        top->model->out_of_memory = true;
    }
    top->changed = true;
}

/* When to look again: the next tick, or when it shows that attnd does not answer. */
static int64_t due_ms(const struct top *top)
{
    int64_t late_ms = asker_late_ms(&top->asker);
    if (top->model->paused || late_ms > top->next_tick_ms) {
        return top->next_tick_ms;
    }
    return late_ms;
}

/* How long to wait until the next thing is due. */
static long wait_ms(const struct top *top, int64_t now)
{
    int64_t wait = due_ms(top) - now, frame = top->drawn_ms + FRAME_MS - now;
    if (top->changed && frame < wait) {
        wait = frame;
    }
    return wait > 0 ? (long)wait : 0;
}

static void wait_for_something(struct top *top)
{
    struct rpc *rpc = top->asker.rpc;
    zmq_pollitem_t items[] = {
        {.fd = STDIN_FILENO, .events = ZMQ_POLLIN},
        {.fd = signal_pipe[0], .events = ZMQ_POLLIN},
        {.socket = rpc->socket, .events = ZMQ_POLLIN},
    };
    int count = rpc->socket ? 3 : 2;
    if (zmq_poll(items, count, wait_ms(top, now_ms())) < 0) {
        top->changed = true; /* stopped and continued: ncurses has drawn something old */
        return;
    }
    if (items[1].revents) {
        unsigned char number;
        while (read(signal_pipe[0], &number, 1) == 1) {
            if (number == SIGWINCH) {
                resize(top);
            } else {
                top->end = number;
            }
        }
    }
    if (items[0].revents & ZMQ_POLLERR) {
        top->end = SIGHUP;
    } else if (items[0].revents) {
        /* A terminal that is gone is ready for ever and has no keys. */
        int key, keys_count = 0;
        while ((key = terminal_key()) >= 0) {
            if (key == REDRAW_KEY) {
                resize(top);
            } else {
                keys_press(top->model, key);
            }
            keys_count++;
        }
        top->deaf = keys_count > 0 ? 0 : top->deaf + 1;
        top->changed = top->changed || keys_count > 0;
        if (top->deaf > DEAF_MAX) {
            top->end = SIGHUP;
        }
    }
}

static int top_show(struct top *top)
{
    char error[TERMINAL_ERROR_MAX];
    int code = CLI_OK;
    top->screen.unicode = terminal_is_unicode();
    if (terminal_open(error) != 0) {
        code = cli_usage(top->cli, "%s", error);
    } else {
        resize(top);
        while (!top->end && !top->model->quit && !top->model->out_of_memory) {
            int64_t now = now_ms();
            if (now >= due_ms(top)) {
                top->next_tick_ms = now + top->interval_ms;
                if (!top->model->paused) {
                    asker_tick(&top->asker, top->model, now);
                }
                top->changed = true;
            }
            top->changed = asker_turn(&top->asker, top->model, now) || top->changed;
            if (top->changed && now >= top->drawn_ms + FRAME_MS) {
                char clock[16];
                time_t seconds = time(NULL);
                struct tm local;
                localtime_r(&seconds, &local);
                strftime(clock, sizeof clock, "%H:%M:%S", &local);
                view_draw(top->model, &top->screen, now, clock);
                terminal_show(&top->screen);
                top->drawn_ms = now;
                top->changed = false;
            }
            wait_for_something(top);
        }
    }
    terminal_close();
    screen_free(&top->screen);
    return code;
}

/* The handlers are there before ncurses, which then adds none of its own for these. */
static int show_with_signals(struct top *top)
{
    struct sigaction before[CAUGHT];
    if (open_signals(before) != 0) {
        return cli_fail(top->cli, CLI_FINDING, "cannot make a pipe: %s", strerror(errno));
    }
    int code = top_show(top);
    for (int i = 0; i < CAUGHT; i++) {
        sigaction(caught[i], &before[i], NULL);
    }
    close(signal_pipe[0]);
    close(signal_pipe[1]);
    return code;
}

/* Whether top can begin; explains if not. */
static int top_check(struct cli *cli)
{
    const struct args *args = cli->args;
    struct rpc_reply reply;
    struct ask ask;
    bool any;
    if (args->given & ARGS_JSON) {
        return cli_usage(cli, "top is for people; attnctl summary --json is for programs");
    }
    if (args->run && args->word_count < 2) {
        return cli_usage(cli, "--run: name its job: attnctl top JOB --run RUN");
    }
    if (unknown_check_metric(cli) != CLI_OK) {
        return CLI_USAGE;
    }
    ask_init(&ask);
    ask_text(&ask, "job", args->run ? args->words[1] : NULL);
    ask_text(&ask, "run", args->run);
    int code = ask_for_any(cli, args->run ? "monitor" : "ping", &ask, &reply, &any);
    if (code != CLI_OK) {
        return code;
    }
    rpc_reply_clear(&reply);
    return terminal_is_there()
               ? CLI_OK
               : cli_usage(cli, "top needs a terminal on both its input and its output; attnctl "
                                "summary prints the same numbers once");
}

int cmd_top(struct cli *cli)
{
    int code = top_check(cli);
    if (code != CLI_OK) {
        return code;
    }
    struct top top = {.cli = cli, .model = model_new(), .interval_ms = 1000 * INTERVAL_S};
    if (!top.model) {
        return cli_fail(cli, CLI_FINDING, "out of memory");
    }
    if (cli->args->given & ARGS_INTERVAL) {
        top.interval_ms = (int64_t)(cli->args->interval * 1000);
    }
    asker_init(&top.asker, cli->rpc, now_ms());
    if (cli->args->metric) {
        model_choose_metric(top.model, cli->args->metric);
    }
    if (cli->args->word_count > 1) {
        model_open(top.model, cli->args->words[1], cli->args->run);
    }
    code = show_with_signals(&top);
    bool starved = top.model->out_of_memory;
    model_free(&top.model);
    return starved ? cli_fail(cli, CLI_FINDING, "out of memory") : code;
}
