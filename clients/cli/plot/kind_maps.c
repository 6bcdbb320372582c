/* SPDX-License-Identifier: MIT */
/* Figures of maps as they are: one, all heads of a layer, one site across layers, the three sites
 * of a layer. */
#include "clients/cli/plot/plot_maps.h"
#include "clients/cli/plot/plot_site.h"

#include "clients/cli/plot/label.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BAR_TITLE "attention weight"

static int out_of_panels(struct plot *plot, struct panel *panels, uint32_t count, bool shared,
                         double inches, const char *title, struct bytes *ret_file)
{
    struct panels all = {.items = panels, .count = count, .shared = shared, .bar_title = BAR_TITLE};
    struct page page = plot_page(plot, count == 1 ? WIDTH_ONE : inches, title);
    return plot_panels(plot, &all, &page, ret_file);
}

int kind_heatmap(struct plot *plot, const struct choice *choice, struct bytes *ret_file)
{
    char title[TITLE_MAX];
    struct map_texts texts = {NULL, NULL};
    float *values = NULL;
    int code = plot_maps_read(plot, choice, &values);
    if (code == CLI_OK)
        code = plot_maps_texts(plot, choice->layer, &texts);
    if (code == CLI_OK) {
        struct panel panel = plot_maps_panel(&plot->layers[choice->layer], values, &texts);
        plot_maps_title(plot, choice, title);
        code = out_of_panels(plot, &panel, 1, true, WIDTH_ONE, title, ret_file);
    }
    plot_maps_texts_clear(&texts);
    free(values);
    return code;
}

/* All heads -------------------------------------------------------------------------------------
 */

static int draw_heads(struct plot *plot, size_t layer, const float *values,
                      const struct map_texts *texts, struct bytes *ret_file)
{
    const struct source_layer *of = &plot->layers[layer];
    size_t cells = (size_t)of->rows * of->columns;
    char title[TITLE_MAX], place[PLACE_TEXT_MAX], details[DETAILS_MAX];
    struct panel *panels = calloc(of->heads, sizeof(*panels));
    if (!panels)
        return plot_fail_memory(plot);
    for (uint32_t head = 0; head < of->heads; head++) {
        panels[head] = plot_maps_panel(of, values + head * cells, texts);
        snprintf(panels[head].title, PANEL_TITLE_MAX, "head %" PRIu32, head);
    }
    place_layer(of->id, place);
    plot_maps_details(plot, layer, details);
    snprintf(title, sizeof(title), "%s%s", place, details);
    int code = out_of_panels(plot, panels, of->heads, true, WIDTH_TWO, title, ret_file);
    free(panels);
    return code;
}

int kind_heads(struct plot *plot, const struct choice *choice, struct bytes *ret_file)
{
    struct map_texts texts = {NULL, NULL};
    float *values = NULL;
    int code = plot_maps_read_heads(plot, choice->layer, &values);
    if (code == CLI_OK)
        code = plot_maps_texts(plot, choice->layer, &texts);
    if (code == CLI_OK)
        code = draw_heads(plot, choice->layer, values, &texts, ret_file);
    plot_maps_texts_clear(&texts);
    free(values);
    return code;
}

/* Maps of several layers ------------------------------------------------------------------------
 */

struct gallery {
    struct panel *panels; /* [room] */
    float **values;       /* [room] */
    struct map_texts *texts;
    uint32_t count, room;
};

static int gallery_new(struct plot *plot, size_t room, struct gallery *ret_gallery)
{
    struct gallery gallery = {.room = (uint32_t)room};
    gallery.panels = calloc(room, sizeof(*gallery.panels));
    gallery.values = calloc(room, sizeof(*gallery.values));
    gallery.texts = calloc(room, sizeof(*gallery.texts));
    *ret_gallery = gallery;
    return gallery.panels && gallery.values && gallery.texts ? CLI_OK : plot_fail_memory(plot);
}

static void gallery_clear(struct gallery *gallery)
{
    for (uint32_t i = 0; gallery->values && gallery->texts && i < gallery->room; i++) {
        free(gallery->values[i]);
        plot_maps_texts_clear(&gallery->texts[i]);
    }
    free(gallery->panels);
    free(gallery->values);
    free(gallery->texts);
}

static int gallery_add(struct plot *plot, struct gallery *gallery, const struct choice *choice,
                       const char *title)
{
    uint32_t at = gallery->count;
    int code = plot_maps_read(plot, choice, &gallery->values[at]);
    if (code == CLI_OK)
        code = plot_maps_texts(plot, choice->layer, &gallery->texts[at]);
    if (code != CLI_OK)
        return code;
    gallery->panels[at] =
        plot_maps_panel(&plot->layers[choice->layer], gallery->values[at], &gallery->texts[at]);
    snprintf(gallery->panels[at].title, PANEL_TITLE_MAX, "%s", title);
    gallery->count++;
    return CLI_OK;
}

static bool is_same_texts(const char *const *a, const char *const *b, uint32_t count)
{
    for (uint32_t i = 0; a && b && i < count; i++)
        if (!a[i] || !b[i] ? a[i] != b[i] : strcmp(a[i], b[i]) != 0)
            return false;
    return !a == !b;
}

