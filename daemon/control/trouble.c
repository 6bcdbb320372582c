/* SPDX-License-Identifier: MIT */
/* trouble: the heads of a run that need attention, worst first, and why (alerts/trouble.h). From
 * memory, or, when that knows no judged window of the run, from the history. */
#include "daemon/control/internal.h"

#include "config/rules.h"
#include "daemon/alerts/trouble.h"
#include "daemon/history/history.h"

#include <stdlib.h>
#include <string.h>

#define TROUBLE_LIMIT     100
#define TROUBLE_LIMIT_MAX 200000
/* The history's answer grows with the run. */
static const struct mpk_limits trouble_past_limits = {SIZE_MAX, 8, UINT32_MAX};

/* One head of the run. */
struct trouble_row {
    struct layer_id id;
    const char *module; /* NULL = not known */
    const struct trouble_head *head;
};

/* One layer as the history has it. */
struct trouble_past {
    struct result_trouble *trouble; /* owned */
    char module[MODULE_MAX + 1];    /* "" = not known */
};

/* An answer in the making. */
struct trouble_answer {
    char job[JOB_NAME_MAX + 1], run[2 * RUN_BYTES + 1];
    uint64_t limit;
    enum trouble_state least; /* of the heads that are listed */
    const struct run *source; /* whose layers are visited; its modules are borrowed */
    enum job_state state;
    bool judged; /* a window has been; epoch and step are of the newest */
    uint64_t epoch, step;
    struct trouble_row *row; /* [count], owned */
    uint32_t count, room, watched;
    bool failed;               /* out of memory */
    struct mpk_writer others;  /* maps of alerts */
    uint32_t others_count;     /* `limit` at most */
    bool more_others;          /* than these */
    struct pending *pending;   /* while the history is asked */
    struct trouble_past *past; /* [past_count], owned */
    uint32_t past_count;
    bool in_memory;             /* the run is */
    uint32_t judging;           /* rules that have judged something of a run in memory */
    struct mpk_writer unjudged; /* names of the others */
    uint32_t unjudged_count;
};

/* Collecting */

static void trouble_add_row(struct trouble_answer *answer, struct trouble_row row)
{
    if (answer->count == answer->room) {
        uint32_t room = answer->room ? 2 * answer->room : 64;
        struct trouble_row *more = realloc(answer->row, room * sizeof *more);
        answer->failed = answer->failed || !more;
        if (!more) {
            return;
        }
        answer->row = more;
        answer->room = room;
    }
    answer->row[answer->count++] = row;
}

static void trouble_add_layer(struct trouble_answer *answer, struct layer_id id, const char *module,
                              const struct result_trouble *trouble)
{
    bool newer = trouble->epoch != answer->epoch ? trouble->epoch > answer->epoch
                                                 : trouble->step > answer->step;
    if (!answer->judged || newer) {
        answer->epoch = trouble->epoch;
        answer->step = trouble->step;
    }
    answer->judged = true;
    for (uint32_t i = 0; i < trouble->count; i++) {
        answer->watched += trouble->worst[i].state == TROUBLE_BEYOND;
        trouble_add_row(answer, (struct trouble_row){id, module, &trouble->worst[i]});
    }
}

static void trouble_on_layer(void *data, struct layer_id id, const struct result_trouble *trouble)
{
    struct trouble_answer *answer = data;
    const struct stream *stream = stream_find(answer->source->streams, id);
    trouble_add_layer(answer, id, stream ? stream->module : NULL, trouble);
}

/* Whether a head stands for the alert about this layer; NULL: about the run. */
static bool trouble_has_cause(const struct trouble_answer *answer, const struct layer_id *layer,
                              const char *rule, size_t length)
{
    bool found = false;
    for (uint32_t i = 0; i < answer->count && !found; i++) {
        const struct trouble_row *row = &answer->row[i];
        bool here = !layer || (row->id.stack == layer->stack && row->id.layer == layer->layer &&
                               row->id.site == layer->site);
        found = here && row->head->state == TROUBLE_FIRING && strlen(row->head->rule) == length &&
                memcmp(row->head->rule, rule, length) == 0;
    }
    return found;
}

static void trouble_on_alert(void *data, const struct alert_result *alert)
{
    struct trouble_answer *answer = data;
    if (alert->head >= 0 || trouble_has_cause(answer, alert->has_layer ? &alert->layer : NULL,
                                              alert->rule, strlen(alert->rule))) {
        return;
    }
    if (answer->others_count == answer->limit) {
        answer->more_others = true;
        return;
    }
    const struct alert_result named = run_with_module(answer->source, alert);
    alert_encode(&named, &answer->others);
    answer->others_count++;
}

