/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/timeline.h"

#include "proto/err.h"
#include "proto/metric.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int timeline_add(struct timeline *timeline, const struct timeline_record *record)
{
    if (timeline->record_count == timeline->record_room) {
        size_t room = 2 * timeline->record_room + 256;
        struct timeline_record *grown = realloc(timeline->records, room * sizeof(*grown));
        if (!grown)
            return ERR_MEMORY;
        timeline->records = grown;
        timeline->record_room = room;
    }
    timeline->records[timeline->record_count++] = *record;
    return 0;
}

void timeline_leave_out(struct timeline *timeline, uint64_t last)
{
    bool first = timeline->left_out++ == 0;
    if (first || last < timeline->left_first)
        timeline->left_first = last;
    if (first || last > timeline->left_last)
        timeline->left_last = last;
}

/* Which layers ---------------------------------------------------------------------------------
 */

bool timeline_wants(const struct plot *plot, struct layer_id id, int32_t head)
{
    if (plot->options.has_head && head != (int32_t)plot->options.head)
        return false;
    return !plot->options.layer || plot_layer_matches(plot->options.layer, id);
}

/* Sorting --------------------------------------------------------------------------------------
 */

static int compare_rows(const struct timeline_row *a, const struct timeline_row *b)
{
    if (a->id.stack != b->id.stack)
        return a->id.stack < b->id.stack ? -1 : 1;
    if (a->id.layer != b->id.layer)
        return a->id.layer < b->id.layer ? -1 : 1;
    if (a->id.site != b->id.site)
        return a->id.site < b->id.site ? -1 : 1;
    return (a->head > b->head) - (a->head < b->head);
}

static int compare_records(const void *left, const void *right)
{
    const struct timeline_record *a = left, *b = right;
    int order = compare_rows(&a->row, &b->row);
    return order ? order : (a->step > b->step) - (a->step < b->step);
}

