/* SPDX-License-Identifier: MIT */
/* rollout: attention rollout over the layers of a stack, of their newest maps. The mean maps are
 * copied here, and multiplied on a thread of libuv's pool: n^3 operations a layer. */
#include "daemon/control/map_answer.h"

#include "workers/maps/rollout.h"

#include <stdlib.h>
#include <string.h>

struct chosen {
    struct stream **streams; /* self-attention, by layer; owned */
    uint32_t count;
    bool exact;
};

static int by_layer(const void *a, const void *b)
{
    const struct stream *const *x = a, *const *y = b;
    return ((*x)->key > (*y)->key) - ((*x)->key < (*y)->key);
}

/* The self-attention of the stack: the first that there is unless one is named. Returns 0,
 * ERR_NO_MAP with a sentence, or ERR_MEMORY. */
static int control_rollout_choose(struct control_request *request, struct maps_asked *asked,
                                  const struct run *run, struct chosen *chosen)
{
    strcpy(asked->site, "self");
    const struct stream *first = maps_find_stream(asked, run);
    if (!first) {
        return maps_refuse(request, run, NULL);
    }
    chosen->streams = calloc(HASH_COUNT(run->streams), sizeof *chosen->streams);
    if (!chosen->streams) {
        return ERR_MEMORY;
    }
    for (struct stream *s = run->streams; s; s = s->hh.next) {
        if (s->measured && s->id.site == SITE_SELF && s->id.stack == first->id.stack) {
            chosen->streams[chosen->count++] = s;
        }
    }
    qsort(chosen->streams, chosen->count, sizeof *chosen->streams, by_layer);
    return 0;
}

static int control_rollout_check(struct control_request *request, const struct run *run,
                                 struct chosen *chosen)
{
    const struct layer_maps *first = chosen->streams[0]->maps.shown;
    for (uint32_t i = 0; i < chosen->count; i++) {
        const struct stream *stream = chosen->streams[i];
        const struct layer_maps *maps = stream->maps.shown;
        const char *why = NULL;
        if (!maps) {
            return maps_refuse(request, run, stream);
        }
        const struct head_maps *shape = maps_shape(maps);
        if (shape->queries != shape->keys || shape->keys != maps_shape(first)->keys) {
            why = "it needs square maps of one size in all layers (plan.rows 0, one length)";
        } else if (maps->here < maps->heads) {
            why = "not all heads of one step have come, in slices over ranks";
        }
        if (why) {
            snprintf(request->detail, CONTROL_DETAIL_MAX, "there is no rollout: %s", why);
            return ERR_NO_MAP;
        }
    }
    /* The rollout itself: no map is pooled, all are of one step, no layer is missing. */
    chosen->exact = maps_shape(first)->rows == maps_shape(first)->keys;
    for (uint32_t i = 0; i < chosen->count; i++) {
        const struct layer_maps *maps = chosen->streams[i]->maps.shown;
        chosen->exact = chosen->exact && maps->step == first->step && maps->epoch == first->epoch &&
                        chosen->streams[i]->id.layer == i;
    }
    return 0;
}

/* The mean over all heads, of the means over those of slices. */
static void put_mean(const struct layer_maps *maps, size_t cells, float *mean)
{
    memset(mean, 0, cells * sizeof *mean);
    for (const struct map_slice *slice = maps->slices; slice; slice = slice->next) {
        float share = (float)slice->maps->heads / (float)maps->heads;
        for (size_t i = 0; i < cells; i++) {
            mean[i] += share * slice->maps->mean[i];
        }
    }
}

/* On another thread: each mean map becomes the rollout up to its layer. */
static int roll(struct picture *picture)
{
    size_t n = picture->rows, cells = n * n;
    double *now = calloc(cells, sizeof *now), *room = malloc((cells + n) * sizeof *room);
    int code = now && room ? 0 : ERR_MEMORY;
    for (size_t i = 0; !code && i < n; i++) {
        now[i * n + i] = 1;
    }
    for (uint32_t l = 0; !code && l < picture->count; l++) {
        float *map = picture->cells + l * cells;
        rollout_add(map, picture->rows, picture->keys, now, room);
        for (size_t i = 0; i < cells; i++) {
            map[i] = (float)now[i];
        }
    }
    free(now);
    free(room);
    return code;
}

static int control_rollout_answer(struct control_request *request, const struct maps_asked *asked,
                                  const struct run *run, const struct chosen *chosen)
{
    struct picture *picture;
    const struct layer_maps *first = chosen->streams[0]->maps.shown;
    int code = picture_new(request, asked, run, first, chosen->count, &picture);
    if (code) {
        return code;
    }
    size_t cells = (size_t)picture->rows * picture->columns;
    for (uint32_t l = 0; l < chosen->count; l++) {
        put_mean(chosen->streams[l]->maps.shown, cells, picture->cells + l * cells);
        picture->here[l] = true;
    }
    picture->make = roll;
    mpk_put_map(&picture->result, MAPS_COMMON_KEYS + 4);
    maps_put_common(&picture->result, asked, run, chosen->streams[0]->maps.shown);
    mpk_pair_str(&picture->result, "stack", stack_name(chosen->streams[0]->id.stack));
    mpk_pair_array(&picture->result, "layers", chosen->count);
    for (uint32_t i = 0; i < chosen->count; i++) {
        mpk_put_u64(&picture->result, chosen->streams[i]->id.layer);
    }
    mpk_pair_bool(&picture->result, "exact", chosen->exact);
    return picture_answer(request, &picture);
}

int method_rollout(struct control_request *request)
{
    struct chosen chosen = {.count = 0};
    struct maps_asked asked;
    struct run *run;
    int code = maps_read(request, &asked);
    code = code ? code : request_find_run(request, asked.job, asked.run, &run);
    code = code ? code : control_rollout_choose(request, &asked, run, &chosen);
    code = code ? code : control_rollout_check(request, run, &chosen);
    code = code ? code : control_rollout_answer(request, &asked, run, &chosen);
    free(chosen.streams);
    return code;
}
