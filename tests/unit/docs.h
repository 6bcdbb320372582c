/* SPDX-License-Identifier: MIT */
/* docs: files of the tree that say what a table in C says. With ATTND_UPDATE_DOCS set they are
 * written before they are compared. Names are from the root of the tree. */
#ifndef TESTS_UNIT_DOCS_H
#define TESTS_UNIT_DOCS_H

#include <stdio.h>

/* Compares a whole file. */
void docs_expect_file(const char *name, void (*print)(FILE *out));
/* Compares the text in a file between `<!-- table -->` and `<!-- /table -->`. */
void docs_expect_table(const char *name, const char *table, void (*print)(FILE *out));
/* Compares the block after `<!-- golden: example -->`: hex digits, 16 bytes a line. */
void docs_expect_bytes(const char *name, const char *example, const unsigned char *bytes,
                       size_t count);

#endif
