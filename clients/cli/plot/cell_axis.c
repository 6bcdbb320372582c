/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/cell_axis.h"

#include "clients/cli/plot/label.h"

#include <math.h>
#include <stdio.h>

/* Texts further apart than this are told by their numbers instead. */
#define THINNED_MOST 3
/* Points from number to number. */
/* From text to text when it is as small as can be read. */
#define LINE_SMALL   5.2
#define MARKED_APART 7.0 /* from text to text of marked cells */
#define NUMBERS_DOWN 12
#define NUMBER_OVER  1.5 /* beyond the ends of the axis, at most */
#define NUMBER_GAP   9

static void text_at(const struct cell_axis *axis, const struct cell_axis_plan *plan, uint32_t index,
                    struct fonts *fonts, char ret_text[LABEL_MAX + 8])
{
    *ret_text = '\0';
    if (!axis->texts[index])
        return;
    label_clean(axis->texts[index], ret_text, LABEL_MAX);
    fonts_shorten(fonts, plan->size, plan->text_max, ret_text, LABEL_MAX + 8);
}

static bool is_marked(const struct cell_axis *axis, uint32_t index)
{
    for (uint32_t i = 0; i < axis->marked_count; i++)
        if (axis->marked[i] == index)
            return true;
    return false;
}

static double widest_text(const struct cell_axis *axis, const struct cell_axis_plan *plan,
                          struct fonts *fonts)
{
    double widest = 0;
    for (uint32_t i = 0; i < axis->count; i++) {
        char text[LABEL_MAX + 8];
        if (i % plan->every > 0 && !is_marked(axis, i))
            continue;
        text_at(axis, plan, i, fonts, text);
        if (*text)
            widest = fmax(widest, fonts_width(fonts, text, plan->size, false));
    }
    return widest;
}

static double first_number(const struct cell_axis *axis)
{
    return axis->numbers ? (double)axis->numbers[0] : axis->first;
}

static double last_number(const struct cell_axis *axis)
{
    return axis->numbers ? (double)axis->numbers[axis->count - 1]
                         : (double)axis->first + axis->total - 1;
}

/* Numbers side by side need as much as the last one is wide. */
static double number_room(double last, bool across)
{
    double digits = last < 10 ? 1 : floor(log10(last)) + 1;
    return across ? NUMBER_GAP + 0.64 * SIZE_TICK * digits : NUMBERS_DOWN;
}

static struct ticks numbers(const struct cell_axis *axis, bool across, double length)
{
    struct ticks ticks;
    double first = first_number(axis), last = last_number(axis);
    double most = length / number_room(last, across);
    ticks_linear(first, fmax(last, first + 0.5), most < 9 ? (uint32_t)most : 9, 1, &ticks);
    if (ticks.count > most + 1)
        ticks_thin(&ticks, 1 + (uint32_t)most);
    return ticks;
}

/* Where a number stands, as a share of the axis: between the middles of the cells around it. */
static double share_of(const struct cell_axis *axis, double number)
{
    uint32_t above = 0;
    if (!axis->numbers)
        return (number - axis->first + 0.5) / axis->total;
    while (above + 1 < axis->count && (double)axis->numbers[above] < number)
        above++;
    double high = (double)axis->numbers[above],
           low = above ? (double)axis->numbers[above - 1] : high;
    double back = high > low && number < high ? (high - number) / (high - low) : 0;
    return (above + 0.5 - back) / axis->count;
}

/* Where cells are a little too small for texts, the texts are smaller; where they are much too
 * small, fewer. */
static void choose_size(double step, struct cell_axis_plan *plan)
{
    if (step < LINE_TICK && step >= LINE_SMALL)
        plan->size = SIZE_TICK * step / LINE_TICK;
    else if (step < LINE_SMALL)
        plan->every = (uint32_t)ceil(LINE_TICK / fmax(step, 0.01));
}

static void plan_texts(const struct cell_axis *axis, struct fonts *fonts, bool across,
                       double length, struct cell_axis_plan *plan)
{
    double widest = widest_text(axis, plan, fonts);
    double step = length / axis->count * plan->every;
    plan->upright = across && !axis->all && widest + 3 > step;
    plan->room += !across || plan->upright ? widest : SIZE_TICK;
}

struct cell_axis_plan cell_axis_plan(const struct cell_axis *axis, struct fonts *fonts, bool across,
                                     double length, double text_max,
                                     const struct cell_axis_plan *before)
{
    struct cell_axis_plan plan = {
        .every = 1, .size = SIZE_TICK, .room = TICK + TICK_GAP, .text_max = text_max};
    if (axis->bare)
        return (struct cell_axis_plan){.every = 1};
    if (axis->texts && !axis->all)
        choose_size(length / axis->count, &plan);
    plan.named = before ? before->named
                        : axis->texts && (axis->marked_count > 0 || plan.every <= THINNED_MOST);
    if (plan.named) {
        plan_texts(axis, fonts, across, length, &plan);
    } else {
        struct ticks ticks = numbers(axis, across, length);
        plan.room += across ? SIZE_TICK : page_ticks_width(fonts, &ticks);
    }
    return plan;
}

