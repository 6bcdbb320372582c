/* SPDX-License-Identifier: MIT */
#include "clients/cli/help/help.h"

#include "proto/metric.h"

#include <string.h>

struct completion {
    FILE *out;
    const char *typed;  /* what has been typed of the value; candidates begin like it */
    const char *before; /* goes before every candidate: of "--stack=dec" what is before "dec" */
    int before_length;
    const struct command *command;  /* NULL = none yet */
    const struct option_kind *kind; /* of the command; NULL = none yet, or there are none */
};

/* Candidates ---------------------------------------------------------------------------------- */

static void offer(const struct completion *completion, const char *word, int length,
                  const char *help)
{
    if (strncmp(word, completion->typed, strlen(completion->typed)) == 0) {
        fprintf(completion->out, "%.*s%.*s%s%s\n", completion->before_length, completion->before,
                length, word, help ? "\t" : "", help ? help : "");
    }
}

static void offer_commands(const struct completion *completion)
{
    for (int i = 0; i < command_count; i++) {
        offer(completion, commands[i].name, (int)strlen(commands[i].name), commands[i].help);
    }
}

static void offer_metrics(const struct completion *completion)
{
    for (int i = 0; i < METRIC_COUNT; i++) {
        offer(completion, metric_info[i].name, (int)strlen(metric_info[i].name), NULL);
    }
    offer(completion, "pattern", 7, NULL);
    offer(completion, "sink_rate", 9, NULL);
}

static void offer_files(const struct completion *completion)
{
    fputs(":FILE\n", completion->out);
}

/* Values -------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*offer)(const struct completion *completion);
} kinds[] = {
    {"FILE", offer_files},
    {"JOB", NULL}, /* only attnd knows them */
    {"LAYER", NULL},
    {"METRIC", offer_metrics},
    {"COMMAND", offer_commands},
};

static void offer_kind(const struct completion *completion, const char *text, int length)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if ((int)strlen(kinds[i].name) == length &&
            strncmp(kinds[i].name, text, (size_t)length) == 0) {
            if (kinds[i].offer) {
                kinds[i].offer(completion);
            }
            return;
        }
    }
    offer(completion, text, length, NULL);
}

static bool complete_ends_with(const char *text, size_t length, const char *end)
{
    size_t size = strlen(end);
    return length >= size && strncmp(text + length - size, end, size) == 0;
}

/* `values` is one word of the language in help.h. */
static void offer_values(struct completion completion, const char *values)
{
    size_t length = strcspn(values, " ");
    if (complete_ends_with(values, length, "...")) {
        length -= 3;
    }
    if (complete_ends_with(values, length, ",")) {
        /* Moves what is before the last comma from `typed` to `before`. Both are parts of one text.
         */
        const char *comma = strrchr(completion.typed, ',');
        if (comma) {
            if (completion.before_length == 0) {
                completion.before = completion.typed;
            }
            completion.before_length = (int)(comma + 1 - completion.before);
            completion.typed = comma + 1;
        }
    }
    length -= complete_ends_with(values, length, ",");
    for (size_t at = 0; at < length;) {
        size_t end = at + strcspn(values + at, "|");
        end = end < length ? end : length;
        offer_kind(&completion, values + at, (int)(end - at));
        at = end + 1;
    }
}

/* The word for argument `index`, from 0; NULL = there is none. */
static const char *complete_find_values(const char *words, int index)
{
    while (words && index > 0) {
        size_t length = strcspn(words, " ");
        if (complete_ends_with(words, length, "...")) {
            return words;
        }
        words = words[length] ? words + length + 1 : NULL;
        index--;
    }
    return words;
}

/* Options ------------------------------------------------------------------------------------- */

/* The value of an option "--name", which may be unknown. */
static void offer_option_values(const struct completion *completion, const char *option,
                                size_t length)
{
    const struct option_list list = command_options(completion->command, completion->kind);
    for (int i = list.count - 1; i >= 0; i--) {
        const struct option_text *text = list.option[i];
        if (text->help && text->argument && strlen(text->name) == length - 2 &&
            strncmp(text->name, option + 2, length - 2) == 0) {
            if (text->values) {
                offer_values(*completion, text->values);
            }
            return;
        }
    }
}

/* The line ------------------------------------------------------------------------------------ */

/* Reads the words before the last: the command, and how many of its arguments are there. The word
 * to complete is the value of the option whose place is returned, if it is not 0. */
static int read_words(int argc, char *const *argv, struct completion *completion,
                      int *ret_arguments)
{
    int words = 0, at = 1;
    while (at < argc - 1) {
        const char *word = argv[at];
        bool takes = command_option_takes_next(completion->command, word);
        if (takes && at + 1 == argc - 1) {
            return at;
        }
        if (word[0] != '-') {
            int index = words++;
            if (index == 0) {
                completion->command = command_find(word);
            }
            if (index == 1 && completion->command) {
                completion->kind = command_find_kind(completion->command, word);
            }
        }
        at += 1 + takes;
    }
    *ret_arguments = words - 1;
    return 0;
}

static void offer_for_option(struct completion *completion, const char *word)
{
    const char *equals = strchr(word, '=');
    if (!equals) {
        const struct option_list list = command_options(completion->command, completion->kind);
        for (int i = 0; i < list.count; i++) {
            char name[64];
            if (list.option[i]->help) {
                int length = snprintf(name, sizeof name, "--%s", list.option[i]->name);
                offer(completion, name, length, list.option[i]->help);
            }
        }
        return;
    }
    completion->before = word;
    completion->before_length = (int)(equals + 1 - word);
    completion->typed = equals + 1;
    offer_option_values(completion, word, (size_t)(equals - word));
}

int complete_print(int argc, char **argv, FILE *out)
{
    struct completion completion = {.out = out, .before = ""};
    int arguments = 0;
    if (argc == 0) {
        return CLI_OK;
    }
    int option = read_words(argc + 1, argv - 1, &completion, &arguments);
    const char *word = argv[argc - 1], *values = NULL;
    completion.typed = word;
    if (option) {
        offer_option_values(&completion, argv[option - 1], strlen(argv[option - 1]));
    } else if (strncmp(word, "--", 2) == 0 || strcmp(word, "-") == 0) {
        offer_for_option(&completion, word);
    } else if (arguments < 0) {
        values = "COMMAND";
    } else if (completion.command) {
        values = complete_find_values(completion.command->words, arguments);
    }
    if (values) {
        offer_values(completion, values);
    }
    return CLI_OK;
}
