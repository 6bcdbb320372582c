/* SPDX-License-Identifier: MIT */
/* A page may have 100,000 lines, of which printf would take 60 ms: numbers between 1e-5 and 1e9,
 * which nearly all are, are written by integer arithmetic. */
#include "daemon/http/metrics/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOM_FIRST 65536
#define DIGITS     9

/* Room for `bytes` more, and a NUL; NULL when there is none. */
static char *metrics_text_reserve(struct metrics_text *text, size_t bytes)
{
    size_t room = text->room ? text->room : ROOM_FIRST;
    while (room - text->size <= bytes) {
        room *= 2;
    }
    if (room > text->room && !text->failed) {
        char *data = realloc(text->data, room);
        text->failed = !data;
        text->data = data ? data : text->data;
        text->room = data ? room : text->room;
    }
    return text->failed ? NULL : text->data + text->size;
}

static void metrics_text_append(struct metrics_text *text, const char *bytes, size_t size)
{
    char *to = metrics_text_reserve(text, size);
    if (!to) {
        return;
    }
    memcpy(to, bytes, size);
    text->size += size;
}

__attribute__((format(printf, 2, 3))) static void metrics_text_print(struct metrics_text *text,
                                                                     const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (length < 0 || (size_t)length >= sizeof line) {
        text->failed = true;
    } else {
        metrics_text_append(text, line, (size_t)length);
    }
}

char *metrics_text_end(struct metrics_text *text)
{
    if (text->openmetrics) {
        metrics_text_print(text, "# EOF\n");
    }
    metrics_text_append(text, "", 1);
    if (text->failed) {
        free(text->data);
    }
    return text->failed ? NULL : text->data;
}

/* Numbers */

/* Prints 1e-5 <= number < 1e9. */
static size_t print_usual(char *to, double number)
{
    static const double power[] = {1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1,
                                   1e2,  1e3,  1e4,  1e5,  1e6,  1e7, 1e8};
    static const double scale[] = {1e13, 1e12, 1e11, 1e10, 1e9, 1e8, 1e7,
                                   1e6,  1e5,  1e4,  1e3,  1e2, 1e1, 1e0};
    int i = 13;
    while (i > 0 && number < power[i]) {
        i--;
    }
    uint64_t scaled = (uint64_t)(number * scale[i] + 0.5);
    if (scaled >= 1000000000) { /* 9.9999999996 is 10 */
        scaled /= 10;
        i++;
    }
    /* `scaled` has DIGITS digits, the first of which stands for 10^exponent. */
    int exponent = i - 5;
    char digits[DIGITS], *at = to;
    int count = DIGITS;
    for (int j = DIGITS - 1; j >= 0; j--, scaled /= 10) {
        digits[j] = (char)('0' + scaled % 10);
    }
    while (count > 1 && digits[count - 1] == '0') {
        count--;
    }
    if (exponent < 0) {
        *at++ = '0';
        *at++ = '.';
        for (int j = -1; j > exponent; j--) {
            *at++ = '0';
        }
    }
    for (int j = 0; j < count || j <= exponent; j++) {
        *at++ = j < count ? digits[j] : '0';
        if (j == exponent && j + 1 < count) {
            *at++ = '.';
        }
    }
    return (size_t)(at - to);
}

size_t metrics_number(char to[METRICS_NUMBER_MAX + 1], double number)
{
    double size = fabs(number);
    if (size >= 1e-5 && size < 1e9) {
        bool negative = number < 0;
        *to = '-';
        return (size_t)negative + print_usual(to + negative, size);
    }
    if (isnan(number)) {
        return (size_t)sprintf(to, "NaN");
    }
    if (isinf(number)) {
        return (size_t)sprintf(to, number > 0 ? "+Inf" : "-Inf");
    }
    return (size_t)snprintf(to, METRICS_NUMBER_MAX + 1, "%.15g", number);
}

/* Families */

static const char *suffix_of(const struct family *family)
{
    return family->type == FAMILY_COUNTER ? "_total" : family->type == FAMILY_INFO ? "_info" : "";
}

static const char *type_of(const struct metrics_text *text, const struct family *family)
{
    static const char *const names[] = {"counter", "gauge", "info", "histogram"};
    return !text->openmetrics && family->type == FAMILY_INFO ? "gauge" : names[family->type];
}

/* OpenMetrics takes the last word of the name as the unit. */
static const char *unit_of(const char *name)
{
    static const char *const units[] = {"seconds", "bytes", "ratio", "tokens", "nats"};
    const char *last = strrchr(name, '_');
    for (size_t i = 0; last && i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(last + 1, units[i]) == 0) {
            return units[i];
        }
    }
    return NULL;
}