static void trouble_on_unjudged(void *data, const struct rule *rule)
{
    struct trouble_answer *answer = data;
    mpk_put_str(&answer->unjudged, rule->name);
    answer->unjudged_count++;
}

/* From memory. */
static void trouble_collect(struct trouble_answer *answer, const struct run *run)
{
    struct alert_sink sink = {.event = trouble_on_alert, .data = answer};
    answer->source = run;
    answer->state = run->state;
    run_hex(run->id, answer->run);
    if (run->alerts) {
        trouble_each(run->alerts, trouble_on_layer, answer);
        alerts_each(run->alerts, &sink);
        answer->judging = alerts_unjudged(run->alerts, trouble_on_unjudged, answer);
    }
}

/* The answer */

static uint32_t trouble_place(struct layer_id id)
{
    return (uint32_t)id.stack << 31 | id.layer << 1 | (uint32_t)id.site;
}

static int trouble_order(const void *a, const void *b)
{
    const struct trouble_row *one = a, *other = b;
    if (one->head->score != other->head->score) {
        return one->head->score > other->head->score ? -1 : 1;
    }
    uint32_t p = trouble_place(one->id), q = trouble_place(other->id);
    if (p != q) {
        return p < q ? -1 : 1;
    }
    return one->head->head < other->head->head ? -1 : 1;
}

static void trouble_put_row(const struct trouble_answer *answer, const struct trouble_row *row,
                            struct mpk_writer *result)
{
    struct trouble_head now = *row->head, *head = &now;
    if (head->state == TROUBLE_FIRING && answer->state != JOB_ACTIVE) {
        head->state = TROUBLE_FIRING_AT_END;
    }
    mpk_put_map(result, TROUBLE_HEAD_PAIRS + 7 + (row->module != NULL));
    put_string(result, "stack", stack_name(row->id.stack));
    put_number(result, "layer", row->id.layer);
    put_string(result, "site", site_name(row->id.site));
    if (row->module) {
        put_string(result, "module", row->module);
    }
    put_number(result, "head", head->head);
    mpk_pair_f64(result, "score", head->score);
    trouble_encode_head(head, result);
    put_string(result, "why", rule_why(head->rule, head->metric));
    put_string(result, "advice", rule_advice(head->rule, head->metric));
}

static void trouble_put_number(struct mpk_writer *result, const char *key, bool known,
                               uint64_t number)
{
    mpk_put_str(result, key);
    if (known) {
        mpk_put_u64(result, number);
    } else {
        mpk_put_nil(result);
    }
}

/* Nil: not known, of a run that is not in memory. */
static void trouble_put_checks(const struct trouble_answer *answer, struct mpk_writer *result)
{
    mpk_put_str(result, "checks");
    if (answer->judging + answer->unjudged_count == 0) {
        mpk_put_nil(result);
        return;
    }
    mpk_put_map(result, 2);
    put_number(result, "judged", answer->judging);
    mpk_put_str(result, "unjudged");
    mpk_put_array(result, answer->unjudged_count);
    mpk_put_raw(result, answer->unjudged.buffer.data, answer->unjudged.buffer.size);
}

static int trouble_put(struct trouble_answer *answer, struct mpk_writer *result)
{
    uint32_t wanted = 0;
    if (answer->failed || !mpk_writer_ok(&answer->others) || !mpk_writer_ok(&answer->unjudged)) {
        return ERR_MEMORY;
    }
    if (answer->count > 0) {
        qsort(answer->row, answer->count, sizeof *answer->row, trouble_order);
    }
    while (wanted < answer->count && answer->row[wanted].head->state >= answer->least) {
        wanted++;
    }
    uint32_t shown = wanted < answer->limit ? wanted : (uint32_t)answer->limit;
    mpk_put_map(result, 10);
    put_string(result, "job", answer->job);
    put_string(result, "run", answer->run);
    put_string(result, "state", job_state_name(answer->state));
    trouble_put_number(result, "epoch", answer->judged, answer->epoch);
    trouble_put_number(result, "step", answer->judged, answer->step);
    mpk_put_str(result, "heads");
    mpk_put_array(result, shown);
    for (uint32_t i = 0; i < shown; i++) {
        trouble_put_row(answer, &answer->row[i], result);
    }
    mpk_pair_bool(result, "more", wanted > shown || answer->more_others);
    mpk_put_str(result, "others");
    mpk_put_array(result, answer->others_count);
    mpk_put_raw(result, answer->others.buffer.data, answer->others.buffer.size);
    put_number(result, "watched", answer->watched);
    trouble_put_checks(answer, result);
    return 0;
}

