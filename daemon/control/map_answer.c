/* SPDX-License-Identifier: MIT */
#include "daemon/control/map_answer.h"

#include "workers/maps/map_shrink.h"

#include <stdlib.h>
#include <string.h>

const char *const maps_kind_name[MAPS_KIND_COUNT] = {"heads", "mean",     "sum",
                                                     "max",   "weighted", "importance"};

/* Parameters */

static bool read_kind(struct control_request *request, enum maps_kind *ret_kind)
{
    char name[16];
    if (!word_param(request, "kind", "heads, mean, sum, max, weighted, importance", name,
                    sizeof name)) {
        return false;
    }
    for (int i = 0; i < MAPS_KIND_COUNT; i++) {
        if (strcmp(name, maps_kind_name[i]) == 0) {
            *ret_kind = (enum maps_kind)i;
        }
    }
    return true;
}

int maps_read(struct control_request *request, struct maps_asked *ret_asked)
{
    struct maps_asked *asked = ret_asked;
    *asked = (struct maps_asked){
        .layer = UINT64_MAX, .head = UINT64_MAX, .heads = UINT64_MAX, .size = UINT64_MAX};
    bool ok = string_param(request, "job", NULL, asked->job, sizeof asked->job) &&
              string_param(request, "run", "", asked->run, sizeof asked->run) &&
              word_param(request, "stack", "encoder, decoder", asked->stack, sizeof asked->stack) &&
              word_param(request, "site", "self, cross", asked->site, sizeof asked->site) &&
              number_param(request, "layer", 0, LAYER_MAX, &asked->layer) &&
              number_param(request, "head", 0, HEADS_TOTAL_MAX - 1, &asked->head) &&
              number_param(request, "heads", 1, HEADS_TOTAL_MAX, &asked->heads) &&
              number_param(request, "size", 1, UINT32_MAX, &asked->size) &&
              read_kind(request, &asked->kind) && flag_param(request, "packed", &asked->packed);
    return ok ? 0 : ERR_ARGUMENT;
}

/* Finding */

static bool map_answer_is_meant(const struct maps_asked *asked, const struct stream *stream)
{
    return (!*asked->stack || strcmp(asked->stack, stack_name(stream->id.stack)) == 0) &&
           (!*asked->site || strcmp(asked->site, site_name(stream->id.site)) == 0) &&
           (asked->layer == UINT64_MAX || asked->layer == stream->id.layer);
}

struct stream *maps_find_stream(const struct maps_asked *asked, const struct run *run)
{
    struct stream *found = NULL;
    for (struct stream *s = run->streams; s; s = s->hh.next) {
        if (s->measured && map_answer_is_meant(asked, s) && (!found || s->key < found->key)) {
            found = s;
        }
    }
    return found;
}

int maps_refuse(struct control_request *request, const struct run *run, const struct stream *stream)
{
    static const char *const sentence[] = {
        [MAPS_NEVER_CAME] = "no attention of this layer has come since attnd started",
        [MAPS_TOO_LONG] = "its queries and keys are longer than metrics.qk_maps_max_size",
        [MAPS_NOT_SENT] = "the rows of this layer came without maps",
        [MAPS_SAMPLED] = "a sample of its rows came, because the plan's rows is below its queries",
        [MAPS_TOO_COSTLY] =
            "to make maps of its queries and keys would take a quarter of ingest.budget",
        [MAPS_TOO_LARGE] = "its maps are larger than maps.memory",
        [MAPS_EVICTED] = "its maps made room for those of other layers (maps.memory)",
        [MAPS_NO_MEMORY] = "there was no memory for its maps",
    };
    const char *why = !run->config->maps_enabled ? "maps.enabled is false"
                      : !stream ? "the run has no such layer, or nothing of it has come"
                                : sentence[stream->maps.missing];
    snprintf(request->detail, CONTROL_DETAIL_MAX, "there is no map: %s", why);
    return ERR_NO_MAP;
}

/* Common to all answers */

static void map_answer_put_labels(struct mpk_writer *result, const char *key, const char *text,
                                  uint32_t count)
{
    mpk_put_str(result, key);
    if (!text) {
        mpk_put_nil(result);
        return;
    }
    mpk_put_array(result, count);
    for (uint32_t i = 0; i < count; i++, text += strlen(text) + 1) {
        mpk_put_str(result, text);
    }
}

static uint32_t map_answer_size(const struct maps_asked *asked)
{
    return asked->size < UINT32_MAX ? (uint32_t)asked->size : UINT32_MAX;
}

void maps_put_common(struct mpk_writer *result, const struct maps_asked *asked,
                     const struct run *run, const struct layer_maps *maps)
{
    char hex[2 * RUN_BYTES + 1];
    const struct head_maps *shape = maps_shape(maps);
    run_hex(run->id, hex);
    mpk_pair_str(result, "job", run->job);
    mpk_pair_str(result, "run", hex);
    mpk_pair_u64(result, "epoch", maps->epoch);
    mpk_pair_u64(result, "step", maps->step);
    mpk_pair_u64(result, "queries", shape->queries);
    mpk_pair_u64(result, "keys", shape->keys);
    mpk_pair_u64(result, "first_query", shape->first_query);
    mpk_pair_u64(result, "first_key", shape->first_key);
    mpk_pair_u64(result, "queries_sent", shape->queries_sent);
    mpk_pair_u64(result, "keys_sent", shape->keys_sent);
    mpk_pair_u64(result, "rows", map_shrink_side(shape->rows, map_answer_size(asked)));
    mpk_pair_u64(result, "columns", map_shrink_side(shape->columns, map_answer_size(asked)));
    map_answer_put_labels(result, "labels", maps->labels, maps->label_count);
    map_answer_put_labels(result, "q_labels", maps->q_labels, maps->q_label_count);
}

