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

/* One part of a topic, without its slash. */
struct topic_part {
    const char *text;
    size_t len;
};

/* Splits at the slashes; the topic must end in one. Returns the number of parts, 0 when there are
 * more than `max` or the end is open. */
static unsigned topic_split(const char *topic, size_t len, struct topic_part *parts, unsigned max)
{
    unsigned count = 0;
    while (len > 0) {
        const char *slash = memchr(topic, '/', len);
        size_t part = slash ? (size_t)(slash - topic) : 0;
        if (!slash || count == max) {
            return 0;
        }
        parts[count++] = (struct topic_part){topic, part};
        topic += part + 1;
        len -= part + 1;
    }
    return count;
}

static bool part_is(struct topic_part part, const char *word)
{
    return part.len == strlen(word) && memcmp(part.text, word, part.len) == 0;
}

/* A layer's number as topic_layer writes it: no sign, no leading zeros, at most LAYER_MAX. */
static bool part_is_layer(struct topic_part part)
{
    unsigned layer = 0;
    if (part.len < 1 || part.len > 5 || (part.len > 1 && part.text[0] == '0')) {
        return false;
    }
    for (size_t i = 0; i < part.len; i++) {
        if (part.text[i] < '0' || part.text[i] > '9') {
            return false;
        }
        layer = 10 * layer + (unsigned)(part.text[i] - '0');
    }
    return layer <= LAYER_MAX;
}

/* Whether the text has one of the two forms, whatever it names. */
static bool well_formed(const char *topic, size_t len)
{
    struct topic_part parts[5];
    unsigned count = topic_split(topic, len, parts, 5);
    if (count < 2 || !job_name_valid(parts[1].text, parts[1].len)) {
        return false;
    }
    if (count == 2) {
        return part_is(parts[0], "event");
    }
    return count == 5 && part_is(parts[0], "tensor") &&
           (part_is(parts[2], stack_names[0]) || part_is(parts[2], stack_names[1])) &&
           part_is_layer(parts[3]) &&
           (part_is(parts[4], site_names[0]) || part_is(parts[4], site_names[1]));
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
