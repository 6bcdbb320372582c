/* SPDX-License-Identifier: MIT */
/* text: sentences in lines of 80 columns. Pure except for its output; any thread. */
#ifndef CLIENTS_CLI_BASE_TEXT_H
#define CLIENTS_CLI_BASE_TEXT_H

#include <stdio.h>

#define TEXT_WIDTH 80

/* Prints the words of a text, and a line end. The cursor stands at column `column`; what does not
 * fit goes to new lines, which begin at column `indent`. */
void text_wrap(const char *text, int column, int indent, FILE *out);

#endif
