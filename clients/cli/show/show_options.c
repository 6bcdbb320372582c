/* SPDX-License-Identifier: MIT */
/* show_options: one table drives getopt, the checks and the help. */
#include "show_options.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PAIRS_DEFAULT 10

/* NULL, or what would be valid. */
typedef const char *setter(struct show_options *options, const char *text);

static bool parse_number(const char *text, uint64_t max, uint64_t *ret_number)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || number > max)
        return false;
    *ret_number = number;
    return true;
}

static bool parse_u32(const char *text, uint32_t *ret_number)
{
    uint64_t number = 0;
    bool good = parse_number(text, UINT32_MAX - 1, &number);
    *ret_number = (uint32_t)number;
    return good;
}

/* What is looked at -----------------------------------------------------------------------------
 */

static const char *set_layer(struct show_options *options, const char *text)
{
    options->layer = text;
    return *text ? NULL : "a layer such as decoder.0.self";
}

static const char *set_head(struct show_options *options, const char *text)
{
    if (strcmp(text, "mean") == 0) {
        options->head = HEAD_MEAN;
        return NULL;
    }
    return parse_u32(text, &options->head) ? NULL : "a number from 0, or mean";
}

static const char *set_sample(struct show_options *options, const char *text)
{
    options->sample_given = true;
    return parse_u32(text, &options->sample) ? NULL : "a number from 0";
}

static const char *set_token(struct show_options *options, const char *text)
{
    return parse_u32(text, &options->token) ? NULL : "a query's position, from 0";
}

static const char *set_run(struct show_options *options, const char *text)
{
    size_t length = strlen(text);
    options->run = text;
    return length > 0 && length <= 2 * RUN_BYTES && text[strspn(text, "0123456789abcdef")] == '\0'
               ? NULL
               : "the first of its 32 hexadecimal digits";
}

static const char *set_step(struct show_options *options, const char *text)
{
    options->at_step = true;
    return parse_number(text, UINT64_MAX - 1, &options->step) ? NULL : "a number from 0";
}

/* What is printed -------------------------------------------------------------------------------
 */

static const char *const part_name[PART_COUNT] = {
    [PART_REPORT] = "report", [PART_MAP] = "map",     [PART_TOKEN] = "token",
    [PART_HEADS] = "heads",   [PART_PAIRS] = "pairs",
};

static bool add_part(struct show_options *options, const char *word, size_t len)
{
    for (int i = 0; i < PART_COUNT; i++)
        if (strlen(part_name[i]) == len && memcmp(part_name[i], word, len) == 0) {
            options->part[i] = true;
            return true;
        }
    return false;
}

static const char *set_only(struct show_options *options, const char *text)
{
    memset(options->part, 0, sizeof(options->part));
    for (;;) {
        size_t len = strcspn(text, ",");
        if (!add_part(options, text, len))
            return "report, map, token, heads, pairs, with commas between them";
        if (text[len] == '\0')
            return NULL;
        text += len + 1;
    }
}

static const char *set_pairs(struct show_options *options, const char *text)
{
    uint64_t number = 0;
    bool good = parse_number(text, TOP_PAIRS_MOST, &number) && number > 0;
    options->pairs = (uint32_t)number;
    return good ? NULL : "1 to 100";
}

static const char *set_ascii(struct show_options *options, const char *text)
{
    (void)text;
    options->ascii = true;
    return NULL;
}

static const char *set_color(struct show_options *options, const char *text)
{
    static const char *const words[] = {
        [COLOR_AUTO] = "auto", [COLOR_ALWAYS] = "always", [COLOR_NEVER] = "never"};
    for (int i = 0; i <= COLOR_NEVER; i++)
        if (strcmp(text, words[i]) == 0) {
            options->color = (enum color_choice)i;
            return NULL;
        }
    return "auto, always, never";
}

static const char *set_width(struct show_options *options, const char *text)
{
    bool good = parse_u32(text, &options->width);
    return good && options->width >= SCREEN_WIDTH_MIN && options->width <= 1000 ? NULL
                                                                                : "20 to 1000";
}

static const char *set_json(struct show_options *options, const char *text)
{
    (void)text;
    options->json = true;
    return NULL;
}

static const char *set_help(struct show_options *options, const char *text)
{
    (void)text;
    options->help = true;
    return NULL;
}

/* Tokens, names, rows ---------------------------------------------------------------------------
 */

static const char *set_labels(struct show_options *options, const char *text)
{
    options->labels = text;
    return *text ? NULL : "a file";
}

