/* SPDX-License-Identifier: MIT */
/* The frame around a page:
 *
 *   0  what is looked at, and the time        3  which numbers, in which order
 *   1  how attnd is                           4  the page: headings, then rows
 *   2  what needs attention, and on a job's tables the worst of it below, which moves them down
 *                                             last: keys */
#include "clients/cli/top/internal.h"

#include "clients/cli/base/out.h"
#include "proto/err.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define HEADER_ROWS 4

/* The header */

/* Puts one piece after another into a row, and leaves out what does not fit as a whole. */
struct line {
    struct screen *screen;
    int row, at, end;
};

__attribute__((format(printf, 3, 4))) static void put_piece(struct line *line, enum style style,
                                                            const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    int columns = screen_columns(line->screen, text);
    if (line->at + columns > line->end) {
        return;
    }
    screen_put(line->screen, line->row, line->at, columns, style, text);
    line->at += columns + 2;
}

static void put_rates(struct line *line, const struct health *health)
{
    char size[OUT_SIZE_MAX];
    if (isnan(health->rate)) {
        return;
    }
    put_piece(line, STYLE_PLAIN, health->rate < 99.95 ? "%.1f messages/s" : "%.0f messages/s",
              health->rate);
    out_size((uint64_t)health->bytes_rate, size);
    put_piece(line, STYLE_PLAIN, "%s/s", size);
}

static void put_losses(struct line *line, const struct health *health)
{
    uint64_t all = health->dropped + health->source_dropped;
    put_piece(line, health->lost > 0 ? STYLE_WARNING : STYLE_PLAIN, "lost %" PRIu64, health->lost);
    put_piece(line, all > 0 ? STYLE_WARNING : STYLE_PLAIN, "dropped %" PRIu64 "%s%s%s", all,
              all > 0 ? " (" : "",
              all == 0                                    ? ""
              : health->source_dropped >= health->dropped ? "by the job"
                                                          : health->reason,
              all > 0 ? ")" : "");
    if (health->new_losses > 0) {
        put_piece(line, STYLE_CRITICAL, "+%" PRIu64 " NOW", health->new_losses);
    }
}

static void draw_health(const struct model *model, struct screen *screen)
{
    struct line line = {screen, 1, 1, screen->width};
    if (!model->health.known) {
        put_piece(&line, STYLE_FAINT, "asking attnd");
        return;
    }
    put_rates(&line, &model->health);
    put_losses(&line, &model->health);
    const struct health *health = &model->health;
    char size[OUT_SIZE_MAX];
    if (health->budget_bytes > 0) {
        double share = (double)health->in_flight_bytes / (double)health->budget_bytes;
        out_size(health->budget_bytes, size);
        put_piece(&line, share >= 0.8 ? STYLE_WARNING : STYLE_PLAIN, "budget %.0f%% of %s",
                  100 * share, size);
    }
    put_piece(&line, STYLE_PLAIN, "queue %" PRIu64, health->queued);
    put_piece(&line, STYLE_PLAIN, "%" PRIu64 " worker%s", health->threads,
              out_plural(health->threads));
    out_duration(health->uptime_s, size);
    put_piece(&line, STYLE_PLAIN, "up %s", size);
}

/* How much needs attention, and of which step that is said. */
static void draw_verdict(const struct view_frame *frame)
{
    static const char *const names[] = {"", "info", "warning", "critical"};
    const struct model *model = frame->model;
    struct line line = {frame->screen, 2, 1, frame->screen->width};
    uint32_t counts[4] = {0};
    if (!model->job_known) {
        put_piece(&line, STYLE_WARNING, "%s",
                  strstr(model->refused, err_text(ERR_ACCESS))
                      ? "With a key, this screen needs the role read with the pattern *."
                      : "");
        return;
    }
    put_piece(&line, model->verdict_count || model->judged ? STYLE_STRONG : STYLE_FAINT,
              model->verdict_count && model->judged ? "Needs attention at step %" PRIu64 ":"
              : model->verdict_count                ? "Needs attention:"
              : model->judged && model->fleet[0] != '\0'
                  ? "Needs attention: not the heads. No alert fires at step %" PRIu64 "."
              : model->judged ? "No alerts at step %" PRIu64 "."
                              : "Needs attention: not known, no window has been judged yet",
              model->judged_step);
    if (model->judged && model->verdict_count == 0 && model->checks > 0) {
        put_piece(&line, STYLE_PLAIN, "%" PRIu64 " checks passed, %" PRIu32 " not measured",
                  model->checks, model->unmeasured);
    }
    for (uint32_t i = 0; i < model->verdict_count; i++) {
        counts[model->verdict[i].severity]++;
    }
    for (enum severity severity = SEVERITY_CRITICAL; severity > SEVERITY_NONE; severity--) {
        if (counts[severity] > 0) {
            put_piece(&line, view_severity_style(severity), "%s %" PRIu32 " %s%s",
                      view_mark(severity), counts[severity], names[severity],
                      severity == SEVERITY_WARNING ? out_plural(counts[severity]) : "");
        }
    }
    if (model->verdict_cut) {
        put_piece(&line, STYLE_PLAIN, "and more");
    }
    if (model->verdict_count > 0 && model->verdict[0].at_end) {
        put_piece(&line, STYLE_PLAIN, "firing at end");
    }
}

/* The last row */

