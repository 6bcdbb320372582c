/* SPDX-License-Identifier: MIT */
/* show_options: one table drives getopt, the checks and the help. */
#include "clients/cli/show/show_options.h"

#include <string.h>

#define PAIRS_DEFAULT 10
#define NUMBER_MAX    (UINT32_MAX - 1)

/* NULL, or what is wrong, as option.h wants it. */
typedef const char *setter(struct show_options *options, const char *text);

/* The selection ---------------------------------------------------------------------------------
 */

static const char *show_options_set_head(struct show_options *options, const char *text)
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

static const char *show_options_set_run(struct show_options *options, const char *text)
{
    options->run = text;
    return option_check_run(text);
}

static const char *set_step(struct show_options *options, const char *text)
{
    options->at_step = true;
    return option_whole(text, UINT64_MAX - 1, &options->step) ? NULL : "valid: a number from 0";
}

/* The output ------------------------------------------------------------------------------------
 */

static const char *const part_name[PART_COUNT] = {
    [PART_REPORT] = "report", [PART_MAP] = "map",     [PART_TOKEN] = "token",
    [PART_HEADS] = "heads",   [PART_PAIRS] = "pairs",
};

static bool add_part(struct show_options *options, const char *word, size_t len)
{
    for (int i = 0; i < PART_COUNT; i++) {
        if (strlen(part_name[i]) == len && memcmp(part_name[i], word, len) == 0) {
            options->part[i] = true;
            return true;
        }
    }
    return false;
}

static const char *set_only(struct show_options *options, const char *text)
{
    memset(options->part, 0, sizeof options->part);
    for (;;) {
        size_t len = strcspn(text, ",");
        if (!add_part(options, text, len)) {
            return "valid: report, map, token, heads, pairs, with commas between them";
        }
        if (text[len] == '\0') {
            return NULL;
        }
        text += len + 1;
    }
}

static const char *set_color(struct show_options *options, const char *text)
{
    static const char *const words[] = {
        [COLOR_AUTO] = "auto", [COLOR_ALWAYS] = "always", [COLOR_NEVER] = "never"};
    int word = option_word(text, words, COLOR_NEVER + 1);
    if (word < 0) {
        return "valid: auto, always, never";
    }
    options->color = (enum color_choice)word;
    return NULL;
}

/* Tokens, names, rows ---------------------------------------------------------------------------
 */

static const char *show_options_add_rule(struct show_options *options, const char *text)
{
    return naming_add_rule(&options->naming, text);
}

static const char *show_options_add_ignored(struct show_options *options, const char *text)
{
    return naming_add_ignored(&options->naming, text);
}

static const char *show_options_set_stack(struct show_options *options, const char *text)
{
    return naming_set_stack(&options->naming, text);
}

static const char *show_options_set_scale(struct show_options *options, const char *text)
{
    return option_real(text, -1e30, 1e30, &options->scale) && options->scale != 0
               ? NULL
               : "valid: a number but 0";
}

/* The table -------------------------------------------------------------------------------------
 */

struct option_info {
    struct option_text text;
    setter *set;               /* NULL: the field says it all */
    struct option_field field; /* of struct show_options */
};

/* clang-format off */
#define TITLE(title) {{title, NULL, NULL, NULL}, NULL, {0}}
#define SET(name, argument, set, values, help) {{name, argument, help, values}, set, {0}}
#define FIELD(form, field, min, max) {form, offsetof(struct show_options, field), min, max}
#define FLAG(name, field, help) {{name, NULL, help, NULL}, NULL, FIELD(OPTION_FLAG, field, 0, 0)}
#define COUNT(name, field, min, max, help) {{name, "N", help, NULL}, NULL, FIELD(OPTION_COUNT, field, min, max)}
#define REAL(name, field, min, max, help) {{name, "X", help, NULL}, NULL, FIELD(OPTION_REAL, field, min, max)}
#define TEXT(name, argument, field, bytes, values, help) \
    {{name, argument, help, values}, NULL, FIELD(OPTION_TEXT, field, bytes, 0)}

