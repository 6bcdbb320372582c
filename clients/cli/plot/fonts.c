/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/fonts.h"

#include "proto/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char ellipsis[] = "\xe2\x80\xa6";

struct fonts {
    const char *family;
    PangoFontMap *map;
    PangoContext *context;
    PangoFontDescription *plain, *bold;
};

static PangoFontDescription *describe(const char *family, PangoWeight weight)
{
    PangoFontDescription *font = pango_font_description_new();
    pango_font_description_set_family(font, family);
    pango_font_description_set_weight(font, weight);
    return font;
}

/* Neither hints nor subpixels: what is drawn does not depend on the user's desktop. */
static void set_options(PangoContext *context)
{
    cairo_font_options_t *options = cairo_font_options_create();
    cairo_font_options_set_antialias(options, CAIRO_ANTIALIAS_GRAY);
    cairo_font_options_set_hint_style(options, CAIRO_HINT_STYLE_NONE);
    cairo_font_options_set_hint_metrics(options, CAIRO_HINT_METRICS_OFF);
    pango_cairo_context_set_font_options(context, options);
    pango_context_set_round_glyph_positions(context, FALSE);
    cairo_font_options_destroy(options);
}

int fonts_new(const char *family, struct fonts **ret_fonts)
{
    struct fonts *fonts = calloc(1, sizeof(*fonts));
    if (!fonts)
        return ERR_MEMORY;
    fonts->family = family;
    fonts->map = pango_cairo_font_map_new();
    pango_cairo_font_map_set_resolution(PANGO_CAIRO_FONT_MAP(fonts->map), 72);
    fonts->context = pango_font_map_create_context(fonts->map);
    pango_context_set_language(fonts->context, pango_language_from_string("en"));
    pango_context_set_base_dir(fonts->context, PANGO_DIRECTION_LTR);
    set_options(fonts->context);
    fonts->plain = describe(family, PANGO_WEIGHT_NORMAL);
    fonts->bold = describe(family, PANGO_WEIGHT_BOLD);
    *ret_fonts = fonts;
    return 0;
}

void fonts_free(struct fonts **fonts)
{
    struct fonts *old = *fonts;
    if (!old)
        return;
    pango_font_description_free(old->plain);
    pango_font_description_free(old->bold);
    g_object_unref(old->context);
    g_object_unref(old->map);
    free(old);
    *fonts = NULL;
}

const char *fonts_family(const struct fonts *fonts)
{
    return fonts->family;
}

static bool is_generic(const char *family)
{
    static const char *const names[] = {"sans-serif", "sans",    "serif",    "monospace",
                                        "mono",       "cursive", "system-ui"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcasecmp(family, names[i]) == 0)
            return true;
    return false;
}

/* Of several families with commas the first that is there is taken. */
static bool is_among(const char *family, const char *wanted)
{
    while (*wanted) {
        char name[128];
        wanted += strspn(wanted, ", ");
        size_t length = strcspn(wanted, ",");
        snprintf(name, sizeof(name), "%.*s", (int)length, wanted);
        if (is_generic(name) || strcasecmp(name, family) == 0)
            return true;
        wanted += length;
    }
    return false;
}

char *fonts_instead(const struct fonts *fonts)
{
    PangoFont *font = pango_font_map_load_font(fonts->map, fonts->context, fonts->plain);
    PangoFontDescription *loaded = font ? pango_font_describe(font) : NULL;
    const char *family = loaded ? pango_font_description_get_family(loaded) : NULL;
    char *instead = family && !is_among(family, fonts->family) ? strdup(family) : NULL;
    if (loaded)
        pango_font_description_free(loaded);
    if (font)
        g_object_unref(font);
    return instead;
}

PangoLayout *fonts_layout(struct fonts *fonts, const char *text, double size, bool bold)
{
    PangoLayout *layout = pango_layout_new(fonts->context);
    PangoFontDescription *font = bold ? fonts->bold : fonts->plain;
    pango_font_description_set_absolute_size(font, size * PANGO_SCALE);
    pango_layout_set_font_description(layout, font);
    pango_layout_set_single_paragraph_mode(layout, TRUE);
    pango_layout_set_text(layout, text, -1);
    return layout;
}

static double width_of(PangoLayout *layout)
{
    PangoRectangle extents;
    pango_layout_get_extents(layout, NULL, &extents);
    return (double)extents.width / PANGO_SCALE;
}

double fonts_width(struct fonts *fonts, const char *text, double size, bool bold)
{
    PangoLayout *layout = fonts_layout(fonts, text, size, bold);
    double width = width_of(layout);
    g_object_unref(layout);
    return width;
}

/* Where letters as people see them end: byte offsets, from the last but one to the first. Returns
 * how many. */
static size_t letter_ends(struct fonts *fonts, const char *text, size_t *ret_ends)
{
    int count;
    size_t found = 0;
    PangoLayout *layout = fonts_layout(fonts, text, 8, false);
    const PangoLogAttr *attrs = pango_layout_get_log_attrs_readonly(layout, &count);
    for (int i = count - 2; i > 0; i--)
        if (attrs[i].is_cursor_position)
            ret_ends[found++] = (size_t)(g_utf8_offset_to_pointer(text, i) - text);
    g_object_unref(layout);
    return found;
}

void fonts_shorten(struct fonts *fonts, double size, double width, char *text, size_t room)
{
    size_t length = strlen(text), count;
    if (length + sizeof(ellipsis) > room || fonts_width(fonts, text, size, false) <= width)
        return;
    size_t *ends = malloc((length + 1) * sizeof(*ends));
    if (!ends)
        return; /* a long text is better than none */
    count = letter_ends(fonts, text, ends);
    for (size_t i = 0; i < count; i++) {
        memcpy(text + ends[i], ellipsis, sizeof(ellipsis));
        if (fonts_width(fonts, text, size, false) <= width)
            break;
    }
    free(ends);
}
