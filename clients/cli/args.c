/* SPDX-License-Identifier: MIT */
/* args: one table of options drives getopt, the checks and the help. Options may stand before or
 * after the command; which command takes which is main's business. */
#include "args.h"

#include "header.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ENDPOINT_DEFAULT "tcp://127.0.0.1:5572"
#define TIMEOUT_MS       2000

/* Each setter returns NULL, or what would be valid. */
typedef const char *setter(struct args *args, const char *text);

static const char *set_endpoint(struct args *args, const char *text)
{
    args->endpoint = text;
    return *text ? NULL : "tcp://host:port or ipc://path";
}

static const char *set_timeout(struct args *args, const char *text)
{
    char *end;
    double number = strtod(text, &end);
    if (end != text && strcmp(end, "ms") == 0)
        number /= 1000;
    else if (end == text || (*end != '\0' && strcmp(end, "s") != 0))
        number = -1;
    if (!(number >= 0.001 && number <= 3600))
        return "1ms to 3600s";
    args->timeout_ms = (int)(number * 1000 + 0.5);
    return NULL;
}

static const char *set_seconds(struct args *args, const char *text)
{
    char *end;
    args->seconds = strtod(text, &end);
    return end != text && *end == '\0' && args->seconds > 0 && args->seconds <= 1e9
               ? NULL
               : "a number above 0";
}

static const char *set_ingest(struct args *args, const char *text)
{
    args->ingest = text;
    return *text ? NULL : "tcp://host:port or ipc://path";
}

static const char *set_rhythm(struct args *args, const char *text)
{
    char *end;
    args->rhythm = strtod(text, &end);
    return end != text && *end == '\0' && args->rhythm >= 1e-6 && args->rhythm <= 1e6
               ? NULL
               : "a number above 0; 1 = as recorded, 10 = ten times as fast";
}

static const char *set_sort(struct args *args, const char *text)
{
    args->sort = text;
    return *text && strcmp(text, "-") != 0 ? NULL : "urgency, drift, value, head or a metric";
}

static const char *set_interval(struct args *args, const char *text)
{
    char *end;
    args->interval = strtod(text, &end);
    return end != text && *end == '\0' && args->interval >= 0.1 && args->interval <= 3600
               ? NULL
               : "0.1 to 3600 seconds";
}

static const char *set_metric(struct args *args, const char *text)
{
    if (args->metric_count == ARGS_METRICS_MAX)
        return "at most 64 of them";
    args->metric = args->metrics[args->metric_count++] = text;
    return NULL;
}

static const char *set_stack(struct args *args, const char *text)
{
    args->stack = text;
    return strcmp(text, "encoder") == 0 || strcmp(text, "decoder") == 0 ? NULL : "encoder, decoder";
}

static const char *set_site(struct args *args, const char *text)
{
    args->site = text;
    return strcmp(text, "self") == 0 || strcmp(text, "cross") == 0 ? NULL : "self, cross";
}

/* A whole number; false when the text is anything else. */
static bool parse_number(const char *text, uint64_t *ret_number)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0)
        return false;
    *ret_number = number;
    return true;
}

static const char *set_layer(struct args *args, const char *text)
{
    uint64_t number;
    if (!parse_number(text, &number) || number > LAYER_MAX)
        return "0 to 65535";
    args->layer = (uint32_t)number;
    return NULL;
}

static const char *set_head(struct args *args, const char *text)
{
    uint64_t number;
    if (!parse_number(text, &number) || number >= HEADS_TOTAL_MAX)
        return "0 to 1048575";
    args->head = (uint32_t)number;
    return NULL;
}

static const char *set_run(struct args *args, const char *text)
{
    size_t length = strlen(text);
    args->run = text;
    return length > 0 && length <= 2 * RUN_BYTES && text[strspn(text, "0123456789abcdef")] == '\0'
               ? NULL
               : "the first of its 32 hexadecimal digits";
}

static const char *set_window(struct args *args, const char *text)
{
    args->window = text;
    return *text ? NULL : "such as \"1 epoch\", \"100 steps every 10\"";
}

static const char *set_from(struct args *args, const char *text)
{
    return parse_number(text, &args->from) ? NULL : "a whole number";
}

static const char *set_to(struct args *args, const char *text)
{
    return parse_number(text, &args->to) ? NULL : "a whole number";
}

static const char *set_count(struct args *args, const char *text)
{
    uint64_t number;
    if (!parse_number(text, &number) || number == 0)
        return "1 or more";
    args->count = number;
    return NULL;
}

static const char *set_summaries(struct args *args, const char *text)
{
    args->summaries = text;
    return *text ? NULL : "tcp://host:port or ipc://path";
}

struct option_info {
    const char *name;
    const char *argument; /* NULL = none */
    enum args_option bit;
    setter *set;
    const char *help;
};

