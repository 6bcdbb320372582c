/* SPDX-License-Identifier: MIT */
/* maps, rollout: pictures of the newest message of each layer (maps.h). */
#include "control_request.h"

#include "maps.h"

#include <endian.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum kind { KIND_HEADS, KIND_MEAN, KIND_SUM, KIND_MAX, KIND_WEIGHTED, KIND_IMPORTANCE, KIND_COUNT };
static const char *const kind_name[KIND_COUNT] = {"heads", "mean",     "sum",
                                                  "max",   "weighted", "importance"};

struct asked {
    char job[JOB_NAME_MAX + 1], run[2 * RUN_BYTES + 1], stack[16], site[16];
    uint64_t layer, head; /* UINT64_MAX: not said */
    enum kind kind;
    bool packed;
};

/* Parameters */

static bool read_number(const struct request *request, const char *key, uint64_t *ret_number)
{
    const msgpack_object *value = mpk_find(request->params, key);
    *ret_number = UINT64_MAX;
    return !value || value->type == MSGPACK_OBJECT_NIL ||
           mpk_get_u64(value, UINT32_MAX, ret_number) == 0;
}

static bool read_kind(struct request *request, enum kind *ret_kind)
{
    char name[16];
    const char *text = string_param(request, "kind", "heads", name, sizeof name);
    for (int i = 0; text && i < KIND_COUNT; i++)
        if (strcmp(text, kind_name[i]) == 0) {
            *ret_kind = (enum kind)i;
            return true;
        }
    snprintf(request->detail, CONTROL_DETAIL_MAX,
             "kind is not accepted (valid: heads, mean, sum, max, weighted, importance)");
    return false;
}

static bool read_packed(const struct request *request, bool *ret_packed)
{
    const msgpack_object *value = mpk_find(request->params, "packed");
    *ret_packed = false;
    return !value || value->type == MSGPACK_OBJECT_NIL || mpk_get_bool(value, ret_packed) == 0;
}

static bool read_asked(struct request *request, struct asked *asked)
{
    memset(asked, 0, sizeof *asked);
    const char *job = string_param(request, "job", NULL, asked->job, sizeof asked->job);
    const char *run = string_param(request, "run", "", asked->run, sizeof asked->run);
    const char *stack = string_param(request, "stack", "", asked->stack, sizeof asked->stack);
    const char *site = string_param(request, "site", "", asked->site, sizeof asked->site);
    return job && run && stack && site && read_number(request, "layer", &asked->layer) &&
           read_number(request, "head", &asked->head) && read_kind(request, &asked->kind) &&
           read_packed(request, &asked->packed);
}

/* Finding */

struct search {
    const struct asked *asked;
    struct run *run;
    bool job_known;
};

static void visit_run(void *data, struct run *run)
{
    struct search *search = data;
    char hex[2 * RUN_BYTES + 1];
    if (strcmp(run->job, search->asked->job) != 0)
        return;
    search->job_known = true;
    run_hex(run->id, hex);
    if (strncmp(hex, search->asked->run, strlen(search->asked->run)) == 0 &&
        (!search->run || run->last_ns >= search->run->last_ns))
        search->run = run;
}

/* The newest run of those that are meant. */
static int find_run(struct request *request, const struct asked *asked, struct run **ret_run)
{
    struct search search = {.asked = asked};
    registry_each(request->view->registry, visit_run, &search);
    *ret_run = search.run;
    if (search.run)
        return 0;
    return search.job_known ? ERR_RUN_UNKNOWN : ERR_JOB_UNKNOWN;
}

static bool is_meant(const struct asked *asked, const struct stream *stream)
{
    return (!*asked->stack || strcmp(asked->stack, stack_name(stream->id.stack)) == 0) &&
           (!*asked->site || strcmp(asked->site, site_name(stream->id.site)) == 0) &&
           (asked->layer == UINT64_MAX || asked->layer == stream->id.layer);
}

/* The first layer that is meant, in the order encoder, decoder; layer; self, cross. */
static struct stream *find_stream(const struct asked *asked, const struct run *run)
{
    struct stream *found = NULL;
    for (struct stream *s = run->streams; s; s = s->hh.next)
        if (s->measured && is_meant(asked, s) && (!found || s->key < found->key))
            found = s;
    return found;
}

/* Why a layer that has sent something has no map. */
static int refuse_layer(struct request *request, const struct stream *stream)
{
    const struct config *config = request->view->config;
    const char *why = "no message of it has had one yet; maps of queries and keys are made up to "
                      "metrics.qk_maps_max_size, none where heads are split over ranks";
    if (!config->maps_enabled)
        why = "maps.enabled is false";
    if (!stream)
        why = "the run has no such layer, or nothing of it has come";
    snprintf(request->detail, CONTROL_DETAIL_MAX, "there is no map: %s", why);
    return ERR_NO_MAP;
}

