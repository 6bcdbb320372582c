/* SPDX-License-Identifier: MIT */
#include "cell_axis.h"

#include "label.h"

#include <math.h>
#include <stdio.h>

/* Texts further apart than this are told by their numbers instead. */
#define THINNED_MOST 3
/* Points from number to number. */
#define NUMBERS_ACROSS 26
#define NUMBERS_DOWN   15

static void text_at(const struct cell_axis *axis, uint32_t index, struct fonts *fonts,
                    double text_max, char ret_text[LABEL_MAX + 8])
{
    *ret_text = '\0';
    if (!axis->texts[index])
        return;
    label_clean(axis->texts[index], ret_text, LABEL_MAX);
    fonts_shorten(fonts, SIZE_TICK, text_max, ret_text, LABEL_MAX + 8);
}

static double widest_text(const struct cell_axis *axis, struct fonts *fonts, double text_max,
                          uint32_t every)
{
    double widest = 0;
    for (uint32_t i = 0; i < axis->count; i += every) {
        char text[LABEL_MAX + 8];
        text_at(axis, i, fonts, text_max, text);
        if (*text)
            widest = fmax(widest, fonts_width(fonts, text, SIZE_TICK, false));
    }
    return widest;
}

static struct ticks numbers(const struct cell_axis *axis, bool across, double length)
{
    struct ticks ticks;
    double last = (double)axis->first + axis->total - 1;
    double most = length / (across ? NUMBERS_ACROSS : NUMBERS_DOWN);
    ticks_linear(axis->first, fmax(last, axis->first + 0.5), most < 9 ? (uint32_t)most : 9, 1,
                 &ticks);
    return ticks;
}

static void plan_texts(const struct cell_axis *axis, struct fonts *fonts, bool across,
                       double length, struct cell_axis_plan *plan)
{
    double widest = widest_text(axis, fonts, plan->text_max, plan->every);
    double step = length / axis->count * plan->every;
    plan->upright = across && !axis->all && widest + 3 > step;
    plan->room += !across || plan->upright ? widest : SIZE_TICK;
}

struct cell_axis_plan cell_axis_plan(const struct cell_axis *axis, struct fonts *fonts, bool across,
                                     double length, double text_max)
{
    struct cell_axis_plan plan = {.every = 1, .room = TICK + TICK_GAP, .text_max = text_max};
    if (axis->texts && !axis->all)
        plan.every = (uint32_t)ceil(LINE_TICK * axis->count / fmax(length, 1));
    plan.named = axis->texts && plan.every <= THINNED_MOST;
    if (plan.named) {
        plan_texts(axis, fonts, across, length, &plan);
    } else {
        struct ticks ticks = numbers(axis, across, length);
        plan.room += across ? SIZE_TICK : page_ticks_width(fonts, &ticks);
    }
    return plan;
}

static void draw_tick(bool across, struct box box, double at, struct canvas *canvas)
{
    double bottom = box.y + box.height;
    struct point below[2] = {{at, bottom}, {at, bottom + TICK}};
    struct point left[2] = {{box.x - TICK, at}, {box.x, at}};
    canvas_line(canvas, across ? below : left, 2, LINE_AXIS, COLOR_AXIS, false);
}

static void draw_text(const char *text, bool across, bool upright, struct box box, double at,
                      struct canvas *canvas)
{
    double below = box.y + box.height + TICK + TICK_GAP;
    if (!across)
        page_text(canvas, text, box.x - TICK - TICK_GAP, at, SIZE_TICK, ANCHOR_END, COLOR_TEXT);
    else if (upright)
        page_text_up(canvas, text, at, below, SIZE_TICK, ANCHOR_END, COLOR_TEXT);
    else
        page_text(canvas, text, at, below + SIZE_TICK / 2, SIZE_TICK, ANCHOR_MIDDLE, COLOR_TEXT);
}

static double place(bool across, struct box box, double share)
{
    return across ? box.x + share * box.width : box.y + share * box.height;
}

static void draw_texts(const struct cell_axis *axis, const struct cell_axis_plan *plan,
                       struct fonts *fonts, bool across, struct box box, struct canvas *canvas)
{
    for (uint32_t i = 0; i < axis->count; i += plan->every) {
        char text[LABEL_MAX + 8];
        double at = place(across, box, (i + 0.5) / axis->count);
        text_at(axis, i, fonts, plan->text_max, text);
        if (!*text)
            continue;
        if (!axis->all)
            draw_tick(across, box, at, canvas);
        draw_text(text, across, plan->upright, box, at, canvas);
    }
}

void cell_axis_draw(const struct cell_axis *axis, const struct cell_axis_plan *plan,
                    struct fonts *fonts, bool across, struct box box, struct canvas *canvas)
{
    if (plan->named) {
        draw_texts(axis, plan, fonts, across, box, canvas);
        return;
    }
    struct ticks ticks = numbers(axis, across, across ? box.width : box.height);
    for (uint32_t i = 0; i < ticks.count; i++) {
        char text[TICK_TEXT_MAX];
        double at = place(across, box, (ticks.at[i] - axis->first + 0.5) / axis->total);
        ticks_text(&ticks, i, text);
        draw_tick(across, box, at, canvas);
        draw_text(text, across, false, box, at, canvas);
    }
}
