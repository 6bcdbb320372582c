/* SPDX-License-Identifier: MIT */
/* args: one table of options drives getopt, the checks and the help. Options may stand before or
 * after the command; which command takes which is in commands.c. */
#include "clients/cli/base/args.h"

#include "proto/header.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS 2000

/* NULL, or what is wrong, as option.h wants it. */
typedef const char *setter(struct args *args, const char *text);

static const char *args_set_address(struct args *args, const char *text)
{
    args->address = text;
    return *text ? NULL : "valid: a directory or tcp://host:port";
}

static const char *set_endpoint(struct args *args, const char *text)
{
    args->endpoint = text;
    return *text ? NULL : "valid: tcp://host:port or ipc://path";
}

static const char *args_set_timeout(struct args *args, const char *text)
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
    args->timeout_ms = (int)(number * 1000 + 0.5);
    return NULL;
}

static const char *set_seconds(struct args *args, const char *text)
{
    return option_real(text, 0, 1e9, &args->seconds) && args->seconds > 0
               ? NULL
               : "valid: a number above 0";
}

static const char *set_ingest(struct args *args, const char *text)
{
    args->ingest = text;
    return *text ? NULL : "valid: tcp://host:port or ipc://path";
}

static const char *set_rhythm(struct args *args, const char *text)
{
    return option_real(text, 1e-6, 1e6, &args->rhythm)
               ? NULL
               : "valid: a number above 0; 1 = as recorded, 10 = ten times as fast";
}

static const char *set_sort(struct args *args, const char *text)
{
    args->sort = text;
    return *text && strcmp(text, "-") != 0 ? NULL
                                           : "valid: urgency, drift, value, head or a metric";
}

static const char *set_interval(struct args *args, const char *text)
{
    return option_real(text, 0.1, 3600, &args->interval) ? NULL : "valid: 0.1 to 3600 seconds";
}

static const char *set_metric(struct args *args, const char *text)
{
    if (args->metric_count == ARGS_METRICS_MAX) {
        return "too many of these (at most 64)";
    }
    args->metric = args->metrics[args->metric_count++] = text;
    return NULL;
}

static const char *args_set_stack(struct args *args, const char *text)
{
    for (int i = 0; i < 2; i++) {
        if (strcmp(text, stack_name((enum stack)i)) == 0) {
            args->stack = stack_name((enum stack)i);
            return NULL;
        }
    }
    return "valid: encoder, decoder";
}

static const char *set_site(struct args *args, const char *text)
{
    for (int i = 0; i < 2; i++) {
        if (strcmp(text, site_name((enum site)i)) == 0) {
            args->site = site_name((enum site)i);
            return NULL;
        }
    }
    return "valid: self, cross";
}

static const char layer_valid[] = "valid: 0 to 65535, or a part of decoder.3.self";

/* A part of "decoder.3.self". */
static bool set_layer_part(struct args *args, const char *part)
{
    if (!args_set_stack(args, part)) {
        args->given |= ARGS_STACK;
    } else if (!set_site(args, part)) {
        args->given |= ARGS_SITE;
    } else if (option_whole_u32(part, LAYER_MAX, &args->layer)) {
        args->given |= ARGS_LAYER;
    } else {
        return false;
    }
    return true;
}

/* As tables print it, or as much of it as says enough. */
static const char *set_layer(struct args *args, const char *text)
{
    char parts[32];
    args->given &= ~(unsigned)ARGS_LAYER;
    if ((size_t)snprintf(parts, sizeof parts, "%s", text) >= sizeof parts) {
        return layer_valid;
    }
    for (char *at = parts, *part; (part = strsep(&at, ".")) != NULL;) {
        if (!set_layer_part(args, part)) {
            return layer_valid;
        }
    }
    return NULL;
}

static const char *args_set_head(struct args *args, const char *text)
{
    return option_whole_u32(text, HEADS_TOTAL_MAX - 1, &args->head) ? NULL : "valid: 0 to 1048575";
}

static const char *args_set_run(struct args *args, const char *text)
{
    args->run = text;
    return option_check_run(text);
}

static const char *set_window(struct args *args, const char *text)
{
    args->window = text;
    return *text ? NULL : "valid: such as \"1 epoch\", \"100 steps every 10\"";
}

static const char *set_from(struct args *args, const char *text)
{
    return option_whole(text, UINT64_MAX, &args->from) ? NULL : "valid: a whole number";
}

static const char *set_to(struct args *args, const char *text)
{
    return option_whole(text, UINT64_MAX, &args->to) ? NULL : "valid: a whole number";
}

static const char *set_count(struct args *args, const char *text)
{
    return option_whole(text, UINT64_MAX, &args->count) && args->count > 0 ? NULL
                                                                           : "valid: 1 or more";
}

static const char *set_rules(struct args *args, const char *text)
{
    args->rules = text;
    return *text ? NULL : "valid: a file";
}

static const char *set_summaries(struct args *args, const char *text)
{
    args->summaries = text;
    return *text ? NULL : "valid: tcp://host:port or ipc://path";
}

struct option_info {
    struct option_text text;
    enum args_option bit;
    setter *set;
};