/* The answer */

static void put_f32(struct mpk_writer *result, const float *numbers, size_t count)
{
    uint32_t *bits = malloc((count + !count) * sizeof *bits);
    for (size_t i = 0; bits && i < count; i++) {
        memcpy(&bits[i], &numbers[i], sizeof *bits);
        bits[i] = htole32(bits[i]);
    }
    if (bits)
        mpk_put_bin(result, bits, count * sizeof *bits);
    else
        result->failed = true;
    free(bits);
}

static void put_map_lists(struct mpk_writer *result, const float *numbers, uint32_t rows,
                          uint32_t columns)
{
    mpk_put_array(result, rows);
    for (uint32_t r = 0; r < rows; r++) {
        mpk_put_array(result, columns);
        for (uint32_t c = 0; c < columns; c++)
            mpk_put_f64(result, numbers[(size_t)r * columns + c]);
    }
}

/* `count` maps; a list of them unless `single`. */
static void put_maps(struct mpk_writer *result, const float *numbers, uint32_t count, uint32_t rows,
                     uint32_t columns, bool single, bool packed)
{
    size_t cells = (size_t)rows * columns;
    mpk_put_str(result, "values");
    if (packed) {
        put_f32(result, numbers, count * cells);
        return;
    }
    if (!single)
        mpk_put_array(result, count);
    for (uint32_t i = 0; i < count; i++)
        put_map_lists(result, numbers + i * cells, rows, columns);
}

static void put_text(struct mpk_writer *result, const char *key, const char *text)
{
    mpk_put_str(result, key);
    mpk_put_str(result, text);
}

static void put_labels(struct mpk_writer *result, const struct layer_maps *maps)
{
    const char *text = maps->labels;
    mpk_put_str(result, "labels");
    if (!text) {
        mpk_put_nil(result);
        return;
    }
    mpk_put_array(result, maps->label_count);
    for (uint32_t i = 0; i < maps->label_count; i++, text += strlen(text) + 1)
        mpk_put_str(result, text);
}

/* `job`, `run`, `epoch`, `step`, `time_ns`, `queries`, `keys`, `rows`, `columns`: 9 keys, and
 * `labels`. */
static void put_common(struct mpk_writer *result, const struct run *run,
                       const struct layer_maps *maps)
{
    char hex[2 * RUN_BYTES + 1];
    run_hex(run->id, hex);
    put_text(result, "job", run->job);
    put_text(result, "run", hex);
    put_number(result, "epoch", maps->epoch);
    put_number(result, "step", maps->step);
    put_number(result, "time_ns", maps->time_ns);
    put_number(result, "queries", maps->maps->queries);
    put_number(result, "keys", maps->maps->keys);
    put_number(result, "rows", maps->maps->rows);
    put_number(result, "columns", maps->maps->columns);
    put_labels(result, maps);
}

static void put_heads(struct mpk_writer *result, const struct asked *asked, uint32_t heads)
{
    mpk_put_str(result, "heads");
    if (asked->kind != KIND_HEADS) {
        mpk_put_nil(result);
        return;
    }
    bool one = asked->head != UINT64_MAX;
    mpk_put_array(result, one ? 1 : heads);
    for (uint32_t h = 0; h < (one ? 1 : heads); h++)
        mpk_put_u64(result, one ? asked->head : h);
}

static void put_layer_maps(struct mpk_writer *result, const struct asked *asked,
                           const struct run *run, const struct stream *stream, const float *numbers,
                           uint32_t count)
{
    static const char *const tiers[] = {[MESSAGE_ATTENTION] = "attention", [MESSAGE_QK] = "qk"};
    const struct layer_maps *maps = stream->maps;
    mpk_put_map(result, 20);
    put_common(result, run, maps);
    put_text(result, "stack", stack_name(stream->id.stack));
    put_number(result, "layer", stream->id.layer);
    put_text(result, "site", site_name(stream->id.site));
    put_text(result, "tier", tiers[maps->type]);
    put_number(result, "sample", maps->maps->sample);
    put_number(result, "q_offset", maps->q_offset);
    mpk_put_str(result, "causal");
    mpk_put_bool(result, maps->causal);
    put_text(result, "kind", kind_name[asked->kind]);
    put_heads(result, asked, maps->maps->heads);
    put_maps(result, numbers, count, maps->maps->rows, maps->maps->columns,
             asked->kind != KIND_HEADS, asked->packed);
}

