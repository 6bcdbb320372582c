/* SPDX-License-Identifier: MIT */
/* The last summaries of a job, of one of its windows. */
#include "control_request.h"

#include <string.h>

/* What a `summary` request asks for; empty = any. */
struct summary_filter {
    char job[JOB_NAME_MAX + 1], stack[16], layer[16], site[16];
    uint32_t count;
    struct mpk_writer *result; /* NULL: only count */
};

/* Whether the topic's next segment is `wanted` or anything goes; moves on to the one after. */
static bool segment_matches(const char **topic, const char *wanted)
{
    size_t length = strcspn(*topic, "/");
    bool matches = !*wanted || (strlen(wanted) == length && memcmp(*topic, wanted, length) == 0);
    *topic += length + ((*topic)[length] == '/');
    return matches;
}

static void visit_summary(void *data, const char *topic, const void *value, size_t size)
{
    struct summary_filter *filter = data;
    topic += strlen("summary/");
    if (!segment_matches(&topic, filter->job) || !segment_matches(&topic, filter->stack) ||
        !segment_matches(&topic, filter->layer) || !segment_matches(&topic, filter->site))
        return;
    filter->count++;
    if (filter->result)
        mpk_put_raw(filter->result, value, size);
}

static bool read_layer_number(const struct request *request, struct summary_filter *filter)
{
    const msgpack_object *value = mpk_find(request->params, "layer");
    uint64_t layer;
    if (!value || value->type == MSGPACK_OBJECT_NIL)
        return true;
    if (mpk_get_u64(value, LAYER_MAX, &layer) != 0)
        return false;
    snprintf(filter->layer, sizeof filter->layer, "%u", (unsigned)layer);
    return true;
}

static bool read_filter(const struct request *request, struct summary_filter *filter)
{
    return string_param(request, "job", NULL, filter->job, sizeof filter->job) &&
           string_param(request, "stack", "", filter->stack, sizeof filter->stack) &&
           string_param(request, "site", "", filter->site, sizeof filter->site) &&
           read_layer_number(request, filter);
}

int method_summary(struct request *request)
{
    const struct publisher *publisher = request->view->publisher;
    struct summary_filter filter = {.count = 0};
    if (!read_filter(request, &filter))
        return ERR_ARGUMENT;
    publisher_each(publisher, "summary/", visit_summary, &filter);
    if (filter.count == 0)
        return registry_knows(request->view->registry, filter.job) ? ERR_NO_SUMMARY
                                                                           : ERR_JOB_UNKNOWN;
    mpk_put_array(request->result, filter.count);
    filter.result = request->result;
    publisher_each(publisher, "summary/", visit_summary, &filter);
    return 0;
}