static const struct option_info option_info[] = {
    {"metric", "NAME", ARGS_METRIC, set_metric,
     "what to show (default entropy_normalized, or what there is)"},
    {"stack", "STACK", ARGS_STACK, set_stack, "only encoder or decoder layers"},
    {"layer", "N", ARGS_LAYER, set_layer, "only this layer"},
    {"site", "SITE", ARGS_SITE, set_site, "only self or cross attention"},
    {"drift", NULL, ARGS_DRIFT, NULL, "how the metric differs from the baseline, and since when"},
    {"head", "N", ARGS_HEAD, set_head, "only this head"},
    {"run", "RUN", ARGS_RUN, set_run, "this run, by its first digits (default: the newest)"},
    {"window", "WINDOW", ARGS_WINDOW, set_window,
     "windows such as \"1 epoch\" (default: those of section window)"},
    {"from", "N", ARGS_FROM, set_from, "only what ends at this epoch, step or second, or later"},
    {"to", "N", ARGS_TO, set_to, "only what ends at this epoch, step or second, or earlier"},
    {"all", NULL, ARGS_ALL, NULL, "also what is over"},
    {"count", "N", ARGS_COUNT, set_count, "at most so many"},
    {"seconds", "N", ARGS_SECONDS, set_seconds, "stop after N seconds"},
    {"until-end", NULL, ARGS_UNTIL_END, NULL, "stop when every rank heard of has said bye"},
    {"compress", NULL, ARGS_COMPRESS, NULL, "make the file smaller; takes 3 s per 100 MB"},
    {"force", NULL, ARGS_FORCE, NULL, "replace the file if it is there"},
    {"rhythm", "FACTOR", ARGS_RHYTHM, set_rhythm,
     "as it was recorded, FACTOR times as fast (default: at once)"},
    {"sort", "ORDER", ARGS_SORT, set_sort,
     "urgency, drift, value, head or a metric; -ORDER: the other way round"},
    {"interval", "SECONDS", ARGS_INTERVAL, set_interval, "how often to look (default 1)"},
    {"ingest", "ENDPOINT", ARGS_INGEST, set_ingest,
     "where attnd takes messages (default: ask attnd)"},
    {"summaries", "ENDPOINT", ARGS_SUMMARIES, set_summaries,
     "where attnd publishes (default: ask attnd)"},
    {"json", NULL, ARGS_JSON, NULL, "print the answer as JSON"},
    {"csv", NULL, ARGS_CSV, NULL, "print comma-separated values, a line per window and head"},
    {"endpoint", "ENDPOINT", ARGS_ENDPOINT, set_endpoint, "where attnd answers"},
    {"timeout", "SECONDS", ARGS_TIMEOUT, set_timeout, "how long to wait for an answer (default 2)"},
    {"help", NULL, ARGS_HELP, NULL, "what a command does"},
    {"version", NULL, ARGS_VERSION, NULL, "the version of attnctl"},
};
enum { OPTION_COUNT = sizeof(option_info) / sizeof(option_info[0]) };

static void fill_long_options(struct option long_options[OPTION_COUNT + 1])
{
    memset(long_options, 0, sizeof(struct option) * (OPTION_COUNT + 1));
    for (int i = 0; i < OPTION_COUNT; i++) {
        long_options[i].name = option_info[i].name;
        long_options[i].has_arg = option_info[i].argument ? required_argument : no_argument;
        long_options[i].val = i + 256; /* beyond any character */
    }
}

static struct args default_args(void)
{
    const char *endpoint = getenv("ATTND_ENDPOINT");
    return (struct args){
        .endpoint = endpoint && *endpoint ? endpoint : ENDPOINT_DEFAULT,
        .timeout_ms = TIMEOUT_MS,
    };
}

static int refuse_option(int code, char *const *argv, char *reterr)
{
    const char *text = argv[optind > 0 ? optind - 1 : 0];
    snprintf(reterr, ARGS_ERROR_MAX, code == ':' ? "%.100s needs a value" : "no option %.100s",
             text);
    return -1;
}

static int apply(struct args *args, const struct option_info *info, const char *text, char *reterr)
{
    args->given |= (unsigned)info->bit;
    const char *valid = info->set ? info->set(args, text) : NULL;
    if (!valid)
        return 0;
    snprintf(reterr, ARGS_ERROR_MAX, "--%s: '%.80s': not accepted (valid: %s)", info->name, text,
             valid);
    return -1;
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
    struct option long_options[OPTION_COUNT + 1];
    struct args args = default_args();
    fill_long_options(long_options);
    optind = 0; /* start over: getopt keeps its state */
    opterr = 0;
    for (;;) {
        int code = getopt_long(argc, argv, ":h", long_options, NULL);
        if (code == -1)
            break;
        if (code == 'h')
            args.given |= ARGS_HELP;
        else if (code < 256)
            return refuse_option(code, argv, reterr);
        else if (apply(&args, &option_info[code - 256], optarg, reterr) != 0)
            return -1;
    }
    if (collect_words(&args, argc - optind, argv + optind, reterr) != 0)
        return -1;
    *ret_args = args;
    return 0;
}

void args_print_options(unsigned options, FILE *out)
{
    for (int i = 0; i < OPTION_COUNT; i++) {
        const struct option_info *info = &option_info[i];
        char left[40];
        if (!(options & (unsigned)info->bit))
            continue;
        snprintf(left, sizeof(left), "--%s%s%s", info->name, info->argument ? " " : "",
                 info->argument ? info->argument : "");
        fprintf(out, "  %-22s %s\n", left, info->help);
    }
}

const char *args_option_name(unsigned options)
{
    for (int i = 0; i < OPTION_COUNT; i++)
        if (options & (unsigned)option_info[i].bit)
            return option_info[i].name;
    return "";
}
