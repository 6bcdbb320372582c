/* SPDX-License-Identifier: MIT */
/* terminal: the user's terminal, by ncurses, which knows one per process. After terminal_close the
 * terminal is as it was before terminal_open, whatever happens between them: also after a fatal
 * signal. One thread. */
#ifndef CLIENTS_CLI_TOP_TERMINAL_H
#define CLIENTS_CLI_TOP_TERMINAL_H

#include "clients/cli/top/screen.h"

#include <stdbool.h>

/* Whether standard input and output are both terminals. */
bool terminal_is_there(void);

/* Whether the environment says that the terminal takes UTF-8, and this machine can write it. Sets
 * the locale's characters. */
bool terminal_is_unicode(void);

#define TERMINAL_ERROR_MAX 256

/* Takes the whole terminal. Returns 0, or -1 with a sentence (TERMINAL_ERROR_MAX bytes). */
int terminal_open(char *reterr);
/* Gives it back; harmless when it is not open. */
void terminal_close(void);

/* The next key that was pressed (keys.h), or -1. Does not wait. */
int terminal_key(void);

/* How large it is now; it is drawn anew in that size. */
void terminal_measure(int *ret_width, int *ret_height);

void terminal_show(const struct screen *screen);

#endif
