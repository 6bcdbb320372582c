/* SPDX-License-Identifier: MIT */
/* The effect of each key where the user can be: on a page, in a list on top of it, typing a filter;
 * and the rows that are shown then. */
#include "clients/cli/top/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

const struct key_help key_help[] = {
    {"Up Down PgUp PgDn Home End", "move (also j k g G)"},
    {"Enter, Right", "open the head, or the heads of the layer"},
    {"Esc, Left", "back; also ends a filter"},
    {"Tab", "heads or layers"},
    {"m", "choose the metric"},
    {"s", "choose the order"},
    {"r", "reverse the order"},
    {"/", "only heads with this in name, pattern or rule"},
    {"t", "trends over windows, or since top looks"},
    {"a", "all that needs attention"},
    {"J", "jobs"},
    {"p, Space", "pause"},
    {"?", "these keys"},
    {"q, Ctrl-C", "quit"},
    {"", ""},
    {"SHIFT", "from baseline, 20 = whole range; * is 6 up"},
    {"PATTERN", "what the head does most"},
    {"i, !, !!", "an alert that fires: info, warning, critical"},
};
const int key_help_count = sizeof key_help / sizeof key_help[0];

struct list *keys_list(struct model *model, uint32_t *ret_count)
{
    struct ui *ui = &model->ui;
    if (ui->overlay == OVERLAY_METRIC || ui->overlay == OVERLAY_SORT) {
        *ret_count = model->metric_count + (ui->overlay == OVERLAY_SORT ? KEYS_SORTS : 0);
        return &ui->picker;
    }
    const struct {
        struct list *list;
        uint32_t count;
    } lists[] = {
        [PAGE_JOBS] = {&ui->jobs, model->job_count},
        [PAGE_HEADS] = {&ui->heads, model->row_count},
        [PAGE_LAYERS] = {&ui->layers, model->layer_row_count},
        [PAGE_HEAD] = {&ui->metrics, model->detail.count},
        [PAGE_VERDICT] = {&ui->verdict, model->verdict_count},
    };
    *ret_count = lists[ui->page].count;
    return lists[ui->page].list;
}

/* Moving */

static uint32_t moved(uint32_t at, int64_t by, uint32_t count)
{
    int64_t to = (int64_t)at + by;
    if (count == 0 || to < 0) {
        return 0;
    }
    return to >= (int64_t)count ? count - 1 : (uint32_t)to;
}

static bool move_choice(struct model *model, int key)
{
    uint32_t count;
    struct list *list = keys_list(model, &count);
    const int64_t page = model->ui.list_rows > 1 ? (int64_t)model->ui.list_rows - 1 : 1;
    const struct {
        int key, letter;
        int64_t by;
    } moves[] = {
        {KEY_OF_UP, 'k', -1},
        {KEY_OF_DOWN, 'j', 1},
        {KEY_OF_PAGE_UP, KEY_OF_PAGE_UP, -page},
        {KEY_OF_PAGE_DOWN, KEY_OF_PAGE_DOWN, page},
        {KEY_OF_HOME, 'g', -(int64_t)count},
        {KEY_OF_END, 'G', count},
    };
    for (size_t i = 0; i < sizeof moves / sizeof moves[0]; i++) {
        if (key == moves[i].key || key == moves[i].letter) {
            list->at = moved(list->at, moves[i].by, count);
            return true;
        }
    }
    return false;
}

/* Opening */

static void open_alert(struct model *model, const struct alert *alert)
{
    int64_t layer = alert->has_layer ? model_find_layer(model, &alert->place) : -1;
    if (layer >= 0) {
        bool head = alert->head >= 0 && alert->head < (int64_t)model->layers[layer].head_count;
        model_open_head(model, (uint32_t)layer, head ? (uint32_t)alert->head : 0);
    }
}

