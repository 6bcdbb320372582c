/* SPDX-License-Identifier: MIT */
/* The singular values of each head's map, largest first, as far as the engine lists them. */
#include "clients/cli/plot/chart.h"
#include "clients/cli/plot/measures.h"
#include "clients/cli/plot/percentile.h"

#include "clients/cli/plot/label.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* More heads than can be told apart by name are thin lines in the colours of their order, with
 * their median over them. */
#define NAMED_MOST   8
#define COLOR_MEDIAN 0xff000000u

/* What is drawn of a layer. */
struct curves {
    uint32_t heads;
    uint32_t shown;       /* singular values of a head */
    uint32_t all;         /* that it has */
    const double *values; /* [heads][SINGULAR_VALUES_MAX] */
    double x[SINGULAR_VALUES_MAX], median[SINGULAR_VALUES_MAX];
};

static uint32_t color_of(const struct plot *plot, uint32_t head, uint32_t heads)
{
    if (heads <= NAMED_MOST)
        return chart_color(head);
    return plot->options.colors.color[20 + 200 * head / (heads - 1)];
}

/* Of many heads the first and the last are named: the colours go from one to the other. */
static void name_line(const struct curves *curves, uint32_t head, char *ret_name)
{
    if (curves->heads <= NAMED_MOST || head == 0)
        snprintf(ret_name, CHART_NAME_MAX, "head %" PRIu32, head);
    else if (head == curves->heads - 1)
        snprintf(ret_name, CHART_NAME_MAX, "to head %" PRIu32 ", in order", head);
}

static void make_lines(const struct plot *plot, const struct curves *curves,
                       struct chart_line *ret_lines)
{
    bool many = curves->heads > NAMED_MOST;
    for (uint32_t head = 0; head < curves->heads; head++) {
        ret_lines[head] =
            (struct chart_line){.x = curves->x,
                                .y = curves->values + (size_t)head * SINGULAR_VALUES_MAX,
                                .count = curves->shown,
                                .color = color_of(plot, head, curves->heads),
                                .width = many ? 0.4 : 0.9,
                                .dots = !many};
        name_line(curves, head, ret_lines[head].name);
    }
    if (many)
        ret_lines[curves->heads] = (struct chart_line){.x = curves->x,
                                                       .y = curves->median,
                                                       .count = curves->shown,
                                                       .color = COLOR_MEDIAN,
                                                       .width = 1.4,
                                                       .dots = true,
                                                       .name = "median of the heads"};
}

/* Of the finite ones; NaN without any. `work` has room for one per head. */
static double median_at(const struct curves *curves, uint32_t index, double *work)
{
    uint32_t count = 0;
    for (uint32_t head = 0; head < curves->heads; head++) {
        double value = curves->values[(size_t)head * SINGULAR_VALUES_MAX + index];
        if (isfinite(value))
            work[count++] = value;
    }
    percentile_sort(work, count);
    return percentile(work, count, 0.5);
}

static int draw_lines(struct plot *plot, const struct choice *choice, const struct curves *curves,
                      struct chart_line *lines, struct bytes *ret_file)
{
    const struct source_layer *layer = &plot->layers[choice->layer];
    char title[TITLE_MAX], place[PLACE_TEXT_MAX], details[DETAILS_MAX], index[64] = "index";
    make_lines(plot, curves, lines);
    place_layer(layer->id, place);
    plot_maps_details(plot, choice->layer, details);
    snprintf(title, sizeof(title), "%s, singular values of the heads' maps%s", place, details);
    if (curves->shown < curves->all)
        snprintf(index, sizeof(index), "index, of the %" PRIu32 " largest of %" PRIu32,
                 curves->shown, curves->all);
    struct chart chart = {.lines = lines,
                          .line_count = curves->heads + (curves->heads > NAMED_MOST),
                          .x_title = index,
                          .y_title = "singular value",
                          .powers = true,
                          .low = plot->options.vmin,
                          .high = plot->options.vmax};
    return plot_chart(plot, &chart, WIDTH_ONE, title, ret_file);
}

static int draw(struct plot *plot, const struct choice *choice, const double *values,
                struct bytes *ret_file)
{
    const struct source_layer *layer = &plot->layers[choice->layer];
    struct curves curves = {.heads = layer->heads, .values = values};
    struct chart_line *lines = calloc((size_t)layer->heads + 1, sizeof(*lines));
    double *work = calloc(layer->heads, sizeof(*work));
    int code = lines && work ? CLI_OK : plot_fail_memory(plot);
    curves.all = layer->rows < layer->columns ? layer->rows : layer->columns;
    curves.shown = curves.all < SINGULAR_VALUES_MAX ? curves.all : SINGULAR_VALUES_MAX;
    for (uint32_t i = 0; code == CLI_OK && i < curves.shown; i++) {
        curves.x[i] = i + 1;
        curves.median[i] = median_at(&curves, i, work);
    }
    if (code == CLI_OK)
        code = draw_lines(plot, choice, &curves, lines, ret_file);
    free(lines);
    free(work);
    return code;
}

static int measure_and_draw(struct plot *plot, const struct choice *choice, const float *maps,
                            struct bytes *ret_file)
{
    struct attention attention = measures_attention(&plot->layers[choice->layer], maps);
    struct measure *measure = NULL;
    int code = measures_run(plot, &attention, METRIC_GROUP_SPECTRUM, &measure);
    if (code != CLI_OK)
        return code;
    const double *values = measure_result(measure)->vector[VECTOR_SINGULAR_VALUES];
    code = values ? draw(plot, choice, values, ret_file) : plot_fail_memory(plot);
    measure_free(&measure);
    return code;
}

int kind_spectrum(struct plot *plot, const struct choice *choice, struct bytes *ret_file)
{
    float *maps = NULL;
    int code = plot_maps_read_heads(plot, choice->layer, &maps);
    if (code == CLI_OK)
        code = measures_check(plot, choice->layer, "the spectrum");
    if (code == CLI_OK)
        code = measure_and_draw(plot, choice, maps, ret_file);
    free(maps);
    return code;
}
