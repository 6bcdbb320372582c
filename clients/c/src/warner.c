/* SPDX-License-Identifier: MIT */
#include "clients/c/src/warner.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>

#define SENTENCE_MAX (PATH_MAX + 1024)

void warner_say(struct warner *warner, enum warning warning, const char *format, ...)
{
    char sentence[SENTENCE_MAX];
    int length;
    va_list values;

    if (!warner->say || warner->said & 1u << warning) {
        return;
    }
    warner->said |= 1u << warning;
    length = snprintf(sentence, sizeof sentence, "job %s: ", warner->job);
    va_start(values, format);
    vsnprintf(sentence + length, sizeof sentence - (size_t)length, format, values);
    va_end(values);
    warner->say(warner->context, sentence);
}
