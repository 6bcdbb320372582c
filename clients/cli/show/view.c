/* SPDX-License-Identifier: MIT */
#include "clients/cli/show/internal.h"

#include <inttypes.h>
#include <string.h>

static void write_spot(uint32_t cell, uint32_t length, uint32_t cells, char ret_text[SPOT_MAX])
{
    uint32_t first = source_edge(cell, length, cells), last = source_edge(cell + 1, length, cells);
    if (last - first == 1) {
        snprintf(ret_text, SPOT_MAX, "%" PRIu32, first);
    } else {
        snprintf(ret_text, SPOT_MAX, "%" PRIu32 "-%" PRIu32, first, last - 1);
    }
}

void view_query_spot(const struct view *view, uint32_t row, char ret_text[SPOT_MAX])
{
    write_spot(row, view->layer->queries, view->layer->rows, ret_text);
}

void view_key_spot(const struct view *view, uint32_t column, char ret_text[SPOT_MAX])
{
    write_spot(column, view->layer->keys, view->layer->columns, ret_text);
}

const char *view_query_label(const struct view *view, uint32_t row)
{
    if (view->layer->rows < view->layer->queries) {
        return NULL;
    }
    return source_query_label(view->source, view->request->layer, view->request->sample, row);
}

const char *view_key_label(const struct view *view, uint32_t column)
{
    if (view->layer->columns < view->layer->keys) {
        return NULL;
    }
    return source_label(view->source, view->request->layer, view->request->sample, column);
}

int view_label_width(const struct view *view, int most)
{
    char text[TOKEN_FIT_BYTES];
    int widest = 0;
    for (uint32_t c = 0; c < view->layer->columns && widest < most; c++) {
        const char *label = view_key_label(view, c);
        int width = label ? token_fit(label, most, view->screen.utf8, text) : 0;
        widest = width > widest ? width : widest;
    }
    return widest;
}

void view_put_label(const struct view *view, const char *label, int width)
{
    char text[TOKEN_FIT_BYTES] = "";
    int used = label && width > 0 ? token_fit(label, width, view->screen.utf8, text) : 0;
    fprintf(view->screen.out, "%s%*s", text, width - used, "");
}

void view_head_text(const struct view *view, char ret_text[48])
{
    if (view->request->head != HEAD_MEAN) {
        snprintf(ret_text, 48, "head %" PRIu32, view->request->head);
    } else if (view->layer->heads == 1) {
        snprintf(ret_text, 48, "its only head");
    } else {
        snprintf(ret_text, 48, "the mean over %" PRIu32 " heads", view->layer->heads);
    }
}

void view_query_text(const struct view *view, char ret_text[QUERY_TEXT_MAX])
{
    char spot[SPOT_MAX], text[TOKEN_FIT_BYTES];
    const char *label = view_query_label(view, view->found->row);
    view_query_spot(view, view->found->row, spot);
    const char *noun = strchr(spot, '-') ? "queries" : "query";
    if (label) {
        token_fit(label, view->screen.width >= 60 ? 24 : 10, view->screen.utf8, text);
    }
    snprintf(ret_text, QUERY_TEXT_MAX, label ? "%s %s '%s'" : "%s %s", noun, spot,
             label ? text : "");
}
