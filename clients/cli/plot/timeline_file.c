/* SPDX-License-Identifier: MIT */
/* A file of attnctl export: comma-separated values under a line of names, or a JSON object per
 * line. Both are read line by line into the same fields; numbers that do not exist are empty, or
 * null. */
#include "clients/cli/plot/timeline.h"

#include "clients/cli/source/labels.h"
#include "clients/cli/base/unknown.h"

#include "proto/err.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS_MAX 64
#define TEXT_MAX    128

/* From P10 on: exports before attnd had them do without. */
enum field { JOB, RUN, LAST, STEP, STACK, LAYER, SITE, HEAD, METRIC, MEAN, STD, P10, P90, FIELDS };
static const char *const field_name[FIELDS] = {
    [JOB] = "job",       [LAST] = "last_unit", [RUN] = "run",   [STEP] = "step",
    [STACK] = "stack",   [LAYER] = "layer",    [SITE] = "site", [HEAD] = "head",
    [METRIC] = "metric", [MEAN] = "mean",      [STD] = "std",   [P10] = "p10",
    [P90] = "p90"};

/* One line, as texts. */
struct line {
    char text[FIELDS][TEXT_MAX];
};

struct reading {
    struct plot *plot;
    struct timeline *timeline;
    const char *path;
    bool json;
    int column[FIELDS];    /* of comma-separated values; -1 = not there */
    char run[TEXT_MAX];    /* the one that is read */
    struct labels metrics; /* those that there are */
    size_t number;         /* of the line */
};

static int fail_line(struct reading *reading, const char *why)
{
    return plot_fail(
        reading->plot, CLI_USAGE,
        "%.300s: line %zu: %s (expected is what attnctl export --csv or --json writes)",
        reading->path, reading->number, why);
}

/* Lines ----------------------------------------------------------------------------------------
 */

/* Where each field stands. */
static int read_names(struct reading *reading, char *text)
{
    int column = 0;
    for (int i = 0; i < FIELDS; i++)
        reading->column[i] = -1;
    for (char *at = text, *name; (name = strsep(&at, ",")) != NULL; column++)
        for (int i = 0; i < FIELDS; i++)
            if (strcmp(field_name[i], name) == 0)
                reading->column[i] = column;
    for (int i = 0; i < P10; i++)
        if (reading->column[i] < 0)
            return fail_line(reading, "not the names of an export's columns");
    return CLI_OK;
}

static int split(struct reading *reading, char *text, struct line *ret_line)
{
    const char *value[COLUMNS_MAX] = {NULL};
    int count = 0;
    for (char *at = text, *item; count < COLUMNS_MAX && (item = strsep(&at, ",")) != NULL;)
        value[count++] = item;
    for (int i = 0; i < FIELDS; i++) {
        if (reading->column[i] >= count)
            return fail_line(reading, "too few columns");
        snprintf(ret_line->text[i], TEXT_MAX, "%s",
                 reading->column[i] < 0 ? "" : value[reading->column[i]]);
    }
    return CLI_OK;
}

