/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/plot_maps.h"

#include "clients/cli/plot/label.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

uint32_t plot_maps_sample(const struct plot *plot, size_t layer)
{
    return plot->options.has_sample ? plot->options.sample : plot->layers[layer].first_sample;
}

static size_t cells_of(const struct source_layer *layer)
{
    return (size_t)layer->rows * layer->columns;
}

/* source_map or source_mean into memory that is there. */
static int read_into(struct plot *plot, const struct choice *choice, float *ret_values)
{
    uint32_t sample = plot_maps_sample(plot, choice->layer);
    return choice->mean ? source_mean(plot->source, choice->layer, sample, ret_values, plot->error)
                        : source_map(plot->source, choice->layer, sample, choice->head, ret_values,
                                     plot->error);
}

static int check(struct plot *plot, const struct choice *choice)
{
    uint32_t sample = plot_maps_sample(plot, choice->layer), head = choice->mean ? 0 : choice->head;
    int code = source_check(plot->source, choice->layer, sample, head, plot->error);
    return code == CLI_OK ? source_check_labels(plot->source, choice->layer, plot->error) : code;
}

int plot_maps_read(struct plot *plot, const struct choice *choice, float **ret_values)
{
    int code = check(plot, choice);
    if (code != CLI_OK)
        return code;
    float *values = calloc(cells_of(&plot->layers[choice->layer]), sizeof(*values));
    if (!values)
        return plot_fail_memory(plot);
    code = read_into(plot, choice, values);
    if (code == CLI_OK)
        *ret_values = values;
    else
        free(values);
    return code;
}

int plot_maps_read_heads(struct plot *plot, size_t layer, float **ret_values)
{
    const struct source_layer *of = &plot->layers[layer];
    struct choice choice = {.layer = layer};
    int code = check(plot, &choice);
    if (code != CLI_OK)
        return code;
    float *values = calloc(cells_of(of) * of->heads, sizeof(*values));
    if (!values)
        return plot_fail_memory(plot);
    for (; choice.head < of->heads && code == CLI_OK; choice.head++)
        code = read_into(plot, &choice, values + choice.head * cells_of(of));
    if (code == CLI_OK)
        *ret_values = values;
    else
        free(values);
    return code;
}

struct heat plot_maps_heat(const struct source_layer *layer, const float *values)
{
    struct heat heat = {.values = values,
                        .rows = layer->rows,
                        .columns = layer->columns,
                        .queries = layer->queries,
                        .keys = layer->keys,
                        .causal = layer->causal,
                        .q_offset = layer->q_offset};
    heat_find_padding(&heat, layer->id.site == SITE_SELF);
    return heat;
}

/* Texts ------------------------------------------------------------------------------------------
 */

typedef const char *text_of(struct source *source, size_t layer, uint32_t sample, uint32_t at);

/* NULL in *ret_texts when none has a text. */
static int collect(struct plot *plot, size_t layer, uint32_t count, text_of *text,
                   const char ***ret_texts)
{
    bool any = false;
    const char **texts = calloc(count, sizeof(*texts));
    if (!texts)
        return plot_fail_memory(plot);
    for (uint32_t i = 0; i < count; i++) {
        texts[i] = text(plot->source, layer, plot_maps_sample(plot, layer), i);
        any = any || texts[i];
    }
    if (!any) {
        free(texts);
        texts = NULL;
    }
    *ret_texts = texts;
    return CLI_OK;
}

/* A pooled cell stands for several tokens: no text is its own. */
int plot_maps_texts(struct plot *plot, size_t layer, struct map_texts *ret_texts)
{
    const struct source_layer *of = &plot->layers[layer];
    struct map_texts texts = {NULL, NULL};
    int code = CLI_OK;
    if (of->columns == of->keys)
        code = collect(plot, layer, of->columns, source_label, &texts.x);
    if (code == CLI_OK && of->rows == of->queries)
        code = collect(plot, layer, of->rows, source_query_label, &texts.y);
    if (code == CLI_OK)
        *ret_texts = texts;
    else
        plot_maps_texts_clear(&texts);
    return code;
}

void plot_maps_texts_clear(struct map_texts *texts)
{
    free(texts->x);
    free(texts->y);
    *texts = (struct map_texts){NULL, NULL};
}

struct panel plot_maps_panel(const struct source_layer *layer, const float *values,
                             const struct map_texts *texts)
{
    struct panel panel = {.heat = plot_maps_heat(layer, values)};
    panel.x = (struct cell_axis){.title = "key position",
                                 .text_title = "key token",
                                 .count = layer->columns,
                                 .total = layer->keys,
                                 .texts = texts ? texts->x : NULL};
    panel.y = (struct cell_axis){.title = "query position",
                                 .text_title = "query token",
                                 .count = layer->rows,
                                 .total = layer->queries,
                                 .first = layer->q_offset,
                                 .texts = texts ? texts->y : NULL};
    return panel;
}

void plot_maps_head_text(const struct plot *plot, const struct choice *choice, char ret_text[48])
{
    uint32_t heads = plot->layers[choice->layer].heads;
    if (!choice->mean)
        snprintf(ret_text, 48, "head %" PRIu32, choice->head);
    else
        snprintf(ret_text, 48, "mean of %" PRIu32 " head%s", heads, heads == 1 ? "" : "s");
}

void plot_maps_details(const struct plot *plot, size_t layer, char ret_text[DETAILS_MAX])
{
    const struct source_layer *of = &plot->layers[layer];
    char step[40] = "", sample[40] = "", pooled[48] = "";
    if (plot->options.has_sample)
        snprintf(sample, sizeof(sample), ", sample %" PRIu32, plot->options.sample);
    if (source_kind(plot->source) != SOURCE_FILES)
        snprintf(step, sizeof(step), ", step %" PRIu64, of->step);
    if (of->rows < of->queries || of->columns < of->keys)
        snprintf(pooled, sizeof(pooled), ", pooled to %" PRIu32 " x %" PRIu32, of->rows,
                 of->columns);
    snprintf(ret_text, DETAILS_MAX, "%s%s%s", sample, step, pooled);
}

void plot_maps_title(const struct plot *plot, const struct choice *choice, char *ret_title)
{
    char place[PLACE_TEXT_MAX], head[48], details[DETAILS_MAX];
    place_layer(plot->layers[choice->layer].id, place);
    plot_maps_head_text(plot, choice, head);
    plot_maps_details(plot, choice->layer, details);
    snprintf(ret_title, TITLE_MAX, "%s, %s%s", place, head, details);
}
