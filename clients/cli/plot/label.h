/* SPDX-License-Identifier: MIT */
/* label: texts of tokens and titles as they may stand in a figure. Pure. */
#ifndef CLIENTS_CLI_PLOT_LABEL_H
#define CLIENTS_CLI_PLOT_LABEL_H

#include <stddef.h>

/* Bytes of a label, and of a title, with their NUL. */
#define LABEL_MAX 256
#define TITLE_MAX 512

/* Copies a text so that it is one line of UTF-8 of which every character shows: control characters
 * and marks without a width become signs, what is no UTF-8 becomes U+FFFD, a text of
 * blanks signs of blanks, nothing the sign of the empty set. Cut to `size` bytes, between
 * characters. */
void label_clean(const char *text, char *ret_label, size_t size);

#endif
