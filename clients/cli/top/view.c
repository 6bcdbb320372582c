/* SPDX-License-Identifier: MIT */
/* Rows of the screen: what is looked at, and the time; how attnd is; the page; keys. The page of a
 * run has its verdict, its time line, and a table of layers, of heads, or of alerts. */
#include "clients/cli/top/internal.h"

#include "clients/cli/base/cli.h"
#include "clients/cli/base/out.h"
#include "proto/err.h"

#include <ctype.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define HEADER_ROWS 2
#define NAME        22 /* columns of a name in the time line and in tables */
#define NUMBER      9
#define BROKEN_MAX  5             /* rows of the time line */
#define REST        (INT_MAX / 2) /* columns: those that are left in the row */

struct top_view {
    struct model *model;
    struct screen *screen;
    int row, end; /* the next row, and the one after the last of the page */
};

static const char *const marks[] = {"", "i", "!", "!!"};
static const enum style mark_styles[] = {STYLE_PLAIN, STYLE_INFO, STYLE_WARNING, STYLE_CRITICAL};

/* A loss was logged: NaN is one. */
static void put_loss(struct top_view *view, int row, int column, double loss)
{
    screen_print(view->screen, row, column, NUMBER - 2, isnan(loss) ? STYLE_CRITICAL : STYLE_PLAIN,
                 isnan(loss)      ? "NaN"
                 : isfinite(loss) ? "%.3g"
                                  : "-",
                 loss);
}

/* How many bytes, up to a word, all names begin with. */
static size_t same_beginning(const struct model *model)
{
    const char *first = model->shown_count > 0 ? model->rows[model->shown[0]].job : "";
    size_t same = strlen(first);
    for (uint32_t i = 0; i < model->shown_count; i++) {
        const char *name = model->rows[model->shown[i]].job;
        size_t at = 0;
        while (at < same && name[at] == first[at]) {
            at++;
        }
        same = at;
    }
    while (same > 0 && (isalnum((unsigned char)first[same - 1]) || first[same - 1] & 0x80)) {
        same--;
    }
    return same;
}

/* A name that is too long loses the `same` bytes that all names begin with, then its middle. */
static void put_name(struct top_view *view, int column, int width, enum style style,
                     const char *name, size_t same)
{
    const char *cut = view->screen->unicode ? "…" : "..";
    char text[JOB_NAME_MAX + 8];
    same = screen_columns(view->screen, name) > width ? same : 0;
    name += same;
    const char *before = same > 0 ? cut : "";
    int columns = screen_columns(view->screen, name);
    int room = width - screen_columns(view->screen, before);
    if (columns > room && strlen(name) == (size_t)columns) {
        int kept = room - screen_columns(view->screen, cut), end = kept * 2 / 3;
        snprintf(text, sizeof text, "%s%.*s%s%s", before, kept - end, name, cut,
                 name + (columns - end));
    } else {
        snprintf(text, sizeof text, "%s%s", before, name);
    }
    screen_put(view->screen, view->row, column, width, style, text);
}

/* A text in as many rows as it takes, cut between words. */
static void put_words(struct top_view *view, int column, enum style style, const char *text)
{
    size_t room = (size_t)(view->screen->width - column - 1);
    while (*text && view->row < view->end) {
        size_t take = strlen(text);
        if (take > room) {
            for (take = room; take > 0 && text[take] != ' '; take--) {
            }
            take = take > 0 ? take : room;
        }
        screen_print(view->screen, view->row++, column, (int)room, style, "%.*s", (int)take, text);
        text += take + (text[take] == ' ');
    }
}

static void put_lines(struct top_view *view, const char *const *lines, size_t count)
{
    for (size_t i = 0; i < count && view->row < view->end; i++) {
        screen_put(view->screen, view->row++, 1, REST, STYLE_PLAIN, lines[i]);
    }
}

/* The header */

