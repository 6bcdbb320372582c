/* SPDX-License-Identifier: MIT */
/* How far the heads of a layer are beyond the bounds of rules, or on their way there. The scores of
 * all heads are a list; those that are worth naming follow with their numbers. A decoded map is one
 * block: the struct, the scores, the heads, and then their texts. */
#include "proto/err.h"
#include "proto/result_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const trouble_states[] = {[TROUBLE_APPROACHING] = "approaching",
                                             [TROUBLE_BEYOND] = "beyond",
                                             [TROUBLE_FIRING] = "firing",
                                             [TROUBLE_FIRING_AT_END] = "firing_at_end"};

const char *trouble_state_name(enum trouble_state state)
{
    return trouble_states[state];
}

void trouble_encode_head(const struct trouble_head *head, struct mpk_writer *writer)
{
    part_text(writer, "state", trouble_state_name(head->state));
    part_text(writer, "rule", head->rule);
    part_text(writer, "severity", alert_severity_name(head->severity));
    part_text(writer, "metric", head->metric);
    part_text(writer, "statistic", head->statistic);
    part_text(writer, "condition", head->condition);
    part_real(writer, "value", head->value);
    part_real(writer, "bound", head->bound);
    part_real(writer, "slope", head->slope);
    part_real(writer, "eta", head->eta);
    mpk_put_str(writer, "since");
    mpk_put_map(writer, 2);
    part_number(writer, "epoch", head->since_epoch);
    part_number(writer, "step", head->since_step);
    part_number(writer, "windows", head->windows);
}

void trouble_encode(const struct result_trouble *trouble, struct mpk_writer *writer)
{
    mpk_put_map(writer, 4);
    part_number(writer, "epoch", trouble->epoch);
    part_number(writer, "step", trouble->step);
    part_list(writer, "score", trouble->score, trouble->heads);
    mpk_put_str(writer, "heads");
    mpk_put_array(writer, trouble->count);
    for (uint32_t i = 0; i < trouble->count; i++) {
        mpk_put_map(writer, TROUBLE_HEAD_PAIRS + 1);
        part_number(writer, "head", trouble->worst[i].head);
        trouble_encode_head(&trouble->worst[i], writer);
    }
}

/* Reading */

static const char *const trouble_text_keys[] = {"rule", "metric", "statistic", "condition"};
enum { TROUBLE_TEXTS = sizeof trouble_text_keys / sizeof trouble_text_keys[0] };

static const msgpack_object_array *trouble_array(const msgpack_object *map, const char *key)
{
    const msgpack_object *value = mpk_find(map, key);
    return value && value->type == MSGPACK_OBJECT_ARRAY ? &value->via.array : NULL;
}

/* Copies the texts of a head to *at, which moves on; only counts when `head` is NULL. Returns the
 * bytes, or 0 when one is missing. */
static size_t trouble_read_texts(const msgpack_object *map, struct trouble_head *head, char **at)
{
    const char *texts[TROUBLE_TEXTS];
    size_t bytes = 0;
    for (int i = 0; i < TROUBLE_TEXTS; i++) {
        const msgpack_object *text = mpk_find(map, trouble_text_keys[i]);
        if (!text || text->type != MSGPACK_OBJECT_STR ||
            memchr(text->via.str.ptr, '\0', text->via.str.size)) {
            return 0;
        }
        bytes += text->via.str.size + 1;
        if (head) {
            texts[i] = memcpy(*at, text->via.str.ptr, text->via.str.size);
            (*at)[text->via.str.size] = '\0';
            *at += text->via.str.size + 1;
        }
    }
    if (head) {
        head->rule = texts[0];
        head->metric = texts[1];
        head->statistic = texts[2];
        head->condition = texts[3];
    }
    return bytes;
}

static bool trouble_read_u64(const msgpack_object *map, const char *key, uint64_t max,
                             uint64_t *ret_number)
{
    const msgpack_object *value = mpk_find(map, key);
    return value && mpk_get_u64(value, max, ret_number) == 0;
}