static void trouble_answer_free(struct trouble_answer *answer)
{
    for (uint32_t i = 0; i < answer->past_count; i++) {
        free(answer->past[i].trouble);
    }
    free(answer->past);
    mpk_writer_clear(&answer->others);
    mpk_writer_clear(&answer->unjudged);
    free(answer->row);
    free(answer);
}

/* Requests */

static bool trouble_read_least(struct control_request *request, enum trouble_state *ret_least)
{
    char text[16];
    const char *name =
        string_param(request, "state", trouble_state_name(TROUBLE_FIRING), text, sizeof text);
    int state = TROUBLE_FIRING;
    while (name && state >= 0 && strcmp(name, trouble_state_name((enum trouble_state)state)) != 0) {
        state--;
    }
    if (name && state < 0) {
        snprintf(request->detail, CONTROL_DETAIL_MAX,
                 "state is not accepted (valid: firing, beyond, approaching)");
    }
    *ret_least = (enum trouble_state)state;
    return name && state >= 0;
}

static bool trouble_read_limit(struct control_request *request, uint64_t *ret_limit)
{
    const msgpack_object *value = mpk_find(request->params, "limit");
    *ret_limit = TROUBLE_LIMIT;
    if (!value || value->type == MSGPACK_OBJECT_NIL) {
        return true;
    }
    if (mpk_get_u64(value, TROUBLE_LIMIT_MAX, ret_limit) == 0) {
        return true;
    }
    snprintf(request->detail, CONTROL_DETAIL_MAX, "limit is not accepted (valid: 0 to %d)",
             TROUBLE_LIMIT_MAX);
    return false;
}

/* From the history */

static bool trouble_read_id(const msgpack_object *map, struct layer_id *ret_id)
{
    const msgpack_object *stack = mpk_find(map, "stack"), *site = mpk_find(map, "site"),
                         *layer = mpk_find(map, "layer");
    uint64_t number;
    if (!stack || !site || !layer || mpk_get_u64(layer, LAYER_MAX, &number) != 0) {
        return false;
    }
    ret_id->stack = mpk_is_str(stack, stack_name(STACK_DECODER)) ? STACK_DECODER : STACK_ENCODER;
    ret_id->site = mpk_is_str(site, site_name(SITE_CROSS)) ? SITE_CROSS : SITE_SELF;
    ret_id->layer = (uint32_t)number;
    return true;
}

/* Layers that cannot be read are left out. */
static int trouble_read_past(struct trouble_answer *answer, const msgpack_object *root)
{
    const msgpack_object *layers = mpk_find(root, "layers"), *run = mpk_find(root, "run"),
                         *state = mpk_find(root, "state");
    if (!layers || layers->type != MSGPACK_OBJECT_ARRAY || !run ||
        run->type != MSGPACK_OBJECT_STR || run->via.str.size >= sizeof answer->run || !state) {
        return ERR_STORE_FORMAT;
    }
    for (int i = JOB_ACTIVE; i <= JOB_ENDED && !answer->in_memory; i++) {
        if (mpk_is_str(state, job_state_name((enum job_state)i))) {
            answer->state = (enum job_state)i;
        }
    }
    memcpy(answer->run, run->via.str.ptr, run->via.str.size);
    answer->run[run->via.str.size] = '\0';
    answer->past = calloc(layers->via.array.size + 1, sizeof *answer->past);
    if (!answer->past) {
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < layers->via.array.size; i++) {
        const msgpack_object *layer = &layers->via.array.ptr[i];
        const msgpack_object *map = mpk_find(layer, "trouble"), *module = mpk_find(layer, "module");
        struct trouble_past *past = &answer->past[answer->past_count];
        struct layer_id id;
        int code = map && trouble_read_id(layer, &id) ? trouble_decode(map, &past->trouble)
                                                      : ERR_STORE_FORMAT;
        if (code == ERR_MEMORY) {
            return code;
        }
        if (code) {
            continue;
        }
        answer->past_count++;
        if (module && module->type == MSGPACK_OBJECT_STR && module->via.str.size <= MODULE_MAX) {
            memcpy(past->module, module->via.str.ptr, module->via.str.size);
        }
        trouble_add_layer(answer, id, *past->module ? past->module : NULL, past->trouble);
    }
    return 0;
}

