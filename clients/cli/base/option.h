/* SPDX-License-Identifier: MIT */
/* option: the texts of an option, for --help, the man pages and completion. Each is described once,
 * in the table that also drives its parser. How a command line is walked, and in which words a
 * value is refused, is the same for every command. Strings are static, or in argv. Pure except for
 * getopt's own state; one thread. */
#ifndef CLIENTS_CLI_BASE_OPTION_H
#define CLIENTS_CLI_BASE_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct option_text {
    const char *name;
    const char *argument; /* NULL = none */
    const char *help;     /* NULL: this is no option but the title of those that follow; "": shown
                           * among those of every command */
    const char *values;   /* what its value may be, in the words of help.h; NULL = anything */
};

struct option_table {
    const void *rows; /* [count] of `stride` bytes, each beginning with a struct option_text */
    size_t stride;
    int count;              /* up to OPTIONS_MAX */
    const char *command;    /* whose --help lists them: "attnctl show"; NULL = nobody's */
    const char *short_form; /* of one option: "ooutput" is -o for --output; NULL = none has one */
};

#define OPTIONS_MAX        64
#define OPTIONS_LISTED_MAX (5 * OPTIONS_MAX) /* of all commands together */
#define OPTION_ROWS(table)                                                                         \
    .rows = (table), .stride = sizeof((table)[0]), .count = (int)(sizeof table / sizeof((table)[0]))

/* One of the things that a command does, when its first argument says which one and not all options
 * are of every one. */
struct option_kind {
    const char *name;
    const char *arguments; /* behind the name, as the usage shows them */
    const char *help;      /* one line */
    const char *example;   /* a shell's line */
    unsigned bit;          /* in sets of kinds */
};

/* Options in the order of the help, with their titles. */
struct option_list {
    const struct option_text *option[OPTIONS_LISTED_MAX];
    int count;
};
void option_list_add(struct option_list *list, const struct option_text *option);
/* The titles, and what is shown as the command's own. */
void option_list_add_own(struct option_list *list, const struct option_table *table);

/* Takes one option; `value` is NULL when it has none. Returns NULL; or what would be valid,
 * beginning with "valid: "; or another sentence on what is wrong. May be in a buffer that the next
 * call overwrites. */
typedef const char *option_taker(const void *row, char *value, void *data);

struct option_rest {
    char *const *words; /* what is no option; in argv */
    int word_count;
    const char *unknown; /* the option that made it fail because there is none like it, or NULL */
};

/* argv[0] is skipped; the order of argv may change. Returns 0; or -1 with a sentence of at most
 * `size` bytes. */
int option_parse(const struct option_table *table, int argc, char **argv, option_taker *take,
                 void *data, struct option_rest *ret_rest, char *reterr, size_t size);

/* Where a plain value goes: into a field of the command's own struct. */
enum option_form {
    OPTION_OTHER,
    OPTION_FLAG,
    OPTION_TEXT,
    OPTION_COUNT,
    OPTION_REAL,
    OPTION_WHOLE
};
struct option_field {
    enum option_form form;
    size_t offset;   /* FLAG: a bool; TEXT: a const char *; COUNT: a uint32_t; REAL: a double;
                      * WHOLE: a uint64_t */
    double min, max; /* TEXT: bytes, COUNT: up to UINT32_MAX, REAL; WHOLE: min */
};
/* Checks a value, and stores it in `options`. Returns as an option_taker does; of OTHER, NULL. */
const char *option_store(const struct option_field *field, char *value, void *options);

/* The row that all tables have: a plain value, a word of a list, or what a setter makes of it. */
struct option_row {
    struct option_text text;
    struct option_field field; /* what `words` and `set` store is at its offset, too */
    const char *valid;         /* instead of what option_store says is valid; NULL = that */
    const char *const *words;  /* [word_count]; into TEXT the word goes, else its index, an int */
    int word_count;
    const char *(*set)(void *to, const char *text); /* returns as an option_taker does */
};
#define OPTION_FIELD(form, type, member, min, max)                                                 \
    {                                                                                              \
        form, offsetof(type, member), min, max                                                     \
    }
#define OPTION_WORDS(list) .words = (list), .word_count = (int)(sizeof list / sizeof list[0])
/* The taker of tables of such rows; `options` is the command's struct. */
const char *option_take(const void *row, char *value, void *options);

/* Values -------------------------------------------------------------------------------------- */

/* Digits alone, up to `most`. */
bool option_whole(const char *text, uint64_t most, uint64_t *ret_number);
bool option_whole_u32(const char *text, uint32_t most, uint32_t *ret_number);
/* A number from `least` to `most`, and nothing around it. */
bool option_real(const char *text, double least, double most, double *ret_number);
/* The index of a word in words[count], or -1. */
int option_word(const char *text, const char *const *words, int count);
/* Sets on[i] for each of words[count] that is in a text with commas. The words "all" and "none" are
 * taken when `whole`. False: there is another word in it. */
bool option_list(const char *text, const char *const *words, int count, bool whole, bool *ret_on);
/* Stores the text as it is; NULL, or what is wrong with it. */
const char *option_set_run(void *to, const char *text);

#endif
