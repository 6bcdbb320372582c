/* SPDX-License-Identifier: MIT */
/* What one query attends to: a bar per key, the largest ones in colour. */
#include "clients/cli/plot/chart.h"
#include "clients/cli/plot/plot_maps.h"

#include "clients/cli/plot/label.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MARKED        3
#define MARK_NAME_MAX 1024
/* More keys than these are told by their positions. */
#define TEXTS_MOST 120
#define COLOR_REST 0xffa9bcd0u
#define COLOR_TOP  0xff0072b2u

/* The query whose attention is drawn, and its row of the map. */
struct asked {
    uint32_t query, row;
};

/* Whether some number of a row is above 0. */
static bool attends(const float *row, uint32_t columns)
{
    for (uint32_t i = 0; i < columns; i++)
        if (isfinite(row[i]) && row[i] > 0)
            return true;
    return false;
}

/* Whether its numbers, if there are any, are 0. */
static bool is_nothing(const float *row, uint32_t columns)
{
    bool any = false;
    for (uint32_t i = 0; i < columns; i++) {
        if (isfinite(row[i]) && row[i] != 0)
            return false;
        any = any || isfinite(row[i]);
    }
    return any;
}

/* The last query that attends to something: those of padding do not. Without one, the last. */
static struct asked last_attending(const struct source_layer *layer, const float *values)
{
    uint32_t row = layer->rows;
    while (row > 0 && !attends(values + (size_t)(row - 1) * layer->columns, layer->columns))
        row--;
    row = row > 0 ? row - 1 : layer->rows - 1;
    return (struct asked){source_edge(row + 1, layer->queries, layer->rows) - 1, row};
}

static int find_query(struct plot *plot, const struct source_layer *layer, const float *values,
                      struct asked *ret_asked)
{
    uint32_t query = plot->options.query;
    char why[96];
    if (plot->options.has_query && query >= layer->queries)
        return plot_fail(plot, CLI_USAGE,
                         "--query: there is no query %" PRIu32 ": they are 0 to %" PRIu32, query,
                         layer->queries - 1);
    struct asked asked = {query, 0};
    if (plot->options.has_query)
        asked.row = source_cell(query, layer->queries, layer->rows);
    else
        asked = last_attending(layer, values);
    snprintf(why, sizeof(why), "query %" PRIu32 " attends to nothing (all 0: padding?)",
             asked.query);
    if (is_nothing(values + (size_t)asked.row * layer->columns, layer->columns))
        return plot_fail_empty(plot, why);
    *ret_asked = asked;
    return CLI_OK;
}

/* The largest ones that are above 0; ties go to the lower key. */
static void color_bars(const double *bars, uint32_t count, uint32_t *ret_colors)
{
    for (uint32_t i = 0; i < count; i++)
        ret_colors[i] = COLOR_REST;
    for (int n = 0; n < MARKED; n++) {
        uint32_t best = count;
        for (uint32_t i = 0; i < count; i++)
            if (ret_colors[i] == COLOR_REST && bars[i] > 0 &&
                (best == count || bars[i] > bars[best]))
                best = i;
        if (best < count)
            ret_colors[best] = COLOR_TOP;
    }
}

/* The keys of the bars in colour, ascending; returns how many. */
static uint32_t find_marked(const uint32_t *colors, uint32_t count, uint32_t ret_marked[MARKED])
{
    uint32_t marked = 0;
    for (uint32_t i = 0; i < count; i++)
        if (colors[i] == COLOR_TOP)
            ret_marked[marked++] = i;
    return marked;
}

/* A comma, the first key of a cell and its token. */
static void add_key(const struct source_layer *layer, const char *const *texts, uint32_t cell,
                    bool first, char *ret_name, size_t size)
{
    char token[LABEL_MAX] = "";
    size_t length = strlen(ret_name);
    if (texts && texts[cell])
        label_clean(texts[cell], token, sizeof(token));
    snprintf(ret_name + length, size - length, "%s %" PRIu32 "%s%s%s", first ? ":" : ",",
             source_edge(cell, layer->keys, layer->columns), *token ? " \xe2\x80\x9c" : "", token,
             *token ? "\xe2\x80\x9d" : "");
}

