/* SPDX-License-Identifier: MIT */
#include "clients/cli/show/internal.h"

#include "clients/cli/base/out.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Wraps one sentence. */
#define TEXT_MAX 2048

static bool screen_contains(const char *variable, const char *word)
{
    const char *value = getenv(variable);
    return value && strcasestr(value, word);
}

static enum color_depth find_colors(FILE *out, enum color_choice choice)
{
    const char *no_color = getenv("NO_COLOR");
    bool truecolor =
        screen_contains("COLORTERM", "truecolor") || screen_contains("COLORTERM", "24bit");
    bool many =
        truecolor || screen_contains("TERM", "256color") || screen_contains("TERM", "direct");
    if (choice == COLOR_NEVER) {
        return COLORS_NONE;
    }
    if (choice == COLOR_AUTO && (!isatty(fileno(out)) || (no_color && *no_color) || !many)) {
        return COLORS_NONE;
    }
    return truecolor ? COLORS_TRUE : COLORS_256;
}

void screen_detect(FILE *out, bool ascii, enum color_choice choice, int width,
                   struct show_screen *ret_screen)
{
    struct winsize size;
    struct show_screen screen = {.out = out, .width = 80};
    if (isatty(fileno(out)) && ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        screen.width = size.ws_col;
        screen.height = size.ws_row;
    }
    screen.width = width > 0 ? width : screen.width;
    screen.width = screen.width < SCREEN_WIDTH_MIN ? SCREEN_WIDTH_MIN : screen.width;
    screen.utf8 = !ascii && out_charset_is_utf8();
    screen.colors = find_colors(out, choice);
    *ret_screen = screen;
}

/* The words, one after the other, a line at a time. */
__attribute__((format(printf, 3, 0))) static void screen_put_words(const struct show_screen *screen,
                                                                   int indent, const char *format,
                                                                   va_list args)
{
    char whole[TEXT_MAX], *text = whole;
    vsnprintf(whole, sizeof whole, format, args);
    int used = 0;
    char *rest = NULL;
    while (*text == ' ') { /* what the first line begins with is kept */
        putc(' ', screen->out);
        text++;
        used++;
    }
    bool first = true;
    for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        int width = token_text_width(word);
        if (!first && used + 1 + width > screen->width) {
            fprintf(screen->out, "\n%*s", indent, "");
            used = indent;
            first = true;
        }
        fprintf(screen->out, "%s%s", first ? "" : " ", word);
        used += width + !first;
        first = false;
    }
    putc('\n', screen->out);
}

void screen_say(const struct show_screen *screen, int indent, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    screen_put_words(screen, indent, format, args);
    va_end(args);
}

void screen_title(const struct show_screen *screen, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (screen->colors != COLORS_NONE) {
        fputs("\x1b[1m", screen->out);
    }
    screen_put_words(screen, 2, format, args);
    va_end(args);
    if (screen->colors != COLORS_NONE) {
        fputs("\x1b[0m", screen->out);
    }
}
