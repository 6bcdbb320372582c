/* SPDX-License-Identifier: MIT */
#include "statistics.h"

#include "err.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

/* Two passes: the mean, then the squared deviations from it. */
static struct moments measure_row(const double *row, uint32_t keys)
{
    struct moments m = {.min = INFINITY, .max = -INFINITY};
    double sum = 0;
    for (uint32_t j = 0; j < keys; j++) {
        if (!isfinite(row[j]))
            continue;
        m.n++;
        sum += row[j];
        m.min = fmin(m.min, row[j]);
        m.max = fmax(m.max, row[j]);
    }
    if (m.n == 0)
        return (struct moments){0};
    m.mean = sum / (double)m.n;
    for (uint32_t j = 0; j < keys; j++)
        if (isfinite(row[j]))
            m.m2 += (row[j] - m.mean) * (row[j] - m.mean);
    return m;
}

/* The rows of one map; merged map by map, so that no merge is of very unequal parts for long. */
static struct moments measure_map(const struct attention *a, uint32_t b, uint32_t h, double *row)
{
    struct moments map = {0};
    for (uint32_t i = 0; i < a->queries; i++) {
        attention_load_row(a, b, h, i, row);
        struct moments m = measure_row(row, a->keys);
        moments_merge(&map, &m);
    }
    return map;
}

int statistics_measure(const struct attention *a, struct moments *ret_entries)
{
    struct moments entries = {0};
    double *row = malloc((size_t)a->keys * sizeof(*row));
    if (!row)
        return ERR_MEMORY;
    for (uint32_t b = 0; b < a->batch; b++)
        for (uint32_t h = 0; h < a->heads; h++) {
            struct moments map = measure_map(a, b, h, row);
            moments_merge(&entries, &map);
        }
    free(row);
    *ret_entries = entries;
    return 0;
}

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *layer_to_json(const struct input *input, const struct moments *entries)
{
    const struct array *array = input->array[TENSOR_WEIGHTS];
    json_t *shape = json_array();
    for (uint32_t i = 0; i < array->rank; i++)
        json_array_append_new(shape, json_integer((json_int_t)array->shape[i]));
    return json_pack("{s:i, s:s, s:o, s:o, s:o, s:o, s:o}", "layer", (int)input->id.layer, "type",
                     input->id.site == SITE_SELF ? "self_attention" : "cross_attention", "mean",
                     number(moments_mean(entries)), "std", number(moments_std(entries)), "min",
                     number(entries->n ? entries->min : NAN), "max",
                     number(entries->n ? entries->max : NAN), "shape", shape);
}

int statistics_print(const struct inputs *inputs, const struct moments *entries, FILE *out)
{
    json_t *stack[] = {[STACK_ENCODER] = json_array(), [STACK_DECODER] = json_array()};
    json_t *root =
        json_pack("{s:o, s:o}", "encoder", stack[STACK_ENCODER], "decoder", stack[STACK_DECODER]);
    int rc = root ? 0 : ERR_MEMORY;
    for (size_t i = 0; i < inputs->count && rc == 0; i++)
        if (json_array_append_new(stack[inputs->items[i].id.stack],
                                  layer_to_json(&inputs->items[i], &entries[i])) != 0)
            rc = ERR_MEMORY;
    char *text = rc == 0 ? json_dumps(root, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    json_decref(root);
    if (!text)
        return ERR_MEMORY;
    fprintf(out, "%s\n", text);
    free(text);
    return 0;
}
