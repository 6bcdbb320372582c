/* SPDX-License-Identifier: MIT */
/* args: one table of options drives getopt, the checks and all that is said of them. Options may
 * stand before or after the command; which command takes which is in commands.c. */
#include "clients/cli/base/args.h"

#include "proto/header.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Seconds may have their unit, s or ms. */
const char *args_set_timeout(void *to, const char *text)
{
    char *end;
    double number = strtod(text, &end);
    if (end != text && strcmp(end, "ms") == 0) {
        number /= 1000;
    } else if (end == text || (*end != '\0' && strcmp(end, "s") != 0)) {
        number = -1;
    }
    if (!(number >= 0.001 && number <= 3600)) {
        return "valid: 1ms to 3600s";
    }
    *(int *)to = (int)(number * 1000 + 0.5);
    return NULL;
}

static const char *set_metric(void *to, const char *text)
{
    struct args *args = to;
    if (args->metric_count == ARGS_METRICS_MAX) {
        return "too many of these (at most 64)";
    }
    args->metric = args->metrics[args->metric_count++] = text;
    return NULL;
}

/* As tables print it, "decoder.3.self", or as much of it as says enough. */
static const char *set_layer(void *to, const char *text)
{
    static const char valid[] = "valid: 0 to 65535, or a part of decoder.3.self";
    struct args *args = to;
    char parts[32];
    args->given &= ~(unsigned)ARGS_LAYER;
    if ((size_t)snprintf(parts, sizeof parts, "%s", text) >= sizeof parts) {
        return valid;
    }
    for (char *at = parts, *part; (part = strsep(&at, ".")) != NULL;) {
        int stack = option_word(part, stack_names, 2), site = option_word(part, site_names, 2);
        if (stack >= 0) {
            args->stack = stack_names[stack];
            args->given |= ARGS_STACK;
        } else if (site >= 0) {
            args->site = site_names[site];
            args->given |= ARGS_SITE;
        } else if (option_whole_u32(part, LAYER_MAX, &args->layer)) {
            args->given |= ARGS_LAYER;
        } else {
            return valid;
        }
    }
    return NULL;
}

/* clang-format off */
#define SOCKET "valid: tcp://host:port or ipc://path"
#define FLAG(name, bit, help) {{.text = {name, NULL, help, NULL}}, bit}
#define VALUE(name, argument, values, bit, form, member, min, max, says, help) \
    {{.text = {name, argument, help, values}, .field = OPTION_FIELD(form, struct args, member, min, max), .valid = says}, bit}
#define TEXT(name, argument, values, bit, member, says, help) \
    VALUE(name, argument, values, bit, OPTION_TEXT, member, 1, 0, says, help)
#define WORD(name, argument, values, bit, member, list, says, help) \
    {{.text = {name, argument, help, values}, .field = OPTION_FIELD(OPTION_TEXT, struct args, member, 0, 0), \
      OPTION_WORDS(list), .valid = says}, bit}
#define SET(name, argument, values, bit, to, setter, help) \
    {{.text = {name, argument, help, values}, .field = {.offset = to}, .set = setter}, bit}

