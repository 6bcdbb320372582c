/* SPDX-License-Identifier: MIT */
/* The bytes of recordings. The examples were made with Python's struct and zlib. */
#include "tests/unit/proto/support.h"

#include "tests/unit/heap.h"
#include "proto/err.h"
#include "proto/recording.h"

#include <zlib.h>

static const uint8_t header_example[] = {
    0x89, 0x61, 0x74, 0x74, 0x6e, 0x64, 0x0d, 0x0a, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, 0x00, 0x00, 0x00, 0x00, 0xd8, 0x5e, 0x54, 0x03,
};

/* "event/a/", 0x80 and an empty frame. */
static const uint8_t record_example[] = {
    0x3a, 0x28, 0xc6, 0xd4, 0xf3, 0x99, 0x1b, 0x66, 0x21, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x00, 0x00,
    0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x65, 0x76, 0x65, 0x6e, 0x74, 0x2f, 0x61, 0x2f, 0x80,
};

static const struct recording_frame example_frames[] = {{"event/a/", 8}, {"\x80", 1}, {"", 0}};

/* Reads as readers do: both steps on one block of exactly these bytes. The frames of ret_frames
 * point into the block or *ret_owned. */
static int recording_decode(const struct bytes *bytes, struct recording_record *ret_record,
                            struct recording_frame *ret_frames, void **ret_owned)
{
    *ret_owned = NULL;
    int code = recording_decode_record(bytes->data, bytes->len, ret_record);
    if (code) {
        return code;
    }
    return recording_decode_frames(ret_record, bytes->data + RECORDING_RECORD_BYTES,
                                   bytes->len - RECORDING_RECORD_BYTES, ret_frames, ret_owned);
}

static int decode_only(const struct bytes *bytes)
{
    struct recording_record record;
    struct recording_frame frames[RECORDING_FRAMES_MAX];
    void *owned;
    int code = recording_decode(bytes, &record, frames, &owned);
    free(owned);
    return code;
}

static struct bytes recording_encode(const struct recording_frame *frames, uint32_t count,
                                     const struct recording_frame *packed)
{
    uint8_t head[RECORDING_HEAD_MAX];
    size_t size = recording_encode_record(7, frames, count, packed, head);
    size_t total = size;
    const struct recording_frame *stored = packed ? packed : frames;
    uint32_t stored_count = packed ? 1 : count;
    for (uint32_t i = 0; i < stored_count; i++) {
        total += stored[i].size;
    }
    struct bytes bytes = {malloc(total), total};
    assert_non_null(bytes.data);
    memcpy(bytes.data, head, size);
    for (uint32_t i = 0; i < stored_count; i++) {
        memcpy(bytes.data + size, stored[i].data, stored[i].size);
        size += stored[i].size;
    }
    return bytes;
}

static void test_recording_put_u32(uint8_t *at, uint32_t number)
{
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(number >> (8 * i));
    }
}

/* Makes the checksums right again after a change, so that what they protect is looked at. */
static void seal(struct bytes *bytes)
{
    uint8_t *head = bytes->data;
    size_t body = bytes->len - RECORDING_RECORD_BYTES;
    test_recording_put_u32(head + 4, (uint32_t)crc32(0, head + RECORDING_RECORD_BYTES, (uInt)body));
    test_recording_put_u32(head, (uint32_t)crc32(0, head + 4, RECORDING_RECORD_BYTES - 4));
}

/* Tests ------------------------------------------------------------------------------------------
 */

TEST(the_header_is_the_bytes_of_the_picture)
{
    uint8_t header[RECORDING_HEADER_BYTES];
    uint64_t created = 0;
    recording_encode_header(UINT64_C(0x0102030405060708), header);
    assert_memory_equal(header, header_example, sizeof header);
    assert_int_equal(recording_decode_header(header, sizeof header, &created), 0);
    assert_true(created == UINT64_C(0x0102030405060708));
}

TEST(other_files_and_newer_ones_are_told_apart)
{
    uint8_t header[RECORDING_HEADER_BYTES];
    uint64_t created;
    recording_encode_header(1, header);
    assert_int_equal(recording_decode_header(header, 31, &created), ERR_RECORDING_FORMAT);
    header[5] ^= 1;
    assert_int_equal(recording_decode_header(header, 32, &created), ERR_RECORDING_FORMAT);
    header[5] ^= 1;
    header[17] ^= 1;
    assert_int_equal(recording_decode_header(header, 32, &created), ERR_RECORDING_DAMAGED);
    header[17] ^= 1;
    header[8] = 2;
    test_recording_put_u32(header + 28, (uint32_t)crc32(0, header, 28));
    assert_int_equal(recording_decode_header(header, 32, &created), ERR_RECORDING_VERSION);
}

