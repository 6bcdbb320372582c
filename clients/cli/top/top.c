/* SPDX-License-Identifier: MIT */
/* top: runs on the whole terminal. The loop waits for keys, signals, answers and the next moment
 * to look, whichever comes first, and for nothing else; what is known is in the model, what is
 * asked in the asker. */
#include "clients/cli/base/cli.h"

#include "clients/cli/top/internal.h"
#include "clients/cli/base/system.h"
#include "clients/cli/base/unknown.h"
#include "clients/cli/base/out.h"

#include <curses.h>
#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <term.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* ncurses is this file's alone, but for the numbers of keys. Signals that end top are waited for by
 * its loop (top.c), so that only signals by mistake, of the program or of the sender, are caught
 * here. */
/* After which Escape is a key of its own; ssh sends a key's bytes together. */
#define ESCAPE_MS 25

static SCREEN *open_screen;
static struct termios modes_before;
static bool has_chosen_pairs;

/* Whether the environment says that the terminal takes UTF-8, and this machine can write it. Sets
 * the locale's characters. */
static bool terminal_is_unicode(void)
{
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") == 0) {
        return true;
    }
    /* A locale that came along with ssh and is not installed here. */
    return out_charset_is_utf8() && setlocale(LC_CTYPE, "C.UTF-8");
}

/* A crash */

/* The text that gives the screen, the cursor and the keypad back: made beforehand, since a handler
 * can only write. */
static char restoring[256];

/* Appends a capability without the delays that are written in it as "$<5>". */
static void add_capability(const char *name)
{
    size_t used = strlen(restoring);
    const char *text = tigetstr(name);
    if (!text || text == (char *)-1) {
        return;
    }
    while (*text && used + 1 < sizeof restoring) {
        const char *end = strncmp(text, "$<", 2) == 0 ? strchr(text, '>') : NULL;
        if (end) {
            text = end + 1;
        } else {
            restoring[used++] = *text++;
        }
    }
    restoring[used] = '\0';
}

static void give_back_and_die(int number)
{
    ssize_t written = write(STDOUT_FILENO, restoring, strlen(restoring));
    (void)written;
    tcsetattr(STDIN_FILENO, TCSANOW, &modes_before);
    signal(number, SIG_DFL);
    raise(number);
}

/* Colours */

static bool has_pairs;

static attr_t look_of(const struct cell *cell)
{
    bool chosen_pair = cell->chosen && has_chosen_pairs;
    attr_t look = cell->chosen && !has_chosen_pairs ? A_REVERSE : A_NORMAL;
    if (cell->style == STYLE_TITLE || cell->style == STYLE_BANNER) {
        look |= has_pairs && (has_chosen_pairs || cell->style == STYLE_BANNER) ? A_BOLD : A_REVERSE;
    }
    if (cell->style == STYLE_STRONG || cell->style == STYLE_CRITICAL) {
        look |= A_BOLD;
    }
    if (cell->style == STYLE_FAINT && !has_pairs) {
        look |= A_DIM;
    }
    if (has_pairs) {
        look |= (attr_t)COLOR_PAIR(cell->style + 1 + (chosen_pair ? STYLE_COUNT : 0));
    }
    return look;
}

/* Opening and closing: ncurses knows one terminal per process. After terminal_close it is as it was
 * before terminal_open, whatever happens between them: also after a fatal signal. */

#define TERMINAL_ERROR_MAX 256

static int terminal_refuse(char *reterr, const char *why)
{
    const char *term = getenv("TERM");
    snprintf(reterr, TERMINAL_ERROR_MAX,
             "TERM is '%.60s': %s. Try TERM=xterm-256color attnctl top, or attnctl summary",
             term ? term : "", why);
    return -1;
}

/* Whether the kind of terminal is known and can do what is needed. */
static int check_kind(char *reterr)
{
    int error;
    if (!getenv("TERM") || !*getenv("TERM")) {
        return terminal_refuse(reterr, "what kind of terminal this is, is not said");
    }
    if (setupterm(NULL, STDOUT_FILENO, &error) != OK) {
        return terminal_refuse(reterr, "no terminal of that kind is known on this machine");
    }
    const char *cup = tigetstr("cup");
    bool places = cup && cup != (char *)-1;
    del_curterm(cur_term); /* newterm makes its own */
    return places ? 0 : terminal_refuse(reterr, "such a terminal cannot place its cursor");
}

/* Gives it back; harmless when it is not open. */
static void terminal_close(void)
{
    if (!open_screen) {
        return;
    }
    endwin();
    delscreen(open_screen);
    open_screen = NULL;
}

