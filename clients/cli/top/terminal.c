/* SPDX-License-Identifier: MIT */
/* ncurses is this file's alone. Signals that end top are waited for by its loop (top.c), so
 * that only signals by mistake, of the program or of the sender, are caught here. */
#include "clients/cli/top/internal.h"

#include "clients/cli/base/out.h"

#include <curses.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <term.h>
#include <termios.h>
#include <unistd.h>

/* After which Escape is a key of its own; ssh sends a key's bytes together. */
#define ESCAPE_MS 25

static SCREEN *open_screen;
static struct termios modes_before;
static bool has_chosen_pairs;

bool terminal_is_there(void)
{
    return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
}

bool terminal_is_unicode(void)
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

/* Opening and closing */

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

int terminal_open(char *reterr)
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
    return 0;
}

void terminal_close(void)
{
    if (!open_screen) {
        return;
    }
    endwin();
    delscreen(open_screen);
    open_screen = NULL;
}

/* Keys */

int terminal_key(void)
{
    static const struct {
        int theirs, ours;
    } keys[] = {
        {KEY_UP, KEY_OF_UP},       {KEY_DOWN, KEY_OF_DOWN},       {KEY_LEFT, KEY_OF_LEFT},
        {KEY_RIGHT, KEY_OF_RIGHT}, {KEY_PPAGE, KEY_OF_PAGE_UP},   {KEY_NPAGE, KEY_OF_PAGE_DOWN},
        {KEY_HOME, KEY_OF_HOME},   {KEY_END, KEY_OF_END},         {KEY_ENTER, KEY_OF_ENTER},
        {'\r', KEY_OF_ENTER},      {KEY_BACKSPACE, KEY_OF_ERASE}, {'\b', KEY_OF_ERASE},
        {KEY_BTAB, KEY_OF_TAB},
    };
    int key = getch();
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (key == keys[i].theirs) {
            return keys[i].ours;
        }
    }
    if (key == ERR) {
        return -1;
    }
    return key < 128 ? key : 0; /* 0: a key that means nothing here */
}

/* Drawing */

void terminal_measure(int *ret_width, int *ret_height)
{
    struct winsize size = {.ws_col = 0};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0 &&
        (size.ws_col != COLS || size.ws_row != LINES)) {
        resizeterm(size.ws_row, size.ws_col);
    }
    *ret_width = COLS;
    *ret_height = LINES;
    clearok(curscr, TRUE);
}

void terminal_show(const struct screen *screen)
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
