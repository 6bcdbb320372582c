/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/option.h"

#include "proto/header.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEYOND_CHARACTERS 256

/* The tables that getopt needs. */
struct grammar {
    char shorts[4];
    int short_row; /* what the short form stands for; -1 = there is none */
    struct option longs[OPTIONS_MAX + 1];
};

static const struct option_text *option_text_of(const struct option_table *table, int row)
{
    return (const void *)((const char *)table->rows + (size_t)row * table->stride);
}

static bool is_title(const struct option_text *text)
{
    return !text->help;
}

void option_list_add(struct option_list *list, const struct option_text *option)
{
    if (list->count < OPTIONS_LISTED_MAX) {
        list->option[list->count++] = option;
    }
}

void option_list_add_own(struct option_list *list, const struct option_table *table)
{
    for (int row = 0; row < table->count; row++) {
        const struct option_text *text = option_text_of(table, row);
        if (is_title(text) || *text->help) {
            option_list_add(list, text);
        }
    }
}

/* The command line ---------------------------------------------------------------------------- */

static struct grammar grammar_of(const struct option_table *table)
{
    struct grammar grammar = {.shorts = ":", .short_row = -1};
    struct option *option = grammar.longs;
    for (int row = 0; row < table->count && row < OPTIONS_MAX; row++) {
        const struct option_text *text = option_text_of(table, row);
        bool is_short = table->short_form && strcmp(table->short_form + 1, text->name) == 0;
        if (is_title(text)) {
            continue;
        }
        if (is_short) {
            grammar.short_row = row;
            snprintf(grammar.shorts, sizeof grammar.shorts, ":%c%s", *table->short_form,
                     text->argument ? ":" : "");
        }
        *option++ = (struct option){.name = text->name,
                                    .has_arg = text->argument ? required_argument : no_argument,
                                    .val = row + BEYOND_CHARACTERS};
    }
    return grammar;
}

/* How many options begin like "--name". */
static int count_like(const struct option_table *table, const char *option)
{
    int count = 0;
    for (int row = 0; row < table->count && strncmp(option, "--", 2) == 0; row++) {
        const struct option_text *text = option_text_of(table, row);
        count += !is_title(text) && strncmp(text->name, option + 2, strlen(option + 2)) == 0;
    }
    return count;
}

/* getopt stands behind what it refuses, and has in optopt which option has a value too many. */
static int refuse_option(const struct option_table *table, int code, char *const *argv,
                         struct option_rest *ret_rest, char *reterr, size_t size)
{
    const char *text = argv[optind > 0 ? optind - 1 : 0], *before = "", *behind = "";
    if (code == ':') {
        behind = " needs a value";
    } else if (optopt >= BEYOND_CHARACTERS) {
        behind = ": takes no value";
    } else if (count_like(table, text) > 1) {
        behind = " may be any of several options";
    } else {
        before = "no option ";
    }
    ret_rest->unknown = *before ? text : NULL;
    const char *command = table->command;
    snprintf(reterr, size, "%s%.100s%s%s%s%s", before, text, behind, command ? " (see " : "",
             command ? command : "", command ? " --help)" : "");
    return -1;
}

int option_parse(const struct option_table *table, int argc, char **argv, option_taker *take,
                 void *data, struct option_rest *ret_rest, char *reterr, size_t size)
{
    struct grammar grammar = grammar_of(table);
    *ret_rest = (struct option_rest){.words = NULL};
    optind = 0; /* start over: getopt keeps its state */
    opterr = 0;
    for (int code; (code = getopt_long(argc, argv, grammar.shorts, grammar.longs, NULL)) != -1;) {
        int row = code >= BEYOND_CHARACTERS    ? code - BEYOND_CHARACTERS
                  : code == '?' || code == ':' ? -1
                                               : grammar.short_row;
        if (row < 0) {
            return refuse_option(table, code, argv, ret_rest, reterr, size);
        }
        const struct option_text *text = option_text_of(table, row);
        const char *wrong = take(text, optarg, data);
        if (wrong) {
            bool lists_valid = strncmp(wrong, "valid: ", 7) == 0;
            snprintf(reterr, size, "--%s%s%.80s%s: %s%s%s", text->name, optarg ? ": '" : "",
                     optarg ? optarg : "", optarg ? "'" : "", lists_valid ? "not accepted (" : "",
                     wrong, lists_valid ? ")" : "");
            return -1;
        }
    }
    ret_rest->words = argv + optind;
    ret_rest->word_count = argc - optind;
    return 0;
}

