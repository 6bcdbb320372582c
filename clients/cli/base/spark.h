/* SPDX-License-Identifier: MIT */
/* spark: a line of small bars, for terminals that can show them. Pure. */
#ifndef CLIENTS_CLI_BASE_SPARK_H
#define CLIENTS_CLI_BASE_SPARK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Whether the environment says UTF-8. */
bool spark_charset_is_utf8(void);
/* Whether `out` is a terminal and the environment says UTF-8. */
bool spark_fits(FILE *out);

/* Bar `index` of `bars` shows the mean of those of its values that exist; NaN = none. */
double spark_bar(const double *values, uint32_t count, uint32_t bars, uint32_t index);

/* Bytes of a line of `width` bars, with a NUL. */
#define SPARK_BYTES(width) (3 * (size_t)(width) + 1)

/* One bar per value, from the least to the greatest; blank for NaN. With more values than `width`
 * each bar is the mean of several that follow one another. */
void spark_line(const double *values, uint32_t count, uint32_t width, char *ret_line);

#endif
