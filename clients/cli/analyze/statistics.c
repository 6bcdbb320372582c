/* SPDX-License-Identifier: MIT */
#include "clients/cli/analyze/internal.h"

#include "proto/err.h"
#include "workers/rows/row.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int statistics_measure(const struct attention *a, struct moments *ret_entries)
{
    struct moments entries = {0};
    double *row = calloc(a->keys > 0 ? a->keys : 1, sizeof *row);
    if (!row) {
        return ERR_MEMORY;
    }
    for (uint32_t b = 0; b < a->batch && a->keys > 0; b++) {
        for (uint32_t h = 0; h < a->heads; h++) {
            /* The finite entries of one map; merged map by map, so that no merge is of very unequal
             * parts for long. */
            struct moments map = {0};
            for (uint32_t i = 0; i < a->queries; i++) {
                uint32_t n = 0;
                attention_load_row(a, b, h, i, row);
                for (uint32_t j = 0; j < a->keys; j++) {
                    row[n] = row[j];
                    n += isfinite(row[n]) != 0;
                }
                row_merge_moments(&map, row, n);
            }
            moments_merge(&entries, &map);
        }
    }
    free(row);
    *ret_entries = entries;
    return 0;
}

/* The fewest digits that are read back as the same number. */
static void statistics_put_number(const char *name, double value, FILE *out)
{
    char text[32] = "null";
    for (int digits = 1; isfinite(value) && digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    bool whole = isfinite(value) && !strpbrk(text, ".e");
    fprintf(out, "\"%s\": %s%s, ", name, text, whole ? ".0" : "");
}

static void put_stack(const struct inputs *inputs, const struct moments *entries, enum stack stack,
                      FILE *out)
{
    const char *before = "";
    fprintf(out, "  \"%s\": [", stack_name(stack));
    for (size_t i = 0; i < inputs->count; i++) {
        if (inputs->items[i].id.stack != stack) {
            continue;
        }
        fputs(before, out);
        const struct input *input = &inputs->items[i];
        char shape[ARRAY_SHAPE_TEXT_MAX];
        array_shape_text(input->array[TENSOR_WEIGHTS], shape);
        fprintf(out, "\n    {\"layer\": %" PRIu32 ", \"type\": \"%s_attention\", ", input->id.layer,
                site_name(input->id.site));
        statistics_put_number("mean", moments_mean(&entries[i]), out);
        statistics_put_number("std", moments_std(&entries[i]), out);
        statistics_put_number("min", entries[i].n ? entries[i].min : NAN, out);
        statistics_put_number("max", entries[i].n ? entries[i].max : NAN, out);
        fprintf(out, "\"shape\": %s}", shape);
        before = ",";
    }
    fputs("]", out);
}

void statistics_print(const struct inputs *inputs, const struct moments *entries, FILE *out)
{
    fputs("{\n", out);
    put_stack(inputs, entries, STACK_ENCODER, out);
    fputs(",\n", out);
    put_stack(inputs, entries, STACK_DECODER, out);
    fputs("\n}\n", out);
}
