/* SPDX-License-Identifier: MIT */
#include "live.h"

#include "err.h"
#include "result.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void describe(const struct message *message, const struct measured *measured,
                     struct live_result *live)
{
    const struct header *header = &message->header;
    *live = (struct live_result){
        .common = {header->job, header->run, header->epoch, header->step, header->time_ns},
        .layer = {.id = header->layer,
                  .shape = {header->batch, header->heads, header->queries, header->keys},
                  .causal = header->causal,
                  .rows = measured->rows->rows,
                  .invalid_rows = measured->rows->invalid_rows,
                  .row_sum_error = measured->rows->row_sum_error},
        .rank = header->rank,
        .numbers = {.heads = header->heads,
                    .pairs = {.pairs = measured->rows->pairs, .count = measured->rows->pair_count}},
    };
    live->numbers.vector[VECTOR_SINGULAR_VALUES] = measured->singular_values;
    for (int a = 0; a < BLOCK_MAPS; a++)
        live->numbers.has_aggregate[a] = measured->has_aggregate;
    memcpy(live->numbers.aggregate, measured->aggregate, sizeof measured->aggregate);
    for (int m = 0; m < METRIC_COUNT; m++)
        live->numbers.value[m] = measured->value[m];
}

/* Copies [heads][width] numbers to their place among [heads_total][width] NaNs. Returns what
 * follows. */
static double *spread_one(const struct header *header, const double **numbers, size_t width,
                          double *to)
{
    size_t total = header->heads_total * width;
    for (size_t i = 0; i < total; i++)
        to[i] = NAN;
    memcpy(to + header->head_offset * width, *numbers, header->heads * width * sizeof *to);
    *numbers = to;
    return to + total;
}

/* Points the arrays of `live` into a new buffer, which is returned; NULL when out of memory. */
static double *spread(const struct header *header, struct live_result *live)
{
    size_t numbers = (size_t)header->heads_total * (METRIC_COUNT + SINGULAR_VALUES_MAX);
    double *buffer = malloc(numbers * sizeof *buffer);
    double *next = buffer;
    const double **singular_values = &live->numbers.vector[VECTOR_SINGULAR_VALUES];
    for (int m = 0; buffer && m < METRIC_COUNT; m++)
        if (live->numbers.value[m])
            next = spread_one(header, &live->numbers.value[m], 1, next);
    if (buffer && *singular_values)
        spread_one(header, singular_values, SINGULAR_VALUES_MAX, next);
    live->numbers.heads = header->heads_total;
    return buffer;
}

int live_write(const struct message *message, const struct measured *measured,
               struct mpk_writer *writer)
{
    struct live_result live;
    double *buffer = NULL;
    describe(message, measured, &live);
    if (message->header.heads_total != message->header.heads) {
        buffer = spread(&message->header, &live);
        if (!buffer)
            return ERR_MEMORY;
    }
    live_encode(&live, writer);
    free(buffer);
    return mpk_writer_ok(writer) ? 0 : ERR_MEMORY;
}