static const char *view_hint_of(const struct model *model)
{
    if (model->ui.overlay == OVERLAY_HELP) {
        return "any key goes back";
    }
    if (model->ui.overlay != OVERLAY_NONE) {
        return "Enter choose   Esc back";
    }
    switch (model->ui.page) {
    case PAGE_JOBS:
        return model->job_count > 0 ? "Enter look at the job   ? keys   q quit" : "? keys   q quit";
    case PAGE_HEAD:
        return "Up Down metric   Esc back   p pause   ? keys   q quit";
    case PAGE_VERDICT:
        return "Enter its head   Esc back   ? keys   q quit";
    default:
        return model->ui.page == PAGE_HEADS
                   ? "Enter open  a attention  Tab layers  m metric  ? keys  q quit"
                   : "Enter heads  a attention  Tab heads  m metric  ? keys  q quit";
    }
}

static void draw_footer(struct model *model, struct screen *screen)
{
    int row = screen->height - 1, taken = 0;
    char text[96];
    uint32_t count, shown;
    const struct list *list = keys_list(model, &count);
    if (model->ui.typing) {
        screen_print(screen, row, 1, screen->width - 1, STYLE_STRONG,
                     "/%s_   Enter keep   Esc clear", model->ui.filter);
        return;
    }
    shown = count - list->top < model->ui.list_rows ? count - list->top : model->ui.list_rows;
    if (count > 0 && model->ui.overlay == OVERLAY_NONE) {
        snprintf(text, sizeof text, "%" PRIu32 "-%" PRIu32 " of %" PRIu32, list->top + 1,
                 list->top + shown, count);
        taken = (int)strlen(text) + 1;
        screen_put_right(screen, row, 0, screen->width - 1, STYLE_FAINT, text);
    }
    screen_put(screen, row, 1, screen->width - 2 - taken, STYLE_FAINT, view_hint_of(model));
}

/* Pages */

static void draw_small(struct screen *screen)
{
    int row = screen->height / 2;
    bool narrow = screen->width < 26;
    screen_print(screen, row > 0 ? row - 1 : 0, 0, screen->width, STYLE_STRONG,
                 narrow ? "needs %dx%d" : "attnctl top needs %d x %d", VIEW_WIDTH_MIN,
                 VIEW_HEIGHT_MIN);
    screen_print(screen, row, 0, screen->width, STYLE_PLAIN,
                 narrow ? "is %dx%d" : "this is %d x %d", screen->width, screen->height);
}

void view_draw(struct model *model, struct screen *screen, int64_t now_ms, const char *clock)
{
    static void (*const pages[])(struct view_frame * frame) = {
        [PAGE_JOBS] = page_jobs, [PAGE_HEADS] = page_heads,     [PAGE_LAYERS] = page_layers,
        [PAGE_HEAD] = page_head, [PAGE_VERDICT] = page_verdict,
    };
    struct view_frame frame = {model, screen, HEADER_ROWS, screen->height - HEADER_ROWS - 1};
    screen_clear(screen);
    if (screen->width < VIEW_WIDTH_MIN || screen->height < VIEW_HEIGHT_MIN) {
        draw_small(screen);
        return;
    }
    const struct job_entry *entry = &model->entry;
    char text[300] = "";
    struct line line = {screen, 0, 1, screen->width - (int)strlen(clock) - 2};
    screen_print(screen, 0, 0, screen->width, STYLE_TITLE, "%*s", screen->width, "");
    put_piece(&line, STYLE_TITLE, "attnd top");
    if (model->job[0] != '\0') {
        snprintf(text, sizeof text, "%s", model->job);
        out_shorten(text, screen->width >= 120 ? 60 : 24);
        put_piece(&line, STYLE_TITLE, "%s", text);
    }
    if (model->job_known) {
        put_piece(&line, STYLE_TITLE, model->gone ? "run %.8s (%.8s is gone)" : "run %.8s",
                  entry->run, model->gone);
        put_piece(&line, STYLE_TITLE, "%s", entry->state);
        put_piece(&line, STYLE_TITLE, "epoch %" PRIu64 " step %" PRIu64, entry->epoch, entry->step);
        put_piece(&line, STYLE_TITLE, "ranks %" PRIu64 "/%" PRIu64, entry->ranks, entry->world);
    }
    screen_put_right(screen, 0, 0, screen->width - 1, STYLE_TITLE, clock);
    snprintf(text, sizeof text, "%s", model->refused);
    if (model->silent_since_ms >= 0) {
        int64_t seconds = (now_ms - model->silent_since_ms) / 1000;
        char time[OUT_TIME_MAX];
        out_duration((double)seconds, time);
        if (seconds < 60) {
            snprintf(time, sizeof time, "%" PRId64 " s", seconds);
        }
        snprintf(text, sizeof text, "attnd does not answer since %s; trying again", time);
    }
    if (text[0] != '\0') {
        screen_print(screen, 1, 0, screen->width, STYLE_BANNER, " %-*s", screen->width - 1, text);
    } else {
        draw_health(model, screen);
    }
    if (model->fleet[0] != '\0' && model->ui.page != PAGE_JOBS) {
        screen_put(screen, frame.top - 1, 1, screen->width - 1, STYLE_WARNING, model->fleet);
        frame.top++;
        frame.rows--;
    }
    view_attention(&frame);
    draw_verdict(&frame);
    pages[model->ui.page](&frame);
    if (model->ui.paused) {
        screen_put_right(screen, frame.top - 1, 0, screen->width - 1, STYLE_WARNING,
                         " PAUSED: p goes on");
    }
    if (model->ui.overlay == OVERLAY_HELP) {
        view_help(&frame);
    } else if (model->ui.overlay != OVERLAY_NONE) {
        view_picker(&frame);
    }
    draw_footer(model, screen);
}
