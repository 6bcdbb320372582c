/* SPDX-License-Identifier: MIT */
/* plot_options: one table drives getopt, the checks, the help, and which kinds of figures take
 * which option. What asks attnd (--endpoint, --run, --metric, ...) is handed on to args.c, which
 * knows those options already. */
#include "clients/cli/plot/plot_options.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DPI_DEFAULT 300
#define DPI_MAX     2400
#define INCHES_MAX  100
/* Pixels of a PNG. */
#define PIXELS_MAX 400e6

/* NULL, or what is wrong, as option.h wants it. */
typedef const char *setter(struct plot_options *options, const char *text);

/* Setters ---------------------------------------------------------------------------------------
 */

static const char *set_index(const char *text, uint32_t *ret_index)
{
    return option_whole_u32(text, INT32_MAX, ret_index) ? NULL : "valid: 0, 1, 2, ...";
}

static const struct {
    const char *ending;
    enum canvas_format format;
} endings[] = {{"png", CANVAS_PNG}, {"svg", CANVAS_SVG}, {"pdf", CANVAS_PDF}};
enum { ENDINGS = sizeof(endings) / sizeof(endings[0]) };

/* false = there is no such format. */
static bool find_format(const char *ending, enum canvas_format *ret_format)
{
    for (int i = 0; i < ENDINGS; i++)
        if (strcasecmp(ending, endings[i].ending) == 0) {
            *ret_format = endings[i].format;
            return true;
        }
    return false;
}

static const char *set_format(struct plot_options *options, const char *text)
{
    options->has_format = true;
    return find_format(text, &options->format) ? NULL : "valid: png, svg, pdf";
}

static const char *set_head(struct plot_options *options, const char *text)
{
    options->mean = strcmp(text, "mean") == 0;
    options->has_head = !options->mean;
    return options->mean || !set_index(text, &options->head) ? NULL : "valid: 0, 1, 2, ..., mean";
}

static const char *set_sample(struct plot_options *options, const char *text)
{
    options->has_sample = true;
    return set_index(text, &options->sample);
}

static const char *set_query(struct plot_options *options, const char *text)
{
    options->has_query = true;
    return set_index(text, &options->query);
}

static const char *set_colormap(struct plot_options *options, const char *text)
{
    return colormap_find(text, &options->colors) == 0 ? NULL
                                                      : "valid: " COLORMAP_NAMES
                                                        "; or one of them and _r";
}

static bool is_side(double inches)
{
    return inches >= 0.5 && inches <= INCHES_MAX;
}

/* "3.3x2.8", or the width alone. */
static const char *set_size(struct plot_options *options, const char *text)
{
    static const char *const wrong = "valid: inches such as 3.3x2.8, or 3.3 (0.5 to 100)";
    char *end;
    options->width = strtod(text, &end);
    options->height = 0;
    if (end == text || !is_side(options->width))
        return wrong;
    if (*end == '\0')
        return NULL;
    text = end + 1;
    if (*end != 'x')
        return wrong;
    options->height = strtod(text, &end);
    return end != text && *end == '\0' && is_side(options->height) ? NULL : wrong;
}

static const char *set_step(struct plot_options *options, const char *text)
{
    options->at_step = true;
    return option_whole(text, UINT64_MAX, &options->step) ? NULL : "valid: a whole number";
}

static const char *add_rule(struct plot_options *options, const char *text)
{
    return naming_add_rule(&options->naming, text);
}

static const char *add_ignored(struct plot_options *options, const char *text)
{
    return naming_add_ignored(&options->naming, text);
}

static const char *set_stack(struct plot_options *options, const char *text)
{
    return naming_set_stack(&options->naming, text);
}

static const char *set_head_weights(struct plot_options *options, const char *text)
{
    static const char *const wrong = "valid: numbers such as 0.5,0.25,0.25, one per head";
    uint32_t room = 1;
    for (const char *at = text; *at; at++)
        room += *at == ',';
    if (room > PLOT_WEIGHTS_MAX)
        return "too many numbers";
    free(options->head_weights);
    options->head_weight_count = 0;
    options->head_weights = calloc(room, sizeof(*options->head_weights));
    if (!options->head_weights)
        return option_no_memory;
    while (options->head_weight_count < room) {
        char *end;
        double number = strtod(text, &end);
        if (end == text || !isfinite(number) || (*end != ',' && *end != '\0'))
            return wrong;
        options->head_weights[options->head_weight_count++] = number;
        text = *end ? end + 1 : end;
    }
    return NULL;
}

