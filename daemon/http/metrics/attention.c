/* SPDX-License-Identifier: MIT */
/* Writes each family with one line per layer. Writes the heads that drift most, with
 * http.metrics_heads. */
#include "daemon/http/metrics/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A number that there is for each layer. */
struct layer_family {
    const char *name, *help;
    enum family_type type;
    size_t offset; /* of a double; 0: of the heads */
};

static const struct layer_family families[] = {
    {"heads", "Heads of the layer.", FAMILY_GAUGE, 0},
    {"messages", "Messages with tensors that were measured.", FAMILY_COUNTER,
     offsetof(struct metrics_layer, messages)},
    {"rows", "Attention rows (sample, head, query) that counted.", FAMILY_COUNTER,
     offsetof(struct metrics_layer, rows)},
    {"invalid_rows",
     "Attention rows that were left out as unsound: not finite, or no distribution.",
     FAMILY_COUNTER, offsetof(struct metrics_layer, invalid)},
    {"newest_message_timestamp_seconds",
     "When the newest message was sent, by the clock of its publisher.", FAMILY_GAUGE,
     offsetof(struct metrics_layer, time_s)},
    {"row_sum_error", "Largest distance of the sum of an attention row from 1, newest message.",
     FAMILY_GAUGE, offsetof(struct metrics_layer, row_sum_error)},
    {"sink_ratio", "Share of the heads that put more than 0.3 of their weight on the first key.",
     FAMILY_GAUGE, offsetof(struct metrics_layer, sink_rate)},
    {"drift_shift_max",
     "Largest drift of any metric of any head, newest window against the baseline, as `shift` of "
     "summaries.",
     FAMILY_GAUGE, offsetof(struct metrics_layer, drift_shift)},
    {"entropy_drift_shift_max", "Largest drift of the entropy of any head, as drift_shift_max.",
     FAMILY_GAUGE, offsetof(struct metrics_layer, entropy_shift)},
    {"drift_divergence_max_nats",
     "Largest Jensen-Shannon divergence of any metric of any head, newest window against the "
     "baseline.",
     FAMILY_GAUGE, offsetof(struct metrics_layer, drift_js)},
};

static double metrics_attention_number_of(const struct metrics_layer *layer,
                                          const struct layer_family *family)
{
    double number;
    if (family->offset == 0) {
        return layer->heads > 0 ? (double)layer->heads : (double)NAN; /* only matrices have come */
    }
    memcpy(&number, (const char *)layer + family->offset, sizeof number);
    return number;
}

static void metrics_attention_put_layer(struct metrics_text *text, const char *name,
                                        size_t name_size, const struct metrics_layer *layer,
                                        double number)
{
    if (layer->shown && !isnan(number)) {
        metrics_line(text, name, name_size, layer->labels, layer->labels_size, number);
    }
}

static void put_pooled(struct metrics_text *text, const struct metrics *metrics, int metric,
                       int part)
{
    static const char *const suffix[] = {"", "_min", "_max"};
    static const char *const begin[] = {"Mean over heads of the", "Least of any head of the",
                                        "Largest of any head of the"};
    const struct attention_info *info = &attention_info[metric];
    char name[96], help[256];
    if (!(info->parts & 1u << part)) {
        return;
    }
    snprintf(name, sizeof name, "attnd_attention_%s%s%s", info->name, suffix[part], info->unit);
    snprintf(help, sizeof help, "%s %s", begin[part], info->help);
    const struct family head = {name, FAMILY_GAUGE, help};
    metrics_head(text, &head);
    for (const struct metrics_layer *layer = metrics->layers; layer; layer = layer->hh.next) {
        metrics_attention_put_layer(text, name, strlen(name), layer, layer->pooled[metric][part]);
    }
}

/* One series per layer whose module is known: a label of its own would give every other series of
 * the layer another identity. */
