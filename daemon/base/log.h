/* SPDX-License-Identifier: MIT */
/* log: one event per line on stderr, as key=value text or JSON. Any thread; a line is one write(2).
 *
 *   log_event(LOG_INFO, "ingest_bound", LOG_STR("endpoint", endpoint), LOG_NUM("budget", bytes));
 *
 * The event's name is stable and greppable; details are fields. The level and format are set once,
 * before the first thread starts. */
#ifndef DAEMON_BASE_LOG_H
#define DAEMON_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

struct log_field {
    const char *key;  /* NULL ends a list */
    const char *text; /* NULL: the number counts */
    uint64_t number;
};

#define LOG_STR(field_key, value) ((struct log_field){.key = (field_key), .text = (value)})
#define LOG_NUM(field_key, value) ((struct log_field){.key = (field_key), .number = (value)})

void log_setup(enum log_level level, bool json);

/* `fields` ends with a NULL key. Fields that would make a line longer than 1 KiB are left out,
 * which the line says. */
void log_write(enum log_level level, const char *event, const struct log_field *fields);

/* Whether something that happened `before` times already is worth a line: the first time, and
 * whenever the count reaches a power of two. */
bool log_is_round(uint64_t before);

#define log_event(level, event, ...)                                                               \
    log_write(level, event, (const struct log_field[]){__VA_ARGS__, {.key = NULL}})

#endif