/* The table -------------------------------------------------------------------------------------
 */

struct option_info {
    struct option_text text;
    unsigned kinds; /* that take it */
    setter *set;    /* NULL: the field says it all, or it is handed on to args.c */
    struct option_field field;
};

/* clang-format off */
#define ALL  PLOT_KINDS_ALL
#define MAPS PLOT_KINDS_MAPS
#define PAST PLOT_KINDS_PAST
#define ONLY(kind) PLOT_BIT(PLOT_##kind)
#define OF_LAYER PLOT_KINDS_LAYER
#define OF_HEAD  PLOT_KINDS_HEAD
/* Panels side by side. */
#define PANELS   (ONLY(HEADS) | ONLY(LAYERS) | ONLY(FLOW) | ONLY(AGGREGATE))
/* What has an axis of tokens. */
#define LABELLED (MAPS & ~ONLY(SIMILARITY) & ~ONLY(SPECTRUM))

#define TITLE(title) {{title, NULL, NULL, NULL}, ALL, NULL, {0}}
#define SET(kinds, name, argument, set, values, help) {{name, argument, help, values}, kinds, set, {0}}
#define FIELD(form, field, min, max) {form, offsetof(struct plot_options, field), min, max}
#define FLAG(kinds, name, field, help) {{name, NULL, help, NULL}, kinds, NULL, FIELD(OPTION_FLAG, field, 0, 0)}
#define TEXT(kinds, name, argument, field, bytes, values, help) \
    {{name, argument, help, values}, kinds, NULL, FIELD(OPTION_TEXT, field, bytes, 0)}
#define COUNT(kinds, name, field, min, max, help) \
    {{name, "N", help, NULL}, kinds, NULL, FIELD(OPTION_COUNT, field, min, max)}
#define REAL(kinds, name, argument, field, min, max, help) \
    {{name, argument, help, NULL}, kinds, NULL, FIELD(OPTION_REAL, field, min, max)}
#define HANDED(kinds, name, argument, values, help) {{name, argument, help, values}, kinds, NULL, {0}}
#define SITES "encoder.self|decoder.self|decoder.cross"