static void put_modules(struct metrics_text *text, const struct metrics *metrics)
{
    const struct family family = {"attnd_layer", FAMILY_INFO,
                                  "The path of the module that attends in the layer."};
    char labels[2 * LAYER_KEY_MAX + 2 * MODULE_MAX + 96];
    metrics_head(text, &family);
    for (const struct metrics_layer *layer = metrics->layers; layer; layer = layer->hh.next) {
        if (layer->shown && layer->module[0]) {
            snprintf(labels, sizeof labels, "%s", layer->labels);
            metrics_label(labels, sizeof labels, "module", layer->module);
            metrics_count(text, &family, labels, 1);
        }
    }
}

/* Heads */

/* Whether `head` is one of the `count` heads of the layer that drift most. The first of equal ones
 * counts. */
static bool drifts_most(const struct metrics_layer *layer, uint32_t head, uint64_t count)
{
    uint64_t before = 0;
    double mine = layer->shift && !isnan(layer->shift[head]) ? layer->shift[head] : -1;
    for (uint32_t h = 0; h < layer->heads && before < count; h++) {
        double other = layer->shift && !isnan(layer->shift[h]) ? layer->shift[h] : -1;
        before += other > mine || (h < head && !(mine > other));
    }
    return before < count;
}

static void metrics_attention_put_heads(struct metrics_text *text, const struct metrics *metrics,
                                        const char *name, const char *what, int metric)
{
    char help[256];
    snprintf(help, sizeof help, "One head: %s", what);
    const struct family head = {name, FAMILY_GAUGE, help};
    metrics_head(text, &head);
    for (const struct metrics_layer *layer = metrics->layers; layer; layer = layer->hh.next) {
        const double *values = metric == ATTENTION_COUNT ? layer->shift
                               : layer->of_heads ? layer->of_heads + (size_t)metric * layer->heads
                                                 : NULL;
        char labels[2 * LAYER_KEY_MAX + 96];
        for (uint32_t h = 0; layer->shown && values && h < layer->heads; h++) {
            if (isnan(values[h]) || (metrics->config->http_metrics_heads < layer->heads &&
                                     !drifts_most(layer, h, metrics->config->http_metrics_heads))) {
                continue;
            }
            int size = snprintf(labels, sizeof labels, "%s,head=\"%u\"", layer->labels, h);
            metrics_line(text, name, strlen(name), labels, (size_t)size, values[h]);
        }
    }
}

void metrics_put_attention(struct metrics_text *text, const struct metrics *metrics)
{
    put_modules(text, metrics);
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        const struct layer_family *family = &families[i];
        char name[96], sample[112];
        snprintf(name, sizeof name, "attnd_attention_%s", family->name);
        snprintf(sample, sizeof sample, "%s%s", name,
                 family->type == FAMILY_COUNTER ? "_total" : "");
        const struct family head = {name, family->type, family->help};
        metrics_head(text, &head);
        for (const struct metrics_layer *layer = metrics->layers; layer; layer = layer->hh.next) {
            metrics_attention_put_layer(text, sample, strlen(sample), layer,
                                        metrics_attention_number_of(layer, family));
        }
    }
    for (int metric = 0; metric < ATTENTION_COUNT; metric++) {
        for (int part = 0; part < PART_COUNT; part++) {
            put_pooled(text, metrics, metric, part);
        }
    }
    if (metrics->config->http_metrics_heads > 0) {
        static const int chosen[] = {ATTENTION_ENTROPY_NORMALIZED, ATTENTION_FIRST_TOKEN,
                                     ATTENTION_MAX_LOGIT};
        char name[96];
        for (size_t i = 0; i < sizeof chosen / sizeof chosen[0]; i++) {
            const struct attention_info *info = &attention_info[chosen[i]];
            snprintf(name, sizeof name, "attnd_detail_%s%s", info->name, info->unit);
            metrics_attention_put_heads(text, metrics, name, info->help, chosen[i]);
        }
        metrics_attention_put_heads(
            text, metrics, "attnd_detail_drift_shift",
            "largest drift of any metric, newest window against the baseline.", ATTENTION_COUNT);
    }
}