static void take_json(const json_t *value, char ret_text[TEXT_MAX])
{
    *ret_text = '\0';
    if (json_is_string(value))
        snprintf(ret_text, TEXT_MAX, "%s", json_string_value(value));
    else if (json_is_integer(value))
        snprintf(ret_text, TEXT_MAX, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        snprintf(ret_text, TEXT_MAX, "%.17g", json_real_value(value));
}

static int parse_object(struct reading *reading, const char *text, struct line *ret_line)
{
    json_t *object = json_loads(text, 0, NULL);
    int code = CLI_OK;
    if (!json_is_object(object))
        code = fail_line(reading, "not a JSON object");
    for (int i = 0; code == CLI_OK && i < FIELDS; i++)
        take_json(json_object_get(object, field_name[i]), ret_line->text[i]);
    json_decref(object);
    return code;
}

/* Records --------------------------------------------------------------------------------------
 */

static double number_of(const char *text)
{
    char *end;
    double number = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(number) ? number : NAN;
}

static bool parse_row(const struct line *line, struct timeline_row *ret_row)
{
    bool encoder = strcmp(line->text[STACK], stack_name(STACK_ENCODER)) == 0;
    bool self = strcmp(line->text[SITE], site_name(SITE_SELF)) == 0;
    double layer = number_of(line->text[LAYER]), head = number_of(line->text[HEAD]);
    ret_row->id = (struct layer_id){encoder ? STACK_ENCODER : STACK_DECODER, 0,
                                    self ? SITE_SELF : SITE_CROSS};
    if ((!encoder && strcmp(line->text[STACK], stack_name(STACK_DECODER)) != 0) ||
        (!self && strcmp(line->text[SITE], site_name(SITE_CROSS)) != 0) ||
        !(layer >= 0 && layer <= LAYER_MAX))
        return false;
    ret_row->id.layer = (uint32_t)layer;
    ret_row->head = head >= 0 && head < HEADS_TOTAL_MAX ? (int32_t)head : -1;
    return true;
}

/* Remembers a name that is not listed yet; the newest is the likeliest. */
static int list_metric(struct reading *reading, const char *name)
{
    const struct labels *metrics = &reading->metrics;
    for (uint32_t i = metrics->count; i-- > 0;)
        if (strcmp(metrics->items[i], name) == 0)
            return 0;
    return labels_add(&reading->metrics, name, strlen(name));
}

/* Of several runs in one file the one that is asked for, or the first. */
static bool is_run(struct reading *reading, const char *run)
{
    const char *asked = reading->plot->options.args.run;
    if (asked)
        return strncmp(run, asked, strlen(asked)) == 0;
    if (!*reading->run)
        snprintf(reading->run, TEXT_MAX, "%s", run);
    return strcmp(run, reading->run) == 0;
}

/* `last` is the last epoch, step or second of the window. */
static bool is_in_range(const struct reading *reading, double last)
{
    const struct args *args = &reading->plot->options.args;
    bool in = (!(args->given & ARGS_FROM) || last >= (double)args->from) &&
              (!(args->given & ARGS_TO) || last <= (double)args->to);
    if (!in && last >= 0 && last < 1e15)
        timeline_leave_out(reading->timeline, (uint64_t)last);
    return in;
}

static int take_line(struct reading *reading, const struct line *line)
{
    struct timeline *timeline = reading->timeline;
    struct timeline_record record = {.mean = number_of(line->text[MEAN]),
                                     .std = number_of(line->text[STD]),
                                     .p10 = number_of(line->text[P10]),
                                     .p90 = number_of(line->text[P90])};
    double step = number_of(line->text[STEP]);
    if (!parse_row(line, &record.row) || !(step >= 0 && step < 1e15))
        return fail_line(reading, "no stack, layer, site and step of an export");
    record.step = (uint64_t)step;
    if (list_metric(reading, line->text[METRIC]) != 0)
        return plot_fail_memory(reading->plot);
    snprintf(timeline->job, sizeof(timeline->job), "%s", line->text[JOB]);
    if (strcmp(line->text[METRIC], timeline->metric) != 0 || !is_run(reading, line->text[RUN]) ||
        !timeline_wants(reading->plot, record.row.id, record.row.head) ||
        !is_in_range(reading, number_of(line->text[LAST])))
        return CLI_OK;
    return timeline_add(timeline, &record) == 0 ? CLI_OK : plot_fail_memory(reading->plot);
}

static int read_line(struct reading *reading, char *text)
{
    struct line line;
    text[strcspn(text, "\r\n")] = '\0';
    reading->number++;
    if (*text == '\0')
        return CLI_OK;
    if (reading->number == 1) {
        reading->json = *text == '{';
        if (!reading->json)
            return read_names(reading, text);
    }
    int code = reading->json ? parse_object(reading, text, &line) : split(reading, text, &line);
    return code == CLI_OK ? take_line(reading, &line) : code;
}

/* When there is none of what is asked for: whether the name is wrong. */
static int check_metric(const struct reading *reading)
{
    const struct timeline *timeline = reading->timeline;
    struct unknown unknown;
    char text[UNKNOWN_TEXT_MAX], see[360];
    unknown_init(&unknown, timeline->metric);
    for (uint32_t i = 0; i < reading->metrics.count; i++) {
        if (strcmp(reading->metrics.items[i], timeline->metric) == 0)
            return CLI_OK;
        unknown_add(&unknown, reading->metrics.items[i]);
    }
    if (unknown.count == 0)
        return CLI_OK;
    snprintf(see, sizeof(see), "its column %s", field_name[METRIC]);
    unknown_text(&unknown, see, text);
    return plot_fail(reading->plot, CLI_USAGE, "--metric: '%.80s': not in %.200s%s",
                     timeline->metric, reading->path, text);
}

static int read_lines(struct reading *reading, FILE *in)
{
    char *text = NULL;
    size_t room = 0;
    int code = CLI_OK;
    while (code == CLI_OK && getline(&text, &room, in) >= 0)
        code = read_line(reading, text);
    if (code == CLI_OK && ferror(in))
        code = plot_fail(reading->plot, CLI_USAGE, "%.300s: cannot be read", reading->path);
    free(text);
    return code;
}

int timeline_load_file(struct plot *plot, const char *path, struct timeline *timeline)
{
    struct reading reading = {.plot = plot, .timeline = timeline, .path = path};
    const char *maps = source_noun(path);
    FILE *in = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (!in)
        return plot_fail(plot, CLI_USAGE, "%.300s: %s", path, strerror(errno));
    int code = maps ? plot_fail(plot, CLI_USAGE,
                                "%s needs a job, or a file of attnctl export; %.300s is %s",
                                plot_kind_name(plot->options.kind), path, maps)
                    : read_lines(&reading, in);
    fclose(in);
    if (code == CLI_OK && timeline->record_count == 0)
        code = check_metric(&reading);
    labels_clear(&reading.metrics);
    return code;
}
