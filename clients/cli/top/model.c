/* SPDX-License-Identifier: MIT */
#include "clients/cli/top/internal.h"

#include "clients/cli/base/system.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define USUAL_METRIC "entropy_normalized"

struct model *model_new(void)
{
    struct model *model = memory_new(1, sizeof *model);
    model->rows = memory_new(TOP_RUNS_MAX, sizeof *model->rows);
    model->silent_since_ms = -1;
    model->health.rate = NAN;
    strcpy(model->metric, USUAL_METRIC);
    return model;
}

static void free_layers(struct opened *opened)
{
    for (uint32_t i = 0; i < opened->layer_count; i++) {
        free(opened->layers[i].now);
        free(opened->layers[i].past);
    }
    free(opened->layers);
    opened->layers = NULL;
    opened->layer_count = opened->windows = 0;
}

void model_free(struct model **model)
{
    if (*model) {
        free_layers(&(*model)->opened);
        free((*model)->rows);
        free(*model);
        *model = NULL;
    }
}

void model_open(struct model *model, const char *job, const char *run)
{
    free_layers(&model->opened);
    memset(&model->opened, 0, sizeof model->opened);
    snprintf(model->opened.job, sizeof model->opened.job, "%s", job);
    model->opened.run = run;
    const struct run_row *row = run ? NULL : model_row(model, job);
    if (row) {
        model->opened.known = true;
        model->opened.row = *row;
    }
    model->page = PAGE_LAYERS;
    model->lists[PAGE_LAYERS] = model->lists[PAGE_ALERTS] = (struct list){0};
    model->generation++;
}

void model_close_run(struct model *model)
{
    model_open(model, "", NULL);
    model->page = PAGE_RUNS;
}

void model_choose_metric(struct model *model, const char *metric)
{
    snprintf(model->metric, sizeof model->metric, "%s", metric);
    free_layers(&model->opened);
    model->page = model->page == PAGE_HEADS ? PAGE_LAYERS : model->page;
    model->generation++;
}

enum severity model_row_severity(const struct run_row *row)
{
    if (row->runs > 1) { /* what fires may be of another run */
        return row->known ? row->worst.severity : SEVERITY_NONE;
    }
    return row->severity;
}

struct run_row *model_row(struct model *model, const char *job)
{
    for (uint32_t i = 0; i < model->row_count; i++) {
        if (strcmp(model->rows[i].job, job) == 0) {
            return &model->rows[i];
        }
    }
    return NULL;
}

/* The list of runs */

/* Warnings and worse first; then those that go on; then by name, so that rows stay where they are.
 */
static int compare_rows(const void *left, const void *right)
{
    const struct run_row *a = left, *b = right;
    int grave = (int)(b->severity > SEVERITY_INFO ? b->severity : 0) -
                (int)(a->severity > SEVERITY_INFO ? a->severity : 0);
    int over = (int)a->over - (int)b->over;
    return grave ? grave : over ? over : strcmp(a->job, b->job);
}

void model_chosen(const struct model *model, char ret_job[JOB_NAME_MAX + 1])
{
    uint32_t at = model->lists[PAGE_RUNS].at;
    bool any = at > 0 && at < model->shown_count;
    strcpy(ret_job, any ? model->rows[model->shown[at]].job : "");
}

void model_arrange(struct model *model, const char *chosen)
{
    struct list *list = &model->lists[PAGE_RUNS];
    qsort(model->rows, model->row_count, sizeof *model->rows, compare_rows);
    model->shown_count = 0;
    for (uint32_t i = 0; i < model->row_count; i++) {
        if (strcasestr(model->rows[i].job, model->filter)) {
            list->at = strcmp(model->rows[i].job, chosen) == 0 ? model->shown_count : list->at;
            model->shown[model->shown_count++] = i;
        }
    }
}

/* Layers */

static int compare_places(const struct top_place *a, const struct top_place *b)
{
    int order = strcmp(b->stack, a->stack); /* encoder before decoder, self before cross */
    order = order ? order : (a->layer > b->layer) - (a->layer < b->layer);
    return order ? order : strcmp(b->site, a->site);
}

bool top_place_is_same(const struct top_place *a, const struct top_place *b)
{
    return compare_places(a, b) == 0 && a->head == b->head;
}

struct layer *model_layer(struct model *model, const struct top_place *place, uint32_t heads)
{
    struct opened *opened = &model->opened;
    uint32_t at = 0;
    while (at < opened->layer_count && compare_places(&opened->layers[at].place, place) < 0) {
        at++;
    }
    if (at < opened->layer_count && compare_places(&opened->layers[at].place, place) == 0) {
        return &opened->layers[at];
    }
    if (heads == 0 || heads > TOP_HEADS_MAX || opened->layer_count == TOP_LAYERS_MAX) {
        return NULL;
    }
    struct layer *layers =
        memory_grow(opened->layers, opened->layer_count + 1, sizeof *opened->layers);
    double *now = memory_new(heads, sizeof *now);
    opened->layers = layers;
    for (size_t i = 0; i < heads; i++) {
        now[i] = NAN;
    }
    memmove(&layers[at + 1], &layers[at], (opened->layer_count - at) * sizeof *layers);
    layers[at] = (struct layer){.place = *place, .heads = heads, .now = now};
    layers[at].place.head = -1;
    opened->layer_count++;
    return &layers[at];
}

const struct alert *model_alert_about(const struct model *model, const struct layer *layer,
                                      int64_t head)
{
    for (uint32_t i = 0; i < model->opened.alert_count; i++) {
        const struct alert *alert = &model->opened.alerts[i];
        bool about = compare_places(&alert->place, &layer->place) == 0;
        if (about && (head < 0 || alert->place.head < 0 || alert->place.head == head)) {
            return alert;
        }
    }
    return NULL;
}

const char *top_place_text(const struct top_place *place, char ret_text[PLACE_TEXT_MAX])
{
    if (!place->stack[0]) {
        return strcpy(ret_text, "the run");
    }
    int used = snprintf(ret_text, PLACE_TEXT_MAX, "%s.%" PRIu32 ".%s", place->stack, place->layer,
                        place->site);
    if (place->head >= 0) {
        snprintf(ret_text + used, (size_t)(PLACE_TEXT_MAX - used), ".h%" PRId64, place->head);
    }
    return ret_text;
}

/* Lists */

uint32_t model_list_count(const struct model *model)
{
    const struct opened *opened = &model->opened;
    switch (model->page) {
    case PAGE_RUNS:
        return model->shown_count;
    case PAGE_LAYERS:
        return opened->layer_count;
    case PAGE_HEADS:
        return model->layer_at < opened->layer_count ? opened->layers[model->layer_at].heads : 0;
    default:
        return opened->alert_count;
    }
}

void list_settle(struct list *list, uint32_t count, uint32_t rows)
{
    if (list->at >= count) {
        list->at = count > 0 ? count - 1 : 0;
    }
    if (list->at < list->top) {
        list->top = list->at;
    }
    if (rows > 0 && list->at >= list->top + rows) {
        list->top = list->at - rows + 1;
    }
    if (list->top + rows > count) {
        list->top = count > rows ? count - rows : 0;
    }
}
