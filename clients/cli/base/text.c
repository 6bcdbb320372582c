/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/text.h"

#include <string.h>

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
