/* SPDX-License-Identifier: MIT */
/* show_options: one table drives getopt, the checks and the help. */
#include "show_options.h"

#include <string.h>

#define PAIRS_DEFAULT 10
#define NUMBER_MAX    (UINT32_MAX - 1)

/* NULL, or what is wrong, as option.h wants it. */
typedef const char *setter(struct show_options *options, const char *text);

/* What is looked at -----------------------------------------------------------------------------
 */

static const char *set_layer(struct show_options *options, const char *text)
{
    options->layer = text;
    return *text ? NULL : "valid: a layer such as decoder.0.self";
}

static const char *set_head(struct show_options *options, const char *text)
{
    if (strcmp(text, "mean") == 0) {
        options->head = HEAD_MEAN;
        return NULL;
    }
    return option_whole_u32(text, NUMBER_MAX, &options->head) ? NULL
                                                              : "valid: a number from 0, or mean";
}

static const char *set_sample(struct show_options *options, const char *text)
{
    options->sample_given = true;
    return option_whole_u32(text, NUMBER_MAX, &options->sample) ? NULL : "valid: a number from 0";
}

static const char *set_token(struct show_options *options, const char *text)
{
    return option_whole_u32(text, NUMBER_MAX, &options->token)
               ? NULL
               : "valid: a query's position, from 0";
}

static const char *set_run(struct show_options *options, const char *text)
{
    options->run = text;
    return option_check_run(text);
}

static const char *set_step(struct show_options *options, const char *text)
{
    options->at_step = true;
    return option_whole(text, UINT64_MAX - 1, &options->step) ? NULL : "valid: a number from 0";
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
            return "valid: report, map, token, heads, pairs, with commas between them";
        if (text[len] == '\0')
            return NULL;
        text += len + 1;
    }
}

static const char *set_pairs(struct show_options *options, const char *text)
{
    return option_whole_u32(text, TOP_PAIRS_MOST, &options->pairs) && options->pairs > 0
               ? NULL
               : "valid: 1 to 100";
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
    int word = option_word(text, words, COLOR_NEVER + 1);
    if (word < 0)
        return "valid: auto, always, never";
    options->color = (enum color_choice)word;
    return NULL;
}

static const char *set_width(struct show_options *options, const char *text)
{
    return option_whole_u32(text, 1000, &options->width) && options->width >= SCREEN_WIDTH_MIN
               ? NULL
               : "valid: 20 to 1000";
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
    return *text ? NULL : "valid: a file";
}

static const char *set_tokens(struct show_options *options, const char *text)
{
    options->tokens = text;
    return NULL;
}

static const char *add_rule(struct show_options *options, const char *text)
{
    return naming_add_rule(&options->naming, text);
}

static const char *add_ignored(struct show_options *options, const char *text)
{
    return naming_add_ignored(&options->naming, text);
}

static const char *set_stack(struct show_options *options, const char *text)
{
    return naming_set_stack(&options->naming, text);
}

static const char *set_causal(struct show_options *options, const char *text)
{
    (void)text;
    options->causal = true;
    return NULL;
}

static const char *set_window(struct show_options *options, const char *text)
{
    return option_whole_u32(text, INT32_MAX, &options->window) && options->window > 0
               ? NULL
               : "valid: a number of keys from 1";
}

static const char *set_scale(struct show_options *options, const char *text)
{
    return option_real(text, -1e30, 1e30, &options->scale) && options->scale != 0
               ? NULL
               : "valid: a number but 0";
}

static const char *set_softcap(struct show_options *options, const char *text)
{
    return option_real(text, 0, 1e30, &options->softcap) ? NULL : "valid: a number from 0";
}

static const char *set_endpoint(struct show_options *options, const char *text)
{
    options->endpoint = text;
    return *text ? NULL : "valid: tcp://host:port or ipc://path";
}

static const char *set_timeout(struct show_options *options, const char *text)
{
    options->timeout = text; /* checked with the endpoint */
    return NULL;
}

/* The table -------------------------------------------------------------------------------------
 */

struct option_info {
    struct option_text text;
    setter *set;
};

/* clang-format off */
#define TITLE(title) {{title, NULL, NULL, NULL}, NULL}
#define SET(name, argument, set, values, help) {{name, argument, help, values}, set}
#define ELSEWHERE(name, argument, set) {{name, argument, "", NULL}, set}

static const struct option_info option_info[] = {
    ELSEWHERE("endpoint", "ENDPOINT", set_endpoint),
    ELSEWHERE("timeout", "SECONDS", set_timeout),
    TITLE("what is looked at"),
    SET("layer", "LAYER", set_layer, "LAYER", "decoder.0.self, or as much of it as only one layer has: decoder.0, cross, 3 "
        "(default: the first)"),
    SET("head", "N|mean", set_head, NULL, "one head, or the mean over all (default)"),
    SET("sample", "N", set_sample, NULL, "of the batch (default: the first there is)"),
    SET("token", "N", set_token, NULL, "the query whose attention is shown (default: the first; when that attends "
        "to one key at most, the last one that attends to any)"),
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
static const struct option_table table = {OPTION_ROWS(option_info), .command = "attnctl show"};

void show_options_each(option_visitor *visit, void *data)
{
    option_visit(&table, visit, data);
}

static const char *take(const void *row, char *value, void *data)
{
    const struct option_info *info = row;
    return info->set(data, value);
}

int show_options_parse(int argc, char **argv, struct show_options *ret_options, char *reterr)
{
    struct show_options options = {.head = HEAD_MEAN,
                                   .token = TOKEN_AUTO,
                                   .pairs = PAIRS_DEFAULT,
                                   .naming = {.stack = STACK_DECODER},
                                   .part = {true, true, true, true, true}};
    struct option_rest rest;
    if (option_parse(&table, argc, argv, take, &options, &rest, reterr, SHOW_ERROR_MAX) != 0)
        return -1;
    options.words = rest.words;
    options.word_count = rest.word_count;
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
