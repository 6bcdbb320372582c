/* SPDX-License-Identifier: MIT */
/* Any bytes as a file of recorded messages. A record has the sizes it says, lies within the
 * file or within what was unpacked, and is written again as a record that is read the same. */
#include "tests/fuzz/fuzz.h"

#include "proto/err.h"
#include "proto/recording.h"

#include <string.h>

/* Reads every byte, so that a sanitizer sees one that is not there. */
static uint64_t sum(const struct recording_frame *frames, uint32_t count)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
        for (size_t at = 0; at < frames[i].size; at++) {
            total += ((const uint8_t *)frames[i].data)[at];
        }
    }
    return total;
}

static void check_written(const struct recording_record *record,
                          const struct recording_frame *frames)
{
    uint8_t head[RECORDING_HEAD_MAX];
    struct recording_record again;
    size_t size =
        recording_encode_record(record->received_ns, frames, record->frame_count, NULL, head);
    REQUIRE(size == RECORDING_RECORD_BYTES + 8 * (size_t)record->frame_count);
    REQUIRE(recording_decode_record(head, size, &again) == 0);
    REQUIRE(again.received_ns == record->received_ns && !again.packed);
    REQUIRE(again.frame_count == record->frame_count);
    REQUIRE(record->packed || (again.stored == record->stored && again.crc == record->crc));
}

/* Returns the bytes of the record, or 0 when there is none to go on from. */
static size_t read_record(const uint8_t *data, size_t len)
{
    struct recording_record record;
    struct recording_frame frames[RECORDING_FRAMES_MAX];
    void *owned;
    if (recording_decode_record(data, len, &record) != 0) {
        return 0;
    }
    REQUIRE(record.frame_count >= 1 && record.frame_count <= RECORDING_FRAMES_MAX);
    int code = recording_decode_frames(&record, data + RECORDING_RECORD_BYTES,
                                       len - RECORDING_RECORD_BYTES, frames, &owned);
    REQUIRE(code == 0 || !owned);
    if (code == ERR_RECORDING_CUT) {
        return 0;
    }
    if (code == 0) {
        REQUIRE(sum(frames, record.frame_count) < UINT64_MAX);
        check_written(&record, frames);
    }
    free(owned);
    return RECORDING_RECORD_BYTES + (size_t)record.stored;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    uint64_t created_ns;
    if (recording_decode_header(data, len, &created_ns) != 0) {
        return 0;
    }
    for (size_t at = RECORDING_HEADER_BYTES, size = 1; at < len && size > 0; at += size) {
        size = read_record(data + at, len - at);
    }
    return 0;
}
