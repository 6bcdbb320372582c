/* SPDX-License-Identifier: MIT */
#include "clients/c/src/kept.h"

#include "clients/c/include/attn/attn.h"

#include <stdlib.h>
#include <string.h>

void kept_free(struct kept *entry)
{
    for (uint32_t i = 0; i < entry->frame_count; i++) {
        zmq_msg_close(&entry->frames[i]);
    }
    free(entry->frames);
    free(entry);
}

int kept_hold(struct kept *entry, zmq_msg_t *const *frames, uint32_t count)
{
    entry->frames = calloc(count, sizeof *entry->frames);
    if (!entry->frames) {
        return ATTN_E_MEMORY;
    }
    for (; entry->frame_count < count; entry->frame_count++) {
        zmq_msg_init(&entry->frames[entry->frame_count]);
        if (zmq_msg_copy(&entry->frames[entry->frame_count], frames[entry->frame_count]) != 0) {
            entry->frame_count++;
            return ATTN_E_MEMORY;
        }
    }
    return 0;
}

static int load_frames(const struct kept *entry, zmq_msg_t *ret_frames)
{
    char *data = malloc(entry->bytes + 1), *at = data;
    uint32_t made = 0;
    int rc = data ? spool_read(&entry->place, data) : -1;

    for (; !rc && made < entry->place.frame_count; made++) {
        rc = zmq_msg_init_size(&ret_frames[made], entry->place.sizes[made]);
        if (rc) {
            break;
        }
        memcpy(zmq_msg_data(&ret_frames[made]), at, entry->place.sizes[made]);
        at += entry->place.sizes[made];
    }
    free(data);
    while (rc && made > 0) {
        zmq_msg_close(&ret_frames[--made]);
    }
    return rc;
}

static int share_frames(const struct kept *entry, zmq_msg_t *ret_frames)
{
    for (uint32_t i = 0; i < entry->frame_count; i++) {
        zmq_msg_init(&ret_frames[i]);
        if (zmq_msg_copy(&ret_frames[i], &entry->frames[i]) != 0) {
            for (uint32_t made = 0; made <= i; made++) {
                zmq_msg_close(&ret_frames[made]);
            }
            return -1;
        }
    }
    return 0;
}

int kept_frames(const struct kept *entry, zmq_msg_t *ret_frames, uint32_t *ret_count)
{
    *ret_count = entry->spooled ? entry->place.frame_count : entry->frame_count;
    return entry->spooled ? load_frames(entry, ret_frames) : share_frames(entry, ret_frames);
}

/* The topic is "tensor/JOB/..." or "event/JOB/". */
static void job_of_topic(const char *topic, size_t size, char ret_job[JOB_NAME_MAX + 1])
{
    const char *begin = memchr(topic, '/', size), *end;

    end = begin ? memchr(begin + 1, '/', size - (size_t)(begin + 1 - topic)) : NULL;
    if (end && end - begin - 1 <= JOB_NAME_MAX) {
        memcpy(ret_job, begin + 1, (size_t)(end - begin - 1));
        ret_job[end - begin - 1] = '\0';
    }
}

void kept_job(const struct kept *entry, char ret_job[JOB_NAME_MAX + 1])
{
    zmq_msg_t frames[SPOOL_FRAMES_MAX];
    uint32_t count;

    strcpy(ret_job, "?");
    if (kept_frames(entry, frames, &count) != 0) {
        return;
    }
    job_of_topic(zmq_msg_data(&frames[0]), zmq_msg_size(&frames[0]), ret_job);
    for (uint32_t i = 0; i < count; i++) {
        zmq_msg_close(&frames[i]);
    }
}
