/* SPDX-License-Identifier: MIT */
#include "proto/row_sum.h"

#include <string.h>

#define ROW_SUM(symbol, name, needed, text) {name, text, needed},
static const struct {
    const char *name, *text;
    bool needed;
} sums[ROW_SUM_COUNT] = {
#include "proto/row_sum.def"
};
#undef ROW_SUM

const char *row_sum_name(enum row_sum sum)
{
    return sums[sum].name;
}

const char *row_sum_text(enum row_sum sum)
{
    return sums[sum].text;
}

bool row_sum_needed(enum row_sum sum)
{
    return sums[sum].needed;
}

enum row_sum row_sum_parse(const char *name, size_t len)
{
    int i = 0;
    while (i < ROW_SUM_COUNT &&
           (strlen(sums[i].name) != len || memcmp(sums[i].name, name, len) != 0)) {
        i++;
    }
    return (enum row_sum)i;
}
