/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/plot_kind.h"

#include "clients/cli/base/unknown.h"

#include <stdio.h>
#include <string.h>

/* clang-format off */
#define OF_MAPS(kind, name, help, example) \
    [kind] = {name, "FILE...|JOB -o FILE", help, "attnctl plot " name " " example, PLOT_BIT(kind)}
#define OF_PAST(kind, name, help, example) \
    [kind] = {name, "JOB|FILE -o FILE", help, "attnctl plot " name " " example, PLOT_BIT(kind)}

static const struct option_kind kinds[PLOT_KIND_COUNT] = {
    OF_MAPS(PLOT_HEATMAP, "heatmap", "one map: of a head, or the mean of all heads",
            "maps.npz --layer decoder.3.self --head 2 -o head.pdf"),
    OF_MAPS(PLOT_HEADS, "heads", "all heads of a layer side by side",
            "maps.npz --layer decoder.3.self --causal -o heads.pdf"),
    OF_MAPS(PLOT_LAYERS, "layers", "one site across the layers",
            "maps.npz --site decoder.cross -o layers.pdf"),
    OF_MAPS(PLOT_FLOW, "flow", "encoder self, decoder self and cross attention of a layer",
            "gpt-small --layer 1 -o flow.pdf"),
    OF_MAPS(PLOT_AGGREGATE, "aggregate", "sum, mean, max, weighted, importance of a layer's heads",
            "maps.npz --layer decoder.3.self -o aggregate.pdf"),
    OF_MAPS(PLOT_ROLLOUT, "rollout", "attention rollout over the layers of a stack",
            "maps.npz --site encoder.self -o rollout.pdf"),
    OF_MAPS(PLOT_SIMILARITY, "similarity", "how alike the heads of a layer are",
            "maps.npz --layer decoder.3.self --js -o similarity.pdf"),
    OF_MAPS(PLOT_SPECTRUM, "spectrum", "singular values of a layer's heads",
            "maps.npz --layer decoder.3.self -o spectrum.pdf"),
    OF_MAPS(PLOT_TOKENS, "tokens", "what one query attends to, as bars",
            "maps.npz --head 2 --query 40 --labels tokens -o bars.pdf"),
    OF_PAST(PLOT_ENTROPY, "entropy", "a metric of all heads and layers over time, as a map",
            "gpt-small --from 10 -o entropy.pdf"),
    OF_PAST(PLOT_SERIES, "series", "a metric of a layer over time, with alerts",
            "gpt-small --layer 3 --metric max_logit -o series.pdf"),
};
/* clang-format on */

const char *plot_kind_name(enum plot_kind kind)
{
    return kinds[kind].name;
}

const char *plot_kind_help(enum plot_kind kind)
{
    return kinds[kind].help;
}

void plot_kind_list(unsigned set, char *ret_list, size_t size)
{
    size_t used = 0;
    *ret_list = '\0';
    for (int i = 0; i < PLOT_KIND_COUNT && used < size; i++) {
        if (set & kinds[i].bit) {
            used += (size_t)snprintf(ret_list + used, size - used, "%s%s", used > 0 ? ", " : "",
                                     kinds[i].name);
        }
    }
}

const struct option_kind *plot_kind_described(const char *name)
{
    for (int i = 0; i < PLOT_KIND_COUNT; i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            return &kinds[i];
        }
    }
    return NULL;
}

static int refuse(const char *name, char *reterr)
{
    char list[160];
    struct nearest nearest;
    nearest_init(&nearest, name);
    for (int i = 0; i < PLOT_KIND_COUNT; i++) {
        nearest_try(&nearest, kinds[i].name);
    }
    plot_kind_list(PLOT_KINDS_ALL, list, sizeof list);
    snprintf(reterr, PLOT_ERROR_MAX,
             nearest.best ? "no kind '%.80s': did you mean '%s'?" : "no kind '%.80s' (valid: %s)",
             name, nearest.best ? nearest.best : list);
    return -1;
}

int plot_kind_find(const char *name, enum plot_kind *ret_kind, char *reterr)
{
    const struct option_kind *kind = plot_kind_described(name);
    if (!kind) {
        return refuse(name, reterr);
    }
    *ret_kind = (enum plot_kind)(kind - kinds);
    return 0;
}
