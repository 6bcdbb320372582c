/* SPDX-License-Identifier: MIT */
/* fonts: the one font of a figure, and how wide text in it is. Measured without hinting, so that a
 * text is as wide on paper as in pixels. One thread. */
#ifndef CLIENTS_CLI_PLOT_FONTS_H
#define CLIENTS_CLI_PLOT_FONTS_H

#include <pango/pangocairo.h>
#include <stdbool.h>
#include <stddef.h>

struct fonts;

/* `family` as fontconfig knows it; borrowed. Returns 0 or ERR_MEMORY. */
int fonts_new(const char *family, struct fonts **ret_fonts);
/* Accepts NULL. */
void fonts_free(struct fonts **fonts);
const char *fonts_family(const struct fonts *fonts);

/* The family that is drawn when the one that was asked for is not installed, to be freed; NULL: it
 * is, or is a generic name such as sans-serif, or memory is out. */
char *fonts_instead(const struct fonts *fonts);

/* Points. */
double fonts_width(struct fonts *fonts, const char *text, double size, bool bold);

/* Shortens a text, at the end of what people take for a letter, until it is at most `width` points
 * wide with an ellipsis. `text` has room for `room` bytes, at least 4 more than it has. */
void fonts_shorten(struct fonts *fonts, double size, double width, char *text, size_t room);

/* A laid-out line, for canvases; the caller's, until g_object_unref. */
PangoLayout *fonts_layout(struct fonts *fonts, const char *text, double size, bool bold);

#endif
