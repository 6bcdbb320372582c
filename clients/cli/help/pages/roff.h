/* SPDX-License-Identifier: MIT */
/* roff: text as the man(7) macros take it. Pure except for its output. */
#ifndef CLIENTS_CLI_HELP_PAGES_ROFF_H
#define CLIENTS_CLI_HELP_PAGES_ROFF_H

#include <stdbool.h>
#include <stdio.h>

/* When the pages were last gone over; a page's head has to have a date, and the day of the build
 * would make every build another one. */
#define ROFF_DATE "2026-11-21"

/* The head of a page: "ATTNCTL-JOBS", 1, "attnctl-jobs", "the training jobs attnd knows". */
void roff_head(const char *title, int section, const char *name, const char *purpose, FILE *out);

/* A text of any characters, as itself, without a line end. */
void roff_text(const char *text, size_t length, FILE *out);

/* The words of a text, and a line end; in lines that people can read. */
void roff_line(const char *text, FILE *out);

/* A text without a line end, of which runs of capitals, which stand for something, are italic: "JOB
 * FILE". */
void roff_arguments(const char *text, FILE *out);

/* The term of a list; its text follows as a line. */
void roff_term(const char *term, const char *argument, FILE *out);

/* Lines of --help. Lines that are not indented are a paragraph; "  TERM   text" is an item of a
 * list and continues in lines that are indented further; lines behind one that ends with "example:"
 * or "examples:" stay as they are. An empty line ends any of them. `head`: this comes right behind
 * a heading. */
void roff_lines(const char *text, bool head, FILE *out);

#endif