static const struct option_info option_info[] = {
    TEXT("address", "ADDRESS", address, 1, "FILE", ""),
    TEXT("endpoint", "ENDPOINT", endpoint, 1, NULL, ""),
    TEXT("timeout", "SECONDS", timeout, 0, NULL, ""),
    TITLE("selection"),
    TEXT("layer", "LAYER", layer, 1, "LAYER", "decoder.0.self, or an unambiguous part of it: decoder.0, cross, 3 "
        "(default: the first)"),
    SET("head", "N|mean", show_options_set_head, NULL, "one head, or the mean over all (default)"),
    SET("sample", "N", set_sample, NULL, "index in the batch (default: the first there is)"),
    SET("token", "N", set_token, NULL, "the query whose attention is shown (default: the first; when that attends "
        "to one key at most, the last one that attends to any)"),
    SET("step", "N", set_step, NULL, "recordings: this step, not the newest"),
    SET("run", "RUN", show_options_set_run, NULL, "recordings, jobs: by its first digits (default: the newest)"),
    TITLE("output"),
    SET("only", "LIST", set_only, "report|map|token|heads|pairs,", "any of report, map, token, heads, pairs (default: all)"),
    COUNT("pairs", pairs, 1, TOP_PAIRS_MOST, "number of largest entries (10)"),
    TEXT("tokens", "TEXT", tokens, 0, NULL, "the tokens' texts, with blanks between them"),
    TEXT("labels", "FILE", labels, 1, "FILE", "the same from a file, one on each line"),
    TEXT("query-tokens", "TEXT", query_tokens, 0, NULL, "cross-attention: the queries' tokens; --tokens are the "
        "keys'"),
    TEXT("query-labels", "FILE", query_labels, 1, "FILE", "the same from a file"),
    FLAG("ascii", ascii, "ASCII only (default: as the locale says)"),
    SET("color", "WHEN", set_color, "auto|always|never", "auto (in a terminal, without NO_COLOR), always, never"),
    COUNT("width", width, SCREEN_WIDTH_MIN, 1000, "columns (default: the terminal's, else 80)"),
    FLAG("json", json, "the numbers, as JSON (attnd.show/1)"),
    TITLE("array files: names and missing facts (see attnctl analyze --help)"),
    SET("name", "PAT=TARGET", show_options_add_rule, NULL, "arrays named PAT are TARGET; may be given again"),
    SET("ignore", "PAT", show_options_add_ignored, NULL, "leave arrays named PAT out; may be given again"),
    SET("stack", "STACK", show_options_set_stack, "encoder|decoder", "stack of names without one (decoder)"),
    FLAG("causal", causal, "queries and keys: key j only for queries i >= j"),
    COUNT("window", window, 1, INT32_MAX, "queries and keys: only keys j > i - N"),
    SET("scale", "X", show_options_set_scale, NULL, "scale of their logits (default 1/sqrt(d))"),
    REAL("softcap", softcap, 0, 1e30, "logits are X tanh(logit / X)"),
    TITLE("a running attnd"),
};
/* clang-format on */
static const struct option_table table = {OPTION_ROWS(option_info), .command = "attnctl show"};

void show_options_each(option_visitor *visit, void *data)
{
    option_visit(&table, visit, data);
}

static const char *show_options_take(const void *row, char *value, void *data)
{
    const struct option_info *info = row;
    return info->set ? info->set(data, value) : option_store(&info->field, value, data);
}

int show_options_parse(int argc, char **argv, struct show_options *ret_options, char *reterr)
{
    struct show_options options = {.head = HEAD_MEAN,
                                   .token = TOKEN_AUTO,
                                   .pairs = PAIRS_DEFAULT,
                                   .naming = {.stack = STACK_DECODER},
                                   .part = {true, true, true, true, true}};
    struct option_rest rest;
    if (option_parse(&table, argc, argv, show_options_take, &options, &rest, reterr,
                     SHOW_ERROR_MAX) != 0) {
        return -1;
    }
    options.words = rest.words;
    options.word_count = rest.word_count;
    *ret_options = options;
    return 0;
}

/* The help --------------------------------------------------------------------------------------
 */

static const char words[] =
    "\nPrints a summary of its numbers, whether its rows sum to 1, a map in shades or\n"
    "colours, the keys that one token attends to, each head's first keys, and the\n"
    "largest entries.\n\n"
    "FILE is an array file (.npy, .npz, .safetensors) or a recording (attnctl\n"
    "record); JOB is one of attnctl jobs. A word is a file when there is a file of\n"
    "that name, or when it ends in .npy, .npz, .safetensors or .rec, and otherwise a\n"
    "job (./NAME is a file). - is an array file on standard input.\n";

void show_options_print_words(FILE *out)
{
    fputs(words, out);
}