static int compare_steps(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void collect_rows(struct timeline *timeline)
{
    for (size_t i = 0; i < timeline->record_count; i++) {
        const struct timeline_row *row = &timeline->records[i].row;
        if (timeline->row_count == 0 ||
            compare_rows(row, &timeline->rows[timeline->row_count - 1]) != 0)
            timeline->rows[timeline->row_count++] = *row;
    }
}

static void collect_steps(struct timeline *timeline)
{
    size_t count = 0;
    for (size_t i = 0; i < timeline->record_count; i++)
        timeline->steps[i] = timeline->records[i].step;
    qsort(timeline->steps, timeline->record_count, sizeof(*timeline->steps), compare_steps);
    for (size_t i = 0; i < timeline->record_count; i++)
        if (count == 0 || timeline->steps[i] != timeline->steps[count - 1])
            timeline->steps[count++] = timeline->steps[i];
    timeline->step_count = count;
}

/* Old histories and exports have no p10: then no band is of percentiles. */
static bool has_percentiles(const struct timeline *timeline)
{
    for (size_t i = 0; i < timeline->record_count; i++) {
        const struct timeline_record *record = &timeline->records[i];
        if (isfinite(record->mean) && !(isfinite(record->p10) && isfinite(record->p90)))
            return false;
    }
    return true;
}

static void put(struct timeline *timeline, size_t at, const struct timeline_record *record)
{
    bool percentiles = timeline->has_percentiles;
    timeline->mean[at] = record->mean;
    timeline->low[at] = percentiles ? record->p10 : record->mean - record->std;
    timeline->high[at] = percentiles ? record->p90 : record->mean + record->std;
}

/* Records are in the order of rows and steps: one walk. */
static void fill(struct timeline *timeline)
{
    size_t row = 0, cells = timeline->row_count * timeline->step_count;
    for (size_t i = 0; i < cells; i++)
        timeline->mean[i] = timeline->low[i] = timeline->high[i] = NAN;
    for (size_t i = 0; i < timeline->record_count; i++) {
        const struct timeline_record *record = &timeline->records[i];
        while (compare_rows(&record->row, &timeline->rows[row]) != 0)
            row++;
        const uint64_t *step = bsearch(&record->step, timeline->steps, timeline->step_count,
                                       sizeof(*timeline->steps), compare_steps);
        put(timeline, row * timeline->step_count + (size_t)(step - timeline->steps), record);
    }
}

static int arrange(struct plot *plot, struct timeline *timeline)
{
    size_t count = timeline->record_count;
    qsort(timeline->records, count, sizeof(*timeline->records), compare_records);
    timeline->rows = calloc(count, sizeof(*timeline->rows));
    timeline->steps = calloc(count, sizeof(*timeline->steps));
    if (!timeline->rows || !timeline->steps)
        return plot_fail_memory(plot);
    collect_rows(timeline);
    collect_steps(timeline);
    size_t cells = timeline->row_count * timeline->step_count;
    timeline->mean = calloc(cells, sizeof(double));
    timeline->low = calloc(cells, sizeof(double));
    timeline->high = calloc(cells, sizeof(double));
    if (!timeline->mean || !timeline->low || !timeline->high)
        return plot_fail_memory(plot);
    timeline->has_percentiles = has_percentiles(timeline);
    fill(timeline);
    return CLI_OK;
}

void timeline_axis_title(const char *metric, char *ret_title, size_t size)
{
    const char *unit = "1";
    for (int i = 0; i < METRIC_COUNT; i++)
        if (strcmp(metric_info[i].name, metric) == 0)
            unit = metric_info[i].unit;
    bool has_unit = strcmp(unit, "1") != 0;
    snprintf(ret_title, size, "%s%s%s%s", metric, has_unit ? " (" : "", has_unit ? unit : "",
             has_unit ? ")" : "");
    for (char *at = ret_title; *at; at++)
        *at = *at == '_' ? ' ' : *at;
}

/* Loading --------------------------------------------------------------------------------------
 */

/* A file if there is one, or it ends as export's do. */
static bool is_file(const char *word)
{
    const char *dot = strrchr(word, '.');
    static const char *const endings[] = {".csv", ".json", ".jsonl", ".ndjson"};
    for (int i = 0; dot && i < 4; i++)
        if (strcmp(dot, endings[i]) == 0)
            return true;
    return strchr(word, '/') || source_is_file(word);
}

/* " from 40 to 50" */
static void write_range(const struct args *args, char ret_text[64])
{
    char from[32] = "", to[32] = "";
    if (args->given & ARGS_FROM)
        snprintf(from, sizeof(from), " from %" PRIu64, args->from);
    if (args->given & ARGS_TO)
        snprintf(to, sizeof(to), " to %" PRIu64, args->to);
    snprintf(ret_text, 64, "%s%s", from, to);
}

static int fail_nothing(struct plot *plot, const struct timeline *timeline)
{
    const struct plot_options *options = &plot->options;
    char range[64];
    write_range(&options->args, range);
    if (timeline->left_out > 0)
        return plot_fail(
            plot, CLI_FINDING,
            "%.200s has no window of %.80s%s: its windows end at %" PRIu64 " to %" PRIu64,
            options->words[0], timeline->metric, range, timeline->left_first, timeline->left_last);
    return plot_fail(plot, CLI_USAGE, "%.200s has nothing of %.80s%s%.80s%s", options->words[0],
                     timeline->metric, options->layer ? " in layer " : "",
                     options->layer ? options->layer : "",
                     options->has_head ? " and this head" : "");
}

int timeline_load(struct plot *plot, struct timeline *ret_timeline)
{
    const char *word = plot->options.words[0], *metric = plot->options.args.metric;
    *ret_timeline = (struct timeline){.records = NULL};
    snprintf(ret_timeline->metric, FIELD_NAME_MAX, "%s", metric ? metric : "entropy_normalized");
    int code = is_file(word) ? timeline_load_file(plot, word, ret_timeline)
                             : timeline_load_live(plot, word, ret_timeline);
    if (code != CLI_OK)
        return code;
    if (ret_timeline->record_count == 0)
        return fail_nothing(plot, ret_timeline);
    return arrange(plot, ret_timeline);
}

void timeline_clear(struct timeline *timeline)
{
    free(timeline->records);
    free(timeline->alerts);
    free(timeline->rows);
    free(timeline->steps);
    free(timeline->mean);
    free(timeline->low);
    free(timeline->high);
    *timeline = (struct timeline){.records = NULL};
}
