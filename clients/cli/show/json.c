/* SPDX-License-Identifier: MIT */
/* json: the numbers, as JSON. Numbers that do not exist are null. */
#include "clients/cli/show/internal.h"

#include <math.h>

/* Cells of a pooled map are given by their first query or key. */
static uint32_t query_of(const struct view *view, uint32_t row)
{
    return source_edge(row, view->layer->queries, view->layer->rows);
}

static uint32_t json_key_of(const struct view *view, uint32_t column)
{
    return source_edge(column, view->layer->keys, view->layer->columns);
}

static void json_put_labels(const struct view *view, struct mpk_writer *writer)
{
    uint32_t columns = view->layer->columns;
    bool any = false;
    for (uint32_t c = 0; c < columns && !any; c++) {
        any = view_key_label(view, c) != NULL;
    }
    mpk_put_str(writer, "labels");
    if (!any) {
        mpk_put_nil(writer);
        return;
    }
    mpk_put_array(writer, columns);
    for (uint32_t c = 0; c < columns; c++) {
        const char *label = view_key_label(view, c);
        mpk_put_str(writer, label);
    }
}

static void json_put_heads(const struct view *view, struct mpk_writer *writer)
{
    const struct findings *found = view->found;
    mpk_pair_array(writer, "top_keys", view->layer->heads);
    for (uint32_t h = 0; h < view->layer->heads; h++) {
        mpk_put_array(writer, found->top_count);
        for (uint32_t i = 0; i < found->top_count; i++) {
            const struct entry *entry = &found->tops[(size_t)h * found->top_count + i];
            if (isnan(entry->weight)) {
                mpk_put_nil(writer);
                continue;
            }
            mpk_put_map(writer, 2);
            mpk_pair_u64(writer, "key", json_key_of(view, entry->column));
            mpk_pair_f64(writer, "weight", (double)entry->weight);
        }
    }
}

int view_json(const struct view *view, struct cli *cli)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    bool timed = source_kind(view->source) != SOURCE_FILES;
    mpk_put_map(&writer, timed ? 18 : 16);
    mpk_pair_str(&writer, "schema", "attnd.show/1");
    mpk_pair_str(&writer, "source", view->origin);
    const char *run = source_run(view->source);
    mpk_pair_str(&writer, "run", *run ? run : NULL);
    const struct source_layer *layers;
    size_t count = source_layers(view->source, &layers);
    mpk_pair_array(&writer, "layers", (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        char name[PLACE_TEXT_MAX];
        place_layer(layers[i].id, name);
        mpk_put_str(&writer, name);
    }
    mpk_pair_str(&writer, "layer", view->name);
    mpk_pair_str(&writer, "module", *view->layer->module ? view->layer->module : NULL);
    if (timed) {
        mpk_pair_u64(&writer, "epoch", view->layer->epoch);
        mpk_pair_u64(&writer, "step", view->layer->step);
    }
    const struct source_layer *l = view->layer;
    mpk_pair_map(&writer, "shape", 4);
    mpk_pair_u64(&writer, "batch", l->batch);
    mpk_pair_u64(&writer, "heads", l->heads);
    mpk_pair_u64(&writer, "query", l->queries);
    mpk_pair_u64(&writer, "key", l->keys);
    mpk_pair_u64(&writer, "rows", view->layer->rows);
    mpk_pair_u64(&writer, "columns", view->layer->columns);
    mpk_pair_u64(&writer, "sample", view->request->sample);
    mpk_put_str(&writer, "head");
    if (view->request->head == HEAD_MEAN) {
        mpk_put_str(&writer, "mean");
    } else {
        mpk_put_u64(&writer, view->request->head);
    }
    const struct row_sums *sums = &view->found->sums;
    bool any = sums->sound + sums->other > 0;
    mpk_pair_map(&writer, "row_sums", 9);
    mpk_pair_u64(&writer, "rows", sums->rows);
    mpk_pair_u64(&writer, "sound", sums->sound);
    mpk_pair_u64(&writer, "zero", sums->zero);
    mpk_pair_u64(&writer, "missing", sums->missing);
    mpk_pair_u64(&writer, "other", sums->other);
    mpk_pair_f64(&writer, "tolerance", view->layer->tolerance);
    mpk_pair_f64(&writer, "min", any ? sums->min : NAN);
    mpk_pair_f64(&writer, "max", any ? sums->max : NAN);
    mpk_pair_f64(&writer, "mean_deviation", sums->deviation);
    json_put_labels(view, &writer);
    const struct findings *found = view->found;
    mpk_pair_map(&writer, "token", 3);
    mpk_pair_u64(&writer, "query", query_of(view, found->row));
    mpk_pair_str(&writer, "label", view_query_label(view, found->row));
    mpk_pair_array(&writer, "weights", view->layer->columns);
    for (uint32_t c = 0; c < view->layer->columns; c++) {
        mpk_put_f64(&writer, (double)found->query[c]);
    }
    json_put_heads(view, &writer);
    mpk_pair_array(&writer, "top_pairs", found->pair_count);
    for (uint32_t i = 0; i < found->pair_count; i++) {
        mpk_put_map(&writer, 3);
        mpk_pair_u64(&writer, "query", query_of(view, found->pairs[i].row));
        mpk_pair_u64(&writer, "key", json_key_of(view, found->pairs[i].column));
        mpk_pair_f64(&writer, "weight", (double)found->pairs[i].weight);
    }
    int code = cli_print_written(cli, &writer, 2, cli->out);
    mpk_writer_clear(&writer);
    return code;
}