/* Weights of the sum over heads that a kind is; NULL with a sentence when it does not exist. */
static int weights_of(struct request *request, const struct asked *asked,
                      const struct layer_maps *maps, double *ret_weights)
{
    const config_numbers *given = &request->view->config->metrics_head_weights;
    uint32_t heads = maps->maps->heads;
    if (asked->kind == KIND_IMPORTANCE && !maps->importance)
        snprintf(request->detail, CONTROL_DETAIL_MAX, "metrics.importance is off");
    else if (asked->kind == KIND_WEIGHTED && given->count != heads)
        snprintf(request->detail, CONTROL_DETAIL_MAX,
                 "metrics.head_weights has %u weights, the layer %u heads", (unsigned)given->count,
                 (unsigned)heads);
    if (*request->detail)
        return ERR_NO_MAP;
    for (uint32_t h = 0; h < heads; h++)
        ret_weights[h] = asked->kind == KIND_IMPORTANCE ? maps->importance[h]
                         : asked->kind == KIND_WEIGHTED ? given->number[h]
                                                        : 1.0;
    return 0;
}

static int put_sum(struct request *request, const struct asked *asked, const struct run *run,
                   const struct stream *stream)
{
    const struct head_maps *maps = stream->maps->maps;
    double *weights = malloc(maps->heads * sizeof *weights);
    float *sum = malloc((size_t)maps->rows * maps->columns * sizeof *sum);
    int code = weights && sum ? weights_of(request, asked, stream->maps, weights) : ERR_MEMORY;
    if (!code) {
        head_maps_weighted(maps, weights, sum);
        put_layer_maps(request->result, asked, run, stream, sum, 1);
    }
    free(weights);
    free(sum);
    return code;
}

static int put_kind(struct request *request, const struct asked *asked, const struct run *run,
                    const struct stream *stream)
{
    const struct head_maps *maps = stream->maps->maps;
    bool one = asked->head != UINT64_MAX;
    size_t cells = (size_t)maps->rows * maps->columns;
    if (one && (asked->kind != KIND_HEADS || asked->head >= maps->heads)) {
        snprintf(request->detail, CONTROL_DETAIL_MAX,
                 "head is not accepted (valid: 0 to %u, with kind heads)",
                 (unsigned)(maps->heads - 1));
        return ERR_ARGUMENT;
    }
    if (asked->kind == KIND_HEADS)
        put_layer_maps(request->result, asked, run, stream,
                       maps->values + (one ? asked->head * cells : 0), one ? 1 : maps->heads);
    else if (asked->kind == KIND_MAX)
        put_layer_maps(request->result, asked, run, stream, maps->max, 1);
    else if (asked->kind == KIND_MEAN)
        put_layer_maps(request->result, asked, run, stream, maps->mean, 1);
    else
        return put_sum(request, asked, run, stream);
    return 0;
}

int method_maps(struct request *request)
{
    static const char *const keys[] = {"job",  "run",  "stack", "layer",
                                       "site", "head", "kind",  "packed"};
    struct asked asked;
    struct run *run;
    if (!request_takes(request, keys, 8) || !read_asked(request, &asked))
        return ERR_ARGUMENT;
    int code = find_run(request, &asked, &run);
    if (code)
        return code;
    struct stream *stream = find_stream(&asked, run);
    if (!stream || !stream->maps)
        return refuse_layer(request, stream);
    return put_kind(request, &asked, run, stream);
}

/* Rollout: the mean maps are copied here, and multiplied on a thread of libuv's pool: n^3
 * operations a layer. */

struct rolling {
    uv_work_t work;
    struct pending *pending;
    struct mpk_writer result; /* begun: all but the maps */
    uint32_t layers, n, keys;
    bool packed;
    int code;
    float *maps; /* [layers][n][n]: mean maps, which become the rollout */
};

struct chosen {
    struct stream **streams; /* by layer */
    uint32_t count;
    bool exact;
};

/* The self-attention of the stack, by layer. Returns 0, ERR_NO_MAP with a sentence, or ERR_MEMORY.
 */
static int choose(struct request *request, struct asked *asked, const struct run *run,
                  struct chosen *chosen)
{
    strcpy(asked->site, "self");
    struct stream *stream = find_stream(asked, run);
    if (!stream)
        return refuse_layer(request, NULL);
    strcpy(asked->stack, stack_name(stream->id.stack));
    chosen->streams = calloc(HASH_COUNT(run->streams), sizeof *chosen->streams);
    if (!chosen->streams)
        return ERR_MEMORY;
    for (asked->layer = stream->id.layer; (stream = find_stream(asked, run)); asked->layer++)
        chosen->streams[chosen->count++] = stream;
    return 0;
}