static void draw_title(struct top_view *view, const char *clock)
{
    const struct model *model = view->model;
    const struct opened *opened = &model->opened;
    const struct run_row *row = &opened->row;
    struct screen *screen = view->screen;
    uint32_t grave = 0;
    for (uint32_t i = 0; i < model->row_count; i++) {
        grave += model->rows[i].severity > SEVERITY_INFO;
    }
    screen_print(screen, 0, 0, screen->width, STYLE_TITLE, "%*s", screen->width, "");
    if (model->page == PAGE_RUNS) {
        screen_print(screen, 0, 1, screen->width - 12, STYLE_TITLE,
                     "attnd top  %" PRIu32 " run%s, %" PRIu32 " in trouble%s%s",
                     model->row_count + model->left_out,
                     out_plural(model->row_count + model->left_out), grave,
                     model->filter[0] ? "  filter: " : "", model->filter);
    } else {
        screen_print(screen, 0, 1, screen->width - 12, STYLE_TITLE,
                     "%s  %s  epoch %" PRIu64 " step %" PRIu64 "  run %.8s  %" PRIu64 " rank%s%s",
                     opened->job, row->state, row->epoch, row->step, row->run, row->world,
                     out_plural(row->world), opened->gone ? "  (the run asked for is gone)" : "");
    }
    screen_put_right(screen, 0, 0, screen->width - 1, STYLE_TITLE,
                     model->paused ? "PAUSED: p goes on" : clock);
}

static void draw_health(struct top_view *view, int64_t now_ms)
{
    const struct model *model = view->model;
    const struct health *health = &model->health;
    struct screen *screen = view->screen;
    int column = 1, width = screen->width - 1;
    if (model->silent_since_ms >= 0) {
        screen_print(screen, 1, 0, screen->width, STYLE_BANNER, "%*s", screen->width, "");
        screen_print(screen, 1, 1, width, STYLE_BANNER,
                     "attnd does not answer since %" PRId64 " s; trying again",
                     (now_ms - model->silent_since_ms) / 1000);
        return;
    }
    if (model->refused[0] || !health->known) {
        bool role = strstr(model->refused, err_text(ERR_ACCESS)) != NULL;
        screen_put(screen, 1, column, width, model->refused[0] ? STYLE_WARNING : STYLE_FAINT,
                   role ? "With a key, this screen needs the role read with the pattern *."
                   : model->refused[0] ? model->refused
                                       : "asking attnd");
        return;
    }
    if (isfinite(health->rate)) {
        column += 2 + screen_print(screen, 1, column, width, STYLE_FAINT, "%.1f messages/s",
                                   health->rate);
    }
    bool losses = health->lost + health->dropped > 0;
    column += 2 + screen_print(screen, 1, column, width, losses ? STYLE_WARNING : STYLE_FAINT,
                               "lost %" PRIu64 "  dropped %" PRIu64 "%s%s%s", health->lost,
                               health->dropped, health->reason[0] ? " (" : "", health->reason,
                               health->reason[0] ? ")" : "");
    screen_put(screen, 1, column, width - column, STYLE_WARNING, model->fleet);
}

/* Lists */

/* Settles the list of the page in the rows that are left; *ret_end is behind the last one shown. */
static struct list *list_begin(struct top_view *view, uint32_t *ret_end)
{
    struct model *model = view->model;
    struct list *list = &model->lists[model->page];
    uint32_t count = model_list_count(model);
    model->list_rows = view->end > view->row ? (uint32_t)(view->end - view->row) : 0;
    list_settle(list, count, model->list_rows);
    *ret_end = count < list->top + model->list_rows ? count : list->top + model->list_rows;
    return list;
}

/* The runs */

/* "each query looks at one key: decoder.1.self.h1 +2 between steps 270 and 271": a message begins
 * with these few words, and that of a rule of one's own with none. */
