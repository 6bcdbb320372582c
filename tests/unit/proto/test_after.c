/* SPDX-License-Identifier: MIT */
/* The keys of the reliable lane. */
#include "tests/unit/proto/headers.h"

#include "proto/err.h"
#include "proto/header.h"

TEST(what_an_event_comes_after_is_read)
{
    OWNED(bytes_free) struct bytes bytes = headers_golden("epoch_end_reliable");
    struct header header;
    const char *key;

    assert_int_equal(headers_decode(&bytes, &header, &key), 0);
    assert_true(header.reliable);
    assert_int_equal(header.after_count, 2);
    assert_int_equal(header.after[0].layer.stack, STACK_DECODER);
    assert_int_equal(header.after[0].layer.layer, 5);
    assert_int_equal(header.after[0].layer.site, SITE_SELF);
    assert_int_equal(header.after[0].seq, 9);
    assert_int_equal(header.after[1].layer.layer, 65535);
    assert_int_equal(header.after[1].layer.site, SITE_CROSS);
    assert_int_equal(header.after[1].seq, UINT64_C(1) << 40);
    header_clear(&header);
    assert_null(header.after);
}

TEST(other_lists_are_refused)
{
    static const struct {
        const char *value;
        size_t len;
        int code;
    } cases[] = {
        {"\x90", 1, 0},
        {"\x94\x01\x00\x00\x07", 5, 0},
        {"\xc3", 1, ERR_KEY_TYPE},
        {"\x93\x01\x00\x00", 4, ERR_KEY_RANGE},
        {"\x94\x02\x00\x00\x07", 5, ERR_KEY_RANGE},
        {"\x94\x01\x00\x02\x07", 5, ERR_KEY_RANGE},
        {"\x94\x01\xce\x00\x01\x00\x00\x00\x07", 9, ERR_KEY_RANGE},
        {"\x94\x01\x00\x00\xff", 5, ERR_KEY_TYPE},
        {"\x94\x01\x00\x00\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 13, ERR_KEY_RANGE},
        {"\x94\x01\x00\x00\xc0", 5, ERR_KEY_TYPE},
    };
    const char *key;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int code =
            headers_change("epoch_end_reliable", "after", cases[i].value, cases[i].len, &key);

        assert_int_equal(code, cases[i].code);
        if (code) {
            assert_string_equal(key, "after");
        }
    }
    assert_int_equal(headers_change("bye", "reliable", "\x01", 1, &key), ERR_KEY_TYPE);
    assert_string_equal(key, "reliable");
}
