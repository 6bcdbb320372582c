/* SPDX-License-Identifier: MIT */
/* A metric of every head over time: a row per head, layer below layer, a column per window. */
#include "clients/cli/plot/timeline.h"

#include "clients/cli/plot/label.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#define GROUP_TEXT_MAX 32
/* Height of the rows, by the figure's width, as a guess: whether the names of layers have room. */
#define ROWS_SHARE 0.45

/* Rows of one layer, which stand together. */
struct grouping {
    uint32_t *dividers; /* [groups - 1] first rows of the second group and on */
    char (*text)[GROUP_TEXT_MAX];
    const char **texts; /* [rows]: NULL but in the middle of a group */
    uint32_t groups;
};

static bool is_same_layer(const struct timeline_row *a, const struct timeline_row *b)
{
    return a->id.stack == b->id.stack && a->id.layer == b->id.layer && a->id.site == b->id.site;
}

static bool has_both_sites(const struct timeline *timeline)
{
    for (size_t i = 1; i < timeline->row_count; i++)
        if (timeline->rows[i].id.site != timeline->rows[0].id.site)
            return true;
    return false;
}

/* "decoder.3", "decoder.3.self" where there are two of them. */
static void name_group(const struct timeline *timeline, size_t row, char ret_text[GROUP_TEXT_MAX])
{
    const struct layer_id *id = &timeline->rows[row].id;
    bool both = has_both_sites(timeline);
    snprintf(ret_text, GROUP_TEXT_MAX, "%s.%" PRIu32 "%s%s", stack_name(id->stack), id->layer,
             both ? "." : "", both ? site_name(id->site) : "");
}

static void group_rows(const struct timeline *timeline, struct grouping *grouping)
{
    size_t begin = 0;
    for (size_t row = 1; row <= timeline->row_count; row++) {
        if (row < timeline->row_count &&
            is_same_layer(&timeline->rows[row], &timeline->rows[begin]))
            continue;
        size_t middle = begin + (row - begin) / 2;
        name_group(timeline, begin, grouping->text[grouping->groups]);
        grouping->texts[middle] = grouping->text[grouping->groups];
        if (begin > 0)
            grouping->dividers[grouping->groups - 1] = (uint32_t)begin;
        grouping->groups++;
        begin = row;
    }
}

/* Leaves out names that would stand in one another. */
static void thin_texts(const struct timeline *timeline, const struct page *page,
                       struct grouping *grouping)
{
    double height = ROWS_SHARE * page->width / grouping->groups;
    uint32_t every = (uint32_t)fmax(1, ceil(LINE_TICK / height)), group = 0;
    for (size_t row = 0; row < timeline->row_count; row++)
        if (grouping->texts[row] && group++ % every != 0)
            grouping->texts[row] = NULL;
}

static int grouping_new(struct plot *plot, const struct timeline *timeline,
                        struct grouping *ret_grouping)
{
    struct grouping grouping = {.groups = 0};
    grouping.dividers = calloc(timeline->row_count, sizeof(*grouping.dividers));
    grouping.text = calloc(timeline->row_count, sizeof(*grouping.text));
    grouping.texts = calloc(timeline->row_count, sizeof(*grouping.texts));
    *ret_grouping = grouping;
    if (!grouping.dividers || !grouping.text || !grouping.texts)
        return plot_fail_memory(plot);
    group_rows(timeline, ret_grouping);
    return CLI_OK;
}

static void grouping_clear(struct grouping *grouping)
{
    free(grouping->dividers);
    free(grouping->text);
    free(grouping->texts);
}

static struct panel make_panel(const struct timeline *timeline, const struct grouping *grouping,
                               const float *values)
{
    uint32_t rows = (uint32_t)timeline->row_count, columns = (uint32_t)timeline->step_count;
    struct panel panel = {.heat = {.values = values,
                                   .rows = rows,
                                   .columns = columns,
                                   .queries = rows,
                                   .keys = columns},
                          .dividers = grouping->dividers,
                          .divider_count = grouping->groups - 1};
    panel.x = (struct cell_axis){
        .title = "step", .count = columns, .total = columns, .numbers = timeline->steps};
    panel.y = (struct cell_axis){.title = "layer (head 0 at the top)",
                                 .count = rows,
                                 .total = rows,
                                 .texts = grouping->texts,
                                 .all = true};
    return panel;
}

static int draw(struct plot *plot, const struct timeline *timeline, struct grouping *grouping,
                struct bytes *ret_file)
{
    size_t cells = timeline->row_count * timeline->step_count;
    char title[TITLE_MAX], bar[FIELD_NAME_MAX + 16];
    float *values = malloc(cells * sizeof(*values));
    if (!values)
        return plot_fail_memory(plot);
    for (size_t i = 0; i < cells; i++)
        values[i] = (float)timeline->mean[i];
    struct panel panel = make_panel(timeline, grouping, values);
    timeline_axis_title(timeline->metric, bar, sizeof(bar));
    snprintf(title, sizeof(title), "%s%s%s", timeline->job, *timeline->job ? ", " : "",
             "heads over time");
    struct panels panels = {
        .items = &panel, .count = 1, .shared = true, .stretch = true, .bar_title = bar};
    struct page page = plot_page(plot, WIDTH_TWO, title);
    thin_texts(timeline, &page, grouping);
    int code = plot_panels(plot, &panels, &page, ret_file);
    free(values);
    return code;
}

int kind_entropy(struct plot *plot, const struct choice *choice, struct bytes *ret_file)
{
    struct timeline timeline;
    struct grouping grouping = {.groups = 0};
    (void)choice;
    int code = timeline_load(plot, &timeline);
    if (code == CLI_OK)
        code = grouping_new(plot, &timeline, &grouping);
    if (code == CLI_OK)
        code = draw(plot, &timeline, &grouping, ret_file);
    grouping_clear(&grouping);
    timeline_clear(&timeline);
    return code;
}