/* "the three largest: 3, 17, 40": which, unless the axis says it. */
static void name_marked(const struct source_layer *layer, const struct cell_axis *axis,
                        bool is_named, char ret_name[MARK_NAME_MAX])
{
    *ret_name = '\0';
    if (axis->marked_count < MARKED)
        return;
    snprintf(ret_name, MARK_NAME_MAX, "the three largest");
    for (uint32_t i = 0; !is_named && i < axis->marked_count; i++)
        add_key(layer, axis->texts, axis->marked[i], i == 0, ret_name, MARK_NAME_MAX);
}

static void make_title(const struct plot *plot, const struct choice *choice,
                       const struct asked *asked, const struct map_texts *texts, char *ret_title)
{
    const struct source_layer *layer = &plot->layers[choice->layer];
    char place[PLACE_TEXT_MAX], head[48], details[DETAILS_MAX], token[LABEL_MAX] = "";
    place_layer(layer->id, place);
    plot_maps_head_text(plot, choice, head);
    if (texts->y && texts->y[asked->row])
        label_clean(texts->y[asked->row], token, sizeof(token));
    plot_maps_details(plot, choice->layer, details);
    snprintf(ret_title, TITLE_MAX, "%s, %s, query %" PRIu32 "%s%s%s%s", place, head, asked->query,
             *token ? " \xe2\x80\x9c" : "", token, *token ? "\xe2\x80\x9d" : "", details);
}

static int draw(struct plot *plot, const struct choice *choice, const struct asked *asked,
                const float *values, const struct map_texts *texts, struct bytes *ret_file)
{
    const struct source_layer *layer = &plot->layers[choice->layer];
    char title[TITLE_MAX], name[MARK_NAME_MAX];
    uint32_t marked[MARKED];
    const float *row = values + (size_t)asked->row * layer->columns;
    double *bars = malloc(layer->columns * sizeof(*bars));
    uint32_t *colors = malloc(layer->columns * sizeof(*colors));
    int code = bars && colors ? CLI_OK : plot_fail_memory(plot);
    for (uint32_t i = 0; code == CLI_OK && i < layer->columns; i++)
        bars[i] = row[i];
    if (code == CLI_OK) {
        color_bars(bars, layer->columns, colors);
        struct panel panel = plot_maps_panel(layer, values, texts);
        bool named = texts->x && layer->columns <= TEXTS_MOST;
        panel.x.marked = marked;
        panel.x.marked_count = find_marked(colors, layer->columns, marked);
        name_marked(layer, &panel.x, named, name);
        if (!named) {
            panel.x.texts = NULL;
            panel.x.marked_count = 0;
        }
        struct chart chart = {.bars = bars,
                              .bar_colors = colors,
                              .bar_mark = COLOR_TOP,
                              .bar_mark_name = name,
                              .cells = panel.x,
                              .x_title = named ? "key token" : panel.x.title,
                              .y_title = "attention weight",
                              .from_zero = true,
                              .low = plot->options.vmin,
                              .high = plot->options.vmax};
        make_title(plot, choice, asked, texts, title);
        code = plot_chart(plot, &chart, WIDTH_ONE, title, ret_file);
    }
    free(bars);
    free(colors);
    return code;
}

int kind_tokens(struct plot *plot, const struct choice *choice, struct bytes *ret_file)
{
    const struct source_layer *layer = &plot->layers[choice->layer];
    struct map_texts texts = {NULL, NULL};
    struct asked asked;
    float *values = NULL;
    int code = plot_maps_read(plot, choice, &values);
    if (code == CLI_OK)
        code = find_query(plot, layer, values, &asked);
    if (code == CLI_OK)
        code = plot_maps_texts(plot, choice->layer, &texts);
    if (code == CLI_OK)
        code = draw(plot, choice, &asked, values, &texts, ret_file);
    plot_maps_texts_clear(&texts);
    free(values);
    return code;
}
