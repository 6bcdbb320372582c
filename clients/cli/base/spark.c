/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/spark.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define LEVELS 8

/* The first of the variables that decide about characters; no locale is set here. */
static const char *charset(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *value = getenv(names[i]);
        if (value && *value) {
            return value;
        }
    }
    return "";
}

bool spark_charset_is_utf8(void)
{
    return strcasestr(charset(), "utf-8") != NULL || strcasestr(charset(), "utf8") != NULL;
}

bool spark_fits(FILE *out)
{
    return isatty(fileno(out)) && spark_charset_is_utf8();
}

double spark_bar(const double *values, uint32_t count, uint32_t bars, uint32_t index)
{
    uint32_t from = (uint32_t)((uint64_t)index * count / bars);
    uint32_t to = (uint32_t)((uint64_t)(index + 1) * count / bars);
    /* The mean of those of values[from..to) that exist. */
    double sum = 0;
    uint32_t mean_count = 0;
    for (uint32_t i = from; i < to; i++) {
        if (!isfinite(values[i])) {
            continue;
        }
        sum += values[i];
        mean_count++;
    }
    return mean_count > 0 ? sum / mean_count : NAN;
}

void spark_line(const double *values, uint32_t count, uint32_t width, char *ret_line)
{
    uint32_t bars = count < width ? count : width;
    double least = INFINITY, greatest = -INFINITY;
    for (uint32_t i = 0; i < bars; i++) {
        least = fmin(least, spark_bar(values, count, bars, i));
        greatest = fmax(greatest, spark_bar(values, count, bars, i));
    }
    for (uint32_t i = 0; i < bars; i++) {
        double value = spark_bar(values, count, bars, i), range = greatest - least;
        double level = range > 0 ? (value - least) / range * (LEVELS - 1) : 0;
        /* U+2581 and the seven after it. */
        char block[] = {'\xe2', '\x96', (char)(0x81 + (isnan(value) ? 0 : (int)(level + 0.5)))};
        if (isnan(value)) {
            *ret_line++ = ' ';
        } else {
            ret_line = (char *)memcpy(ret_line, block, sizeof block) + sizeof block;
        }
    }
    *ret_line = '\0';
}
