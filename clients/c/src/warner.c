/* SPDX-License-Identifier: MIT */
#include "clients/c/src/warner.h"

#include "proto/utf8.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SENTENCE_MAX (PATH_MAX + 1024)

__attribute__((format(printf, 2, 0))) static void warner_put(struct warner *warner,
                                                             const char *format, va_list values)
{
    char sentence[SENTENCE_MAX];
    if (!warner->say) {
        return;
    }
    int length = snprintf(sentence, sizeof sentence, "job %s: ", warner->job);
    vsnprintf(sentence + length, sizeof sentence - (size_t)length, format, values);
    utf8_make_plain(sentence, strlen(sentence)); /* parts of it come from the wire */
    warner->say(warner->context, sentence);
}

bool warner_has_said(const struct warner *warner, enum warning warning)
{
    return warner->said & 1u << warning;
}

void warner_say(struct warner *warner, enum warning warning, const char *format, ...)
{
    va_list values;
    if (warner_has_said(warner, warning)) {
        return;
    }
    warner->said |= 1u << warning;
    va_start(values, format);
    warner_put(warner, format, values);
    va_end(values);
}

void warner_end(struct warner *warner, enum warning warning, const char *format, ...)
{
    va_list values;
    if (!warner_has_said(warner, warning)) {
        return;
    }
    warner->said &= ~(1u << warning);
    va_start(values, format);
    warner_put(warner, format, values);
    va_end(values);
}