static void put_row_verdict(struct top_view *view, const struct run_row *row, int column)
{
    char others[32] = "", beside[48] = "";
    int width = view->screen->width - column;
    enum severity severity = model_row_severity(row);
    /* Both counts have to be of the same time. */
    if (row->runs > 1 && row->firing > row->alert_count && row->firing == row->asked_firing &&
        row->alert_count < TOP_ROW_ALERTS) {
        snprintf(beside, sizeof beside, "; %" PRIu64 " fire%s in another run",
                 row->firing - row->alert_count, row->firing - row->alert_count == 1 ? "s" : "");
    }
    if (severity == SEVERITY_NONE || !row->known || row->worst.severity == SEVERITY_NONE) {
        if (row->known && severity == SEVERITY_NONE) { /* else about to come */
            char text[48] = "no alerts";
            if (row->unmeasured > 0) {
                snprintf(text, sizeof text, "no alerts; no numbers of %" PRIu64 " layer%s",
                         row->unmeasured, out_plural(row->unmeasured));
            } else if (row->checks > 0) {
                snprintf(text, sizeof text, "no alerts, %" PRIu64 " check%s passed", row->checks,
                         out_plural(row->checks));
            }
            screen_print(view->screen, view->row, column, width, STYLE_FAINT, "%s%s", text, beside);
        }
        return;
    }
    const struct alert *worst = &row->worst;
    const char *colon = strstr(worst->message, ": ");
    const char *says = colon ? worst->message : worst->rule;
    int length = colon ? (int)(colon - says) : (int)strlen(says);
    bool somewhere = worst->place.stack[0];
    if (row->alert_count > 1) {
        snprintf(others, sizeof others, " +%" PRIu32, row->alert_count - 1);
    }
    screen_print(view->screen, view->row, column, width, mark_styles[worst->severity],
                 "%.*s%s%s%s %s%s", length, says, somewhere ? ": " : "",
                 somewhere ? TOP_PLACE(&worst->place) : "", others, worst->since, beside);
}

static void draw_runs(struct top_view *view)
{
    struct model *model = view->model;
    struct screen *screen = view->screen;
    int wide = screen->width >= 120, name = wide ? 40 : 22, loss = wide ? 30 : 6;
    int step = 3 + name + 1, bars = step + (wide ? 18 : 7), verdict = bars + loss + NUMBER;
    struct range range = range_none;
    size_t same = same_beginning(model);
    uint32_t end;
    screen_put(screen, view->row, 3, name, STYLE_FAINT, "RUN");
    screen_put(screen, view->row, step, bars - step, STYLE_FAINT, wide ? "STATE   STEP" : "STEP");
    screen_put(screen, view->row, bars, loss + NUMBER, STYLE_FAINT, "LOSS");
    screen_put(screen, view->row++, verdict, REST, STYLE_FAINT, "VERDICT");
    struct list *list = list_begin(view, &end);
    for (uint32_t i = list->top; i < end; i++) { /* one scale for all */
        const struct line *line = &model->rows[model->shown[i]].loss;
        for (uint32_t p = 0; p < line->count; p++) {
            range_add(&range, line->value[p]);
        }
    }
    for (uint32_t i = list->top; i < end; i++, view->row++) {
        const struct run_row *row = &model->rows[model->shown[i]];
        const struct line *line = &row->loss;
        bool over = row->over;
        enum severity severity = model_row_severity(row);
        screen_put(screen, view->row, 0, 2, mark_styles[severity], marks[severity]);
        put_name(view, 3, name, over ? STYLE_FAINT : STYLE_PLAIN, row->job, same);
        screen_print(screen, view->row, step, bars - step - 1, STYLE_PLAIN,
                     wide ? "%-7s %" PRIu64 : "%.0s%" PRIu64, row->state, row->step);
        if (line->count > 0) {
            bars_line(screen, view->row, bars, loss, line, line->step[0],
                      line->step[line->count - 1], range, UINT64_MAX);
            put_loss(view, view->row, bars + loss + 1, line->value[line->count - 1]);
        }
        put_row_verdict(view, row, verdict);
        if (i == list->at) {
            screen_choose_row(screen, view->row);
        }
    }
    if (model->row_count == 0 && model->health.known) {
        static const char *const lines[] = {
            "",
            "No job yet. Attach one to a training loop:",
            "",
            "    import attnd",
            "    with attnd.watch(model, job=\"gpt-small\"):",
            "        train(model)",
        };
        put_lines(view, lines, sizeof lines / sizeof lines[0]);
    }
}

/* A run */