static int check_chosen(struct request *request, struct chosen *chosen)
{
    const struct layer_maps *first = chosen->streams[0]->maps;
    chosen->exact = true;
    for (uint32_t i = 0; i < chosen->count; i++) {
        const struct layer_maps *maps = chosen->streams[i]->maps;
        if (!maps)
            return refuse_layer(request, chosen->streams[i]);
        if (maps->maps->queries != maps->maps->keys || maps->maps->keys != first->maps->keys) {
            snprintf(request->detail, CONTROL_DETAIL_MAX,
                     "there is no rollout: it needs square maps of one size in all layers "
                     "(plan.rows 0, one sequence)");
            return ERR_NO_MAP;
        }
        chosen->exact = chosen->exact && maps->maps->rows == maps->maps->keys &&
                        maps->step == first->step && maps->epoch == first->epoch;
    }
    return 0;
}

static void roll(uv_work_t *work)
{
    struct rolling *rolling = work->data;
    size_t n = rolling->n, cells = n * n;
    double *now = calloc(cells, sizeof *now), *room = malloc((cells + n) * sizeof *room);
    rolling->code = now && room ? 0 : ERR_MEMORY;
    for (size_t i = 0; !rolling->code && i < n; i++)
        now[i * n + i] = 1;
    for (uint32_t l = 0; !rolling->code && l < rolling->layers; l++) {
        float *map = rolling->maps + l * cells;
        rollout_add(map, rolling->n, rolling->keys, now, room);
        for (size_t i = 0; i < cells; i++)
            map[i] = (float)now[i];
    }
    if (!rolling->code)
        put_maps(&rolling->result, rolling->maps, rolling->layers, rolling->n, rolling->n, false,
                 rolling->packed);
    free(now);
    free(room);
}

static void rolling_free(struct rolling *rolling)
{
    mpk_writer_clear(&rolling->result);
    free(rolling->maps);
    free(rolling);
}

static void on_rolled(uv_work_t *work, int status)
{
    struct rolling *rolling = work->data;
    int code = status ? ERR_CLOSED : rolling->code;
    if (!code && !mpk_writer_ok(&rolling->result))
        code = ERR_MEMORY;
    pending_answer(&rolling->pending, code, NULL, &rolling->result);
    rolling_free(rolling);
}

static void put_rollout(struct mpk_writer *result, const struct asked *asked, const struct run *run,
                        const struct chosen *chosen)
{
    mpk_put_map(result, 14);
    put_common(result, run, chosen->streams[0]->maps);
    put_text(result, "stack", asked->stack);
    mpk_put_str(result, "layers");
    mpk_put_array(result, chosen->count);
    for (uint32_t i = 0; i < chosen->count; i++)
        mpk_put_u64(result, chosen->streams[i]->id.layer);
    mpk_put_str(result, "exact");
    mpk_put_bool(result, chosen->exact);
}

/* NULL when out of memory. */
static struct rolling *rolling_new(const struct asked *asked, const struct run *run,
                                   const struct chosen *chosen)
{
    const struct head_maps *first = chosen->streams[0]->maps->maps;
    size_t cells = (size_t)first->rows * first->rows;
    struct rolling *rolling = calloc(1, sizeof *rolling);
    if (!rolling)
        return NULL;
    mpk_writer_init(&rolling->result);
    rolling->maps = malloc(chosen->count * cells * sizeof *rolling->maps);
    if (!rolling->maps) {
        rolling_free(rolling);
        return NULL;
    }
    rolling->work.data = rolling;
    rolling->layers = chosen->count;
    rolling->n = first->rows;
    rolling->keys = first->keys;
    rolling->packed = asked->packed;
    for (uint32_t l = 0; l < chosen->count; l++)
        memcpy(rolling->maps + l * cells, chosen->streams[l]->maps->maps->mean,
               cells * sizeof *rolling->maps);
    put_rollout(&rolling->result, asked, run, chosen);
    return rolling;
}

static int start_rolling(struct request *request, const struct asked *asked, const struct run *run,
                         const struct chosen *chosen)
{
    struct rolling *rolling = rolling_new(asked, run, chosen);
    if (!rolling)
        return ERR_MEMORY;
    rolling->pending = request_defer(request);
    if (!rolling->pending) {
        rolling_free(rolling);
        return ERR_MEMORY;
    }
    if (uv_queue_work(request->view->loop, &rolling->work, roll, on_rolled) != 0)
        on_rolled(&rolling->work, UV_ENOMEM);
    return CONTROL_WAIT;
}

int method_rollout(struct request *request)
{
    static const char *const keys[] = {"job", "run", "stack", "packed"};
    struct chosen chosen = {.count = 0};
    struct asked asked;
    struct run *run;
    if (!request_takes(request, keys, 4) || !read_asked(request, &asked))
        return ERR_ARGUMENT;
    int code = find_run(request, &asked, &run);
    if (!code)
        code = choose(request, &asked, run, &chosen);
    if (!code)
        code = check_chosen(request, &chosen);
    if (!code)
        code = start_rolling(request, &asked, run, &chosen);
    free(chosen.streams);
    return code;
}
