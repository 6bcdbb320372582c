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

static int fill_heads(struct control_request *request, const struct maps_asked *asked,
                      const struct layer_maps *maps, struct picture *picture)
{
    bool one = asked->head != UINT64_MAX;
    if (one && !maps_find(maps, (uint32_t)asked->head)) {
        return control_maps_refuse(request,
                                   "this head has not arrived; heads come in slices over ranks");
    }
    for (uint32_t i = 0; i < picture->count; i++) {
        copy_head(picture, i, maps, one ? (uint32_t)asked->head : i);
    }
    return 0;
}

/* One map of all heads */

/* Exact while cells are entries; of pooled slices the entries are gone. */
static int fill_max(struct control_request *request, const struct layer_maps *maps,
                    struct picture *picture)
{
    const struct head_maps *shape = maps_shape(maps);
    size_t cells = (size_t)picture->rows * picture->columns;
    bool pooled = shape->rows < shape->queries || shape->columns < shape->keys;
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

static void fill_sum(const struct layer_maps *maps, const double *weights, double *sum,
                     struct picture *picture)
{
    size_t cells = (size_t)picture->rows * picture->columns;
    for (const struct map_slice *slice = maps->slices; slice; slice = slice->next) {
        head_maps_add_weighted(slice->maps, weights + slice->first, sum);
    }
    for (size_t i = 0; i < cells; i++) {
        picture->cells[i] = (float)sum[i];
    }
}

/* The weight of each head in the sum that a kind is. Returns 0 or ERR_NO_MAP. */
static int control_maps_weigh(struct control_request *request, enum maps_kind kind,
                              const struct run *run, const struct layer_maps *maps,
                              double *ret_weights)
{
    const config_numbers *given = &run->job_config.metrics_head_weights;
    const double *importance = maps->slices->importance;
    if (kind == MAPS_IMPORTANCE && !importance) {
        return control_maps_refuse(request, maps->slices->next
                                                ? "heads in slices have no importance"
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

static int fill_weighted(struct control_request *request, enum maps_kind kind,
                         const struct run *run, const struct layer_maps *maps,
                         struct picture *picture)
{
    double *weights = malloc(maps->heads * sizeof *weights);
    double *sum = calloc((size_t)picture->rows * picture->columns, sizeof *sum);
    int code = weights && sum ? control_maps_weigh(request, kind, run, maps, weights) : ERR_MEMORY;
    if (!code) {
        fill_sum(maps, weights, sum, picture);
    }
    free(weights);
    free(sum);
    return code;
}

static int control_maps_fill(struct control_request *request, const struct maps_asked *asked,
                             const struct run *run, const struct layer_maps *maps,
                             struct picture *picture)
{
    if (asked->kind == MAPS_HEADS) {
        return fill_heads(request, asked, maps, picture);
    }
    if (maps->here < maps->heads) {
        return control_maps_refuse(request,
                                   "not all heads of one step have come, in slices over ranks");
    }
    picture->single = picture->here[0] = true;
    return asked->kind == MAPS_MAX ? fill_max(request, maps, picture)
                                   : fill_weighted(request, asked->kind, run, maps, picture);
}

/* The answer */

static void control_maps_put_heads(struct mpk_writer *result, const struct maps_asked *asked,
                                   uint32_t heads)
{
    bool one = asked->head != UINT64_MAX;
    mpk_put_str(result, "heads");
    if (asked->kind != MAPS_HEADS) {
        mpk_put_nil(result);
        return;
    }
    mpk_put_array(result, one ? 1 : heads);
    for (uint32_t h = 0; h < (one ? 1 : heads); h++) {
        mpk_put_u64(result, one ? asked->head : h);
    }
}

static void control_maps_put_layer(struct mpk_writer *result, const struct maps_asked *asked,
                                   const struct run *run, const struct stream *stream)
{
    static const char *const tier[] = {[MESSAGE_ATTENTION] = "attention", [MESSAGE_QK] = "qk"};
    const struct layer_maps *maps = stream->maps.shown;
    mpk_put_map(result, MAPS_COMMON_KEYS + 11);
    maps_put_common(result, run, maps);
    maps_put_text(result, "stack", stack_name(stream->id.stack));
    put_number(result, "layer", stream->id.layer);
    maps_put_text(result, "site", site_name(stream->id.site));
    maps_put_text(result, "tier", tier[maps->type]);
    put_number(result, "time_ns", maps->time_ns);
    put_number(result, "sample", maps_shape(maps)->sample);
    put_number(result, "q_offset", maps->q_offset);
    mpk_pair_bool(result, "causal", maps->causal);
    maps_put_text(result, "kind", maps_kind_name[asked->kind]);
    control_maps_put_heads(result, asked, maps->heads);
}

static int control_maps_check_head(struct control_request *request, const struct maps_asked *asked,
                                   const struct layer_maps *maps)
{
    if (asked->head == UINT64_MAX || (asked->kind == MAPS_HEADS && asked->head < maps->heads)) {
        return 0;
    }
    snprintf(request->detail, CONTROL_DETAIL_MAX,
             "head is not accepted (valid: 0 to %u, with kind heads)", (unsigned)(maps->heads - 1));
    return ERR_ARGUMENT;
}

int method_maps(struct control_request *request)
{
    static const char *const keys[] = {"job",  "run",  "stack", "layer",
                                       "site", "head", "kind",  "packed"};
    struct maps_asked asked;
    struct picture *picture = NULL;
    struct run *run;
    int code = maps_read(request, keys, 8, &asked);
    if (!code) {
        code = request_find_run(request, asked.job, asked.run, &run);
    }
    if (code) {
        return code;
    }
    struct stream *stream = maps_find_stream(&asked, run);
    const struct layer_maps *maps = stream ? stream->maps.shown : NULL;
    if (!maps) {
        return maps_refuse(request, run, stream);
    }
    uint32_t count = asked.kind == MAPS_HEADS && asked.head == UINT64_MAX ? maps->heads : 1;
    code = control_maps_check_head(request, &asked, maps);
    if (!code) {
        code = picture_new(request, &asked, run, maps, count, &picture);
    }
    if (!code) {
        code = control_maps_fill(request, &asked, run, maps, picture);
    }
    if (code) {
        picture_free(&picture);
        return code;
    }
    control_maps_put_layer(&picture->result, &asked, run, stream);
    return picture_answer(request, &picture);
}