/* Pictures */

/* Half of what clients take of an answer (mpk_result_limits): the other half is for labels. */
static bool too_large(const struct maps_asked *asked, uint64_t cells)
{
    return asked->packed ? cells > mpk_result_limits.bytes / 2 / sizeof(float)
                         : cells > mpk_result_limits.elements / 2;
}

/* The cells, and their text: a number takes 9 bytes, in a buffer that doubles. */
static uint64_t bytes_of(const struct maps_asked *asked, uint64_t cells)
{
    return cells * (asked->packed ? 3 * sizeof(float) : sizeof(float) + 18);
}

int picture_new(struct control_request *request, const struct maps_asked *asked,
                const struct run *run, const struct layer_maps *maps, uint32_t count,
                struct picture **ret_picture)
{
    const struct head_maps *shape = maps_shape(maps);
    uint64_t cells = (uint64_t)count * shape->rows * shape->columns;
    struct map_shelf *shelf = run->sink->maps;
    if (too_large(asked, cells)) {
        snprintf(request->detail, CONTROL_DETAIL_MAX,
                 "the answer would be too large: ask for one head or another kind%s",
                 asked->packed ? "" : ", or packed");
        return ERR_ARGUMENT;
    }
    if (shelf->answering > 0 && shelf->answering + bytes_of(asked, cells) > shelf->limit) {
        return ERR_AGAIN;
    }
    struct picture *picture = calloc(1, sizeof *picture);
    if (!picture) {
        return ERR_MEMORY;
    }
    mpk_writer_init(&picture->result);
    picture->work.data = picture;
    picture->shelf = shelf;
    picture->bytes = bytes_of(asked, cells);
    shelf->answering += picture->bytes;
    picture->cells = malloc(cells * sizeof *picture->cells + count * sizeof *picture->here);
    picture->count = count;
    picture->rows = shape->rows;
    picture->columns = shape->columns;
    picture->keys = shape->keys;
    picture->size = map_answer_size(asked);
    picture->packed = asked->packed;
    if (picture->cells) {
        picture->here = memset(picture->cells + cells, 0, count * sizeof *picture->here);
    } else {
        picture_free(&picture);
    }
    *ret_picture = picture;
    return picture ? 0 : ERR_MEMORY;
}

void picture_free(struct picture **picture_p)
{
    struct picture *picture = *picture_p;
    *picture_p = NULL;
    if (!picture) {
        return;
    }
    picture->shelf->answering -= picture->bytes;
    mpk_writer_clear(&picture->result);
    free(picture->cells);
    free(picture);
}

static void map_answer_put_map(struct picture *picture, const float *cells)
{
    mpk_put_array(&picture->result, picture->rows);
    for (uint32_t r = 0; r < picture->rows; r++) {
        mpk_put_array(&picture->result, picture->columns);
        for (uint32_t c = 0; c < picture->columns; c++) {
            mpk_put_f64(&picture->result, (double)cells[(size_t)r * picture->columns + c]);
        }
    }
}

static void on_work(uv_work_t *work)
{
    struct picture *picture = work->data;
    picture->code = picture->make ? picture->make(picture) : 0;
    if (picture->code) {
        return;
    }
    if (picture->rows > picture->size || picture->columns > picture->size) {
        /* Fewer, larger cells. */
        uint32_t rows = map_shrink_side(picture->rows, picture->size);
        uint32_t columns = map_shrink_side(picture->columns, picture->size);
        size_t before = (size_t)picture->rows * picture->columns, after = (size_t)rows * columns;
        for (uint32_t i = 0; i < picture->count; i++) {
            map_shrink(picture->cells + i * before, picture->rows, picture->columns, picture->size,
                       picture->cells + i * after);
        }
        picture->rows = rows;
        picture->columns = columns;
    }
    mpk_put_str(&picture->result, "values");
    if (picture->packed) {
        size_t count = (size_t)picture->count * picture->rows * picture->columns;
        mpk_put_bin(&picture->result, picture->cells, count * sizeof *picture->cells);
    } else {
        size_t cells = (size_t)picture->rows * picture->columns;
        if (!picture->single) {
            mpk_put_array(&picture->result, picture->count);
        }
        for (uint32_t i = 0; i < picture->count; i++) {
            if (!picture->here[i]) {
                mpk_put_nil(&picture->result);
            } else {
                map_answer_put_map(picture, picture->cells + i * cells);
            }
        }
    }
}

static void map_answer_on_done(uv_work_t *work, int status)
{
    struct picture *picture = work->data;
    int code = status ? ERR_CLOSED : picture->code;
    if (!code && !mpk_writer_ok(&picture->result)) {
        code = ERR_MEMORY;
    }
    pending_answer(&picture->pending, code, NULL, &picture->result);
    picture_free(&picture);
}

int picture_answer(struct control_request *request, struct picture **picture_p)
{
    struct picture *picture = *picture_p;
    *picture_p = NULL;
    picture->pending = request_defer(request);
    if (!picture->pending) {
        picture_free(&picture);
        return ERR_MEMORY;
    }
    if (uv_queue_work(request->view->loop, &picture->work, on_work, map_answer_on_done) != 0) {
        map_answer_on_done(&picture->work, UV_ENOMEM);
    }
    return CONTROL_WAIT;
}
