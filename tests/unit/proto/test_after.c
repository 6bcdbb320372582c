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

#define AFTER(value, rc)                                                                           \
    {                                                                                              \
        "epoch_end_reliable", "after", LITERAL(value), rc, "after"                                 \
    }
HEADERS(other_lists_are_refused, AFTER("\x90", 0), AFTER("\x94\x01\x00\x00\x07", 0),
        AFTER("\xc3", ERR_KEY_TYPE), AFTER("\x93\x01\x00\x00", ERR_KEY_RANGE),
        AFTER("\x94\x02\x00\x00\x07", ERR_KEY_RANGE), AFTER("\x94\x01\x00\x02\x07", ERR_KEY_RANGE),
        AFTER("\x94\x01\xce\x00\x01\x00\x00\x00\x07", ERR_KEY_RANGE),
        AFTER("\x94\x01\x00\x00\xff", ERR_KEY_TYPE),
        AFTER("\x94\x01\x00\x00\xcf\xff\xff\xff\xff\xff\xff\xff\xff", ERR_KEY_RANGE),
        AFTER("\x94\x01\x00\x00\xc0", ERR_KEY_TYPE),
        {"bye", "reliable", LITERAL("\x01"), ERR_KEY_TYPE, "reliable"});
