/* SPDX-License-Identifier: MIT */
#include "workers/rows/frame.h"

#include <string.h>

bool frame_key_valid(const struct row_job *job, uint64_t j)
{
    return j >= job->begin && j < job->end && attention_hole_free(&job->holes, (uint32_t)j);
}

/* Without reading documents: a query sees at least itself. */
bool frame_query_valid(const struct attention *a, const struct row_job *job, uint32_t b, uint32_t i)
{
    if (i >= attention_query_count(a, b)) {
        return false;
    }
    if (job->holes.mask && job->holes.document) {
        return attention_query_valid(a, b, i);
    }
    if (job->holes.mask) {
        return memchr(job->holes.mask, 1, a->keys) != NULL;
    }
    return true;
}

uint32_t frame_narrow(struct row_job *job)
{
    if (!job->holes.mask && !job->holes.document) {
        return job->end - job->begin;
    }
    while (job->begin < job->end && !frame_key_valid(job, job->begin)) {
        job->begin++;
    }
    while (job->begin < job->end && !frame_key_valid(job, job->end - 1)) {
        job->end--;
    }
    uint32_t n = 0;
    for (uint32_t j = job->begin; j < job->end; j++) {
        n += frame_key_valid(job, j);
    }
    return n;
}

void frame_set_singles(struct frame *frame, const struct attention *a)
{
    struct row_job *job = &frame->job;
    uint64_t p = job->position, positions = attention_position_count(a, frame->b);
    uint32_t first = attention_first_key(a, frame->b, frame->i);
    const uint64_t at[SINGLE_COUNT] = {
        [SINGLE_FIRST] = first,
        [SINGLE_DIAGONAL] = p,
        [SINGLE_PREVIOUS] = p - 1, /* p = 0: past every end */
        [SINGLE_NEXT] = p + 1,
    };
    for (uint32_t s = 0; s < SINGLE_COUNT; s++) {
        frame->has[s] = s == SINGLE_FIRST ? p > first : a->self && at[s] < positions;
        /* KEY_NONE where the weight is 0 because the key is not valid. */
        job->single[s] = frame_key_valid(job, at[s]) ? (uint32_t)at[s] : KEY_NONE;
    }
}

static uint64_t frame_distance(uint64_t p, uint32_t j)
{
    return p > j ? p - j : j - p;
}

void frame_set_distances(struct frame *frame, uint32_t window)
{
    struct row_job *job = &frame->job;
    uint64_t p = job->position, from = p > window ? p - window : 0, to = p + window + 1;
    job->local_begin =
        from > job->begin ? (uint32_t)(from < job->end ? from : job->end) : job->begin;
    job->local_end = to < job->end ? (uint32_t)to : job->end;
    uint64_t first = frame_distance(p, job->begin), last = frame_distance(p, job->end - 1);
    frame->largest_distance = (float)(first > last ? first : last);
}
