/* SPDX-License-Identifier: MIT */
/* A line is built in a buffer on the stack and written at once, so that lines of different threads
 * never mix and logging never allocates. Values are escaped: a hostile topic cannot forge a line.
 */
#include "daemon/base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024

static struct {
    enum log_level level;
    bool json;
} log_sink = {LOG_INFO, false};

static const char *const level_name[] = {"error", "warning", "info", "debug"};

/* Room for what ends a line after a field that did not fit. */
#define LINE_END_BYTES 32

struct log_line {
    char text[LINE_MAX_BYTES];
    size_t used;
    bool full; /* something did not fit */
};

void log_setup(enum log_level level, bool json)
{
    log_sink.level = level;
    log_sink.json = json;
}

static void put_char(struct log_line *line, char c)
{
    if (line->used < sizeof line->text - LINE_END_BYTES) {
        line->text[line->used++] = c;
    } else {
        line->full = true;
    }
}

static void log_put_text(struct log_line *line, const char *text)
{
    while (*text) {
        put_char(line, *text++);
    }
}

static bool needs_quotes(const char *text)
{
    bool plain = *text != '\0';
    for (; *text; text++) {
        plain = plain && *text > 0x20 && *text < 0x7f && !strchr("\"\\=", *text);
    }
    return !plain;
}

static void put_quoted(struct log_line *line, const char *text)
{
    put_char(line, '"');
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        char escape[8];
        if (c == '"' || c == '\\') {
            put_char(line, '\\');
        }
        if (c >= 0x20 && c < 0x7f) {
            put_char(line, (char)c);
        } else {
            snprintf(escape, sizeof escape, "\\u%04x", c);
            log_put_text(line, escape);
        }
    }
    put_char(line, '"');
}

/* A field that does not fit is left out whole, and those after it too, so that the line stays
 * well-formed. */
static void log_put_field(struct log_line *line, const struct log_field *field)
{
    size_t before = line->used;
    if (!line->full) {
        char number[32];
        size_t opening = log_sink.json ? strlen("{") : 0;
        if (line->used > opening) {
            log_put_text(line, log_sink.json ? ", " : " ");
        }
        if (log_sink.json) {
            put_quoted(line, field->key);
        } else {
            log_put_text(line, field->key);
        }
        log_put_text(line, log_sink.json ? ": " : "=");
        if (field->text) {
            const char *text = field->text;
            if (log_sink.json || needs_quotes(text)) {
                put_quoted(line, text);
            } else {
                log_put_text(line, text);
            }
        } else {
            snprintf(number, sizeof number, "%" PRIu64, field->number);
            log_put_text(line, number);
        }
    }
    if (line->full) {
        line->used = before;
    }
}

void log_write(enum log_level level, const char *event, const struct log_field *fields)
{
    struct log_line line = {.used = 0};
    char time_text[40];
    if (level > log_sink.level) {
        return;
    }
    size_t size = sizeof time_text;
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(time_text, size, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(time_text + used, size - used, ".%03ldZ", now.tv_nsec / 1000000);
    if (log_sink.json) {
        put_char(&line, '{');
    }
    log_put_field(&line, &LOG_STR("time", time_text));
    log_put_field(&line, &LOG_STR("level", level_name[level]));
    log_put_field(&line, &LOG_STR("event", event));
    for (; fields->key; fields++) {
        log_put_field(&line, fields);
    }
    /* In the room that put_char leaves. */
    const char *end = log_sink.json ? (line.full ? ", \"cut\": true}\n" : "}\n")
                                    : (line.full ? " cut=true\n" : "\n");
    memcpy(line.text + line.used, end, strlen(end));
    line.used += strlen(end);
    /* Nothing sensible can be done about a stderr that does not take the line. */
    (void)!write(STDERR_FILENO, line.text, line.used);
}

bool log_is_round(uint64_t before)
{
    return (before & (before + 1)) == 0;
}