static void draw_verdict(struct top_view *view)
{
    const struct opened *opened = &view->model->opened;
    struct screen *screen = view->screen;
    if (opened->alert_count == 0 && !opened->judged) {
        screen_put(screen, view->row++, 1, REST, STYLE_FAINT,
                   verdict_unjudged(opened->row.over, opened->checks + opened->unjudged > 0));
        return;
    }
    if (opened->alert_count == 0) {
        char layers[48] = "", checks[80] = "";
        if (opened->unmeasured > 0) {
            snprintf(layers, sizeof layers, "; no numbers of %" PRIu32 " layer%s",
                     opened->unmeasured, out_plural(opened->unmeasured));
        }
        if (opened->checks > 0) {
            snprintf(checks, sizeof checks,
                     ": %" PRIu64 " check%s passed, %" PRIu32 " not measured", opened->checks,
                     out_plural(opened->checks), opened->unjudged);
        }
        screen_print(screen, view->row++, 1, REST, STYLE_STRONG,
                     "No alerts at step %" PRIu64 "%s%s", opened->judged_step, layers, checks);
        return;
    }
    const struct alert *worst = &opened->alerts[0];
    int used =
        screen_print(screen, view->row, 1, REST, mark_styles[worst->severity], "%s %s  %s %s",
                     marks[worst->severity], TOP_PLACE(&worst->place), worst->rule, worst->since);
    if (opened->alert_count > 1) {
        screen_print(screen, view->row, used + 3, REST, STYLE_FAINT, "%s%" PRIu32 " more (Tab)",
                     opened->more ? "at least " : "", opened->alert_count - 1);
    }
    view->row++;
    put_words(view, 1, STYLE_PLAIN, worst->message);
    put_words(view, 1, STYLE_FAINT, worst->advice);
}

/* The steps that all lines are drawn over. */
static void steps_of(const struct opened *opened, uint64_t *ret_from, uint64_t *ret_to)
{
    const struct line *loss = &opened->loss;
    *ret_from = UINT64_MAX, *ret_to = 0;
    if (loss->count > 0) {
        *ret_from = loss->step[0], *ret_to = loss->step[loss->count - 1];
    }
    if (opened->windows > 0) {
        uint64_t last = opened->window_step[opened->windows - 1];
        *ret_from = *ret_from < opened->window_step[0] ? *ret_from : opened->window_step[0];
        *ret_to = *ret_to > last ? *ret_to : last;
    }
}

/* The number of a head, or with a head that is negative the mean over all that are finite, NaN
 * without any; numbers of heads that follow each other are 'apart'. */
static double value_of(const double *values, size_t apart, const struct layer *layer, int64_t head)
{
    uint32_t first = head < 0 ? 0 : (uint32_t)head;
    uint32_t end = head < 0 || first >= layer->heads ? layer->heads : first + 1;
    double sum = 0;
    uint32_t count = 0;
    for (uint32_t i = first; i < end; i++) {
        double value = values[i * apart];
        sum += isfinite(value) ? value : 0;
        count += isfinite(value) ? 1 : 0;
    }
    return count > 0 ? sum / count : NAN;
}

/* The past of a head, or with a head that is negative the mean over all. */
static struct line past_of(const struct opened *opened, const struct layer *layer, int64_t head)
{
    struct line line = {.count = layer->past ? opened->windows : 0};
    for (uint32_t window = 0; window < line.count; window++) {
        line.step[window] = opened->window_step[window];
        line.value[window] = value_of(layer->past + window, opened->windows, layer, head);
    }
    return line;
}

/* The newest number of a head, or the mean of all: of the newest message, else of its last window.
 */
static double newest_of(const struct opened *opened, const struct layer *layer, int64_t head)
{
    double now = value_of(layer->now, 1, layer, head);
    if (!isnan(now) || !layer->past || opened->windows == 0) {
        return now;
    }
    struct line line = past_of(opened, layer, head);
    return line.value[line.count - 1];
}

/* One scale for all heads. */
static struct range range_of_all(const struct opened *opened)
{
    struct range range = range_none;
    for (uint32_t i = 0; i < opened->layer_count; i++) {
        const struct layer *layer = &opened->layers[i];
        for (size_t p = 0; layer->past && p < (size_t)layer->heads * opened->windows; p++) {
            range_add(&range, layer->past[p]);
        }
    }
    return range;
}

static void put_named_line(struct top_view *view, const char *name, enum style style, double number,
                           const struct line *line, struct range range, uint64_t sick)
{
    screen_put(view->screen, view->row, 3, NAME, style, name);
    screen_print(view->screen, view->row, 3 + NAME, NUMBER - 1, STYLE_PLAIN,
                 isfinite(number) ? "%.3g" : "-", number);
    uint64_t from, to;
    steps_of(&view->model->opened, &from, &to);
    if (line->count > 0) {
        bars_line(view->screen, view->row, 3 + NAME + NUMBER,
                  view->screen->width - NAME - NUMBER - 4, line, from, to, range, sick);
    }
    view->row++;
}

