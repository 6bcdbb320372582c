/* SPDX-License-Identifier: MIT */
/* Attention rollout: what each position of a stack's last layer takes from each position of its
 * input, through all layers up to the one that is chosen. */
#include "clients/cli/plot/measures.h"
#include "clients/cli/plot/plot_site.h"

#include "clients/cli/plot/label.h"
#include "workers/maps/rollout.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct rolling {
    enum stack stack;
    uint32_t last;   /* layer number */
    uint32_t n;      /* cells of a side */
    double *rollout; /* [n][n] */
    double *work;
    size_t layer; /* the last one that went in */
    uint32_t layers;
};

static int start(struct plot *plot, struct rolling *rolling, size_t layer)
{
    const struct source_layer *of = &plot->layers[layer];
    if (of->rows != of->columns)
        return plot_fail(plot, CLI_FINDING,
                         "rollout needs square maps, and these are %" PRIu32 " x %" PRIu32,
                         of->queries, of->keys);
    rolling->n = of->rows;
    rolling->rollout = calloc((size_t)of->rows * of->rows, sizeof(double));
    rolling->work = calloc((size_t)of->rows * (of->rows + 1), sizeof(double));
    if (!rolling->rollout || !rolling->work)
        return plot_fail_memory(plot);
    for (uint32_t i = 0; i < of->rows; i++)
        rolling->rollout[(size_t)i * of->rows + i] = 1;
    return CLI_OK;
}

static int add_layer(struct plot *plot, struct rolling *rolling, size_t layer)
{
    const struct source_layer *of = &plot->layers[layer];
    struct choice choice = {.layer = layer, .mean = true};
    float *mean = NULL;
    int code = rolling->layers == 0 ? start(plot, rolling, layer) : CLI_OK;
    if (code == CLI_OK && (of->rows != rolling->n || of->columns != rolling->n))
        code = plot_fail(plot, CLI_FINDING,
                         "rollout needs maps of one size, and layer %" PRIu32 " has another",
                         of->id.layer);
    if (code == CLI_OK)
        code = plot_maps_read(plot, &choice, &mean);
    if (code != CLI_OK)
        return code;
    rollout_add(mean, rolling->n, of->keys, rolling->rollout, rolling->work);
    rolling->layer = layer;
    rolling->layers++;
    free(mean);
    return CLI_OK;
}

static int roll(struct plot *plot, struct rolling *rolling)
{
    int code = CLI_OK;
    for (size_t i = 0; i < plot->layer_count && code == CLI_OK; i++) {
        const struct layer_id *id = &plot->layers[i].id;
        if (id->stack == rolling->stack && id->site == SITE_SELF && id->layer <= rolling->last)
            code = add_layer(plot, rolling, i);
    }
    if (code == CLI_OK && rolling->layers == 0)
        return plot_fail(plot, CLI_USAGE, "rollout needs self-attention, and the %s has none",
                         stack_name(rolling->stack));
    return code;
}

static int draw(struct plot *plot, const struct rolling *rolling, struct bytes *ret_file)
{
    size_t cells = (size_t)rolling->n * rolling->n;
    float *values = malloc(cells * sizeof(*values));
    struct map_texts texts;
    char title[TITLE_MAX], details[DETAILS_MAX];
    if (!values)
        return plot_fail_memory(plot);
    for (size_t i = 0; i < cells; i++)
        values[i] = (float)rolling->rollout[i];
    int code = plot_maps_texts(plot, rolling->layer, &texts);
    if (code == CLI_OK) {
        struct panel panel = plot_maps_panel(&plot->layers[rolling->layer], values, &texts);
        struct panels panels = {
            .items = &panel, .count = 1, .shared = true, .bar_title = "attention rollout"};
        panel.x.title = "input position";
        panel.x.text_title = "input token";
        panel.y.title = "output position";
        panel.y.text_title = "output token";
        plot_maps_details(plot, rolling->layer, details);
        snprintf(title, sizeof(title), "%s, rollout through %" PRIu32 " layer%s%s",
                 stack_name(rolling->stack), rolling->layers, rolling->layers == 1 ? "" : "s",
                 details);
        struct page page = plot_page(plot, WIDTH_ONE, title);
        code = plot_panels(plot, &panels, &page, ret_file);
        plot_maps_texts_clear(&texts);
    }
    free(values);
    return code;
}

/* --site names the stack, --layer the last layer. */
int kind_rollout(struct plot *plot, const struct choice *choice, struct bytes *ret_file)
{
    struct layer_id id = plot->layers[choice->layer].id;
    struct rolling rolling = {.last = plot->options.layer ? id.layer : UINT32_MAX};
    int code = plot->options.site ? plot_site_find(plot, true, &id) : CLI_OK;
    rolling.stack = id.stack;
    if (code == CLI_OK)
        code = roll(plot, &rolling);
    if (code == CLI_OK)
        code = draw(plot, &rolling, ret_file);
    free(rolling.rollout);
    free(rolling.work);
    return code;
}