static bool trouble_read_f64(const msgpack_object *map, const char *key, double *ret_number)
{
    const msgpack_object *value = mpk_find(map, key);
    return value && mpk_get_f64(value, ret_number) == 0;
}

/* The choice of this name, of those before `count`; `count` for another one. */
static int trouble_read_choice(const msgpack_object *map, const char *key, int count,
                               const char *(*name)(int choice))
{
    const msgpack_object *value = mpk_find(map, key);
    int choice = 0;
    while (choice < count && !(value && mpk_is_str(value, name(choice)))) {
        choice++;
    }
    return choice;
}

static const char *trouble_state_text(int state)
{
    return trouble_states[state];
}

static const char *trouble_severity_text(int severity)
{
    return alert_severity_name((enum alert_severity)severity);
}

static bool trouble_read_head(const msgpack_object *map, const struct result_trouble *trouble,
                              char **at, struct trouble_head *head)
{
    uint64_t number;
    const msgpack_object *since = mpk_find(map, "since");
    int state = trouble_read_choice(map, "state", TROUBLE_STATE_COUNT, trouble_state_text);
    int severity = trouble_read_choice(map, "severity", ALERT_CRITICAL + 1, trouble_severity_text);
    if (state == TROUBLE_STATE_COUNT || severity > ALERT_CRITICAL || !since ||
        trouble->heads == 0 || !trouble_read_u64(map, "head", trouble->heads - 1, &number) ||
        !trouble_read_f64(map, "value", &head->value) ||
        !trouble_read_f64(map, "bound", &head->bound) ||
        !trouble_read_f64(map, "slope", &head->slope) ||
        !trouble_read_f64(map, "eta", &head->eta) ||
        !trouble_read_u64(since, "epoch", UINT64_MAX, &head->since_epoch) ||
        !trouble_read_u64(since, "step", UINT64_MAX, &head->since_step) ||
        !trouble_read_u64(map, "windows", UINT64_MAX, &head->windows)) {
        return false;
    }
    head->head = (uint32_t)number;
    head->score = trouble->score[number];
    head->state = (enum trouble_state)state;
    head->severity = (enum alert_severity)severity;
    return trouble_read_texts(map, head, at) > 0;
}

int trouble_decode(const msgpack_object *map, struct result_trouble **ret_trouble)
{
    const msgpack_object_array *score = trouble_array(map, "score");
    const msgpack_object_array *heads = trouble_array(map, "heads");
    size_t texts = 0;
    if (!score || !heads || heads->size > score->size) {
        return ERR_STORE_FORMAT;
    }
    for (uint32_t i = 0; i < heads->size; i++) {
        size_t bytes = trouble_read_texts(&heads->ptr[i], NULL, NULL);
        if (bytes == 0) {
            return ERR_STORE_FORMAT;
        }
        texts += bytes;
    }
    size_t size = sizeof(struct result_trouble) + score->size * sizeof(double) +
                  heads->size * sizeof(struct trouble_head) + texts;
    struct result_trouble *trouble = malloc(size);
    if (!trouble) {
        return ERR_MEMORY;
    }
    double *scores = (double *)(trouble + 1);
    struct trouble_head *worst = (struct trouble_head *)(scores + score->size);
    char *at = (char *)(worst + heads->size);
    *trouble = (struct result_trouble){
        .heads = score->size, .score = scores, .worst = worst, .count = heads->size};
    bool good = trouble_read_u64(map, "epoch", UINT64_MAX, &trouble->epoch) &&
                trouble_read_u64(map, "step", UINT64_MAX, &trouble->step);
    for (uint32_t i = 0; i < score->size && good; i++) {
        good = mpk_get_f64(&score->ptr[i], &scores[i]) == 0 && !isnan(scores[i]);
    }
    for (uint32_t i = 0; i < heads->size && good; i++) {
        good = trouble_read_head(&heads->ptr[i], trouble, &at, &worst[i]);
    }
    if (!good) {
        free(trouble);
        return ERR_STORE_FORMAT;
    }
    *ret_trouble = trouble;
    return 0;
}
