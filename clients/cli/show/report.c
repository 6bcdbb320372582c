/* SPDX-License-Identifier: MIT */
/* report: the layer's structure in words. */
#include "clients/cli/show/internal.h"

#include <inttypes.h>
#include <math.h>

static void say_sums(const struct view *view)
{
    const struct row_sums *sums = &view->found->sums;
    const struct show_screen *screen = &view->screen;
    const char *rows = view->layer->rows < view->layer->queries ? "rows of cells" : "rows";
    if (sums->sound + sums->other == 0) {
        screen_say(screen, 4, "  row sums: no row of sample %" PRIu32 " attends to anything",
                   view->request->sample);
    } else if (isinf(view->layer->tolerance)) {
        screen_say(screen, 4,
                   "  row sums: not expected to be 1 (dropout, or a learned sink); least %.6g, "
                   "largest %.6g",
                   sums->min, sums->max);
    } else {
        screen_say(screen, 4,
                   "  row sums: %" PRIu64 " of %" PRIu64 " %s of sample %" PRIu32
                   " sum to 1 within %g; least %.7g, largest %.7g, mean |sum - 1| %.2g",
                   sums->sound, sums->rows, rows, view->request->sample, view->layer->tolerance,
                   sums->min, sums->max, sums->deviation);
    }
    if (sums->zero > 0) {
        screen_say(screen, 4, "  %" PRIu64 " %s all 0 (padding?)", sums->zero,
                   sums->zero == 1 ? "row is" : "rows are");
    }
    if (sums->missing > 0) {
        screen_say(screen, 4, "  %" PRIu64 " %s entries that are no number (NaN or infinite)",
                   sums->missing, sums->missing == 1 ? "row has" : "rows have");
    }
    if (sums->other > 0) {
        screen_say(screen, 4,
                   "  %" PRIu64 " %s to something else, the first to %.6g: head %" PRIu32
                   ", query %" PRIu32 ". Weights before or without softmax, or after dropout?",
                   sums->other, sums->other == 1 ? "row sums" : "rows sum", sums->other_sum,
                   sums->other_head,
                   source_edge(sums->other_row, view->layer->queries, view->layer->rows));
    }
}

void view_report(const struct view *view)
{
    const struct source_layer *layer = view->layer;
    char where[96] = "";
    if (source_kind(view->source) != SOURCE_FILES) {
        snprintf(where, sizeof where, ", epoch %" PRIu64 ", step %" PRIu64 ", run %.8s",
                 layer->epoch, layer->step, source_run(view->source));
    }
    screen_title(&view->screen, "%s of %s%s", view->name, view->origin, where);
    if (layer->module[0]) {
        screen_say(&view->screen, 4, "  module %s", layer->module);
    }
    /* A running attnd has one sample, and does not say of how many. */
    if (source_kind(view->source) == SOURCE_DAEMON) {
        screen_say(&view->screen, 4,
                   "  [heads, query, key] = [%" PRIu32 ", %" PRIu32 ", %" PRIu32
                   "], sample %" PRIu32,
                   layer->heads, layer->queries, layer->keys, layer->first_sample);
    } else {
        screen_say(&view->screen, 4,
                   "  [batch, heads, query, key] = [%" PRIu32 ", %" PRIu32 ", %" PRIu32 ", %" PRIu32
                   "]%s",
                   layer->batch, layer->heads, layer->queries, layer->keys,
                   layer->causal ? ", causal" : "");
    }
    screen_say(&view->screen, 4,
               "  entry [b, h, i, j]: the share of its attention that query i gives to key j, in "
               "head h of sample b");
    if (layer->tier == MESSAGE_QK) {
        screen_say(&view->screen, 4,
                   "  made of queries and keys: softmax(scale q k), excluded keys are 0");
    }
    bool brought = layer->tier == MESSAGE_STATE;
    if (layer->rows < layer->queries || layer->columns < layer->keys) {
        screen_say(&view->screen, 4,
                   "  %s has pooled it into %" PRIu32 " x %" PRIu32
                   " cells (maps.size): each is the mean of its entries, so single tokens are "
                   "not to be seen%s",
                   brought ? "the training" : "attnd", layer->rows, layer->columns,
                   brought ? "" : "; a recording has every entry");
    }
    if (layer->padding_queries + layer->padding_keys > 0) {
        screen_say(&view->screen, 4,
                   "  without the padding of sample %" PRIu32 ": %" PRIu32 " quer%s and %" PRIu32
                   " key%s (--padding shows them)",
                   view->request->sample, layer->padding_queries,
                   layer->padding_queries == 1 ? "y" : "ies", layer->padding_keys,
                   layer->padding_keys == 1 ? "" : "s");
    }
    say_sums(view);
    const struct source_layer *layers;
    size_t count = source_layers(view->source, &layers);
    char first[PLACE_TEXT_MAX], last[PLACE_TEXT_MAX];
    if (count < 2) {
        return;
    }
    place_layer(layers[0].id, first);
    place_layer(layers[count - 1].id, last);
    screen_say(&view->screen, 4, "  %zu layers, %s to %s: --layer chooses another", count, first,
               last);
}