static const struct option_info option_info[] = {
    {{"metric", "NAME", "metric to show (default entropy_normalized, or the first there is)",
      "METRIC"},
     ARGS_METRIC,
     set_metric},
    {{"stack", "STACK", "only encoder or decoder layers", "encoder|decoder"},
     ARGS_STACK,
     args_set_stack},
    {{"layer", "LAYER", "only this layer: 3, or decoder.3.self, or a part of it", "LAYER"},
     ARGS_LAYER,
     set_layer},
    {{"site", "SITE", "only self or cross attention", "self|cross"}, ARGS_SITE, set_site},
    {{"drift", NULL, "the metric's drift from the baseline, and since when", NULL},
     ARGS_DRIFT,
     NULL},
    {{"head", "N", "only this head", NULL}, ARGS_HEAD, args_set_head},
    {{"run", "RUN", "this run, by its first digits (default: the newest)", NULL},
     ARGS_RUN,
     args_set_run},
    {{"window", "WINDOW", "windows such as \"1 epoch\" (default: the primary ones)", NULL},
     ARGS_WINDOW,
     set_window},
    {{"from", "N", "only windows that end at this epoch, step or second, or later", NULL},
     ARGS_FROM,
     set_from},
    {{"to", "N", "only windows that end at this epoch, step or second, or earlier", NULL},
     ARGS_TO,
     set_to},
    {{"all", NULL, "also alerts that are over", NULL}, ARGS_ALL, NULL},
    {{"count", "N", "at most this many", NULL}, ARGS_COUNT, set_count},
    {{"seconds", "N", "stop after N seconds", NULL}, ARGS_SECONDS, set_seconds},
    {{"until-end", NULL, "stop when every known rank has said bye", NULL}, ARGS_UNTIL_END, NULL},
    {{"compress", NULL, "make the file smaller; takes 3 s per 100 MB", NULL}, ARGS_COMPRESS, NULL},
    {{"force", NULL, "replace an existing file", NULL}, ARGS_FORCE, NULL},
    {{"rhythm", "FACTOR", "replay FACTOR times as fast as recorded (default: at once)", NULL},
     ARGS_RHYTHM,
     set_rhythm},
    {{"sort", "ORDER", "urgency, drift, value, head or a metric; -ORDER: the other way round",
      "urgency|drift|value|head|METRIC"},
     ARGS_SORT,
     set_sort},
    {{"interval", "SECONDS", "refresh interval (default 1)", NULL}, ARGS_INTERVAL, set_interval},
    {{"ingest", "ENDPOINT", "exactly the socket where attnd takes messages", NULL},
     ARGS_INGEST,
     set_ingest},
    {{"summaries", "ENDPOINT", "exactly the socket where attnd publishes", NULL},
     ARGS_SUMMARIES,
     set_summaries},
    {{"rules", "RULES",
      "a config file of attnd: its section rules, and other settings such as window (default: "
      "attnd's defaults)",
      "FILE"},
     ARGS_RULES,
     set_rules},
    {{"json", NULL, "print the answer as JSON", NULL}, ARGS_JSON, NULL},
    {{"csv", NULL, "print comma-separated values, a line per window and head", NULL},
     ARGS_CSV,
     NULL},
    {{"address", "ADDRESS", "which attnd: a directory of sockets or tcp://host:port", "FILE"},
     ARGS_ADDRESS,
     args_set_address},
    {{"endpoint", "ENDPOINT", "exactly the socket where it answers, instead of an address", NULL},
     ARGS_ENDPOINT,
     set_endpoint},
    {{"timeout", "SECONDS", "how long to wait for an answer (default 2)", NULL},
     ARGS_TIMEOUT,
     args_set_timeout},
    {{"help", NULL, "explain a command", NULL}, ARGS_HELP, NULL},
    {{"version", NULL, "the version of attnctl", NULL}, ARGS_VERSION, NULL},
};
static const struct option_table table = {OPTION_ROWS(option_info), .short_form = "hhelp"};

/* The environment says what the command line does not. */
static int choose_attnd(struct args *args, char *reterr)
{
    if (args->address && args->endpoint) {
        snprintf(reterr, ARGS_ERROR_MAX, "--address and --endpoint: give one of them");
        return -1;
    }
    if (!args->address && !args->endpoint) {
        args->endpoint = getenv("ATTND_ENDPOINT");
    }
    if (args->endpoint && !*args->endpoint) {
        args->endpoint = NULL;
    }
    if (!args->address && !args->endpoint) {
        args->address = getenv("ATTND_ADDRESS");
    }
    if (args->address && !*args->address) {
        args->address = NULL;
    }
    return 0;
}

static const char *args_take(const void *row, char *value, void *data)
{
    const struct option_info *info = row;
    struct args *args = data;
    args->given |= (unsigned)info->bit;
    return info->set ? info->set(args, value) : NULL;
}

static int collect_words(struct args *args, int count, char *const *words, char *reterr)
{
    for (int i = 0; i < count; i++) {
        if (i == ARGS_WORDS_MAX) {
            snprintf(reterr, ARGS_ERROR_MAX, "too many words: '%.100s'", words[i]);
            return -1;
        }
        args->words[i] = words[i];
    }
    args->word_count = count;
    return 0;
}

int args_parse(int argc, char **argv, struct args *ret_args, char *reterr)
{
    struct args args = (struct args){.timeout_ms = TIMEOUT_MS};
    struct option_rest rest;
    int rc = option_parse(&table, argc, argv, args_take, &args, &rest, reterr, ARGS_ERROR_MAX);
    ret_args->unknown = rest.unknown;
    if (rc != 0 || collect_words(&args, rest.word_count, rest.words, reterr) != 0 ||
        choose_attnd(&args, reterr) != 0) {
        return -1;
    }
    *ret_args = args;
    return 0;
}

void args_each_option(unsigned options, option_visitor *visit, void *data)
{
    for (int i = 0; i < table.count; i++) {
        if (options & (unsigned)option_info[i].bit) {
            visit(&option_info[i].text, data);
        }
    }
}

const char *args_option_name(unsigned options)
{
    for (int i = 0; i < table.count; i++) {
        if (options & (unsigned)option_info[i].bit) {
            return option_info[i].text.name;
        }
    }
    return "";
}
