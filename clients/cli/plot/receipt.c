/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/receipt.h"

static void put_layer(const struct plot *plot, const struct choice *choice,
                      struct mpk_writer *writer)
{
    char layer[PLACE_TEXT_MAX];
    mpk_put_str(writer, "layer");
    enum plot_kind kind = plot->options.kind;
    if (!(PLOT_BIT(kind) & PLOT_KINDS_LAYER) || kind == PLOT_FLOW) {
        mpk_put_nil(writer);
        return;
    }
    place_layer(plot->layers[choice->layer].id, layer);
    mpk_put_str(writer, layer);
}

static void put_head(const struct plot *plot, const struct choice *choice,
                     struct mpk_writer *writer)
{
    mpk_put_str(writer, "head");
    if ((PLOT_BIT(plot->options.kind) & PLOT_KINDS_HEAD) && !choice->mean)
        mpk_put_u64(writer, choice->head);
    else
        mpk_put_nil(writer);
}

int receipt_print(struct plot *plot, const struct choice *choice, const char *path, FILE *out)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 4);
    mpk_put_str(&writer, "figure");
    mpk_put_str(&writer, path);
    mpk_put_str(&writer, "kind");
    mpk_put_str(&writer, plot_kind_name(plot->options.kind));
    put_layer(plot, choice, &writer);
    put_head(plot, choice, &writer);
    int code = cli_print_written(plot->cli, &writer, 0, out);
    mpk_writer_clear(&writer);
    return code;
}