/* Fields -------------------------------------------------------------------------------------- */

const char *option_store(const struct option_field *field, char *value, void *options)
{
    static char wrong[64];
    void *to = (char *)options + field->offset;
    switch (field->form) {
    case OPTION_FLAG:
        *(bool *)to = true;
        return NULL;
    case OPTION_TEXT:
        *(const char **)to = value;
        return (double)strlen(value) >= field->min ? NULL : "valid: any text but an empty one";
    case OPTION_COUNT:
        snprintf(wrong, sizeof wrong, "valid: %.0f to %.0f", field->min, field->max);
        return option_whole_u32(value, (uint32_t)field->max, to) && *(uint32_t *)to >= field->min
                   ? NULL
                   : wrong;
    case OPTION_REAL:
        snprintf(wrong, sizeof wrong, "valid: a number from %g to %g", field->min, field->max);
        return option_real(value, field->min, field->max, to) ? NULL : wrong;
    case OPTION_WHOLE:
        return option_whole(value, UINT64_MAX, to) && (double)*(uint64_t *)to >= field->min
                   ? NULL
                   : "valid: a whole number";
    default:
        return NULL;
    }
}

const char *option_take(const void *data, char *value, void *options)
{
    const struct option_row *row = data;
    void *to = (char *)options + row->field.offset;
    int word = row->words ? option_word(value, row->words, row->word_count) : 0;
    if (row->set) {
        return row->set(to, value);
    }
    if (word < 0) {
        return row->valid;
    }
    if (!row->words) {
        const char *wrong = option_store(&row->field, value, options);
        return wrong && row->valid ? row->valid : wrong;
    }
    if (row->field.form == OPTION_TEXT) {
        *(const char **)to = row->words[word];
    } else {
        memcpy(to, &word, sizeof word);
    }
    return NULL;
}

/* Values -------------------------------------------------------------------------------------- */

bool option_whole(const char *text, uint64_t most, uint64_t *ret_number)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || number > most) {
        return false;
    }
    *ret_number = number;
    return true;
}

bool option_whole_u32(const char *text, uint32_t most, uint32_t *ret_number)
{
    uint64_t number;
    if (!option_whole(text, most, &number)) {
        return false;
    }
    *ret_number = (uint32_t)number;
    return true;
}

bool option_real(const char *text, double least, double most, double *ret_number)
{
    char *end;
    *ret_number = strtod(text, &end);
    return end != text && *text != ' ' && *end == '\0' && *ret_number >= least &&
           *ret_number <= most;
}

int option_word(const char *text, const char *const *words, int count)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(text, words[i]) == 0) {
            return i;
        }
    }
    return -1;
}

bool option_list(const char *text, const char *const *words, int count, bool whole, bool *ret_on)
{
    memset(ret_on, 0, (size_t)count * sizeof *ret_on);
    for (;; text++) {
        size_t length = strcspn(text, ",");
        bool all = whole && length == 3 && strncmp(text, "all", 3) == 0;
        bool known = all || (whole && length == 4 && strncmp(text, "none", 4) == 0);
        for (int i = 0; i < count; i++) {
            bool same = strlen(words[i]) == length && strncmp(text, words[i], length) == 0;
            ret_on[i] = ret_on[i] || same || all;
            known = known || same;
        }
        text += length;
        if (!known || *text == '\0') {
            return known;
        }
    }
}

const char *option_set_run(void *to, const char *text)
{
    size_t length = strlen(text);
    *(const char **)to = text;
    return length > 0 && length <= 2 * RUN_BYTES && text[strspn(text, "0123456789abcdef")] == '\0'
               ? NULL
               : "valid: the first of its 32 hexadecimal digits";
}