TEST(a_record_is_the_bytes_of_the_picture)
{
    uint8_t head[RECORDING_HEAD_MAX];
    size_t size =
        recording_encode_record(UINT64_C(0x1122334455667788), example_frames, 3, NULL, head);
    assert_int_equal(size, RECORDING_RECORD_BYTES + 3 * 8);
    assert_memory_equal(head, record_example, size);
}

TEST(a_record_is_read_as_it_was_written)
{
    OWNED(bytes_free) struct bytes bytes = bytes_copy(record_example, sizeof record_example);
    struct recording_record record;
    struct recording_frame frames[RECORDING_FRAMES_MAX];
    void *owned;
    assert_int_equal(recording_decode(&bytes, &record, frames, &owned), 0);
    assert_null(owned);
    assert_true(record.received_ns == UINT64_C(0x1122334455667788));
    assert_int_equal(record.frame_count, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(frames[i].size, example_frames[i].size);
        assert_memory_equal(frames[i].data, example_frames[i].data, frames[i].size);
    }
}

/* A killed recorder leaves any number of bytes of its last record. */
TEST(a_record_cut_anywhere_is_recognised)
{
    for (size_t len = 0; len < sizeof record_example; len++) {
        OWNED(bytes_free) struct bytes bytes = bytes_copy(record_example, len);
        assert_int_equal(decode_only(&bytes), ERR_RECORDING_CUT);
    }
}

TEST(any_flipped_bit_is_noticed)
{
    for (size_t bit = 0; bit < 8 * sizeof record_example; bit++) {
        OWNED(bytes_free) struct bytes bytes = bytes_copy(record_example, sizeof record_example);
        bytes.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_int_equal(decode_only(&bytes), ERR_RECORDING_DAMAGED);
    }
}

/* A file system may leave zeros where a crash came before the data. */
TEST(zeros_are_damage)
{
    OWNED(bytes_free) struct bytes bytes = bytes_repeat(0, 200);
    assert_int_equal(decode_only(&bytes), ERR_RECORDING_DAMAGED);
}

struct change {
    size_t at; /* offset in the record */
    uint64_t value;
    int code;
};

/* With checksums that fit: lengths that disagree are refused before anything is done with them. */
TEST(impossible_numbers_are_refused)
{
    static const struct change changes[] = {
        {28, 0, ERR_RECORDING_DAMAGED},              /* no frame */
        {28, 65, ERR_RECORDING_DAMAGED},             /* too many */
        {28, UINT32_MAX, ERR_RECORDING_DAMAGED},     /* */
        {28, 5, ERR_RECORDING_DAMAGED},              /* sizes beyond what is stored */
        {24, 2, ERR_RECORDING_VERSION},              /* a flag nobody knows */
        {32, 9, ERR_RECORDING_DAMAGED},              /* the sum is one more than there is */
        {32, 7, ERR_RECORDING_DAMAGED},              /* one less */
        {32, UINT64_MAX, ERR_RECORDING_DAMAGED},     /* the sum wraps */
        {40, UINT64_MAX - 7, ERR_RECORDING_DAMAGED}, /* wraps to what there is */
        {8, 34, ERR_RECORDING_CUT},                  /* stored: more than there is */
        {8, 23, ERR_RECORDING_DAMAGED},              /* less than the sizes take */
        {8, UINT64_MAX, ERR_RECORDING_DAMAGED},      /* */
        {8, (UINT64_C(1) << 35) + 25, ERR_RECORDING_DAMAGED}, /* more than any message */
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        OWNED(bytes_free) struct bytes bytes = bytes_copy(record_example, sizeof record_example);
        size_t width = changes[i].at == 24 || changes[i].at == 28 ? 4 : 8;
        for (size_t byte = 0; byte < width; byte++) {
            bytes.data[changes[i].at + byte] = (uint8_t)(changes[i].value >> (8 * byte));
        }
        seal(&bytes);
        assert_int_equal(decode_only(&bytes), changes[i].code);
    }
}

/* Frames of one repeated byte, and of none. */
static struct bytes pack_repeated(size_t len, struct recording_frame *ret_packed)
{
    OWNED(bytes_free) struct bytes content = bytes_repeat('x', len);
    struct recording_frame frames[] = {{"tensor/a/", 9}, {"", 0}, {content.data, len}};
    assert_int_equal(recording_pack(frames, 3, ret_packed), 0);
    assert_non_null(ret_packed->data);
    assert_true(ret_packed->size < len);
    struct bytes record = recording_encode(frames, 3, ret_packed);
    return record;
}