static void draw_time_line(struct top_view *view)
{
    struct model *model = view->model;
    const struct opened *opened = &model->opened;
    const struct alert *broken[BROKEN_MAX];
    const struct line *loss = &opened->loss;
    /* Alerts about layers and heads by onset, each place once. */
    uint32_t count = 0;
    for (uint32_t i = 0; i < opened->alert_count; i++) {
        const struct alert *alert = &opened->alerts[i];
        bool known = !alert->place.stack[0] || alert->severity < SEVERITY_WARNING;
        for (uint32_t j = 0; j < count; j++) {
            known = known || top_place_is_same(&broken[j]->place, &alert->place);
        }
        uint32_t at = count;
        while (at > 0 && broken[at - 1]->since_step > alert->since_step) {
            at--;
        }
        if (known || at == BROKEN_MAX) {
            continue;
        }
        count += count < BROKEN_MAX;
        memmove(&broken[at + 1], &broken[at], (count - at - 1) * sizeof *broken);
        broken[at] = alert;
    }
    struct range all = range_of_all(opened), of_loss = range_none;
    uint64_t from, to;
    steps_of(opened, &from, &to);
    view->row++;
    for (uint32_t p = 0; p < loss->count; p++) {
        range_add(&of_loss, loss->value[p]);
    }
    if (loss->count > 0) {
        put_named_line(view, "loss", STYLE_STRONG, loss->value[loss->count - 1], loss, of_loss,
                       UINT64_MAX);
        put_loss(view, view->row - 1, 3 + NAME, loss->value[loss->count - 1]);
    }
    for (uint32_t i = 0; i < count && view->row + 6 < view->end; i++) {
        const struct layer *layer = model_layer(model, &broken[i]->place, 0);
        if (layer) {
            struct line line = past_of(opened, layer, broken[i]->place.head);
            put_named_line(view, TOP_PLACE(&broken[i]->place), mark_styles[broken[i]->severity],
                           newest_of(opened, layer, broken[i]->place.head), &line, all,
                           broken[i]->since_step);
        }
    }
    if (to >= from && all.least <= all.greatest) {
        screen_print(view->screen, view->row++, 3, REST, STYLE_FAINT,
                     "steps %" PRIu64 " to %" PRIu64 "; %s from %.4g to %.4g", from, to,
                     model->metric, all.least, all.greatest);
    }
}

static void draw_alerts(struct top_view *view)
{
    const struct opened *opened = &view->model->opened;
    uint32_t end;
    struct list *list = list_begin(view, &end);
    for (uint32_t i = list->top; i < end; i++, view->row++) {
        const struct alert *alert = &opened->alerts[i];
        screen_put(view->screen, view->row, 0, 2, mark_styles[alert->severity],
                   marks[alert->severity]);
        screen_print(view->screen, view->row, 3, REST, STYLE_PLAIN, "%-*s  %-27s %s: %s", NAME,
                     TOP_PLACE(&alert->place), alert->since, alert->rule, alert->message);
        if (i == list->at) {
            screen_choose_row(view->screen, view->row);
        }
    }
}

/* Layers, or the heads of one. */
static void draw_table(struct top_view *view)
{
    struct model *model = view->model;
    const struct opened *opened = &model->opened;
    bool of_heads = model->page == PAGE_HEADS;
    struct range range = range_of_all(opened);
    uint32_t end;
    struct list *list = list_begin(view, &end);
    for (uint32_t i = list->top; i < end; i++) {
        const struct layer *layer = &opened->layers[of_heads ? model->layer_at : i];
        int64_t head = of_heads ? (int64_t)i : -1;
        const struct alert *alert = model_alert_about(model, layer, head);
        enum severity severity = alert ? alert->severity : SEVERITY_NONE;
        struct top_place place = layer->place;
        struct line line = past_of(opened, layer, head);
        place.head = head;
        screen_put(view->screen, view->row, 0, 2, mark_styles[severity], marks[severity]);
        put_named_line(view, TOP_PLACE(&place), mark_styles[severity],
                       newest_of(opened, layer, head), &line, range, UINT64_MAX);
        if (i == list->at) {
            screen_choose_row(view->screen, view->row - 1);
        }
    }
}

