/* SPDX-License-Identifier: MIT */
/* maps: the newest maps of the heads of a layer (maps.h), or one map of all of them. Kinds that are
 * linear in the heads are worked out here, of the cells. */
#include "daemon/control/map_answer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A sentence why a kind or head does not exist. */
static int control_maps_refuse(struct control_request *request, const char *why)
{
    snprintf(request->detail, CONTROL_DETAIL_MAX, "there is no such map: %s", why);
    return ERR_NO_MAP;
}

/* One head after the other */

static void copy_head(struct picture *picture, uint32_t at, const struct layer_maps *maps,
                      uint32_t head)
{
    size_t cells = (size_t)picture->rows * picture->columns;
    float *to = picture->cells + at * cells;
    const struct map_slice *slice = maps_find(maps, head);
    picture->here[at] = slice != NULL;
    if (slice) {
        memcpy(to, slice->maps->values + (head - slice->first) * cells, cells * sizeof *to);
    }
    for (size_t i = 0; !slice && i < cells; i++) {
        to[i] = NAN;
    }
}

/* The heads that are asked for: the first, and their number. */
static uint32_t control_maps_first(const struct maps_asked *asked)
{
    return asked->head == UINT64_MAX ? 0 : (uint32_t)asked->head;
}

static uint32_t control_maps_count(const struct maps_asked *asked, const struct layer_maps *maps)
{
    uint32_t rest = maps->heads - control_maps_first(asked);
    uint64_t wanted = asked->heads != UINT64_MAX  ? asked->heads
                      : asked->head != UINT64_MAX ? 1
                                                  : rest;
    return asked->kind != MAPS_HEADS ? 1 : wanted < rest ? (uint32_t)wanted : rest;
}

/* One map of all heads */

/* Exact while cells are entries; of pooled slices the entries are gone. */
static int fill_max(struct control_request *request, const struct layer_maps *maps,
                    struct picture *picture)
{
    const struct head_maps *shape = maps_shape(maps);
    size_t cells = (size_t)picture->rows * picture->columns;
    bool pooled = head_maps_pooled(shape);
    if (pooled && maps->type == MESSAGE_ROWS) {
        return control_maps_refuse(request, "the largest weights over heads are not known of maps "
                                            "that were pooled before they came");
    }
    if (pooled && maps->slices->next) {
        return control_maps_refuse(
            request, "the largest weights over heads in slices are not known of maps that "
                     "are longer than maps.size");
    }
    memcpy(picture->cells, shape->max, cells * sizeof *shape->max);
    for (const struct map_slice *slice = maps->slices->next; slice; slice = slice->next) {
        for (size_t i = 0; i < cells; i++) {
            picture->cells[i] = fmaxf(picture->cells[i], slice->maps->max[i]);
        }
    }
    return 0;
}

/* The weight of each head in the sum that a kind is. Returns 0 or ERR_NO_MAP. */
static int control_maps_weigh(struct control_request *request, enum maps_kind kind,
                              const struct run *run, const struct layer_maps *maps,
                              double *ret_weights)
{
    const config_numbers *given = &run->job_config->metrics_head_weights;
    const double *importance = maps->slices->importance;
    if (kind == MAPS_IMPORTANCE && !importance) {
        return control_maps_refuse(request, maps->slices->next
                                                ? "heads in slices have no importance"
                                            : maps->type == MESSAGE_ROWS
                                                ? "the rows that they came with are not all, or do "
                                                  "not tell it"
                                                : "metrics.importance is false");
    }
    if (kind == MAPS_WEIGHTED && given->count != maps->heads) {
        return control_maps_refuse(
            request, given->count == 0
                         ? "metrics.head_weights is empty"
                         : "metrics.head_weights is not of as many heads as the layer has");
    }
    for (uint32_t h = 0; h < maps->heads; h++) {
        ret_weights[h] = kind == MAPS_IMPORTANCE ? importance[h]
                         : kind == MAPS_WEIGHTED ? given->number[h]
                         : kind == MAPS_MEAN     ? 1.0 / maps->heads
                                                 : 1.0;
    }
    return 0;
}

