/* SPDX-License-Identifier: MIT */
/* Topics, and the words they are made of. Topics end in a slash so that a prefix subscription to
 * one job or layer never catches another whose name begins alike. */
#include "proto/header.h"

#include "proto/err.h"
#include "proto/utf8.h"
#include <stdio.h>
#include <string.h>

const char *const stack_names[] = {[STACK_ENCODER] = "encoder", [STACK_DECODER] = "decoder"};
const char *const site_names[] = {[SITE_SELF] = "self", [SITE_CROSS] = "cross"};

const char *stack_name(enum stack stack)
{
    return stack_names[stack];
}

const char *site_name(enum site site)
{
    return site_names[site];
}

const char *layer_name(struct layer_id layer, char ret_name[LAYER_NAME_MAX])
{
    snprintf(ret_name, LAYER_NAME_MAX, "%s.%u.%s", stack_name(layer.stack), layer.layer,
             site_name(layer.site));
    return ret_name;
}

static bool job_char(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

bool job_name_valid(const char *name, size_t len)
{
    if (len < 1 || len > JOB_NAME_MAX) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (!job_char((unsigned char)name[i])) {
            return false;
        }
    }
    return true;
}

bool module_path_valid(const char *path, size_t len)
{
    return len >= 1 && len <= MODULE_MAX && utf8_is_plain(path, len);
}

size_t topic_layer(const char *word, const char *job, struct layer_id id, char *ret_topic)
{
    return (size_t)snprintf(ret_topic, TOPIC_MAX, "%s/%s/%s/%u/%s/", word, job,
                            stack_name(id.stack), id.layer, site_name(id.site));
}

size_t topic_job(const char *word, const char *job, char *ret_topic)
{
    return (size_t)snprintf(ret_topic, TOPIC_MAX, "%s/%s/", word, job);
}

/* Whether the text has one of the two forms, whatever it names: it is what the parts that are read
 * from it make. */
static bool well_formed(const char *topic, size_t len)
{
    char text[TOPIC_MAX] = "", job[JOB_NAME_MAX + 1] = "", made[TOPIC_MAX];
    unsigned layer = 0;
    if (len >= sizeof text) {
        return false;
    }
    memcpy(text, topic, len);
    if (sscanf(text, "event/%128[^/]/", job) == 1) {
        return job_name_valid(job, strlen(job)) && topic_job("event", job, made) == len &&
               memcmp(topic, made, len) == 0;
    }
    bool found = false;
    sscanf(text, "tensor/%128[^/]/%*7[^/]/%5u/", job, &layer);
    for (unsigned i = 0; i < 4; i++) {
        struct layer_id id = {(enum stack)(i / 2), layer, (enum site)(i % 2)};
        found =
            found || (topic_layer("tensor", job, id, made) == len && memcmp(topic, made, len) == 0);
    }
    return found && layer <= LAYER_MAX && job_name_valid(job, strlen(job));
}

int topic_check(const struct header *header, const void *topic, size_t len)
{
    char expected[TOPIC_MAX];
    size_t expected_len = header->type == MESSAGE_EVENT
                              ? topic_job("event", header->job, expected)
                              : topic_layer("tensor", header->job, header->layer, expected);
    if (len == expected_len && memcmp(topic, expected, len) == 0) {
        return 0;
    }
    return well_formed(topic, len) ? ERR_TOPIC_MISMATCH : ERR_TOPIC;
}
