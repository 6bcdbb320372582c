/* SPDX-License-Identifier: MIT */
/* args: one table of options drives getopt, the checks and all that is said of them. Options may
 * stand before or after the command; which command takes which is in commands.c. */
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

static const char *set_rules(struct args *args, const char *text)
{
    args->rules = text;
    return *text ? NULL : "a file";
}

static const char *set_summaries(struct args *args, const char *text)
{
    args->summaries = text;
    return *text ? NULL : "tcp://host:port or ipc://path";
}

struct option_info {
    struct option_text text;
    enum args_option bit;
    setter *set;
};

static const struct option_info option_info[] = {
    {{"metric", "NAME", "what to show (default entropy_normalized, or what there is)", "METRIC"},
     ARGS_METRIC,
     set_metric},
    {{"stack", "STACK", "only encoder or decoder layers", "encoder|decoder"},
     ARGS_STACK,
     set_stack},
    {{"layer", "N", "only this layer", NULL}, ARGS_LAYER, set_layer},
    {{"site", "SITE", "only self or cross attention", "self|cross"}, ARGS_SITE, set_site},
    {{"drift", NULL, "how the metric differs from the baseline, and since when", NULL},
     ARGS_DRIFT,
     NULL},
    {{"head", "N", "only this head", NULL}, ARGS_HEAD, set_head},
    {{"run", "RUN", "this run, by its first digits (default: the newest)", NULL},
     ARGS_RUN,
     set_run},
    {{"window", "WINDOW", "windows such as \"1 epoch\" (default: those of section window)", NULL},
     ARGS_WINDOW,
     set_window},
    {{"from", "N", "only what ends at this epoch, step or second, or later", NULL},
     ARGS_FROM,
     set_from},
    {{"to", "N", "only what ends at this epoch, step or second, or earlier", NULL},
     ARGS_TO,
     set_to},
    {{"all", NULL, "also what is over", NULL}, ARGS_ALL, NULL},
    {{"count", "N", "at most so many", NULL}, ARGS_COUNT, set_count},
    {{"seconds", "N", "stop after N seconds", NULL}, ARGS_SECONDS, set_seconds},
    {{"until-end", NULL, "stop when every rank heard of has said bye", NULL}, ARGS_UNTIL_END, NULL},
    {{"compress", NULL, "make the file smaller; takes 3 s per 100 MB", NULL}, ARGS_COMPRESS, NULL},
    {{"force", NULL, "replace the file if it is there", NULL}, ARGS_FORCE, NULL},
    {{"rhythm", "FACTOR", "as it was recorded, FACTOR times as fast (default: at once)", NULL},
     ARGS_RHYTHM,
     set_rhythm},
    {{"ingest", "ENDPOINT", "where attnd takes messages (default: ask attnd)", NULL},
     ARGS_INGEST,
     set_ingest},
    {{"summaries", "ENDPOINT", "where attnd publishes (default: ask attnd)", NULL},
     ARGS_SUMMARIES,
     set_summaries},
    {{"rules", "RULES",
      "a config file of attnd: its section rules, and whatever else it sets, like window (default: "
      "attnd's defaults)",
      "FILE"},
     ARGS_RULES,
     set_rules},
    {{"json", NULL, "print the answer as JSON", NULL}, ARGS_JSON, NULL},
    {{"csv", NULL, "print comma-separated values, a line per window and head", NULL},
     ARGS_CSV,
     NULL},
    {{"endpoint", "ENDPOINT", "where attnd answers", NULL}, ARGS_ENDPOINT, set_endpoint},
    {{"timeout", "SECONDS", "how long to wait for an answer (default 2)", NULL},
     ARGS_TIMEOUT,
     set_timeout},
    {{"help", NULL, "what a command does", NULL}, ARGS_HELP, NULL},
    {{"version", NULL, "the version of attnctl", NULL}, ARGS_VERSION, NULL},
};
enum { OPTION_COUNT = sizeof(option_info) / sizeof(option_info[0]) };

static void fill_long_options(struct option long_options[OPTION_COUNT + 1])
{
    memset(long_options, 0, sizeof(struct option) * (OPTION_COUNT + 1));
    for (int i = 0; i < OPTION_COUNT; i++) {
        long_options[i].name = option_info[i].text.name;
        long_options[i].has_arg = option_info[i].text.argument ? required_argument : no_argument;
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

/* getopt stands behind what it refuses. */
static int refuse_option(int code, char *const *argv, struct args *ret_args, char *reterr)
{
    const char *text = argv[optind > 0 ? optind - 1 : 0];
    ret_args->unknown = code == ':' ? NULL : text;
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
    snprintf(reterr, ARGS_ERROR_MAX, "--%s: '%.80s': not accepted (valid: %s)", info->text.name,
             text, valid);
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
    ret_args->unknown = NULL;
    optind = 0; /* start over: getopt keeps its state */
    opterr = 0;
    for (;;) {
        int code = getopt_long(argc, argv, ":h", long_options, NULL);
        if (code == -1)
            break;
        if (code == 'h')
            args.given |= ARGS_HELP;
        else if (code < 256)
            return refuse_option(code, argv, ret_args, reterr);
        else if (apply(&args, &option_info[code - 256], optarg, reterr) != 0)
            return -1;
    }
    if (collect_words(&args, argc - optind, argv + optind, reterr) != 0)
        return -1;
    *ret_args = args;
    return 0;
}

void args_each_option(unsigned options, option_visitor *visit, void *data)
{
    for (int i = 0; i < OPTION_COUNT; i++)
        if (options & (unsigned)option_info[i].bit)
            visit(&option_info[i].text, data);
}

const char *args_option_name(unsigned options)
{
    for (int i = 0; i < OPTION_COUNT; i++)
        if (options & (unsigned)option_info[i].bit)
            return option_info[i].text.name;
    return "";
}