static const struct option_info option_info[] = {
    HANDED(ALL, "address", "ADDRESS", "FILE", ""),
    HANDED(ALL, "endpoint", "ENDPOINT", NULL, ""),
    HANDED(ALL, "timeout", "SECONDS", NULL, ""),
    TITLE("where the figure goes"),
    TEXT(ALL, "output", "FILE", output, 1, "FILE", "or -o: .png, .svg or .pdf; - is standard output; of many figures a "
        "folder, with a / at the end, or a name with {layer} and {head} in it"),
    SET(ALL, "format", "FORMAT", set_format, "png|svg|pdf", "of figures in a folder (default png), and of -o -"),
    FLAG(OF_LAYER, "every-layer", every_layer, "one figure per layer"),
    FLAG(OF_HEAD, "every-head", every_head, "one figure per head"),
    FLAG(ALL, "json", json, "a JSON object per figure on standard output: its file, kind, layer and head"),
    TITLE("what is drawn"),
    TEXT(ALL & ~ONLY(LAYERS), "layer", "LAYER", layer, 1, "LAYER", "decoder.3.self, or as much of it as only one layer "
        "has: decoder.3, cross, 3 (default: the first)"),
    SET(OF_HEAD | ONLY(FLOW) | PAST, "head", "N|mean", set_head, NULL, "one head, or the mean over all (default)"),
    SET(MAPS, "sample", "N", set_sample, NULL, "of the batch (default: the first there is)"),
    SET(ONLY(TOKENS), "query", "N", set_query, NULL, "tokens: whose attention (default: the last with any)"),
    TEXT(ONLY(LAYERS) | ONLY(ROLLOUT), "site", "SITE", site, 1, SITES, "layers, rollout: decoder.cross, or as much of "
        "it as only one site has: cross (default: the first layer's)"),
    SET(ONLY(AGGREGATE), "head-weights", "A,B,..", set_head_weights, NULL, "aggregate: the weights of the weighted map"),
    FLAG(ONLY(SIMILARITY), "js", js, "similarity: Jensen-Shannon divergence, not cosine"),
    SET(MAPS, "step", "N", set_step, NULL, "recordings: this step, not the newest"),
    HANDED(ALL, "run", "RUN", NULL, "recordings, jobs: by its first digits (default: the newest)"),
    TEXT(LABELLED, "tokens", "TEXT", tokens, 0, NULL, "the tokens' texts, with blanks between them"),
    TEXT(LABELLED, "labels", "FILE", labels, 0, "FILE", "the same from a file, one on each line"),
    TEXT(LABELLED & ~ONLY(ROLLOUT), "query-tokens", "TEXT", query_tokens, 0, NULL, "of cross-attention: the queries' "
        "tokens; --tokens are the keys'"),
    TEXT(LABELLED & ~ONLY(ROLLOUT), "query-labels", "FILE", query_labels, 0, "FILE", "the same from a file"),
    TITLE("entropy and series"),
    HANDED(PAST, "metric", "NAME", "METRIC", "what to show (default entropy_normalized)"),
    HANDED(PAST, "window", "WINDOW", NULL, "windows such as \"1 epoch\" (default: the primary ones)"),
    HANDED(PAST, "from", "N", NULL, "only what ends at this epoch, step or second, or later"),
    HANDED(PAST, "to", "N", NULL, "only what ends at this epoch, step or second, or earlier"),
    TITLE("how it looks"),
    TEXT(ALL, "title", "TEXT", title, 0, NULL, "above the figure; '' = none (default: what it shows)"),
    SET(ALL & ~ONLY(TOKENS), "colormap", "NAME", set_colormap,
        "viridis|cividis|plasma|inferno|magma|hot|cool|gray|gray_r|RdBu|RdBu_r", COLORMAP_NAMES " (default viridis); "
        "the other way round with _r: gray_r for print, RdBu_r of what may be below 0"),
    REAL(ALL, "vmin", "X", vmin, -1e30, 1e30, "where the colours begin (default: 0, or the least value)"),
    REAL(ALL, "vmax", "X", vmax, -1e30, 1e30, "where they end (default: the largest value, or the 99.5th "
        "percentile when hardly any is near it)"),
    SET(ALL, "size", "WxH", set_size, NULL, "inches; or the width alone (default: 3.3 or 6.9 wide)"),
    REAL(ALL, "dpi", "N", dpi, 20, DPI_MAX, "pixels per inch of a PNG (default 300)"),
    COUNT(PANELS, "columns", columns, 1, 64, "panels side by side (default: as fits)"),
    TEXT(ALL, "font", "NAME", font, 1, NULL, "as fontconfig knows it (default sans-serif)"),
    TITLE("what files of arrays do not say"),
    FLAG(MAPS, "causal", causal, "later keys are masked"),
    SET(MAPS, "name", "PAT=TARGET", add_rule, NULL, "arrays named PAT are TARGET; may be given again"),
    SET(MAPS, "ignore", "PAT", add_ignored, NULL, "leave arrays named PAT out; may be given again"),
    SET(MAPS, "stack", "STACK", set_stack, "encoder|decoder", "of names without one (default decoder)"),
};
/* clang-format on */
enum { ROWS = sizeof(option_info) / sizeof(option_info[0]) };
_Static_assert(ROWS <= 64, "a bit for each row");
static const struct option_table table = {OPTION_ROWS(option_info), .command = "attnctl plot",
                                          .short_form = "ooutput"};

void plot_options_each(option_visitor *visit, void *data)
{
    option_visit(&table, visit, data);
}

bool plot_options_takes(const struct option_kind *kind, const struct option_text *option)
{
    return ((const struct option_info *)(const void *)option)->kinds & kind->bit;
}

/* What is handed on. */
struct handed {
    char *argv[PLOT_ARGS_MAX + 1];
    int argc;
    char names[PLOT_ARGS_MAX][16];
};

static const char *hand_on(struct handed *handed, const char *name, char *text)
{
    if (handed->argc + 2 > PLOT_ARGS_MAX)
        return "given too often";
    snprintf(handed->names[handed->argc], sizeof(handed->names[0]), "--%s", name);
    handed->argv[handed->argc] = handed->names[handed->argc];
    handed->argv[handed->argc + 1] = text;
    handed->argc += 2;
    return NULL;
}

struct parsing {
    struct plot_options *options;
    struct handed *handed;
    uint64_t given; /* a bit per row */
};