/* Whether the axes of one panel say what those of all others would. */
static bool is_alike(const struct gallery *gallery)
{
    const struct heat *first = &gallery->panels[0].heat;
    for (uint32_t i = 1; i < gallery->count; i++) {
        const struct heat *heat = &gallery->panels[i].heat;
        if (heat->queries != first->queries || heat->keys != first->keys ||
            heat->q_offset != first->q_offset ||
            !is_same_texts(gallery->texts[i].x, gallery->texts[0].x, heat->columns) ||
            !is_same_texts(gallery->texts[i].y, gallery->texts[0].y, heat->rows))
            return false;
    }
    return true;
}

static int draw_site(struct plot *plot, const struct choice *choice, struct layer_id site,
                     struct gallery *gallery, struct bytes *ret_file)
{
    struct choice each = *choice;
    char title[TITLE_MAX], head[48] = "", details[DETAILS_MAX] = "", text[PANEL_TITLE_MAX];
    int code = CLI_OK;
    for (each.layer = 0; each.layer < plot->layer_count && code == CLI_OK; each.layer++) {
        const struct source_layer *layer = &plot->layers[each.layer];
        if (!plot_site_is_same(layer->id, site))
            continue;
        snprintf(text, sizeof(text), "layer %" PRIu32, layer->id.layer);
        code = gallery_add(plot, gallery, &each, text);
        plot_maps_head_text(plot, &each, head);
        plot_maps_details(plot, each.layer, details);
    }
    if (code != CLI_OK)
        return code;
    snprintf(title, sizeof(title), "%s.%s attention, %s%s", stack_name(site.stack),
             site_name(site.site), head, details);
    return out_of_panels(plot, gallery->panels, gallery->count, is_alike(gallery), WIDTH_TWO, title,
                         ret_file);
}

int kind_layers(struct plot *plot, const struct choice *choice, struct bytes *ret_file)
{
    struct layer_id site = plot->layers[choice->layer].id;
    struct gallery gallery;
    int code = gallery_new(plot, plot->layer_count, &gallery);
    if (code == CLI_OK && plot->options.site)
        code = plot_site_find(plot, false, &site);
    if (code == CLI_OK)
        code = draw_site(plot, choice, site, &gallery, ret_file);
    gallery_clear(&gallery);
    return code;
}

/* Encoder, decoder, and across ------------------------------------------------------------------
 */

static const struct {
    enum stack stack;
    enum site site;
    const char *title, *x, *x_text, *y, *y_text;
} flows[] = {
    {STACK_ENCODER, SITE_SELF, "encoder self-attention", "encoder position", "encoder token",
     "encoder position", "encoder token"},
    {STACK_DECODER, SITE_SELF, "decoder self-attention", "decoder position", "decoder token",
     "decoder position", "decoder token"},
    {STACK_DECODER, SITE_CROSS, "cross-attention", "encoder position", "encoder token",
     "decoder position", "decoder token"},
};
enum { FLOWS = sizeof(flows) / sizeof(flows[0]) };

static int add_flow(struct plot *plot, const struct choice *choice, int flow,
                    struct gallery *gallery)
{
    struct choice each = *choice;
    uint32_t number = plot->layers[choice->layer].id.layer;
    for (each.layer = 0; each.layer < plot->layer_count; each.layer++) {
        const struct layer_id *id = &plot->layers[each.layer].id;
        if (id->stack != flows[flow].stack || id->site != flows[flow].site || id->layer != number)
            continue;
        int code = gallery_add(plot, gallery, &each, flows[flow].title);
        if (code != CLI_OK)
            return code;
        struct panel *panel = &gallery->panels[gallery->count - 1];
        panel->x.title = flows[flow].x;
        panel->x.text_title = flows[flow].x_text;
        panel->y.title = flows[flow].y;
        panel->y.text_title = flows[flow].y_text;
    }
    return CLI_OK;
}

static int draw_flow(struct plot *plot, const struct choice *choice, struct gallery *gallery,
                     struct bytes *ret_file)
{
    char title[TITLE_MAX], head[48], details[DETAILS_MAX];
    int code = CLI_OK;
    for (int i = 0; i < FLOWS && code == CLI_OK; i++)
        code = add_flow(plot, choice, i, gallery);
    if (code != CLI_OK)
        return code;
    plot_maps_head_text(plot, choice, head);
    plot_maps_details(plot, choice->layer, details);
    snprintf(title, sizeof(title), "layer %" PRIu32 ", %s%s", plot->layers[choice->layer].id.layer,
             head, details);
    return out_of_panels(plot, gallery->panels, gallery->count, false, WIDTH_TWO, title, ret_file);
}

int kind_flow(struct plot *plot, const struct choice *choice, struct bytes *ret_file)
{
    struct gallery gallery;
    int code = gallery_new(plot, FLOWS, &gallery);
    if (code == CLI_OK)
        code = draw_flow(plot, choice, &gallery, ret_file);
    gallery_clear(&gallery);
    return code;
}
