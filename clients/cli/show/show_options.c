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

enum option_kind { OPTION_TITLE, OPTION_SET, OPTION_ELSEWHERE };

/* ELSEWHERE: shown among those of every command. */
struct option_info {
    enum option_kind kind;
    struct option_text text;
    setter *set;
};

/* clang-format off */
#define TITLE(title) {OPTION_TITLE, {title, NULL, NULL, NULL}, NULL}
#define SET(name, argument, set, values, help) {OPTION_SET, {name, argument, help, values}, set}
#define ELSEWHERE(name, argument, set) {OPTION_ELSEWHERE, {name, argument, "", NULL}, set}

static const struct option_info option_info[] = {
    ELSEWHERE("endpoint", "ENDPOINT", set_endpoint),
    ELSEWHERE("timeout", "SECONDS", set_timeout),
    TITLE("what is looked at"),
    SET("layer", "LAYER", set_layer, NULL, "decoder.0.self, or as much of it as only one layer has: decoder.0, cross, 3 "
        "(default: the first)"),
    SET("head", "N|mean", set_head, NULL, "one head, or the mean over all (default)"),
    SET("sample", "N", set_sample, NULL, "of the batch (default: the first there is)"),
    SET("token", "N", set_token, NULL, "the query whose attention is shown (default: the first; the last when the "
        "first attends to one key only)"),
    SET("step", "N", set_step, NULL, "recordings: this step, not the newest"),
    SET("run", "RUN", set_run, NULL, "recordings, jobs: by its first digits (default: the newest)"),
    TITLE("what is printed"),
    SET("only", "LIST", set_only, "report|map|token|heads|pairs,", "of report, map, token, heads, pairs (default: all)"),
    SET("pairs", "N", set_pairs, NULL, "how many of the largest entries (10)"),
    SET("tokens", "TEXT", set_tokens, NULL, "the tokens' texts, with blanks between them"),
    SET("labels", "FILE", set_labels, "FILE", "the same from a file, one on each line"),
    SET("ascii", NULL, set_ascii, NULL, "ASCII only (default: as the locale says)"),
    SET("color", "WHEN", set_color, "auto|always|never", "auto (in a terminal, without NO_COLOR), always, never"),
    SET("width", "N", set_width, NULL, "columns (default: the terminal's, else 80)"),
    SET("json", NULL, set_json, NULL, "the numbers, as JSON (attnd.show/1)"),
    TITLE("array files: names, and what they do not say (see attnctl analyze --help)"),
    SET("name", "PAT=TARGET", add_rule, NULL, "arrays named PAT are TARGET; may be given again"),
    SET("ignore", "PAT", add_ignored, NULL, "leave arrays named PAT out; may be given again"),
    SET("stack", "STACK", set_stack, "encoder|decoder", "encoder or decoder: of names without one (decoder)"),
    SET("causal", NULL, set_causal, NULL, "of queries and keys: key j only for queries i >= j"),
    SET("window", "N", set_window, NULL, "of queries and keys: only keys j > i - N"),
    SET("scale", "X", set_scale, NULL, "of their logits (default 1/sqrt(d))"),
    SET("softcap", "X", set_softcap, NULL, "logits are X tanh(logit / X)"),
    TITLE("a running attnd"),
};
/* clang-format on */
enum { OPTIONS = sizeof(option_info) / sizeof(option_info[0]) };

static void fill_long_options(struct option long_options[OPTIONS + 1])
{
    struct option *option = long_options;
    memset(long_options, 0, sizeof(struct option) * (OPTIONS + 1));
    for (int i = 0; i < OPTIONS; i++) {
        if (option_info[i].kind == OPTION_TITLE)
            continue;
        option->name = option_info[i].text.name;
        option->has_arg = option_info[i].text.argument ? required_argument : no_argument;
        option->val = i + 256; /* beyond any character */
        option++;
    }
}

void show_options_each(option_visitor *visit, void *data)
{
    for (int i = 0; i < OPTIONS; i++)
        if (option_info[i].kind != OPTION_ELSEWHERE)
            visit(&option_info[i].text, data);
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
    snprintf(reterr, SHOW_ERROR_MAX, "--%s: '%.80s': not accepted (valid: %.250s)", info->text.name,
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
        int code = getopt_long(argc, argv, ":", long_options, NULL);
        if (code == -1)
            break;
        if (code < 256)
            return refuse(code, argv, reterr);
        if (apply(&options, &option_info[code - 256], optarg, reterr) != 0)
            return -1;
    }
    options.words = argv + optind;
    options.word_count = argc - optind;
    *ret_options = options;
    return 0;
}

/* The help --------------------------------------------------------------------------------------
 */

static const char words[] =
    "\nWhat its numbers are and whether its rows sum to 1, a map in shades or colours,\n"
    "what one token attends to, each head's first keys, the largest entries.\n\n"
    "FILE is an array file (.npy, .npz, .safetensors) or a recording (attnctl\n"
    "record); JOB is one of attnctl jobs. A word is a file when there is a file of\n"
    "that name, or when it ends in .npy, .npz, .safetensors or .rec, and otherwise a\n"
    "job (./NAME is a file).\n";

void show_options_print_words(FILE *out)
{
    fputs(words, out);
}