static const char *take(const void *row, char *value, void *data)
{
    const struct option_info *info = row;
    struct parsing *parsing = data;
    parsing->given |= (uint64_t)1 << (info - option_info);
    if (info->set)
        return info->set(parsing->options, value);
    return info->field.form == OPTION_OTHER ? hand_on(parsing->handed, info->text.name, value)
                                            : option_store(&info->field, value, parsing->options);
}

/* The first word is the kind. */
static int find_kind(struct plot_options *options, char *reterr)
{
    if (options->word_count == 0) {
        snprintf(reterr, PLOT_ERROR_MAX,
                 "draw what? attnctl plot KIND SOURCE -o FILE (see attnctl plot --help)");
        return -1;
    }
    int rc = plot_kind_find(options->words[0], &options->kind, reterr);
    options->words++;
    options->word_count--;
    return rc;
}

/* An option that has no effect is a mistake, and not to be passed over. */
static int check_given(uint64_t given, enum plot_kind kind, char *reterr)
{
    char list[160];
    for (int row = 0; row < ROWS; row++) {
        const struct option_info *info = &option_info[row];
        if (!(given >> row & 1) || info->kinds & PLOT_BIT(kind))
            continue;
        plot_kind_list(info->kinds, list, sizeof(list));
        snprintf(reterr, PLOT_ERROR_MAX, "--%s is not an option of %s (it is of %s)",
                 info->text.name, plot_kind_name(kind), list);
        return -1;
    }
    return 0;
}

static int parse_options(struct plot_options *options, struct handed *handed, int argc, char **argv,
                         char *reterr)
{
    struct parsing parsing = {options, handed, 0};
    struct option_rest rest;
    int rc = option_parse(&table, argc, argv, take, &parsing, &rest, reterr, PLOT_ERROR_MAX);
    options->words = rest.words;
    options->word_count = rest.word_count;
    if (rc == 0)
        rc = find_kind(options, reterr);
    return rc == 0 ? check_given(parsing.given, options->kind, reterr) : rc;
}

/* The options that ask attnd, by args.c; its state of getopt is done with. */
static int parse_handed(struct plot_options *options, struct handed *handed, char *reterr)
{
    char error[ARGS_ERROR_MAX];
    if (args_parse(handed->argc, handed->argv, &options->args, error) == 0)
        return 0;
    snprintf(reterr, PLOT_ERROR_MAX, "%s", error);
    return -1;
}

/* Checks ----------------------------------------------------------------------------------------
 */

const char *plot_format_ending(enum canvas_format format)
{
    for (int i = 0; i < ENDINGS; i++)
        if (endings[i].format == format)
            return endings[i].ending;
    return "";
}

/* The format by the ending of a name. */
static int check_ending(struct plot_options *options, char *reterr)
{
    const char *output = options->output, *dot = strrchr(output, '.');
    enum canvas_format format;
    if (dot && find_format(dot + 1, &format)) {
        if (options->has_format && options->format != format) {
            snprintf(reterr, PLOT_ERROR_MAX, "--format %s: but %.200s is to be %s",
                     plot_format_ending(options->format), output, plot_format_ending(format));
            return -1;
        }
        options->format = format;
        return 0;
    }
    snprintf(reterr, PLOT_ERROR_MAX,
             "%.200s: not a name of a figure: it must end in .png, .svg or .pdf", output);
    return -1;
}

static int check_output(struct plot_options *options, char *reterr)
{
    const char *output = options->output;
    if (!output) {
        snprintf(reterr, PLOT_ERROR_MAX, "where to? give -o FILE.png, .svg or .pdf");
        return -1;
    }
    options->standard = strcmp(output, "-") == 0;
    options->folder = output[strlen(output) - 1] == '/';
    options->pattern = strstr(output, "{layer}") || strstr(output, "{head}");
    if (options->standard && !options->has_format) {
        snprintf(reterr, PLOT_ERROR_MAX, "-o -: in which format? give --format png, svg or pdf");
        return -1;
    }
    return options->standard || options->folder ? 0 : check_ending(options, reterr);
}

