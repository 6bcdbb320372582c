/* SPDX-License-Identifier: MIT */
/* Selects and orders the heads and layers that are shown. Heads without a number come last in
 * either order; equal heads keep the model's order, so that the list does not jump. */
#include "clients/cli/top/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Filtering: every word of the filter is in the name, the pattern or the rule of its alert. */

static bool rows_contains(const char *text, const char *word, size_t length)
{
    for (; *text; text++) {
        if (strncasecmp(text, word, length) == 0) {
            return true;
        }
    }
    return false;
}

struct texts {
    const char *text[3];
};

static bool any_contains(const struct texts *texts, const char *word, size_t length)
{
    for (int i = 0; i < 3; i++) {
        if (rows_contains(texts->text[i], word, length)) {
            return true;
        }
    }
    return false;
}

static const char *rows_rule_of(const struct model *model, int alert)
{
    return alert >= 0 ? model->alerts[alert].rule : "";
}

static bool shows_head(const struct model *model, const struct layer *layer, uint32_t head)
{
    char place[MODEL_PLACE_MAX];
    if (model->ui.filter[0] == '\0') {
        return true;
    }
    model_place(layer->stack, layer->layer, layer->site, head, place);
    struct texts texts = {
        {place, layer->heads[head].pattern, rows_rule_of(model, layer->heads[head].alert)}};
    const char *filter = model->ui.filter;
    for (;;) {
        filter += strspn(filter, " ");
        size_t length = strcspn(filter, " ");
        if (length == 0) {
            return true;
        }
        if (!any_contains(&texts, filter, length)) {
            return false;
        }
        filter += length;
    }
}

/* A layer is shown when it, or one of its heads, is. */
static bool shows_layer(const struct model *model, const struct layer *layer)
{
    for (uint32_t head = 0; head < layer->head_count; head++) {
        if (shows_head(model, layer, head)) {
            return true;
        }
    }
    return false;
}

/* Sorting */

static int compare_numbers(double a, double b)
{
    if (isnan(a) || isnan(b)) {
        return !!isnan(a) - !!isnan(b);
    }
    return (a < b) - (a > b);
}

/* Heads without a number come last in either order. */
static int compare_reversible(double a, double b, bool reversed)
{
    int order = compare_numbers(a, b);
    return reversed && !isnan(a) && !isnan(b) ? -order : order;
}

struct keys {
    double first, second;
};

static int compare_keys(const struct keys *a, const struct keys *b, bool reversed)
{
    int order = compare_reversible(a->first, b->first, reversed);
    return order ? order : compare_reversible(a->second, b->second, reversed);
}

static double urgency(const struct model *model, int alert, bool own)
{
    return alert < 0 ? 0 : 2 * (double)model->alerts[alert].severity + own;
}

static struct keys head_keys(const struct model *model, const struct row *row)
{
    const struct head *head = &model->layers[row->layer].heads[row->head];
    switch (model->sort) {
    case SORT_URGENCY:
        return (struct keys){urgency(model, head->alert, head->alert_own), fabs(head->z)};
    case SORT_VALUE:
        return (struct keys){head->value, 0};
    case SORT_DRIFT:
        return (struct keys){fabs(head->z), 0};
    case SORT_METRIC:
        return (struct keys){head->by, 0};
    default:
        return (struct keys){0, 0};
    }
}

static struct keys layer_keys(const struct model *model, uint32_t index)
{
    const struct layer *layer = &model->layers[index];
    switch (model->sort) {
    case SORT_URGENCY:
        return (struct keys){urgency(model, layer->alert, true), fabs(model_layer_z(layer))};
    case SORT_DRIFT:
        return (struct keys){fabs(model_layer_z(layer)), 0};
    case SORT_VALUE:
        return (struct keys){model_spread(layer).mean, 0};
    case SORT_METRIC:
        return (struct keys){model_layer_by(layer), 0};
    default:
        return (struct keys){0, 0};
    }
}

static int compare_indices(uint32_t a, uint32_t b)
{
    return (a > b) - (a < b);
}

static int rows_compare_rows(const void *left, const void *right, void *data)
{
    const struct row *a = left, *b = right;
    const struct model *model = data;
    struct keys key_a = head_keys(model, a), key_b = head_keys(model, b);
    int order = compare_keys(&key_a, &key_b, model->reversed);
    if (order != 0) {
        return order;
    }
    order = compare_indices(a->layer, b->layer);
    order = order ? order : compare_indices(a->head, b->head);
    return model->sort == SORT_PLACE && model->reversed ? -order : order;
}

static int compare_layer_rows(const void *left, const void *right, void *data)
{
    const uint32_t *a = left, *b = right;
    const struct model *model = data;
    struct keys key_a = layer_keys(model, *a), key_b = layer_keys(model, *b);
    int order = compare_keys(&key_a, &key_b, model->reversed);
    order = order ? order : compare_indices(*a, *b);
    return model->sort == SORT_PLACE && model->reversed ? -order : order;
}

/* The rows anew, in the model's order. */
static void rows_collect(struct model *model)
{
    model->row_count = model->layer_row_count = 0;
    for (uint32_t i = 0; i < model->layer_count; i++) {
        const struct layer *layer = &model->layers[i];
        if (shows_layer(model, layer)) {
            model->layer_rows[model->layer_row_count++] = i;
        }
        for (uint32_t head = 0; head < layer->head_count; head++) {
            if (shows_head(model, layer, head)) {
                model->rows[model->row_count++] = (struct row){i, head};
            }
        }
    }
}

static void sort(struct model *model)
{
    if (model->row_count > 0) {
        qsort_r(model->rows, model->row_count, sizeof *model->rows, rows_compare_rows, model);
    }
    if (model->layer_row_count > 0) {
        qsort_r(model->layer_rows, model->layer_row_count, sizeof *model->layer_rows,
                compare_layer_rows, model);
    }
}

/* Following: a row that the user went to is chosen wherever it goes. The first row is a place: a
 * user who looks there wants to see the top. */

void model_arrange(struct model *model)
{
    uint32_t head = model->ui.heads.at, layer = model->ui.layers.at;
    bool head_followed = head > 0 && head < model->row_count;
    bool layer_followed = layer > 0 && layer < model->layer_row_count;
    struct row chosen_head = head_followed ? model->rows[head] : (struct row){0, 0};
    uint32_t chosen_layer = layer_followed ? model->layer_rows[layer] : 0;
    rows_collect(model);
    sort(model);
    if (head_followed) {
        for (uint32_t i = 0; i < model->row_count; i++) {
            if (model->rows[i].layer == chosen_head.layer &&
                model->rows[i].head == chosen_head.head) {
                model->ui.heads.at = i;
            }
        }
    }
    if (layer_followed) {
        for (uint32_t i = 0; i < model->layer_row_count; i++) {
            if (model->layer_rows[i] == chosen_layer) {
                model->ui.layers.at = i;
            }
        }
    }
}
