/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/out.h"

#include "clients/cli/base/field.h"
#include "clients/cli/base/system.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

void out_init(struct out_table *table, int columns)
{
    *table = (struct out_table){.columns = columns};
}

void out_cell(struct out_table *table, const char *format, ...)
{
    char text[OUT_CELL_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (table->used == table->room) {
        table->room = table->room ? table->room * 2 : 64;
        table->cells = memory_grow(table->cells, (size_t)table->room, sizeof *table->cells);
    }
    char **cell = &table->cells[table->used++];
    *cell = memory_new(strlen(text) + 1, 1);
    strcpy(*cell, text);
}

void out_more(struct out_table *table, const char *names)
{
    for (const char *end = names; *end; names = end + (*end == '|')) {
        end = names + strcspn(names, "|");
        out_cell(table, "%.*s", (int)(end - names), names);
        table->columns++;
    }
}

void out_begin(struct out_table *table, const char *names)
{
    out_init(table, 0);
    out_more(table, names);
}

void out_text(struct out_table *table, const msgpack_object *map, const char *key, size_t width)
{
    char text[OUT_CELL_MAX];
    field_text(map, key, text, sizeof text);
    if (width > 0) {
        out_shorten(text, width);
    }
    out_cell(table, "%s", *text ? text : "-");
}

void out_count(struct out_table *table, const msgpack_object *map, const char *key)
{
    out_cell(table, "%" PRIu64, mpk_find_u64(map, key));
}

void out_number(struct out_table *table, const msgpack_object *value)
{
    double number = mpk_number(value);
    out_cell(table, isnan(number) ? "-" : "%.4g", number);
}

bool out_is_plain(double value)
{
    double size = fabs(value);
    return !isfinite(size) || size == 0 || (size >= 0.001 && size < 10000);
}

void out_value(struct out_table *table, double value, bool plain)
{
    out_cell(table, !isfinite(value) ? "-" : plain ? "%.4f" : "%.2e", value);
}

void out_mean(struct out_table *table, double mean, double error, bool plain)
{
    if (isfinite(mean) && isfinite(error)) {
        out_cell(table, plain ? "%.4f %s %.2g" : "%.2e %s %.2g", mean, out_plus_minus(), error);
    } else {
        out_value(table, mean, plain);
    }
}

void out_pairs(struct out_table *table, const char *prefix, const msgpack_object *map)
{
    for (uint32_t i = 0; i < mpk_pairs(map); i++) {
        char text[OUT_CELL_MAX];
        const msgpack_object_kv *pair = &map->via.map.ptr[i];
        out_cell(table, "%s%s", prefix, field_show(&pair->key, text, OUT_CELL_MAX / 2));
        out_cell(table, "%s", field_show(&pair->val, text, sizeof text));
    }
}

void out_run(struct out_table *table, const msgpack_object *run)
{
    out_text(table, run, "job", 24);                 /* --json has longer names whole */
    out_cell(table, "%.8s", FIELD_TEXT(run, "run")); /* 8 of 32 digits tell runs apart */
    bool no_news = mpk_is_str(mpk_find(run, "state"), "no_news");
    out_cell(table, "%s", no_news ? "no news" : FIELD_TEXT(run, "state"));
}

/* Columns a text takes: UTF-8 continuation bytes take none. */
static int text_width(const char *text)
{
    int width = 0;
    for (; *text; text++) {
        width += ((unsigned char)*text & 0xc0) != 0x80;
    }
    return width;
}

static void print_cell(const struct out_table *table, int row, int column, bool right, FILE *out)
{
    const char *text = table->cells[row * table->columns + column];
    int pad = table->widths[column] - text_width(text);
    if (right) {
        fprintf(out, "%*s%s", pad, "", text);
    } else {
        fprintf(out, "%s%*s", text, pad, "");
    }
}

/* The column behind the last one that fits beside the first when `from` starts the block. */
static int block_end(const struct out_table *table, int from, int width)
{
    int used = table->widths[0], to = from;
    while (to < table->columns) {
        used += table->gap + table->widths[to];
        if (used > width && to > from) {
            break;
        }
        to++;
    }
    return to;
}

void out_print(struct out_table *table, int width, bool text, FILE *out)
{
    table->widths = memory_new((size_t)table->columns, sizeof *table->widths);
    for (int i = 0; i < table->used; i++) {
        int cell = text_width(table->cells[i]), *columns_width = &table->widths[i % table->columns];
        *columns_width = cell > *columns_width ? cell : *columns_width;
    }
    /* Two blanks between columns, or one when that saves the table from being broken up. */
    int used = 0;
    for (int column = 0; column < table->columns; column++) {
        used += table->widths[column];
    }
    int gaps = table->columns - 1;
    table->gap = used + 2 * gaps > width && used + gaps <= width ? 1 : 2;
    int rows = table->used / table->columns;
    for (int from = 1; from < table->columns || from == 1;) {
        int to = block_end(table, from, width);
        if (from > 1) {
            putc('\n', out);
        }
        for (int row = 0; row < rows; row++) {
            /* The last cell of a line is not padded to the right: no line ends in blanks. */
            if (from < to || !text) {
                print_cell(table, row, 0, false, out);
            }
            for (int column = from; column < to; column++) {
                fprintf(out, "%*s", table->gap, "");
                if (text && column == to - 1) {
                    fputs(table->cells[row * table->columns + column], out);
                } else {
                    print_cell(table, row, column, !text, out);
                }
            }
            putc('\n', out);
        }
        from = to > from ? to : from + 1;
    }
    for (int i = 0; i < table->used; i++) {
        free(table->cells[i]);
    }
    free(table->cells);
    free(table->widths);
    *table = (struct out_table){0};
}

int out_width(FILE *out)
{
    struct winsize size;
    if (!isatty(fileno(out))) {
        return INT_MAX;
    }
    return ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col >= 40 ? size.ws_col : 80;
}

const char *out_duration(double seconds, char ret_text[OUT_TIME_MAX])
{
    unsigned long long whole = seconds > 0 && seconds < 1e15 ? (unsigned long long)seconds : 0;
    if (whole >= 86400) {
        snprintf(ret_text, OUT_TIME_MAX, "%llu d %llu h", whole / 86400, whole % 86400 / 3600);
    } else if (whole >= 3600) {
        snprintf(ret_text, OUT_TIME_MAX, "%llu h %llu min", whole / 3600, whole % 3600 / 60);
    } else if (whole >= 60) {
        snprintf(ret_text, OUT_TIME_MAX, "%llu min %llu s", whole / 60, whole % 60);
    } else {
        snprintf(ret_text, OUT_TIME_MAX, "%.1f s", whole > 0 || seconds > 0 ? seconds : 0.0);
    }
    return ret_text;
}

const char *out_news(const msgpack_object *run, char ret_text[OUT_NEWS_MAX])
{
    const msgpack_object *state = mpk_find(run, "state"), *failure = mpk_find(run, "failure");
    char sentence[480], where[288];
    ret_text[0] = '\0';
    if (mpk_is_str(state, "no_news")) {
        double silent_s = mpk_number(mpk_find(run, "silent_s"));
        snprintf(ret_text, OUT_NEWS_MAX, "no news for %.0f s", silent_s);
        if (!(silent_s < 60)) {
            snprintf(ret_text, OUT_NEWS_MAX, "no news for %s", OUT_DURATION(silent_s));
        }
    } else if (mpk_is_str(state, "failed") && failure) {
        field_text(failure, "sentence", sentence, sizeof sentence);
        field_text(failure, "where", where, sizeof where);
        snprintf(ret_text, OUT_NEWS_MAX, "failed: %s%s%s%s", sentence, where[0] ? " (" : "", where,
                 where[0] ? ")" : "");
    }
    return ret_text;
}

const char *out_size(uint64_t bytes, char ret_text[OUT_SIZE_MAX])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double number = (double)bytes;
    int unit = 0;
    for (; number >= 1023.95 && unit < 4; unit++) { /* what would be printed as 1024.0 */
        number /= 1024;
    }
    snprintf(ret_text, OUT_SIZE_MAX, unit == 0 ? "%.0f %s" : "%.1f %s", number, units[unit]);
    return ret_text;
}