static int check_every(const struct plot_options *options, char *reterr)
{
    const char *kind = plot_kind_name(options->kind), *wrong = NULL;
    bool every = options->every_layer || options->every_head;
    if (every && !options->folder && !options->pattern)
        wrong = "of many figures needs -o FOLDER/ or a name such as -o 'maps/{layer}-h{head}.png'";
    else if (options->every_layer && !options->folder && !strstr(options->output, "{layer}"))
        wrong = "--every-layer needs {layer} in the name, or one figure would replace another";
    else if (options->every_head && !options->folder && !strstr(options->output, "{head}"))
        wrong = "--every-head needs {head} in the name, or one figure would replace another";
    else if (options->every_layer && options->layer)
        wrong = "takes either --layer or --every-layer";
    else if (options->every_head && (options->has_head || options->mean))
        wrong = "takes either --head or --every-head";
    if (wrong)
        snprintf(reterr, PLOT_ERROR_MAX, "%s %s", kind, wrong);
    return wrong ? -1 : 0;
}

static int check_looks(const struct plot_options *options, char *reterr)
{
    double pixels = options->dpi * options->dpi * options->width *
                    (options->height > 0 ? options->height : options->width);
    if (!isnan(options->vmin) && !isnan(options->vmax) && options->vmin >= options->vmax) {
        snprintf(reterr, PLOT_ERROR_MAX, "--vmin must be less than --vmax");
        return -1;
    }
    if (options->format == CANVAS_PNG && pixels > PIXELS_MAX) {
        snprintf(reterr, PLOT_ERROR_MAX,
                 "--size and --dpi make %.0f million pixels; at most %.0f million", pixels / 1e6,
                 PIXELS_MAX / 1e6);
        return -1;
    }
    return 0;
}

static int check(struct plot_options *options, char *reterr)
{
    if (options->word_count == 0) {
        snprintf(reterr, PLOT_ERROR_MAX, "%s of what? name a file or a job",
                 plot_kind_name(options->kind));
        return -1;
    }
    int rc = check_output(options, reterr);
    if (rc == 0)
        rc = check_every(options, reterr);
    return rc == 0 ? check_looks(options, reterr) : rc;
}

int plot_options_parse(int argc, char **argv, struct plot_options *ret_options, char *reterr)
{
    struct plot_options options = {
        .naming = {.stack = STACK_DECODER},
        .vmin = NAN,
        .vmax = NAN,
        .dpi = DPI_DEFAULT,
        .font = "sans-serif",
    };
    char program[] = "attnctl";
    struct handed handed = {.argv = {program}, .argc = 1};
    colormap_find("viridis", &options.colors);
    int rc = parse_options(&options, &handed, argc, argv, reterr);
    if (rc == 0)
        rc = parse_handed(&options, &handed, reterr);
    if (rc == 0)
        rc = check(&options, reterr);
    if (rc != 0)
        plot_options_clear(&options);
    else
        *ret_options = options;
    return rc;
}

void plot_options_clear(struct plot_options *options)
{
    free(options->head_weights);
    options->head_weights = NULL;
}

/* The help --------------------------------------------------------------------------------------
 */

static const char help_sources[] =
    "\nSOURCE: files of maps (.npy, .npz, .safetensors, named as for attnctl\n"
    "analyze), a recording (attnctl record), or a job of a running attnd. For\n"
    "entropy and series: a job, or a file that attnctl export wrote. A word is a file\n"
    "if there is one, or if it ends as such files do; - is standard input, of arrays\n"
    "or an export.\n\nkinds:\n";

static const char help_files[] =
    "\n-o FOLDER/ writes FOLDER/KIND-LAYER.png and FOLDER/KIND-LAYER-hHEAD.png, such\n"
    "as maps/heatmap-decoder.3.self-h07.png; with --format svg they end in .svg. In a\n"
    "name, {layer} becomes decoder.3.self (of flow: 3) and {head} becomes 07. The\n"
    "same input gives the same bytes; the date in a PDF is that of\n"
    "SOURCE_DATE_EPOCH. Of an option that is given twice the last one counts.\n"
    "Ctrl-C leaves whole figures behind, and the shell says exit status 130.\n\n"
    "attnctl plot KIND --help shows the options of a kind.\n";

void plot_options_print_kinds(FILE *out)
{
    fputs(help_sources, out);
    for (int i = 0; i < PLOT_KIND_COUNT; i++)
        fprintf(out, "  %-12s %s\n", plot_kind_name((enum plot_kind)i),
                plot_kind_help((enum plot_kind)i));
}

void plot_options_print_files(FILE *out)
{
    fputs(help_files, out);
}
