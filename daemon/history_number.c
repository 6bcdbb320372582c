/* SPDX-License-Identifier: MIT */
#include "history_number.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void number_name(int number, char ret_name[NUMBER_NAME_MAX])
{
    int aggregate = number - NUMBER_AGGREGATE;
    if (number < METRIC_COUNT)
        snprintf(ret_name, NUMBER_NAME_MAX, "%s", metric_info[number].name);
    else if (number == NUMBER_SINK_RATE)
        snprintf(ret_name, NUMBER_NAME_MAX, "sink_rate");
    else
        snprintf(ret_name, NUMBER_NAME_MAX, "aggregate.%s.%s",
                 aggregate_name[aggregate / MAP_STAT_COUNT],
                 map_stat_name[aggregate % MAP_STAT_COUNT]);
}

int number_find(const char *name)
{
    for (int i = 0; i < NUMBER_COUNT; i++) {
        char own[NUMBER_NAME_MAX];
        number_name(i, own);
        if (strcmp(own, name) == 0)
            return i;
    }
    return -1;
}

bool number_is_of_layer(int number)
{
    return number >= METRIC_COUNT;
}

bool number_in_state(const struct layer_state *state, int number)
{
    if (number < METRIC_COUNT)
        return state->on[number];
    if (number == NUMBER_SINK_RATE)
        return state->on[METRIC_FIRST_TOKEN];
    return state->has_aggregate[(number - NUMBER_AGGREGATE) / MAP_STAT_COUNT];
}

static struct result_stat stat_of(const struct dist *dist, double last)
{
    const struct moments *m = &dist->moments;
    return (struct result_stat){
        .mean = moments_mean(m),
        .std = moments_std(m),
        .min = m->n ? m->min : NAN,
        .max = m->n ? m->max : NAN,
        .p50 = dist_quantile(dist, 0.50),
        .p90 = dist_quantile(dist, 0.90),
        .p99 = dist_quantile(dist, 0.99),
        .last = last,
        .count = m->n,
    };
}

int number_stat(const struct layer_state *state, int number, uint32_t head,
                struct result_stat *ret_stat)
{
    struct dist dist = {0};
    int aggregate = (number - NUMBER_AGGREGATE) / MAP_STAT_COUNT;
    int statistic = (number - NUMBER_AGGREGATE) % MAP_STAT_COUNT;
    int code = 0;
    if (number < METRIC_COUNT) {
        code = layer_state_dist(state, number, head, &dist);
        if (!code)
            *ret_stat = stat_of(&dist, state->last[(size_t)number * state->heads + head]);
        dist_clear(&dist);
    } else if (number == NUMBER_SINK_RATE) {
        *ret_stat = stat_of(&state->sink_rate, state->sink_rate_last);
    } else {
        *ret_stat = stat_of(&state->aggregate[aggregate][statistic],
                            state->aggregate_last[aggregate][statistic]);
    }
    return code;
}