TEST(packed_frames_come_out_as_they_went_in)
{
    struct recording_frame packed, frames[RECORDING_FRAMES_MAX];
    struct recording_record record;
    OWNED(bytes_free) struct bytes bytes = pack_repeated(3000000, &packed);
    void *owned;
    assert_int_equal(recording_decode(&bytes, &record, frames, &owned), 0);
    assert_non_null(owned);
    assert_int_equal(frames[0].size, 9);
    assert_memory_equal(frames[0].data, "tensor/a/", 9);
    assert_int_equal(frames[1].size, 0);
    assert_int_equal(frames[2].size, 3000000);
    for (size_t i = 0; i < frames[2].size; i++) {
        assert_int_equal(((const char *)frames[2].data)[i], 'x');
    }
    free(owned);
    free((void *)(uintptr_t)packed.data);
}

TEST(what_would_not_get_smaller_is_not_packed)
{
    uint32_t noise[4096], number = 1;
    struct recording_frame packed, frames[] = {{noise, sizeof noise}}, nothing[] = {{"", 0}};
    for (size_t i = 0; i < 4096; i++) {
        noise[i] = number = number * 1664525u + 1013904223u;
    }
    for (size_t i = 0; i < 4096; i++) {
        noise[i] ^= noise[(i * 2654435761u) % 4096] >> 16;
    }
    assert_int_equal(recording_pack(frames, 1, &packed), 0);
    assert_null(packed.data);
    assert_int_equal(recording_pack(nothing, 1, &packed), 0);
    assert_null(packed.data);
}

/* Sizes that the stream does not have, streams that end early or go on, and what is no stream. */
TEST(a_packed_record_that_lies_is_damaged)
{
    struct recording_frame packed;
    OWNED(bytes_free) struct bytes bytes = pack_repeated(5000, &packed);
    size_t size_at = RECORDING_RECORD_BYTES + 16;
    bytes.data[size_at]++;
    seal(&bytes);
    assert_int_equal(decode_only(&bytes), ERR_RECORDING_DAMAGED);
    bytes.data[size_at] -= 2;
    seal(&bytes);
    assert_int_equal(decode_only(&bytes), ERR_RECORDING_DAMAGED);
    bytes.data[size_at]++;
    seal(&bytes);
    assert_int_equal(decode_only(&bytes), 0);
    bytes.data[RECORDING_RECORD_BYTES + 24] ^= 0xff;
    seal(&bytes);
    assert_int_equal(decode_only(&bytes), ERR_RECORDING_DAMAGED);
    free((void *)(uintptr_t)packed.data);
}

/* A few bytes that promise gigabytes cost no memory: the failing malloc is not even asked. */
TEST(memory_stays_in_proportion_to_the_file)
{
    struct recording_frame packed;
    OWNED(bytes_free) struct bytes bytes = pack_repeated(5000, &packed);
    bytes.data[RECORDING_RECORD_BYTES + 16 + 4] = 7; /* 28 GiB */
    seal(&bytes);
    heap_fail_at(1);
    assert_int_equal(decode_only(&bytes), ERR_RECORDING_DAMAGED);
    assert_false(heap_has_failed());
    heap_fail_at(0);
    free((void *)(uintptr_t)packed.data);
}

TEST(without_memory_it_is_said)
{
    struct recording_frame packed;
    OWNED(bytes_free) struct bytes bytes = pack_repeated(5000, &packed);
    heap_fail_at(1);
    assert_int_equal(decode_only(&bytes), ERR_MEMORY);
    free((void *)(uintptr_t)packed.data);
    heap_fail_at(1);
    assert_int_equal(recording_pack(example_frames, 3, &packed), ERR_MEMORY);
    assert_null(packed.data);
    heap_fail_at(0);
}

TEST(as_many_frames_as_there_may_be)
{
    struct recording_frame frames[RECORDING_FRAMES_MAX], got[RECORDING_FRAMES_MAX];
    struct recording_record record;
    void *owned;
    for (size_t i = 0; i < RECORDING_FRAMES_MAX; i++) {
        frames[i] = (struct recording_frame){"0123456789", i % 11};
    }
    OWNED(bytes_free) struct bytes bytes = recording_encode(frames, RECORDING_FRAMES_MAX, NULL);
    assert_int_equal(recording_decode(&bytes, &record, got, &owned), 0);
    for (size_t i = 0; i < RECORDING_FRAMES_MAX; i++) {
        assert_int_equal(got[i].size, i % 11);
        assert_memory_equal(got[i].data, "0123456789", got[i].size);
    }
}