static void draw_run(struct top_view *view)
{
    struct model *model = view->model;
    const struct opened *opened = &model->opened;
    struct screen *screen = view->screen;
    static const char *const titles[] = {
        [PAGE_LAYERS] = "LAYERS, mean of the heads",
        [PAGE_HEADS] = "HEADS",
        [PAGE_ALERTS] = "ALERTS",
    };
    if (!opened->known) {
        screen_print(screen, view->row, 1, REST, STYLE_WARNING,
                     opened->gone ? "attnd has forgotten that run of '%s'"
                                  : "attnd knows no job '%s' yet",
                     opened->job);
        return;
    }
    draw_verdict(view);
    draw_time_line(view);
    view->row++;
    screen_print(screen, view->row++, 3, REST, STYLE_FAINT, "%s: %" PRIu32, titles[model->page],
                 model_list_count(model));
    if (opened->layer_count == 0 && model->page == PAGE_LAYERS) {
        screen_print(screen, view->row, 3, REST, STYLE_FAINT,
                     "%s has sent nothing that was measured, or nothing of %s", opened->job,
                     model->metric);
    } else if (model->page == PAGE_ALERTS) {
        draw_alerts(view);
    } else {
        draw_table(view);
    }
}

static void draw_footer(struct top_view *view)
{
    static const char *const keys[] = {
        [PAGE_RUNS] = "Enter open   / filter   ? keys   q quit",
        [PAGE_LAYERS] = "Enter heads   Tab alerts   m metric   Esc runs   ? keys   q quit",
        [PAGE_HEADS] = "Esc layers   m metric   ? keys   q quit",
        [PAGE_ALERTS] = "Tab layers   Esc layers   ? keys   q quit",
    };
    const struct model *model = view->model;
    struct screen *screen = view->screen;
    uint32_t count = model_list_count(model), top = model->lists[model->page].top;
    int row = screen->height - 1;
    screen_print(screen, row, 0, screen->width, STYLE_PLAIN, "%*s", screen->width, "");
    if (model->typing == TYPING_METRIC && *model->typed && !keys_metric(model->typed)) {
        screen_print(screen, row, 1, REST, STYLE_WARNING,
                     "metric: %s_   unknown (all: attnctl summary %s --json)   Esc leave",
                     model->typed, model->opened.job);
        return;
    }
    if (model->typing != TYPING_NOTHING) {
        screen_print(screen, row, 1, REST, STYLE_STRONG,
                     model->typing == TYPING_FILTER ? "/%s_   Enter keep   Esc clear"
                                                    : "metric: %s_   Enter show   Esc leave",
                     model->typed);
        return;
    }
    screen_put(screen, row, 1, REST, STYLE_FAINT, keys[model->page]);
    if (count > model->list_rows && model->list_rows > 0) {
        char text[48];
        snprintf(text, sizeof text, "%" PRIu32 "-%" PRIu32 " of %" PRIu32, top + 1,
                 top + model->list_rows, count);
        screen_put_right(screen, row, 0, screen->width, STYLE_FAINT, text);
    }
}

void view_draw(struct model *model, struct screen *screen, int64_t now_ms, const char *clock)
{
    struct top_view view = {model, screen, HEADER_ROWS, screen->height - 1};
    screen_clear(screen);
    if (screen->width < VIEW_WIDTH_MIN || screen->height < VIEW_HEIGHT_MIN) {
        screen_print(screen, 0, 0, screen->width, STYLE_PLAIN, "attnctl top needs %d x %d",
                     VIEW_WIDTH_MIN, VIEW_HEIGHT_MIN);
        screen_print(screen, 1, 0, screen->width, STYLE_PLAIN, "this is %d x %d", screen->width,
                     screen->height);
        return;
    }
    draw_title(&view, clock);
    draw_health(&view, now_ms);
    if (model->help) {
        static const char *const lines[] = {
            "Up Down PgUp PgDn Home End   move (also j k g G)",
            "Enter, Right                 open a run, or the heads of a layer",
            "Esc, Left                    back; also ends a filter",
            "Tab                          layers or alerts of a run",
            "m                            type the beginning of a metric",
            "/                            only runs with this in their name",
            "p                            pause",
            "q, Ctrl-C                    quit",
            "i ! !!                       an alert fires: info, warning, critical",
        };
        put_lines(&view, lines, sizeof lines / sizeof lines[0]);
    } else if (model->page == PAGE_RUNS) {
        draw_runs(&view);
    } else {
        draw_run(&view);
    }
    draw_footer(&view);
}