const char *cell_axis_title(const struct cell_axis *axis, const struct cell_axis_plan *plan)
{
    return plan->named && *axis->title && axis->text_title ? axis->text_title : axis->title;
}

/* From the place on the axis to that of its text. */
static void draw_tick(bool across, struct box box, double from, double to, struct canvas *canvas)
{
    double bottom = box.y + box.height;
    struct point below[2] = {{from, bottom}, {to, bottom + TICK}};
    struct point left[2] = {{box.x - TICK, to}, {box.x, from}};
    canvas_line(canvas, across ? below : left, 2, LINE_AXIS, COLOR_AXIS, false);
}

static void draw_text(const char *text, bool across, bool upright, double size, struct box box,
                      double at, struct canvas *canvas)
{
    double below = box.y + box.height + TICK + TICK_GAP;
    if (!across)
        page_text(canvas, text, box.x - TICK - TICK_GAP, at, size, ANCHOR_END, COLOR_TEXT);
    else if (upright)
        page_text_up(canvas, text, at, below, size, ANCHOR_END, COLOR_TEXT);
    else
        page_text(canvas, text, at, below + SIZE_TICK / 2, size, ANCHOR_MIDDLE, COLOR_TEXT);
}

static double place(bool across, struct box box, double share)
{
    return across ? box.x + share * box.width : box.y + share * box.height;
}

/* Where the texts of the marked cells stand: at their cells, but for what keeps them apart. */
static void place_marked(const struct cell_axis *axis, bool across, struct box box,
                         double ret_at[CELL_AXIS_MARKED])
{
    double moved = 0, end = across ? box.x + box.width : box.y + box.height;
    for (uint32_t i = 0; i < axis->marked_count; i++) {
        double at = place(across, box, (axis->marked[i] + 0.5) / axis->count);
        ret_at[i] = i > 0 ? fmax(at, ret_at[i - 1] + MARKED_APART) : at;
        moved += (ret_at[i] - at) / axis->marked_count;
    }
    for (uint32_t i = axis->marked_count; i-- > 0;) {
        double most = i + 1 < axis->marked_count ? ret_at[i + 1] - MARKED_APART : end;
        ret_at[i] = fmin(ret_at[i] - moved, most);
    }
}

/* Whether a text that is thinned out may stand there: away from those of marked cells. */
static bool is_free(const struct cell_axis *axis, const double *marked_at, double at)
{
    for (uint32_t i = 0; i < axis->marked_count; i++)
        if (fabs(marked_at[i] - at) < LINE_TICK)
            return false;
    return true;
}

static void draw_one(const struct cell_axis *axis, const struct cell_axis_plan *plan,
                     struct fonts *fonts, bool across, struct box box, uint32_t index, double at,
                     struct canvas *canvas)
{
    char text[LABEL_MAX + 8];
    text_at(axis, plan, index, fonts, text);
    if (!*text)
        return;
    if (!axis->all)
        draw_tick(across, box, place(across, box, (index + 0.5) / axis->count), at, canvas);
    draw_text(text, across, plan->upright, plan->size, box, at, canvas);
}

static void draw_texts(const struct cell_axis *axis, const struct cell_axis_plan *plan,
                       struct fonts *fonts, bool across, struct box box, struct canvas *canvas)
{
    double marked_at[CELL_AXIS_MARKED];
    bool thinned = plan->every > 1;
    if (thinned)
        place_marked(axis, across, box, marked_at);
    for (uint32_t i = 0; i < axis->count; i += plan->every) {
        double at = place(across, box, (i + 0.5) / axis->count);
        if (!thinned || is_free(axis, marked_at, at))
            draw_one(axis, plan, fonts, across, box, i, at, canvas);
    }
    for (uint32_t i = 0; thinned && i < axis->marked_count; i++)
        draw_one(axis, plan, fonts, across, box, axis->marked[i], marked_at[i], canvas);
}

/* A number's middle such that it does not run into that of the next box. */
static double keep_over(struct box box, double at, double width)
{
    double right = box.x + box.width + NUMBER_OVER - width / 2;
    return fmax(box.x - width / 2, fmin(right, at));
}

void cell_axis_draw(const struct cell_axis *axis, const struct cell_axis_plan *plan,
                    struct fonts *fonts, bool across, struct box box, struct canvas *canvas)
{
    if (axis->bare)
        return;
    if (plan->named) {
        draw_texts(axis, plan, fonts, across, box, canvas);
        return;
    }
    struct ticks ticks = numbers(axis, across, across ? box.width : box.height);
    for (uint32_t i = 0; i < ticks.count; i++) {
        char text[TICK_TEXT_MAX];
        double at = place(across, box, share_of(axis, ticks.at[i]));
        ticks_text(&ticks, i, text);
        draw_tick(across, box, at, at, canvas);
        if (across)
            at = keep_over(box, at, fonts_width(fonts, text, SIZE_TICK, false));
        draw_text(text, across, false, SIZE_TICK, box, at, canvas);
    }
}
