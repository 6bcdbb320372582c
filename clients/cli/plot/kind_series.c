/* SPDX-License-Identifier: MIT */
/* A metric over time. A line per layer is the median over its heads, with a band from the 10th to
 * the 90th percentile of them; of a single layer every head is drawn as well, thinly; of a single
 * head the line is the mean over the window, with a band from the 10th to the 90th percentile of
 * the window's values (of sources that do not say them: of one standard deviation). Alerts are
 * upright lines. */
#include "clients/cli/plot/chart.h"
#include "clients/cli/plot/percentile.h"
#include "clients/cli/plot/timeline.h"

#include "clients/cli/plot/label.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BANDS_MOST  3  /* layers whose bands can be told apart */
#define HEADS_MOST  64 /* thin lines of a layer */
#define NAMED_MOST  8
#define COLOR_HEAD  0x50808080u
#define COLOR_ALERT 0xffc0392bu

struct drawing {
    struct plot *plot;
    const struct timeline *timeline;
    double *x;      /* [steps] */
    double *middle; /* [layers][steps] */
    double *low, *high;
    double *sorted;           /* [rows] */
    struct chart_line *lines; /* [rows + layers] */
    struct chart_band *bands;
    struct chart_mark *marks;
    uint32_t layers, line_count, band_count, mark_count;
};

static bool is_same_layer(const struct timeline_row *a, const struct timeline_row *b)
{
    return a->id.stack == b->id.stack && a->id.layer == b->id.layer && a->id.site == b->id.site;
}

/* The rows [begin, end) of the layer that begins at `begin`. */
static size_t layer_end(const struct timeline *timeline, size_t begin)
{
    size_t end = begin + 1;
    while (end < timeline->row_count && is_same_layer(&timeline->rows[end], &timeline->rows[begin]))
        end++;
    return end;
}

static uint32_t count_layers(const struct timeline *timeline)
{
    uint32_t layers = 0;
    for (size_t row = 0; row < timeline->row_count; row = layer_end(timeline, row))
        layers++;
    return layers;
}

/* Numbers --------------------------------------------------------------------------------------
 */

static size_t sort_heads(struct drawing *drawing, size_t begin, size_t end, size_t step)
{
    const struct timeline *timeline = drawing->timeline;
    size_t count = 0;
    for (size_t row = begin; row < end; row++) {
        double value = timeline->mean[row * timeline->step_count + step];
        if (isfinite(value))
            drawing->sorted[count++] = value;
    }
    percentile_sort(drawing->sorted, count);
    return count;
}

/* One row alone has no others to spread over: its windows do. */
static void summarize(struct drawing *drawing, uint32_t layer, size_t begin, size_t end)
{
    const struct timeline *timeline = drawing->timeline;
    size_t steps = timeline->step_count;
    for (size_t step = 0; step < steps; step++) {
        size_t at = layer * steps + step, count = sort_heads(drawing, begin, end, step);
        bool single = end - begin == 1;
        size_t own = begin * steps + step;
        drawing->middle[at] = percentile(drawing->sorted, count, 0.5);
        drawing->low[at] = single ? timeline->low[own] : percentile(drawing->sorted, count, 0.1);
        drawing->high[at] = single ? timeline->high[own] : percentile(drawing->sorted, count, 0.9);
    }
}

/* What is drawn --------------------------------------------------------------------------------
 */

static uint32_t color_of(const struct drawing *drawing, uint32_t layer)
{
    if (drawing->layers <= NAMED_MOST)
        return chart_color(layer);
    return drawing->plot->options.colors.color[20 + 200 * layer / (drawing->layers - 1)];
}

static void name_line(const struct drawing *drawing, const struct timeline_row *row, bool single,
                      char ret_name[CHART_NAME_MAX])
{
    char place[PLACE_TEXT_MAX];
    place_layer(row->id, place);
    if (single && row->head >= 0)
        snprintf(ret_name, CHART_NAME_MAX, "%.30s, head %" PRId32, place, row->head);
    else
        snprintf(ret_name, CHART_NAME_MAX, "%.30s%s", place,
                 drawing->layers <= BANDS_MOST && !single ? ", median of heads" : "");
}

static void add_heads(struct drawing *drawing, size_t begin, size_t end)
{
    const struct timeline *timeline = drawing->timeline;
    for (size_t row = begin; row < end && end - begin <= HEADS_MOST; row++)
        drawing->lines[drawing->line_count++] =
            (struct chart_line){.x = drawing->x,
                                .y = timeline->mean + row * timeline->step_count,
                                .count = (uint32_t)timeline->step_count,
                                .color = COLOR_HEAD,
                                .width = 0.4};
}

/* What the band is, in the legend. */
static const char *name_band(const struct timeline *timeline, bool single)
{
    if (!single)
        return "10th to 90th percentile of heads";
    return timeline->has_percentiles ? "10th to 90th percentile" : "one standard deviation";
}