static const char *set_tokens(struct show_options *options, const char *text)
{
    options->tokens = text;
    return NULL;
}

static const char *add_rule(struct show_options *options, const char *text)
{
    struct naming *naming = &options->naming;
    if (naming->rule_count == NAME_RULES_MAX)
        return "at most 64 of them";
    const char *wrong = name_rule_parse(text, &naming->rules[naming->rule_count]);
    naming->rule_count += !wrong;
    return wrong;
}

static const char *add_ignored(struct show_options *options, const char *text)
{
    struct naming *naming = &options->naming;
    if (naming->ignore_count == NAME_RULES_MAX)
        return "at most 64 of them";
    const char *wrong = name_ignore_check(text);
    if (!wrong)
        naming->ignore[naming->ignore_count++] = text;
    return wrong;
}

static const char *set_stack(struct show_options *options, const char *text)
{
    for (int i = 0; i < 2; i++)
        if (strcmp(text, stack_name((enum stack)i)) == 0) {
            options->naming.stack = (enum stack)i;
            return NULL;
        }
    return "encoder, decoder";
}

static const char *set_causal(struct show_options *options, const char *text)
{
    (void)text;
    options->causal = true;
    return NULL;
}

static const char *set_window(struct show_options *options, const char *text)
{
    return parse_u32(text, &options->window) && options->window > 0 && options->window <= INT32_MAX
               ? NULL
               : "a number of keys from 1";
}

static bool parse_real(const char *text, double *ret_number)
{
    char *end;
    *ret_number = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*ret_number) && fabs(*ret_number) <= 1e30;
}

static const char *set_scale(struct show_options *options, const char *text)
{
    return parse_real(text, &options->scale) && options->scale != 0 ? NULL : "a number but 0";
}

static const char *set_softcap(struct show_options *options, const char *text)
{
    return parse_real(text, &options->softcap) && options->softcap >= 0 ? NULL : "a number from 0";
}

static const char *set_endpoint(struct show_options *options, const char *text)
{
    options->endpoint = text;
    return *text ? NULL : "tcp://host:port or ipc://path";
}

static const char *set_timeout(struct show_options *options, const char *text)
{
    options->timeout = text; /* checked with the endpoint */
    return NULL;
}

/* The table -------------------------------------------------------------------------------------
 */

struct option_info {
    const char *name;     /* without `set`: a title */
    const char *argument; /* NULL = none */
    setter *set;
    const char *help;
};

static const struct option_info option_info[] = {
    {"what is looked at", NULL, NULL, NULL},
    {"layer", "LAYER", set_layer,
     "decoder.0.self, or as much of it as only one layer has:\n"
     "decoder.0, cross, 3 (default: the first)"},
    {"head", "N|mean", set_head, "one head, or the mean over all (default)"},
    {"sample", "N", set_sample, "of the batch (default: the first there is)"},
    {"token", "N", set_token,
     "the query whose attention is shown (default: the first;\n"
     "the last when the first attends to one key only)"},
    {"step", "N", set_step, "recordings: this step, not the newest"},
    {"run", "RUN", set_run, "by its first digits (default: the newest)"},
    {"what is printed", NULL, NULL, NULL},
    {"only", "LIST", set_only, "of report, map, token, heads, pairs (default: all)"},
    {"pairs", "N", set_pairs, "how many of the largest entries (10)"},
    {"tokens", "TEXT", set_tokens, "the tokens' texts, with blanks between them"},
    {"labels", "FILE", set_labels, "the same from a file, one on each line"},
    {"ascii", NULL, set_ascii, "ASCII only (default: as the locale says)"},
    {"color", "WHEN", set_color, "auto (in a terminal, without NO_COLOR), always, never"},
    {"width", "N", set_width, "columns (default: the terminal's, else 80)"},
    {"json", NULL, set_json, "the numbers, as JSON (attnd.show/1)"},
    {"help", NULL, set_help, "this text"},
    {"files: names, and what they do not say (see attnctl analyze --help)", NULL, NULL, NULL},
    {"name", "PAT=TARGET", add_rule, "arrays named PAT are TARGET; may be given again"},
    {"ignore", "PAT", add_ignored, "leave arrays named PAT out; may be given again"},
    {"stack", "STACK", set_stack, "encoder or decoder: of names without one (decoder)"},
    {"causal", NULL, set_causal, "of queries and keys: key j only for queries i >= j"},
    {"window", "N", set_window, "of queries and keys: only keys j > i - N"},
    {"scale", "X", set_scale, "of their logits (default 1/sqrt(d))"},
    {"softcap", "X", set_softcap, "logits are X tanh(logit / X)"},
    {"a running attnd", NULL, NULL, NULL},
    {"endpoint", "ENDPOINT", set_endpoint, "where attnd answers"},
    {"timeout", "SECONDS", set_timeout, "how long to wait for an answer (default 2)"},
};
enum { OPTIONS = sizeof(option_info) / sizeof(option_info[0]) };