static const struct args_row {
    struct option_row row;
    enum args_option bit;
} option_info[] = {
    SET("metric", "NAME", "METRIC", ARGS_METRIC, 0, set_metric, "metric to show (default entropy_normalized, or the first there is)"),
    WORD("stack", "STACK", "encoder|decoder", ARGS_STACK, stack, stack_names, "valid: encoder, decoder", "only encoder or decoder layers"),
    SET("layer", "LAYER", "LAYER", ARGS_LAYER, 0, set_layer, "only this layer: 3, or decoder.3.self, or a part of it"),
    WORD("site", "SITE", "self|cross", ARGS_SITE, site, site_names, "valid: self, cross", "only self or cross attention"),
    FLAG("drift", ARGS_DRIFT, "the metric's drift from the baseline, and since when"),
    VALUE("head", "N", NULL, ARGS_HEAD, OPTION_COUNT, head, 0, HEADS_TOTAL_MAX - 1, NULL, "only this head"),
    SET("run", "RUN", NULL, ARGS_RUN, offsetof(struct args, run), option_set_run, "this run, by its first digits (default: the newest)"),
    TEXT("window", "WINDOW", NULL, ARGS_WINDOW, window, "valid: such as \"1 epoch\", \"100 steps every 10\"",
         "windows such as \"1 epoch\" (default: the primary ones)"),
    VALUE("from", "N", NULL, ARGS_FROM, OPTION_WHOLE, from, 0, 0, NULL, "only windows that end at this epoch, step or second, or later"),
    VALUE("to", "N", NULL, ARGS_TO, OPTION_WHOLE, to, 0, 0, NULL, "only windows that end at this epoch, step or second, or earlier"),
    FLAG("all", ARGS_ALL, "also all that was told before: what fired, was resolved, fired at the end"),
    VALUE("count", "N", NULL, ARGS_COUNT, OPTION_WHOLE, count, 1, 0, "valid: 1 or more", "at most this many"),
    VALUE("seconds", "N", NULL, ARGS_SECONDS, OPTION_REAL, seconds, 1e-300, 1e9, "valid: a number above 0", "stop after N seconds"),
    FLAG("until-end", ARGS_UNTIL_END, "stop when every known rank has said bye"),
    FLAG("compress", ARGS_COMPRESS, "make the file smaller; takes 3 s per 100 MB"),
    FLAG("force", ARGS_FORCE, "replace an existing file"),
    VALUE("rhythm", "FACTOR", NULL, ARGS_RHYTHM, OPTION_REAL, rhythm, 1e-6, 1e6,
          "valid: a number above 0; 1 = as recorded, 10 = ten times as fast",
          "replay FACTOR times as fast as recorded (default: at once)"),
    VALUE("interval", "SECONDS", NULL, ARGS_INTERVAL, OPTION_REAL, interval, 0.1, 3600, "valid: 0.1 to 3600 seconds",
          "refresh interval (default 1)"),
    TEXT("ingest", "ENDPOINT", NULL, ARGS_INGEST, ingest, SOCKET, "exactly the socket where attnd takes messages"),
    TEXT("summaries", "ENDPOINT", NULL, ARGS_SUMMARIES, summaries, SOCKET, "exactly the socket where attnd publishes"),
    TEXT("rules", "RULES", "FILE", ARGS_RULES, rules, "valid: a file",
         "a config file of attnd: its section rules, and other settings such as window (default: attnd's defaults)"),
    FLAG("json", ARGS_JSON, "print the answer as JSON"),
    FLAG("csv", ARGS_CSV, "print comma-separated values, a line per window and head"),
    TEXT("address", "ADDRESS", "FILE", ARGS_ADDRESS, address, "valid: a directory or tcp://host:port",
         "which attnd: a directory of sockets or tcp://host:port"),
    TEXT("endpoint", "ENDPOINT", NULL, ARGS_ENDPOINT, endpoint, SOCKET,
         "exactly the socket where it answers, instead of an address"),
    SET("timeout", "SECONDS", NULL, ARGS_TIMEOUT, offsetof(struct args, timeout_ms), args_set_timeout,
        "how long to wait for an answer (default 5)"),
    FLAG("help", ARGS_HELP, "explain a command"),
    FLAG("version", ARGS_VERSION, "the version of attnctl"),
};
/* clang-format on */
static const struct option_table table = {OPTION_ROWS(option_info), .short_form = "hhelp"};

int args_choose_attnd(struct args *args, char *reterr)
{
    const char *address = getenv("ATTND_ADDRESS"), *former = getenv("ATTND_ENDPOINT");
    if (args->address || args->endpoint) {
        snprintf(reterr, ARGS_ERROR_MAX, "--address and --endpoint: give one of them");
        return args->address && args->endpoint ? -1 : 0;
    }
    args->address = address && *address ? address : NULL;
    snprintf(reterr, ARGS_ERROR_MAX, "ATTND_ENDPOINT is not read: name attnd in ATTND_ADDRESS");
    return !args->address && former && *former ? -1 : 0;
}

static const char *args_take(const void *data, char *value, void *to)
{
    const struct args_row *row = data;
    struct args *args = to;
    args->given |= (unsigned)row->bit;
    return option_take(&row->row, value, args);
}

int args_parse(int argc, char **argv, struct args *ret_args, char *reterr)
{
    struct args args = (struct args){.timeout_ms = ARGS_TIMEOUT_MS};
    struct option_rest rest;
    int rc = option_parse(&table, argc, argv, args_take, &args, &rest, reterr, ARGS_ERROR_MAX);
    ret_args->unknown = rest.unknown;
    if (rc == 0 && rest.word_count > ARGS_WORDS_MAX) {
        snprintf(reterr, ARGS_ERROR_MAX, "too many words: '%.100s'", rest.words[ARGS_WORDS_MAX]);
        return -1;
    }
    if (rc != 0 || args_choose_attnd(&args, reterr) != 0) {
        return -1;
    }
    for (args.word_count = 0; args.word_count < rest.word_count; args.word_count++) {
        args.words[args.word_count] = rest.words[args.word_count];
    }
    *ret_args = args;
    return 0;
}

void args_list(struct option_list *list, unsigned options)
{
    for (int i = 0; i < table.count; i++) {
        if (options & (unsigned)option_info[i].bit) {
            option_list_add(list, &option_info[i].row.text);
        }
    }
}

const char *args_option_name(unsigned options)
{
    for (int i = 0; i < table.count; i++) {
        if (options & (unsigned)option_info[i].bit) {
            return option_info[i].row.text.name;
        }
    }
    return "";
}
