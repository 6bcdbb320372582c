/* SPDX-License-Identifier: MIT */
#include "daemon/store/number.h"

#include <stdio.h>
#include <string.h>

void number_name(int number, char ret_name[NUMBER_NAME_MAX])
{
    int aggregate = number - NUMBER_AGGREGATE;
    if (number < METRIC_COUNT) {
        snprintf(ret_name, NUMBER_NAME_MAX, "%s", metric_info[number].name);
    } else if (number == NUMBER_SINK_RATE) {
        snprintf(ret_name, NUMBER_NAME_MAX, "sink_rate");
    } else {
        snprintf(ret_name, NUMBER_NAME_MAX, "aggregate.%s.%s",
                 aggregate_name[aggregate / MAP_STAT_COUNT],
                 map_stat_name[aggregate % MAP_STAT_COUNT]);
    }
}

int number_find(const char *name)
{
    for (int i = 0; i < NUMBER_COUNT; i++) {
        char own[NUMBER_NAME_MAX];
        number_name(i, own);
        if (strcmp(own, name) == 0) {
            return i;
        }
    }
    return -1;
}

bool number_is_of_layer(int number)
{
    return number >= METRIC_COUNT;
}

bool number_in_state(const struct layer_state *state, int number)
{
    if (number < METRIC_COUNT) {
        return state->on[number];
    }
    if (number == NUMBER_SINK_RATE) {
        return state->on[METRIC_FIRST_TOKEN];
    }
    return state->has_aggregate[(number - NUMBER_AGGREGATE) / MAP_STAT_COUNT];
}

bool number_has_value(const struct layer_state *state, int number)
{
    bool found = number >= METRIC_COUNT && number_in_state(state, number);
    for (uint32_t head = 0; number < METRIC_COUNT && head < state->heads && !found; head++) {
        found = layer_state_moments(state, number, head).n > 0;
    }
    return found;
}

int number_stat(const struct layer_state *state, int number, uint32_t head,
                struct result_stat *ret_stat)
{
    int map = number - NUMBER_AGGREGATE;
    if (number < METRIC_COUNT) {
        return layer_state_stat(state, number, head, ret_stat);
    }
    if (number == NUMBER_SINK_RATE) {
        return layer_state_sink_rate(state, ret_stat);
    }
    return layer_state_map_stat(state, map / MAP_STAT_COUNT, map % MAP_STAT_COUNT, ret_stat);
}