static void add_band(struct drawing *drawing, uint32_t layer, bool single)
{
    size_t steps = drawing->timeline->step_count;
    struct chart_band *band = &drawing->bands[drawing->band_count++];
    *band = (struct chart_band){.x = drawing->x,
                                .low = drawing->low + layer * steps,
                                .high = drawing->high + layer * steps,
                                .count = (uint32_t)steps,
                                .color = (color_of(drawing, layer) & 0xffffff) | 0x38000000};
    snprintf(band->name, CHART_NAME_MAX, "%s",
             layer > 0 ? "" : name_band(drawing->timeline, single));
}

static void add_layer(struct drawing *drawing, uint32_t layer, size_t begin, size_t end)
{
    size_t steps = drawing->timeline->step_count;
    bool single = end - begin == 1;
    summarize(drawing, layer, begin, end);
    if (drawing->layers == 1 && !single)
        add_heads(drawing, begin, end);
    if (drawing->layers <= BANDS_MOST)
        add_band(drawing, layer, single);
    struct chart_line *line = &drawing->lines[drawing->line_count++];
    *line = (struct chart_line){.x = drawing->x,
                                .y = drawing->middle + layer * steps,
                                .count = (uint32_t)steps,
                                .color = color_of(drawing, layer),
                                .width = 1.2};
    if (drawing->layers <= NAMED_MOST || layer == 0 || layer == drawing->layers - 1)
        name_line(drawing, &drawing->timeline->rows[begin], single, line->name);
}

static void add_marks(struct drawing *drawing)
{
    const struct timeline *timeline = drawing->timeline;
    for (size_t i = 0; i < timeline->alert_count; i++)
        drawing->marks[drawing->mark_count++] = (struct chart_mark){
            (double)timeline->alerts[i].step, COLOR_ALERT, timeline->alerts[i].resolved};
}

static void add_all(struct drawing *drawing)
{
    const struct timeline *timeline = drawing->timeline;
    uint32_t layer = 0;
    for (size_t step = 0; step < timeline->step_count; step++)
        drawing->x[step] = (double)timeline->steps[step];
    for (size_t row = 0, end; row < timeline->row_count; row = end) {
        end = layer_end(timeline, row);
        add_layer(drawing, layer++, row, end);
    }
    add_marks(drawing);
}

/* Memory ---------------------------------------------------------------------------------------
 */

static bool allocate(struct drawing *drawing)
{
    const struct timeline *timeline = drawing->timeline;
    size_t points = drawing->layers * timeline->step_count;
    drawing->x = calloc(timeline->step_count, sizeof(double));
    drawing->middle = calloc(points, sizeof(double));
    drawing->low = calloc(points, sizeof(double));
    drawing->high = calloc(points, sizeof(double));
    drawing->sorted = calloc(timeline->row_count, sizeof(double));
    drawing->lines = calloc(timeline->row_count + drawing->layers, sizeof(*drawing->lines));
    drawing->bands = calloc(drawing->layers, sizeof(*drawing->bands));
    drawing->marks = calloc(timeline->alert_count + 1, sizeof(*drawing->marks));
    return drawing->x && drawing->middle && drawing->low && drawing->high && drawing->sorted &&
           drawing->lines && drawing->bands && drawing->marks;
}

static void clear(struct drawing *drawing)
{
    free(drawing->x);
    free(drawing->middle);
    free(drawing->low);
    free(drawing->high);
    free(drawing->sorted);
    free(drawing->lines);
    free(drawing->bands);
    free(drawing->marks);
}

static int draw(struct drawing *drawing, struct bytes *ret_file)
{
    struct plot *plot = drawing->plot;
    const struct timeline *timeline = drawing->timeline;
    char title[TITLE_MAX], axis[FIELD_NAME_MAX + 16];
    if (!allocate(drawing))
        return plot_fail_memory(plot);
    add_all(drawing);
    timeline_axis_title(timeline->metric, axis, sizeof(axis));
    snprintf(title, sizeof(title), "%s%s%.100s", timeline->job, *timeline->job ? ", " : "",
             timeline->metric);
    struct chart chart = {.lines = drawing->lines,
                          .line_count = drawing->line_count,
                          .bands = drawing->bands,
                          .band_count = drawing->band_count,
                          .marks = drawing->marks,
                          .mark_count = drawing->mark_count,
                          .mark_name = "alert (faint: resolved)",
                          .x_title = "step",
                          .y_title = axis,
                          .low = plot->options.vmin,
                          .high = plot->options.vmax};
    return plot_chart(plot, &chart, WIDTH_ONE, title, ret_file);
}

int kind_series(struct plot *plot, const struct choice *choice, struct bytes *ret_file)
{
    struct timeline timeline;
    struct drawing drawing = {.plot = plot, .timeline = &timeline};
    (void)choice;
    int code = timeline_load(plot, &timeline);
    if (code == CLI_OK) {
        drawing.layers = count_layers(&timeline);
        code = draw(&drawing, ret_file);
    }
    clear(&drawing);
    timeline_clear(&timeline);
    return code;
}