static void open_chosen(struct model *model)
{
    uint32_t count, at = keys_list(model, &count)->at;
    if (model->ui.overlay == OVERLAY_METRIC || model->ui.overlay == OVERLAY_SORT) {
        uint32_t first = model->ui.overlay == OVERLAY_SORT ? KEYS_SORTS : 0;
        if (at < count) {
            (first ? model_choose_sort : model_choose_metric)(
                model, at < first ? model_sorts[at] : model->metrics[at - first]);
        }
        model->ui.overlay = OVERLAY_NONE;
        model->ui.heads = model->ui.layers = (struct list){0};
        return;
    }
    if (at >= count) {
        return;
    }
    if (model->ui.page == PAGE_JOBS) {
        model->ui.stays = false;
        model_choose_job(model, model->jobs[at].job);
    } else if (model->ui.page == PAGE_HEADS) {
        model_open_head(model, model->rows[at].layer, model->rows[at].head);
    } else if (model->ui.page == PAGE_LAYERS) {
        /* Shows the heads of one layer only. */
        const struct layer *layer = &model->layers[model->layer_rows[at]];
        char place[MODEL_PLACE_MAX];
        model_place(&layer->place, -1, place);
        snprintf(model->ui.filter, sizeof model->ui.filter, "%.*s", MODEL_FILTER_MAX - 1, place);
        model->ui.page = PAGE_HEADS;
        model->ui.heads = (struct list){0};
    } else if (model->ui.page == PAGE_VERDICT) {
        open_alert(model, &model->verdict[at]);
    }
}

/* Going back */

static void back(struct model *model)
{
    struct ui *ui = &model->ui;
    if (ui->overlay != OVERLAY_NONE) {
        ui->overlay = OVERLAY_NONE;
    } else if (ui->page == PAGE_HEAD) {
        ui->page = ui->before;
    } else if (ui->page == PAGE_VERDICT) {
        ui->page = PAGE_HEADS;
    } else if (ui->page == PAGE_JOBS && model->job[0] != '\0') {
        ui->page = PAGE_HEADS;
    } else {
        ui->filter[0] = '\0';
    }
}

static void show_picker(struct model *model, enum overlay overlay)
{
    uint32_t first = overlay == OVERLAY_SORT ? KEYS_SORTS : 0;
    const char *chosen = overlay == OVERLAY_SORT ? model->sort_metric : model->metric;
    model->ui.overlay = overlay;
    model->ui.picker = (struct list){0};
    model->needs.live = true; /* brings the names of all metrics there are */
    for (uint32_t i = 0; i < model->metric_count; i++) {
        if (strcmp(model->metrics[i], chosen) == 0) {
            model->ui.picker.at = first + i;
        }
    }
}

static void press_anywhere(struct model *model, int key)
{
    const struct job_entry *entry;
    switch (key) {
    case 'q':
        model->ui.quit = true;
        break;
    case '?':
        model->ui.overlay = OVERLAY_HELP;
        break;
    case 'p':
    case ' ':
        model->ui.paused = !model->ui.paused;
        break;
    case 'J':
        model->ui.page = PAGE_JOBS;
        model->ui.stays = true;
        entry = model_find_job(model);
        model->ui.jobs.at = entry ? (uint32_t)(entry - model->jobs) : model->ui.jobs.at;
        break;
    case KEY_OF_ENTER:
    case KEY_OF_RIGHT:
        open_chosen(model);
        break;
    case KEY_OF_ESCAPE:
    case KEY_OF_LEFT:
        back(model);
        break;
    default:
        if (model->job[0] != '\0') {
            /* Letters that mean the same on every page of a job. */
            struct ui *ui = &model->ui;
            switch (key) {
            case KEY_OF_TAB:
                ui->page = ui->page == PAGE_HEADS ? PAGE_LAYERS : PAGE_HEADS;
                break;
            case 'm':
                show_picker(model, OVERLAY_METRIC);
                break;
            case 's':
                show_picker(model, OVERLAY_SORT);
                break;
            case 'r':
                model->reversed = !model->reversed;
                break;
            case '/':
                ui->page = ui->page == PAGE_LAYERS ? PAGE_LAYERS : PAGE_HEADS;
                ui->typing = true;
                break;
            case 't':
                ui->trend_seen = !ui->trend_seen;
                break;
            case 'a':
                ui->page = PAGE_VERDICT;
                model->needs.verdict = true;
                break;
            }
        }
    }
}