static void trouble_read_alerts(struct trouble_answer *answer, const msgpack_object *root)
{
    const msgpack_object *alerts = mpk_find(root, "alerts");
    for (uint32_t i = 0; alerts && i < alerts->via.array.size; i++) {
        const msgpack_object *alert = &alerts->via.array.ptr[i], *rule = mpk_find(alert, "rule");
        struct layer_id id;
        bool of_layer = trouble_read_id(alert, &id);
        if (trouble_has_cause(answer, of_layer ? &id : NULL, rule->via.str.ptr,
                              rule->via.str.size)) {
            continue;
        }
        if (answer->others_count == answer->limit) {
            answer->more_others = true;
            return;
        }
        if (msgpack_pack_object(&answer->others.packer, *alert) != 0) {
            answer->others.failed = true;
        }
        answer->others_count++;
    }
}

static int trouble_take_past(struct trouble_answer *answer, const struct mpk_writer *past)
{
    struct mpk_doc doc;
    int code = mpk_parse(past->buffer.data, past->buffer.size, &trouble_past_limits, &doc);
    if (code) {
        return code == ERR_MEMORY ? code : ERR_STORE_FORMAT;
    }
    code = trouble_read_past(answer, doc.root);
    if (!code && !answer->in_memory) {
        trouble_read_alerts(answer, doc.root);
    }
    mpk_doc_clear(&doc);
    return code;
}

/* A run in memory that the history knows nothing of has no judged window yet. */
static void trouble_on_past(void *data, int code, const char *detail, const struct mpk_writer *past)
{
    struct trouble_answer *answer = data;
    struct mpk_writer result;
    mpk_writer_init(&result);
    if (!code) {
        code = trouble_take_past(answer, past);
    } else if (answer->in_memory) {
        code = 0;
    } else if (code == ERR_HISTORY_OFF) {
        code = ERR_JOB_UNKNOWN;
    }
    if (!code) {
        code = trouble_put(answer, &result);
    }
    if (!code && !mpk_writer_ok(&result)) {
        code = ERR_MEMORY;
    }
    pending_answer(&answer->pending, code, detail, &result);
    mpk_writer_clear(&result);
    trouble_answer_free(answer);
}

/* The answer is pending from here on, whatever happens; `run` are the digits that were asked for.
 */
static int trouble_ask_past(struct control_request *request, struct trouble_answer *answer,
                            const char *run)
{
    struct mpk_writer params;
    answer->pending = request_defer(request);
    if (!answer->pending) {
        trouble_answer_free(answer);
        return ERR_MEMORY;
    }
    mpk_writer_init(&params);
    mpk_put_map(&params, *run ? 2 : 1);
    put_string(&params, "job", answer->job);
    if (*run) {
        put_string(&params, "run", run);
    }
    int code = mpk_writer_ok(&params)
                   ? history_ask(request->view->history, request->asker, "trouble",
                                 params.buffer.data, params.buffer.size, trouble_on_past, answer)
                   : ERR_MEMORY;
    mpk_writer_clear(&params);
    if (code) {
        trouble_on_past(answer, code, NULL, NULL);
    }
    return CONTROL_WAIT;
}

int method_trouble(struct control_request *request)
{
    static const char *const keys[] = {"job", "run", "state", "limit"};
    struct trouble_answer *answer = calloc(1, sizeof *answer);
    char prefix[2 * RUN_BYTES + 1] = "";
    if (!answer) {
        return ERR_MEMORY;
    }
    mpk_writer_init(&answer->others);
    mpk_writer_init(&answer->unjudged);
    if (!request_takes(request, keys, 4) ||
        !string_param(request, "job", NULL, answer->job, sizeof answer->job) ||
        !string_param(request, "run", "", prefix, sizeof prefix) ||
        !trouble_read_least(request, &answer->least) ||
        !trouble_read_limit(request, &answer->limit)) {
        trouble_answer_free(answer);
        return ERR_ARGUMENT;
    }
    const struct run *run = registry_find(request->view->registry, answer->job, prefix);
    if (run) {
        answer->in_memory = true;
        trouble_collect(answer, run);
    }
    if (!answer->judged) {
        return trouble_ask_past(request, answer, run ? answer->run : prefix);
    }
    int code = trouble_put(answer, request->result);
    trouble_answer_free(answer);
    return code;
}