void metrics_head(struct metrics_text *text, const struct family *family)
{
    /* OpenMetrics names the family, text 0.0.4 its samples. */
    const char *suffix = text->openmetrics ? "" : suffix_of(family), *unit = unit_of(family->name);
    metrics_text_print(text, "# HELP %s%s %s\n", family->name, suffix, family->help);
    metrics_text_print(text, "# TYPE %s%s %s\n", family->name, suffix, type_of(text, family));
    if (text->openmetrics && unit) {
        metrics_text_print(text, "# UNIT %s %s\n", family->name, unit);
    }
}

static void sample(struct metrics_text *text, const struct family *family, const char *labels,
                   const char *number, size_t size)
{
    metrics_text_append(text, family->name, strlen(family->name));
    metrics_text_append(text, suffix_of(family), strlen(suffix_of(family)));
    if (*labels) {
        metrics_text_append(text, "{", 1);
        metrics_text_append(text, labels, strlen(labels));
        metrics_text_append(text, "}", 1);
    }
    metrics_text_append(text, " ", 1);
    metrics_text_append(text, number, size);
    metrics_text_append(text, "\n", 1);
}

void metrics_count(struct metrics_text *text, const struct family *family, const char *labels,
                   uint64_t number)
{
    char digits[METRICS_NUMBER_MAX + 1];
    int size = snprintf(digits, sizeof digits, "%" PRIu64, number);
    sample(text, family, labels, digits, (size_t)size);
}

void metrics_real(struct metrics_text *text, const struct family *family, const char *labels,
                  double number)
{
    char digits[METRICS_NUMBER_MAX + 1];
    sample(text, family, labels, digits, metrics_number(digits, number));
}

void metrics_line(struct metrics_text *text, const char *name, size_t name_size, const char *labels,
                  size_t labels_size, double number)
{
    char *at = metrics_text_reserve(text, name_size + labels_size + METRICS_NUMBER_MAX + 8),
         *begin = at;
    if (!at) {
        return;
    }
    memcpy(at, name, name_size);
    at += name_size;
    *at++ = '{';
    memcpy(at, labels, labels_size);
    at += labels_size;
    *at++ = '}';
    *at++ = ' ';
    at += metrics_number(at, number);
    *at++ = '\n';
    text->size += (size_t)(at - begin);
}

void metrics_histogram(struct metrics_text *text, const struct family *family,
                       struct latency *latency)
{
    uint64_t below = 0;
    metrics_head(text, family);
    for (int i = 0; i <= LATENCY_BOUNDS; i++) {
        char bound[METRICS_NUMBER_MAX + 1] = "+Inf";
        if (i < LATENCY_BOUNDS) {
            size_t length = metrics_number(bound, (double)latency_bound_ns[i] / 1e9);
            snprintf(bound + length, sizeof bound - length, "%s",
                     memchr(bound, '.', length) ? "" : ".0");
        }
        below += atomic_load_explicit(&latency->count[i], memory_order_relaxed);
        metrics_text_print(text, "%s_bucket{le=\"%s\"} %" PRIu64 "\n", family->name, bound, below);
    }
    uint64_t sum_ns = atomic_load_explicit(&latency->sum_ns, memory_order_relaxed);
    metrics_text_print(text, "%s_sum %.15g\n%s_count %" PRIu64 "\n", family->name,
                       (double)sum_ns / 1e9, family->name, below);
}

void metrics_one(struct metrics_text *text, const char *name, enum family_type type,
                 const char *help, double number)
{
    const struct family family = {name, type, help};
    metrics_head(text, &family);
    metrics_real(text, &family, "", number);
}

void metrics_one_count(struct metrics_text *text, const char *name, enum family_type type,
                       const char *help, uint64_t number)
{
    const struct family family = {name, type, help};
    metrics_head(text, &family);
    metrics_count(text, &family, "", number);
}

/* Labels */

/* `value` with \, " and line ends escaped; what is no text is a question mark. */
size_t metrics_label(char *labels, size_t size, const char *name, const char *value)
{
    size_t used = strlen(labels);
    used += (size_t)snprintf(labels + used, size - used, "%s%s=\"", used ? "," : "", name);
    for (; *value && used + 4 < size; value++) {
        bool escape = *value == '\\' || *value == '"' || *value == '\n';
        if (escape) {
            labels[used++] = '\\';
        }
        labels[used++] = *value == '\n' ? 'n' : (unsigned char)*value < ' ' ? '?' : *value;
    }
    labels[used++] = '"';
    labels[used] = '\0';
    return used;
}
