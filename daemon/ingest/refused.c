/* SPDX-License-Identifier: MIT */
#include "daemon/ingest/refused.h"

#include "daemon/base/log.h"
#include "proto/err.h"

#include <stdio.h>
#include <string.h>

static void refused_topic(const struct message *message, char ret_topic[TOPIC_MAX])
{
    zmq_msg_t *frame = message ? (zmq_msg_t *)&message->frames[0] : NULL;
    size_t length = message && message->frame_count > 0 ? zmq_msg_size(frame) : 0;
    length = length < TOPIC_MAX ? length : TOPIC_MAX - 1;
    if (length > 0) {
        memcpy(ret_topic, zmq_msg_data(frame), length);
    }
    ret_topic[length] = '\0';
}

void refused_log(const struct message *message, int code, const char *key, uint64_t before)
{
    char topic[TOPIC_MAX], detail[160];
    const char *wanted = code == ERR_KEY_TYPE && key ? header_wanted(key) : NULL;
    if (!log_is_round(before)) {
        return;
    }
    refused_topic(message, topic);
    snprintf(detail, sizeof detail, "%s%s%s", err_text(code), wanted ? "; needed is " : "",
             wanted ? wanted : "");
    log_event(LOG_WARNING, "message_refused", LOG_STR("reason", err_slug(code)),
              LOG_STR("detail", detail), LOG_STR("key", key ? key : "-"), LOG_STR("topic", topic),
              LOG_NUM("count", before + 1));
}

/* Whether it is said for the first time, and there is room for it. */
static bool refused_note(struct refused *refused, const char *key, const char *job)
{
    char text[sizeof refused->text[0]];
    uint32_t of_key = 0;
    int length = snprintf(text, sizeof text, "refused/%s/%s", key, job);
    for (uint32_t i = 0; i < refused->count; i++) {
        of_key += strncmp(refused->text[i], text, sizeof "refused/" + KEY_LENGTH) == 0;
        if (strcmp(refused->text[i], text) == 0) {
            return false;
        }
    }
    if (of_key >= REFUSED_KEY_MAX || refused->count >= REFUSED_MAX || length < 0) {
        return false;
    }
    strcpy(refused->text[refused->count++], text);
    return true;
}

void refused_tell(struct refused *refused, void *socket, struct keyring *keys,
                  struct message *message, int code, const char *key, uint64_t before)
{
    if (code == ERR_KEY) {
        /* The key that it came with may not publish for its job. */
        struct keys_sender sender;
        const char *job = message->header.job;
        keys_count_refused(keys, &message->frames[0], &sender);
        if (log_is_round(sender.refused - 1)) {
            char topic[TOPIC_MAX];
            refused_topic(message, topic);
            log_event(LOG_WARNING, "message_refused", LOG_STR("reason", err_slug(ERR_KEY)),
                      LOG_STR("detail", err_text(ERR_KEY)), LOG_STR("from", sender.name),
                      LOG_STR("public_key", sender.key), LOG_STR("topic", topic),
                      LOG_NUM("count", sender.refused));
        }
        if (*sender.key && refused_note(refused, sender.key, job)) {
            const char *text = refused->text[refused->count - 1];
            (void)zmq_setsockopt(socket, ZMQ_SUBSCRIBE, text, strlen(text));
        }
    } else {
        refused_log(message, code, key, before);
    }
}

void refused_forget(struct refused *refused, void *socket)
{
    while (refused->count > 0) {
        const char *text = refused->text[--refused->count];
        (void)zmq_setsockopt(socket, ZMQ_UNSUBSCRIBE, text, strlen(text));
    }
}
