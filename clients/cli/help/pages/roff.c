/* SPDX-License-Identifier: MIT */
#include "clients/cli/help/pages/roff.h"

#include <ctype.h>
#include <string.h>

/* Indentation from which on a line is the rest of an item. */
enum { REST = 8 };
/* Columns of a line, without the escapes. */
enum { LINE = 68 };

void roff_head(const char *title, int section, const char *name, const char *purpose, FILE *out)
{
    fprintf(out, ".\\\" SPDX-License-Identifier: MIT\n.TH %s %d %s \"attnd %s\" \"attnd manual\"\n",
            title, section, ROFF_DATE, ATTND_VERSION);
    fputs(".SH NAME\n", out);
    roff_text(name, strlen(name), out);
    fputs(" \\- ", out);
    roff_text(purpose, strlen(purpose), out);
    putc('\n', out);
}

/* Characters that would be an escape, or be made prettier than they are. */
static const char *roff_escape(char c)
{
    switch (c) {
    case '\\':
        return "\\e";
    case '-':
        return "\\-";
    case '\'':
        return "\\(aq";
    case '`':
        return "\\(ga";
    case '^':
        return "\\(ha";
    case '~':
        return "\\(ti";
    default:
        return NULL;
    }
}

void roff_text(const char *text, size_t length, FILE *out)
{
    if (length > 0 && *text == '.') {
        fputs("\\&", out);
    }
    for (size_t i = 0; i < length; i++) {
        const char *escaped = roff_escape(text[i]);
        if (escaped) {
            fputs(escaped, out);
        } else {
            putc(text[i], out);
        }
    }
}

static size_t roff_skip_blanks(const char *text, size_t at, size_t length)
{
    while (at < length && (text[at] == ' ' || text[at] == '\n')) {
        at++;
    }
    return at;
}

static void roff_print_words(const char *text, size_t length, FILE *out)
{
    size_t column = 0;
    for (size_t at = roff_skip_blanks(text, 0, length); at < length;
         at = roff_skip_blanks(text, at, length)) {
        size_t word = strcspn(text + at, " \n");
        word = word < length - at ? word : length - at;
        if (column > 0) {
            putc(column + word > LINE ? '\n' : ' ', out);
        }
        column = column + word > LINE ? 0 : column;
        roff_text(text + at, word, out);
        column += word + 1;
        at += word;
    }
    putc('\n', out);
}

void roff_line(const char *text, FILE *out)
{
    roff_print_words(text, strlen(text), out);
}

void roff_arguments(const char *text, FILE *out)
{
    while (*text) {
        bool capital = isupper((unsigned char)*text);
        size_t length = 1;
        while (text[length] && (isupper((unsigned char)text[length]) ||
                                (capital && text[length] == '-')) == capital) {
            length++;
        }
        fputs(capital ? "\\fI" : "", out);
        roff_text(text, length, out);
        fputs(capital ? "\\fR" : "", out);
        text += length;
    }
}

void roff_term(const char *term, const char *argument, FILE *out)
{
    fputs(".TP\n\\fB", out);
    roff_text(term, strlen(term), out);
    fputs("\\fR", out);
    if (argument) {
        fputs(" \\fI", out);
        roff_text(argument, strlen(argument), out);
        fputs("\\fR", out);
    }
    putc('\n', out);
}

/* Lines -----------------------------------------------------------------------------------------
 */

enum block { BLOCK_NONE, BLOCK_TEXT, BLOCK_ITEMS, BLOCK_VERBATIM };

struct lines {
    FILE *out;
    enum block block;
    bool head;     /* nothing has come yet behind a heading */
    bool examples; /* the last line of text announces some */
};

static void end_block(struct lines *lines)
{
    if (lines->block == BLOCK_VERBATIM) {
        fputs(".EE\n", lines->out);
    }
    lines->block = BLOCK_NONE;
}

/* Up to two blanks in a row. */
static size_t term_length(const char *line, size_t length)
{
    for (size_t i = 0; i + 1 < length; i++) {
        if (line[i] == ' ' && line[i + 1] == ' ') {
            return i;
        }
    }
    return length;
}

static void print_rest(const char *line, size_t length, FILE *out)
{
    if (roff_skip_blanks(line, 0, length) < length) {
        roff_print_words(line, length, out);
    }
}

static void add_item(struct lines *lines, const char *line, size_t length, size_t indent)
{
    lines->block = BLOCK_ITEMS;
    if (indent >= REST) {
        print_rest(line, length, lines->out);
        return;
    }
    size_t term = term_length(line + indent, length - indent);
    fputs(".TP\n\\fB", lines->out);
    roff_text(line + indent, term, lines->out);
    fputs("\\fR\n", lines->out);
    print_rest(line + indent + term, length - indent - term, lines->out);
}

static bool roff_ends_with(const char *line, size_t length, const char *end)
{
    size_t size = strlen(end);
    return length >= size && strncmp(line + length - size, end, size) == 0;
}

void roff_lines(const char *text, bool head, FILE *out)
{
    struct lines lines = {.out = out, .head = head};
    while (*text) {
        size_t length = strcspn(text, "\n");
        size_t indent = strspn(text, " ");
        if (length == 0) {
            end_block(&lines);
        } else if (indent == 0) {
            if (lines.block != BLOCK_TEXT) {
                end_block(&lines);
                fputs(lines.head ? "" : ".PP\n", lines.out);
            }
            lines.block = BLOCK_TEXT;
            lines.head = false;
            lines.examples = roff_ends_with(text, length, "example:") ||
                             roff_ends_with(text, length, "examples:");
            print_rest(text, length, lines.out);
        } else if (lines.examples) {
            if (lines.block != BLOCK_VERBATIM) {
                fputs(".PP\n.EX\n", lines.out);
            }
            lines.block = BLOCK_VERBATIM;
            roff_text(text, length, lines.out);
            putc('\n', lines.out);
        } else {
            add_item(&lines, text, length, indent);
        }
        text += length + (text[length] == '\n');
    }
    end_block(&lines);
}