static int control_maps_fill(struct control_request *request, const struct maps_asked *asked,
                             const struct run *run, const struct layer_maps *maps,
                             struct picture *picture)
{
    if (asked->kind == MAPS_HEADS) {
        uint32_t first = control_maps_first(asked);
        if (asked->head != UINT64_MAX && picture->count == 1 && !maps_find(maps, first)) {
            return control_maps_refuse(
                request, "this head has not arrived; heads come in slices over ranks");
        }
        for (uint32_t i = 0; i < picture->count; i++) {
            copy_head(picture, i, maps, first + i);
        }
        return 0;
    }
    if (maps->here < maps->heads) {
        return control_maps_refuse(request,
                                   "not all heads of one step have come, in slices over ranks");
    }
    picture->single = picture->here[0] = true;
    if (asked->kind == MAPS_MAX) {
        return fill_max(request, maps, picture);
    }
    double *weights = malloc(maps->heads * sizeof *weights);
    double *sum = calloc((size_t)picture->rows * picture->columns, sizeof *sum);
    int code =
        weights && sum ? control_maps_weigh(request, asked->kind, run, maps, weights) : ERR_MEMORY;
    if (!code) {
        size_t cells = (size_t)picture->rows * picture->columns;
        for (const struct map_slice *slice = maps->slices; slice; slice = slice->next) {
            head_maps_add_weighted(slice->maps, weights + slice->first, sum);
        }
        for (size_t i = 0; i < cells; i++) {
            picture->cells[i] = (float)sum[i];
        }
    }
    free(weights);
    free(sum);
    return code;
}

/* The answer */

static void control_maps_put_layer(struct mpk_writer *result, const struct maps_asked *asked,
                                   const struct run *run, const struct stream *stream)
{
    const struct layer_maps *maps = stream->maps.shown;
    mpk_put_map(result,
                MAPS_COMMON_KEYS + 11 + (stream->module ? 1U : 0U) + (maps->batch ? 1U : 0U));
    maps_put_common(result, asked, run, maps);
    mpk_pair_str(result, "stack", stack_name(stream->id.stack));
    mpk_pair_u64(result, "layer", stream->id.layer);
    mpk_pair_str(result, "site", site_name(stream->id.site));
    if (stream->module) {
        mpk_pair_str(result, "module", stream->module);
    }
    mpk_pair_str(result, "tier", message_type_name(maps->type));
    mpk_pair_u64(result, "time_ns", maps->time_ns);
    mpk_pair_u64(result, "sample", maps->sample);
    if (maps->batch) {
        mpk_pair_u64(result, "batch", maps->batch);
    }
    mpk_pair_u64(result, "q_offset", maps->q_offset);
    mpk_pair_bool(result, "causal", maps->causal);
    mpk_pair_str(result, "kind", maps_kind_name[asked->kind]);
    uint32_t count = control_maps_count(asked, maps);
    mpk_put_str(result, "heads");
    if (asked->kind != MAPS_HEADS) {
        mpk_put_nil(result);
        return;
    }
    mpk_put_array(result, count);
    for (uint32_t i = 0; i < count; i++) {
        mpk_put_u64(result, control_maps_first(asked) + i);
    }
}

static int control_maps_check_heads(struct control_request *request, const struct maps_asked *asked,
                                    const struct layer_maps *maps)
{
    bool named = asked->head != UINT64_MAX, counted = asked->heads != UINT64_MAX;
    bool of_heads = asked->kind == MAPS_HEADS || !(named || counted);
    char valid[64];
    if (of_heads && (!named || asked->head < maps->heads)) {
        return 0;
    }
    if (counted && !of_heads) {
        return request_refuse(request, "heads", "only with kind heads");
    }
    snprintf(valid, sizeof valid, "0 to %u, with kind heads", (unsigned)(maps->heads - 1));
    return request_refuse(request, "head", valid);
}

int method_maps(struct control_request *request)
{
    struct maps_asked asked;
    struct picture *picture = NULL;
    struct run *run;
    int code = maps_read(request, &asked);
    code = code ? code : request_find_run(request, asked.job, asked.run, &run);
    if (code) {
        return code;
    }
    struct stream *stream = maps_find_stream(&asked, run);
    const struct layer_maps *maps = stream ? stream->maps.shown : NULL;
    if (!maps) {
        return maps_refuse(request, run, stream);
    }
    code = control_maps_check_heads(request, &asked, maps);
    uint32_t count = control_maps_count(&asked, maps);
    code = code ? code : picture_new(request, &asked, run, maps, count, &picture);
    code = code ? code : control_maps_fill(request, &asked, run, maps, picture);
    if (code) {
        picture_free(&picture);
        return code;
    }
    control_maps_put_layer(&picture->result, &asked, run, stream);
    return picture_answer(request, &picture);
}
