/* SPDX-License-Identifier: MIT */
/* metrics_text: the exposition formats of Prometheus: text 0.0.4 and OpenMetrics 1.0. All samples
 * of a family stand together, after its head. Failures are sticky. Pure. */
#ifndef DAEMON_HTTP_METRICS_TEXT_H
#define DAEMON_HTTP_METRICS_TEXT_H

#include "daemon/base/stats.h"

#include <stdbool.h>
#include <stddef.h>

/* Longest number, without a NUL. */
#define METRICS_NUMBER_MAX 32

enum family_type { FAMILY_COUNTER, FAMILY_GAUGE, FAMILY_INFO, FAMILY_HISTOGRAM };

struct family {
    const char *name; /* without _total of counters and _info of infos */
    enum family_type type;
    const char *help; /* a sentence, in plain ASCII without quotes and backslashes */
};

/* All zero but `openmetrics` at first. */
struct metrics_text {
    char *data; /* owned until metrics_text_end */
    size_t size, room;
    bool openmetrics, failed;
};

/* The page, terminated, to be freed; NULL when memory was short. */
char *metrics_text_end(struct metrics_text *text);

void metrics_head(struct metrics_text *text, const struct family *family);
/* `labels` is `name="value",...` without braces, or "" for none. */
void metrics_count(struct metrics_text *text, const struct family *family, const char *labels,
                   uint64_t number);
/* To nine digits; beyond 1e9 to fifteen. */
void metrics_real(struct metrics_text *text, const struct family *family, const char *labels,
                  double number);
/* The same for many: `name` is whole, `labels` has its length. */
void metrics_line(struct metrics_text *text, const char *name, size_t name_size, const char *labels,
                  size_t labels_size, double number);
/* Seconds. */
void metrics_histogram(struct metrics_text *text, const struct family *family,
                       struct latency *latency);
/* A family of one sample without labels. */
void metrics_one(struct metrics_text *text, const char *name, enum family_type type,
                 const char *help, double number);
void metrics_one_count(struct metrics_text *text, const char *name, enum family_type type,
                       const char *help, uint64_t number);

/* Adds name="value", escaped, behind a comma unless it is the first; cut at `size` bytes, of which
 * the name and 4 more are free. Returns the length. */
size_t metrics_label(char *labels, size_t size, const char *name, const char *value);
/* Writes a number; returns its length. */
size_t metrics_number(char to[METRICS_NUMBER_MAX + 1], double number);

#endif
