/* SPDX-License-Identifier: MIT */
#include "daemon/run/track.h"

#include <stdio.h>
#include <stdlib.h>

void track_cut(struct track *track, const struct config *config, struct config_window window)
{
    track->window.rule = (struct window_rule){
        .unit = (enum window_unit)window.unit,
        .length = window.length,
        .every = window.every,
        .part = config_window_part(window.length, window.every),
        .timeout_ns = config->window_timeout,
        .rank_grace_ns = config->window_rank_grace,
    };
    snprintf(track->name, sizeof track->name, "%s-%llu-%llu",
             window_unit_name(track->window.rule.unit), (unsigned long long)window.length,
             (unsigned long long)window.every);
}

void track_init(struct track *track, const struct config *config, uint32_t index,
                struct config_window window, struct state_budget *budget, uint64_t now_ns)
{
    static const struct window_rule none;
    *track = (struct track){
        .index = index, .budget = budget, .buckets = (uint32_t)config->window_buckets};
    window_init(&track->window, &none, now_ns);
    track_cut(track, config, window);
}

void track_free_part(struct window_part *part)
{
    struct state_table *table = part->data;
    state_table_free(&table);
    free(part);
}

void track_free_parts(struct track *track)
{
    struct window_part *part;
    while ((part = window_take_any(&track->window))) {
        track_free_part(part);
    }
}

void track_fini(struct track *track)
{
    track_free_parts(track);
    window_fini(&track->window);
}

int track_state(struct track *track, struct window_part *part, const struct stream *stream,
                struct layer_state **ret_state)
{
    if (!part->data) {
        part->data = state_table_new(track->budget, track->buckets);
    }
    if (!part->data) {
        return ERR_MEMORY;
    }
    return state_table_get(part->data, stream->index, stream->heads, ret_state);
}

/* Without a message it says nothing, though a refused one may have made it. */
const struct layer_state *track_part_state(const struct window_part *part,
                                           const struct stream *stream)
{
    const struct layer_state *state =
        part->data ? state_table_find(part->data, stream->index) : NULL;
    return state && state->messages ? state : NULL;
}

int track_merge(const struct track *track, const struct window_part *last,
                const struct stream *stream, const struct layer_state **ret_state,
                struct layer_state **ret_merged)
{
    const struct layer_state *states[CONFIG_WINDOW_PARTS_MAX];
    const struct window_part *part = NULL;
    uint32_t count = 0;
    while (count < CONFIG_WINDOW_PARTS_MAX && (part = window_part_of(&track->window, last, part))) {
        states[count] = track_part_state(part, stream);
        count += states[count] != NULL;
    }
    *ret_state = count > 0 ? states[0] : NULL;
    if (count < 2) {
        return 0;
    }
    *ret_merged = layer_state_new(stream->heads, track->buckets);
    *ret_state = *ret_merged;
    return *ret_merged ? layer_state_merge_all(*ret_merged, states, count) : ERR_MEMORY;
}