/* Takes the whole terminal. Returns 0, or -1 with a sentence (TERMINAL_ERROR_MAX bytes). */
static int terminal_open(char *reterr)
{
    if (check_kind(reterr) != 0) {
        return -1;
    }
    tcgetattr(STDIN_FILENO, &modes_before);
    open_screen = newterm(NULL, stdout, stdin);
    if (!open_screen) {
        return terminal_refuse(reterr, "ncurses does not take it");
    }
    static const int numbers[] = {SIGSEGV, SIGBUS,  SIGFPE,  SIGILL,
                                  SIGABRT, SIGUSR1, SIGUSR2, SIGALRM};
    static const char *const names[] = {"sgr0", "rmkx", "cnorm", "rmcup"};
    struct sigaction action = {.sa_handler = give_back_and_die};
    action.sa_flags = SA_NODEFER;
    sigemptyset(&action.sa_mask);
    restoring[0] = '\0';
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        add_capability(names[i]);
    }
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        sigaction(numbers[i], &action, NULL);
    }
    cbreak();
    noecho();
    nonl();
    keypad(stdscr, TRUE);
    nodelay(stdscr, TRUE);
    set_escdelay(ESCAPE_MS);
    curs_set(0);
    const char *refused = getenv("NO_COLOR");
    has_pairs =
        !(refused && *refused) && has_colors() && start_color() == OK && use_default_colors() == OK;
    if (has_pairs) {
        /* Each style has a pair, and one more for the chosen row where there are colours enough. */
        static const short chosen_background = 237, chosen_text = 255;
        bool many = COLORS >= 256 && COLOR_PAIRS > 2 * STYLE_COUNT;
        has_chosen_pairs = many;
        for (short style = 0; style < STYLE_COUNT; style++) {
            short text = -1, background = -1;
            if (style == STYLE_TITLE && many) {
                text = 255, background = 24;
            } else if (style == STYLE_BANNER) {
                text = COLOR_WHITE, background = COLOR_RED;
            } else if (style == STYLE_CRITICAL) {
                text = many ? 203 : COLOR_RED;
            } else if (style == STYLE_WARNING) {
                text = many ? 178 : COLOR_YELLOW;
            } else if (style == STYLE_INFO) {
                text = many ? 74 : COLOR_CYAN;
            } else if (style == STYLE_FAINT && many) {
                text = 245;
            }
            init_pair((short)(style + 1), text, background);
            if (many) {
                init_pair((short)(style + 1 + STYLE_COUNT), text < 0 ? chosen_text : text,
                          chosen_background);
            }
        }
    }
    atexit(terminal_close);
    memory_last = terminal_close;
    return 0;
}

/* Keys */

/* The next key that was pressed, as keys_press takes it, or ERR. Does not wait. */
static int terminal_key(void)
{
    int key = getch();
    return key == KEY_ENTER || key == '\r'       ? '\n'
           : key == KEY_BACKSPACE || key == '\b' ? KEY_OF_ERASE
           : key == KEY_BTAB                     ? '\t'
                                                 : key;
}

/* Drawing */

static void terminal_show(const struct screen *screen)
{
    erase();
    for (int row = 0; row < screen->height; row++) {
        for (int column = 0; column < screen->width;) {
            /* Cells that look alike go out together. */
            const struct cell *cells = &screen->cells[row * screen->width];
            char text[512];
            size_t used = 0;
            int end = column;
            for (; end < screen->width && cells[end].style == cells[column].style &&
                   cells[end].chosen == cells[column].chosen;
                 end++) {
                size_t length = strlen(cells[end].text);
                if (used + length + 1 > sizeof text) {
                    break;
                }
                memcpy(text + used, cells[end].text, length);
                used += length;
            }
            text[used] = '\0';
            attrset((int)look_of(&cells[column]));
            mvaddstr(row, column, text);
            column = end;
        }
    }
    refresh();
}

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

static void resize(struct top *top)
{
    struct winsize size = {.ws_col = 0};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0 &&
        (size.ws_col != COLS || size.ws_row != LINES)) {
        resizeterm(size.ws_row, size.ws_col);
    }
    clearok(curscr, TRUE); /* drawn anew, as large as it is now */
    screen_resize(&top->screen, COLS, LINES);
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
        while ((key = terminal_key()) != ERR) {
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
        while (!top->end && !top->model->quit) {
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
    struct sigaction action = {.sa_handler = top_pass_on, .sa_flags = SA_RESTART};
    struct sigaction before[CAUGHT];
    if (pipe2(signal_pipe, O_NONBLOCK | O_CLOEXEC) != 0) {
        return cli_fail(top->cli, CLI_FINDING, "cannot make a pipe: %s", strerror(errno));
    }
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < CAUGHT; i++) {
        sigaction(caught[i], &action, &before[i]);
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
    return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)
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
    double interval_s = cli->args->given & ARGS_INTERVAL ? cli->args->interval : INTERVAL_S;
    struct top top = {
        .cli = cli, .model = model_new(), .interval_ms = (int64_t)(interval_s * 1000)};
    asker_init(&top.asker, cli->rpc, now_ms());
    if (cli->args->metric) {
        model_choose_metric(top.model, cli->args->metric);
    }
    if (cli->args->word_count > 1) {
        model_open(top.model, cli->args->words[1], cli->args->run);
    }
    code = show_with_signals(&top);
    model_free(&top.model);
    return code;
}