const char *out_plural(unsigned long long count)
{
    return count == 1 ? "" : "s";
}

void out_shorten(char *text, size_t width)
{
    size_t length = strlen(text), head = (width - 2) / 2, tail = width - 2 - head;
    if (length <= width) {
        return;
    }
    memcpy(text + head, "..", 2);
    memmove(text + head + 2, text + length - tail, tail + 1);
}

void out_prepare(void)
{
    signal(SIGPIPE, SIG_IGN);
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) == -1) {
            open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY); /* the lowest that is free: fd */
        }
    }
}

bool out_end(FILE *out)
{
    struct pollfd item = {.fd = fileno(out)};
    if (fflush(out) == 0 && !ferror(out)) {
        return true;
    }
    /* Whoever read the output has had enough: the pipe's other end is closed. */
    return poll(&item, 1, 0) > 0 && (item.revents & (POLLERR | POLLHUP)) != 0;
}

/* By the first of the variables that decide about characters; no locale is set here. */
bool out_charset_is_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    const char *text = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && (!text || !*text); i++) {
        text = getenv(names[i]);
    }
    return text && (strcasestr(text, "utf-8") || strcasestr(text, "utf8"));
}

const char *out_plus_minus(void)
{
    return out_charset_is_utf8() ? "±" : "+-";
}

/* Sentences */

void text_wrap(const char *text, int column, int indent, FILE *out)
{
    const char *gap = "";
    for (;;) {
        text += strspn(text, " \n");
        int length = (int)strcspn(text, " \n");
        if (length == 0) {
            break;
        }
        if (column + (int)strlen(gap) + length > TEXT_WIDTH && column > indent) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
            gap = "";
        }
        fprintf(out, "%s%.*s", gap, length, text);
        column += (int)strlen(gap) + length;
        text += length;
        gap = " ";
    }
    putc('\n', out);
}