static void fill_long_options(struct option long_options[OPTIONS + 1])
{
    struct option *option = long_options;
    memset(long_options, 0, sizeof(struct option) * (OPTIONS + 1));
    for (int i = 0; i < OPTIONS; i++) {
        if (!option_info[i].set)
            continue;
        option->name = option_info[i].name;
        option->has_arg = option_info[i].argument ? required_argument : no_argument;
        option->val = i + 256; /* beyond any character */
        option++;
    }
}

static int refuse(int code, char *const *argv, char *reterr)
{
    snprintf(reterr, SHOW_ERROR_MAX,
             code == ':' ? "%.100s needs a value (see attnctl show --help)"
                         : "no option %.100s (see attnctl show --help)",
             argv[optind > 0 ? optind - 1 : 0]);
    return -1;
}

static int apply(struct show_options *options, const struct option_info *info, const char *text,
                 char *reterr)
{
    const char *valid = info->set(options, text);
    if (!valid)
        return 0;
    snprintf(reterr, SHOW_ERROR_MAX, "--%s: '%.80s': not accepted (valid: %.250s)", info->name,
             text, valid);
    return -1;
}

int show_options_parse(int argc, char **argv, struct show_options *ret_options, char *reterr)
{
    struct option long_options[OPTIONS + 1];
    struct show_options options = {.head = HEAD_MEAN,
                                   .token = TOKEN_AUTO,
                                   .pairs = PAIRS_DEFAULT,
                                   .naming = {.stack = STACK_DECODER},
                                   .part = {true, true, true, true, true}};
    fill_long_options(long_options);
    optind = 0; /* start over: getopt keeps its state */
    opterr = 0;
    for (;;) {
        int code = getopt_long(argc, argv, ":h", long_options, NULL);
        if (code == -1)
            break;
        if (code == 'h')
            options.help = true;
        else if (code < 256)
            return refuse(code, argv, reterr);
        else if (apply(&options, &option_info[code - 256], optarg, reterr) != 0)
            return -1;
    }
    options.words = argv + optind;
    options.word_count = argc - optind;
    *ret_options = options;
    return 0;
}

/* The help --------------------------------------------------------------------------------------
 */

static const char help_begin[] =
    "usage: attnctl show FILE... | JOB [OPTIONS]\n"
    "A layer's attention in the terminal: what its numbers are and whether its rows sum\n"
    "to 1, a map in shades, what one token attends to, each head's top 3, the top pairs.\n\n"
    "FILE is an array file (.npy, .npz, .safetensors) or a recording (attnctl record);\n"
    "JOB is one of attnctl jobs. A word is a file when there is a file of that name, or when\n"
    "it ends in .npy, .npz, .safetensors or .rec, and otherwise a job (./NAME is a file).\n";

static const char help_end[] =
    "\nexamples:\n"
    "  attnctl show maps.npz --layer 3 --head 2 --tokens 'the cat sat on the mat'\n"
    "  attnctl show run.rec --step 500 --layer decoder.0.self --token 7\n"
    "  attnctl show gpt-small --only map,pairs\n"
    "  attnctl show maps.npz --color always | less -R\n"
    "\nExit status: 0 done; 1 there is nothing to show: no such job, or no number in the\n"
    "map, or out of memory; 2 something cannot be read or followed; 3 attnd cannot be\n"
    "reached\n";

static void print_option(const struct option_info *info, FILE *out)
{
    char left[40];
    snprintf(left, sizeof(left), "--%s%s%s", info->name, info->argument ? " " : "",
             info->argument ? info->argument : "");
    const char *help = info->help;
    for (;;) {
        int len = (int)strcspn(help, "\n");
        fprintf(out, "  %-19s %.*s\n", left, len, help);
        if (help[len] == '\0')
            return;
        help += len + 1;
        left[0] = '\0';
    }
}

void show_options_print_help(FILE *out)
{
    fputs(help_begin, out);
    for (int i = 0; i < OPTIONS; i++) {
        if (!option_info[i].set)
            fprintf(out, "\n%s:\n", option_info[i].name);
        else
            print_option(&option_info[i], out);
    }
    fputs(help_end, out);
}
