/* SPDX-License-Identifier: MIT */
/* The effect of each key: on a page, and while a name is typed. */
#include "clients/cli/top/internal.h"
#include "proto/metric.h"

#include <curses.h>
#include <string.h>

static void move_choice(struct model *model, int64_t by)
{
    struct list *list = &model->lists[model->page];
    int64_t last = (int64_t)model_list_count(model) - 1, to = (int64_t)list->at + by;
    list->at = (uint32_t)(to < 0 || last < 0 ? 0 : to > last ? last : to);
}

/* Into what is chosen: a run, or the heads of a layer. */
static void open_choice(struct model *model)
{
    uint32_t at = model->lists[model->page].at;
    if (model->page == PAGE_RUNS && at < model->shown_count) {
        char job[JOB_NAME_MAX + 1];
        strcpy(job, model->rows[model->shown[at]].job);
        model_open(model, job, NULL);
    } else if (model->page == PAGE_LAYERS && at < model->opened.layer_count) {
        model->page = PAGE_HEADS;
        model->layer_at = at;
        model->lists[PAGE_HEADS] = (struct list){0};
    }
}

/* Out of what is shown; a filter goes first. */
static void leave(struct model *model)
{
    if (model->help) {
        model->help = false;
    } else if (model->page == PAGE_HEADS || model->page == PAGE_ALERTS) {
        model->page = PAGE_LAYERS;
    } else if (model->page == PAGE_LAYERS) {
        model_close_run(model);
    } else {
        model->filter[0] = '\0';
    }
    model_arrange(model, "");
}

const char *keys_metric(const char *typed)
{
    for (unsigned metric = 0; *typed && metric < METRIC_COUNT; metric++) {
        if (strncmp(metric_info[metric].name, typed, strlen(typed)) == 0) {
            return metric_info[metric].name;
        }
    }
    return NULL;
}

static void type_key(struct model *model, int key)
{
    size_t length = strlen(model->typed);
    if (key == '\n' && model->typing == TYPING_METRIC && length > 0) {
        const char *metric = keys_metric(model->typed);
        if (!metric) {
            return; /* the footer says so */
        }
        model_choose_metric(model, metric);
    } else if (key == KEY_OF_ERASE && length > 0) {
        model->typed[length - 1] = '\0';
    } else if (key >= ' ' && key < KEY_OF_ERASE && length + 1 < sizeof model->typed) {
        model->typed[length] = (char)key;
        model->typed[length + 1] = '\0';
    } else if (key == KEY_OF_ESCAPE) {
        model->typed[0] = '\0';
    }
    if (model->typing == TYPING_FILTER) {
        strcpy(model->filter, model->typed);
        model_arrange(model, "");
    }
    if (key == '\n' || key == KEY_OF_ESCAPE) {
        model->typing = TYPING_NOTHING;
    }
}

static void begin_typing(struct model *model, enum typing typing)
{
    model->typing = typing;
    strcpy(model->typed, typing == TYPING_FILTER ? model->filter : "");
}

void keys_press(struct model *model, int key)
{
    const int64_t page = model->list_rows > 1 ? (int64_t)model->list_rows - 1 : 1;
    if (model->typing != TYPING_NOTHING) {
        type_key(model, key);
        return;
    }
    switch (key) {
    case KEY_UP:
    case 'k':
        move_choice(model, -1);
        break;
    case KEY_DOWN:
    case 'j':
        move_choice(model, 1);
        break;
    case KEY_PPAGE:
        move_choice(model, -page);
        break;
    case KEY_NPAGE:
        move_choice(model, page);
        break;
    case KEY_HOME:
    case 'g':
        move_choice(model, INT32_MIN);
        break;
    case KEY_END:
    case 'G':
        move_choice(model, INT32_MAX);
        break;
    case '\n':
    case KEY_RIGHT:
        open_choice(model);
        break;
    case KEY_OF_ESCAPE:
    case KEY_LEFT:
    case KEY_OF_ERASE:
        leave(model);
        break;
    case '\t':
        model->page = model->page == PAGE_LAYERS   ? PAGE_ALERTS
                      : model->page == PAGE_ALERTS ? PAGE_LAYERS
                                                   : model->page;
        break;
    case '/':
        if (model->page == PAGE_RUNS) {
            begin_typing(model, TYPING_FILTER);
        }
        break;
    case 'm':
        if (model->page != PAGE_RUNS) {
            begin_typing(model, TYPING_METRIC);
        }
        break;
    case 'p':
        model->paused = !model->paused;
        break;
    case '?':
        model->help = !model->help;
        break;
    case 'q':
        model->quit = true;
        break;
    default:
        break;
    }
}
