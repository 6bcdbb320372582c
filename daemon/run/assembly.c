/* SPDX-License-Identifier: MIT */
/* Parts are taken in their turn like every message: their ranks' positions move, and gaps in their
 * sequences are seen. They hold up no window. The one that completes the matrices stands for all:
 * it is computed then, holds up its windows as matrices that came whole do, and brings the numbers.
 *
 * The frames are kept as they came, and their bytes stay in ingest.budget; the worker that computes
 * the matrices copies them to their places. Nothing is allocated by the sizes that a
 * header claims before blocks of that size are there: blocks do not overlap, so the matrices are
 * whole when the entries add up. */
#include "daemon/run/assembly.h"

#include "daemon/base/clock.h"
#include "daemon/state/position.h"

#include <assert.h>

static void assembly_lose(struct run *run, struct stream *stream)
{
    struct assembly *assembly = &stream->assembly;
    while (assembly->first) {
        struct message *message = assembly->first;
        assembly->first = message->queued_next;
        message->code = ERR_INCOMPLETE;
        assert(message->stage == STAGE_PART && run->waiting > 0);
        run_count_dropped(run, stream, message, message->code);
        message->queued_next = run->lost;
        run->lost = message;
        run->waiting--;
        run->dirty = true;
    }
    *assembly = (struct assembly){.first = NULL};
}

void assembly_give_up(struct run *run, uint64_t now_ns)
{
    for (struct stream *stream = run->streams; stream && run->waiting; stream = stream->hh.next) {
        if (stream->assembly.first &&
            clock_since_ns(stream->assembly.first->received_ns, now_ns) >= ASSEMBLY_PATIENCE_NS) {
            assembly_lose(run, stream);
        }
    }
}

struct message *assembly_take_lost(struct run *run)
{
    struct message *message = run->lost;
    if (message) {
        run->lost = message->queued_next;
    }
    return message;
}

/* Where its matrices belong, whichever rank sent it. */
static struct position assembly_position_of(const struct header *header)
{
    return (struct position){.epoch = header->epoch, .step = header->step, .rank = 1};
}

/* Whether two parts are of the same matrices. */
static bool assembly_is_alike(const struct header *a, const struct header *b)
{
    bool alike = a->heads == b->heads && a->kv_heads == b->kv_heads && a->head_dim == b->head_dim;
    for (int p = 0; p < PROJECTION_COUNT && alike; p++) {
        alike = a->matrix[p].out == b->matrix[p].out && a->matrix[p].in == b->matrix[p].in;
    }
    return alike;
}

static bool assembly_overlaps(const struct matrix_place *a, const struct tensor *size_a,
                              const struct matrix_place *b, const struct tensor *size_b)
{
    return a->row < b->row + size_b->shape[0] && b->row < a->row + size_a->shape[0] &&
           a->column < b->column + size_b->shape[1] && b->column < a->column + size_a->shape[1];
}

/* Whether the blocks of two parts have a dtype for each matrix, and no entry in common. */
static bool assembly_goes_with(const struct header *a, const struct header *b)
{
    bool fits = true;
    for (int p = 0; p < PROJECTION_COUNT && fits; p++) {
        uint32_t frame_a = header_frame_of(a, header_role_of((enum projection)p)),
                 frame_b = header_frame_of(b, header_role_of((enum projection)p));
        if (frame_a && frame_b) {
            const struct tensor *size_a = &a->tensors[frame_a - 2],
                                *size_b = &b->tensors[frame_b - 2];
            fits = size_a->dtype == size_b->dtype &&
                   !assembly_overlaps(&a->matrix[p], size_a, &b->matrix[p], size_b);
        }
    }
    return fits;
}

static uint64_t assembly_entries_of(const struct header *header)
{
    uint64_t entries = 0;
    for (uint32_t i = 0; i < header->tensor_count; i++) {
        entries += header->tensors[i].shape[0] * header->tensors[i].shape[1];
    }
    return entries;
}

static bool assembly_is_whole(uint64_t entries, const struct header *header)
{
    uint64_t whole = 0;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        whole += (uint64_t)header->matrix[p].out * header->matrix[p].in;
    }
    return entries == whole;
}

int assembly_put(struct run *run, struct stream *stream, struct message *message)
{
    struct assembly *assembly = &stream->assembly;
    const struct header *header = &message->header;
    if (assembly->first) {
        const struct header *there = &assembly->first->header;
        struct position own = assembly_position_of(header), theirs = assembly_position_of(there);
        if (!position_reaches(&own, &theirs)) {
            return ERR_INCOMPLETE;
        }
        if (!position_reaches(&theirs, &own)) {
            assembly_lose(run, stream);
        } else if (!assembly_is_alike(header, there)) {
            return ERR_SHAPE;
        }
    }
    if (assembly->count >= run->config->limits_ranks) {
        return ERR_RANK_LIMIT;
    }
    struct message **end = &assembly->first;
    for (; *end; end = &(*end)->queued_next) {
        if (!assembly_goes_with(header, &(*end)->header)) {
            return ERR_SHAPE;
        }
    }
    uint64_t entries = assembly->entries + assembly_entries_of(header);
    if (assembly_is_whole(entries, header)) {
        int code = message_join(message, assembly->first);
        for (struct message *part = message->parts; part; part = part->queued_next) {
            assert(part->stage == STAGE_PART && run->waiting > 0);
            run->waiting--;
        }
        if (!code) {
            *assembly = (struct assembly){.first = NULL};
        }
        return code;
    }
    assembly->entries = entries;
    assembly->count++;
    message->stage = STAGE_PART;
    message->queued_next = NULL;
    *end = message;
    run->waiting++;
    return 0;
}