void keys_press(struct model *model, int key)
{
    struct ui *ui = &model->ui;
    if (ui->typing) {
        char *filter = model->ui.filter;
        size_t length = strlen(filter);
        if (key == KEY_OF_ENTER || key == KEY_OF_ESCAPE) {
            model->ui.typing = false;
        }
        if (key == KEY_OF_ESCAPE) {
            filter[0] = '\0';
        }
        if (key == KEY_OF_ERASE && length > 0) {
            filter[length - 1] = '\0';
        }
        if (key >= ' ' && key < KEY_OF_ERASE && length + 1 < MODEL_FILTER_MAX) {
            filter[length] = (char)key;
            filter[length + 1] = '\0';
        }
        model->ui.heads = model->ui.layers = (struct list){0};
    } else if (ui->overlay == OVERLAY_HELP) {
        ui->overlay = OVERLAY_NONE; /* any key */
    } else if (key == 'q' && ui->overlay != OVERLAY_NONE) {
        ui->overlay = OVERLAY_NONE;
    } else if (!move_choice(model, key)) {
        press_anywhere(model, key);
    }
    model_arrange(model);
}

/* Rows */

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

static bool shows_head(const struct model *model, const struct layer *layer, uint32_t head)
{
    char place[MODEL_PLACE_MAX], text[MODEL_PLACE_MAX + MODEL_PATTERN_MAX + MODEL_RULE_MAX];
    if (model->ui.filter[0] == '\0') {
        return true;
    }
    model_place(&layer->place, head, place);
    snprintf(text, sizeof text, "%s\n%s\n%s", place, layer->heads[head].pattern,
             layer->heads[head].rule);
    const char *filter = model->ui.filter;
    for (;;) {
        filter += strspn(filter, " ");
        size_t length = strcspn(filter, " ");
        if (length == 0) {
            return true;
        }
        if (!rows_contains(text, filter, length)) {
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

/* Heads without a number come last in either order. */
static int compare_reversible(double a, double b, bool reversed)
{
    if (isnan(a) || isnan(b)) {
        return !!isnan(a) - !!isnan(b);
    }
    return reversed ? (a > b) - (a < b) : (a < b) - (a > b);
}

struct keys {
    double first, second;
};

static int compare_keys(const struct keys *a, const struct keys *b, bool reversed)
{
    int order = compare_reversible(a->first, b->first, reversed);
    return order ? order : compare_reversible(a->second, b->second, reversed);
}

static struct keys keys_of(const struct model *model, enum severity severity, double shift,
                           double value, double by)
{
    const struct keys keys[] = {
        [SORT_URGENCY] = {severity, fabs(shift)},
        [SORT_DRIFT] = {fabs(shift), 0},
        [SORT_VALUE] = {value, 0},
        [SORT_METRIC] = {by, 0},
        [SORT_PLACE] = {0, 0},
    };
    return keys[model->sort];
}

static struct keys head_keys(const struct model *model, const struct list_row *row)
{
    const struct head *head = &model->layers[row->layer].heads[row->head];
    return keys_of(model, head->severity, head->shift, head->value, head->by);
}

static struct keys layer_keys(const struct model *model, uint32_t index)
{
    const struct layer *layer = &model->layers[index];
    struct layer_spread spread = model_spread(layer);
    return keys_of(model, layer->severity, model_layer_shift(layer), spread.mean, spread.by);
}

static int compare_indices(uint32_t a, uint32_t b)
{
    return (a > b) - (a < b);
}

static int rows_compare_rows(const void *left, const void *right, void *data)
{
    const struct list_row *a = left, *b = right;
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
                model->rows[model->row_count++] = (struct list_row){i, head};
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
    struct list_row chosen_head = head_followed ? model->rows[head] : (struct list_row){0, 0};
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
