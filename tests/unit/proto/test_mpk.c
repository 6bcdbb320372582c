/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/support.h"

#include "proto/err.h"

/* Checks and parses an exact copy; both must agree. */
static int test_mpk_check(const void *data, size_t len)
{
    OWNED(bytes_free) struct bytes copy = bytes_copy(data, len);
    struct mpk_doc doc;
    int rc = mpk_check(copy.data, copy.len, &mpk_header_limits);

    assert_int_equal(mpk_parse(copy.data, copy.len, &mpk_header_limits, &doc), rc);
    if (rc == 0) {
        mpk_doc_clear(&doc);
    }
    return rc;
}

TEST(every_kind_of_value_is_accepted)
{
    static const char document[] =
        "\xdc\x00\x19"                 /* 25 values */
        "\xc0\xc2\xc3\x00\x7f\xe0\xff" /* nil, booleans, small integers */
        "\xcc\xff\xcd\xff\xff\xce\xff\xff\xff\xff\xcf\xff\xff\xff\xff\xff\xff\xff\xff"
        "\xd0\x80\xd1\x80\x00\xd2\x80\x00\x00\x00\xd3\x80\x00\x00\x00\x00\x00\x00\x00"
        "\xca\x3f\x80\x00\x00\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00"
        "\xa1x\xd9\x01x\xda\x00\x01x\xdb\x00\x00\x00\x01x"
        "\xc4\x01\x00\xc5\x00\x01\x00\xc6\x00\x00\x00\x00"
        "\x91\xc0";

    assert_int_equal(test_mpk_check(LITERAL(document)), 0);
}

TEST(all_lead_bytes_have_a_verdict)
{
    for (unsigned lead = 0; lead < 256; lead++) {
        unsigned char document[24] = {(unsigned char)lead};
        int rc = test_mpk_check(document, 1);
        bool bad = lead == 0xc1 || (lead >= 0xc7 && lead <= 0xc9) || (lead >= 0xd4 && lead <= 0xd8);
        bool whole = lead <= 0x80 || lead == 0x90 || lead == 0xa0 || lead == 0xc0 || lead == 0xc2 ||
                     lead == 0xc3 || lead >= 0xe0;

        assert_int_equal(rc, bad ? ERR_HEADER_MALFORMED : whole ? 0 : ERR_HEADER_TRUNCATED);
    }
}

TEST(extension_types_are_refused_with_their_payload)
{
    assert_int_equal(test_mpk_check(LITERAL("\xd4\x01\x00")), ERR_HEADER_MALFORMED);
    assert_int_equal(test_mpk_check(LITERAL("\xc7\x01\x01\x00")), ERR_HEADER_MALFORMED);
    assert_int_equal(test_mpk_check(LITERAL("\x81\xa1x\xd8\x01 1234567890abcdef")),
                     ERR_HEADER_MALFORMED);
    assert_int_equal(test_mpk_check(LITERAL("\x81\xa1x\xc1")), ERR_HEADER_MALFORMED);
}

TEST(nothing_at_all_is_truncated)
{
    assert_int_equal(test_mpk_check("", 0), ERR_HEADER_TRUNCATED);
}

TEST(bytes_after_the_value_are_refused)
{
    assert_int_equal(test_mpk_check(LITERAL("\xc0\xc0\xc0")), ERR_HEADER_TRAILING);
    assert_int_equal(test_mpk_check(LITERAL("\x80\xc1")), ERR_HEADER_TRAILING);
}

TEST(lengths_beyond_the_end_are_refused)
{
    assert_int_equal(test_mpk_check(LITERAL("\xdb\xff\xff\xff\xff")), ERR_HEADER_TRUNCATED);
    assert_int_equal(test_mpk_check(LITERAL("\xc6\xff\xff\xff\xffxxxx")), ERR_HEADER_TRUNCATED);
    assert_int_equal(test_mpk_check(LITERAL("\xa5uvwx")), ERR_HEADER_TRUNCATED);
}

TEST(huge_counts_are_refused)
{
    assert_int_equal(test_mpk_check(LITERAL("\xdd\xff\xff\xff\xff")), ERR_HEADER_ELEMENTS);
    assert_int_equal(test_mpk_check(LITERAL("\xdf\xff\xff\xff\xff")), ERR_HEADER_ELEMENTS);
    assert_int_equal(test_mpk_check(LITERAL("\xdf\x00\x01\x00\x00")), ERR_HEADER_ELEMENTS);
}

TEST(counts_of_arrays_within_each_other_are_added_up)
{
    unsigned char nested[4 * 5];

    for (size_t i = 0; i < 4; i++) {
        memcpy(nested + 5 * i, "\xdd\x00\x00\x20\x00", 5);
    }
    assert_int_equal(test_mpk_check(nested, sizeof nested), ERR_HEADER_ELEMENTS);
}

/* Each count alone is within the budget; together they are not. */
TEST(the_element_budget_is_for_the_whole_document)
{
    static const struct mpk_limits limits = {64, 8, 10};

    assert_int_equal(mpk_check(LITERAL("\x93\x93\xc0\xc0\xc0\x93\xc0\xc0\xc0\xc0"), &limits), 0);
    assert_int_equal(mpk_check(LITERAL("\x93\x93\xc0\xc0\xc0\x94\xc0\xc0\xc0\xc0\xc0"), &limits),
                     ERR_HEADER_ELEMENTS);
    assert_int_equal(mpk_check(LITERAL("\x85"), &limits), ERR_HEADER_ELEMENTS);
}

TEST(depth_is_refused)
{
    OWNED(bytes_free) struct bytes deep = bytes_repeat(0x91, 20);

    assert_int_equal(test_mpk_check(deep.data, deep.len), ERR_HEADER_DEPTH);
    memset(deep.data, 0x81, deep.len);
    assert_int_equal(test_mpk_check(deep.data, deep.len), ERR_HEADER_DEPTH);
}

TEST(depth_eight_is_the_last_accepted)
{
    assert_int_equal(test_mpk_check(LITERAL("\x91\x91\x91\x91\x91\x91\x91\x90")), 0);
    assert_int_equal(test_mpk_check(LITERAL("\x91\x91\x91\x91\x91\x91\x91\x91\x90")),
                     ERR_HEADER_DEPTH);
}

TEST(64_kib_is_the_last_accepted)
{
    OWNED(bytes_free) struct bytes text = bytes_repeat('x', 65537);

    memcpy(text.data, "\xda\xff\xfd", 3);
    assert_int_equal(test_mpk_check(text.data, 65536), 0);
    memcpy(text.data, "\xda\xff\xfe", 3);
    assert_int_equal(test_mpk_check(text.data, 65537), ERR_HEADER_SIZE);
}

TEST(find_sees_only_string_keys_of_maps)
{
    static const char document[] = "\x83\x01\x02\xa1k\x03\xa2kk\x04";
    OWNED(mpk_doc_clear) struct mpk_doc doc;

    assert_int_equal(mpk_parse(LITERAL(document), &mpk_header_limits, &doc), 0);
    assert_int_equal(mpk_find(doc.root, "k")->via.u64, 3);
    assert_null(mpk_find(doc.root, "kkk"));
    assert_null(mpk_find(mpk_find(doc.root, "k"), "k"));
    assert_null(mpk_find(NULL, "k"));
    assert_false(mpk_is_str(mpk_find(doc.root, "kkk"), "k"));
}

TEST(collect_files_first_values_and_names_duplicates)
{
    static const char document[] = "\x84\xa1"
                                   "b\x01\xa1x\x02\xa1"
                                   "a\x03\xa1"
                                   "b\x04";
    static const char *const names[] = {"a", "b", "c"};
    const msgpack_object *values[3];
    const char *key = NULL;
    OWNED(mpk_doc_clear) struct mpk_doc doc;

    assert_int_equal(mpk_parse(LITERAL(document), &mpk_header_limits, &doc), 0);
    assert_int_equal(mpk_collect(doc.root, names, 3, values, &key), ERR_KEY_DUPLICATE);
    assert_string_equal(key, "b");
    assert_int_equal(values[0]->via.u64, 3);
    assert_int_equal(values[1]->via.u64, 1);
    assert_null(values[2]);
}

TEST(readers_tell_type_from_range)
{
    static const char document[] = "\x95\x05\xff\xc3\xca\x3f\x00\x00\x00\xc0";
    const msgpack_object *items;
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    uint64_t number;
    double real;
    bool flag;

    assert_int_equal(mpk_parse(LITERAL(document), &mpk_header_limits, &doc), 0);
    items = doc.root->via.array.ptr;
    assert_int_equal(mpk_get_u64(&items[0], 5, &number), 0);
    assert_int_equal(mpk_get_u64(&items[0], 4, &number), ERR_KEY_RANGE);
    assert_int_equal(mpk_get_u64(&items[1], 5, &number), ERR_KEY_RANGE);
    assert_int_equal(mpk_get_u64(&items[2], 5, &number), ERR_KEY_TYPE);
    assert_int_equal(mpk_get_bool(&items[2], &flag), 0);
    assert_int_equal(mpk_get_bool(&items[0], &flag), ERR_KEY_TYPE);
    assert_int_equal(mpk_get_f64(&items[3], &real), 0);
    assert_true(real == 0.5);
    assert_int_equal(mpk_get_f64(&items[1], &real), 0);
    assert_true(real == -1.0);
    assert_int_equal(mpk_get_f64(&items[4], &real), 0);
    assert_true(isnan(real));
    assert_int_equal(mpk_get_f64(&items[2], &real), ERR_KEY_TYPE);
}

TEST(numbers_that_do_not_exist_are_written_as_nil)
{
    struct mpk_writer writer;
    OWNED(bytes_free) struct bytes bytes;

    mpk_writer_init(&writer);
    mpk_put_f64(&writer, (double)NAN);
    mpk_put_f64(&writer, (double)INFINITY);
    mpk_put_f64(&writer, (double)-INFINITY);
    bytes = bytes_written(&writer);
    assert_int_equal(bytes.len, 3);
    assert_memory_equal(bytes.data, "\xc0\xc0\xc0", 3);
}

TEST(integers_take_their_smallest_width)
{
    struct mpk_writer writer;
    OWNED(bytes_free) struct bytes bytes;

    mpk_writer_init(&writer);
    mpk_put_u64(&writer, 127);
    mpk_put_u64(&writer, 128);
    mpk_put_u64(&writer, 256);
    mpk_put_u64(&writer, 65536);
    mpk_put_bin(&writer, NULL, 0);
    bytes = bytes_written(&writer);
    assert_int_equal(bytes.len, 13);
    assert_memory_equal(bytes.data, "\x7f\xcc\x80\xcd\x01\x00\xce\x00\x01\x00\x00\xc4\x00", 13);
}

/* {"a": [0, {"k": [n pairs of [i, "x"] and true]}, [n nils]], "b": "end"}, with lengths that are
 * said first, or are found. */
static struct bytes nested(uint32_t n, bool open)
{
    struct mpk_writer writer;
    struct mpk_open all, a, map, pairs, nils;

    mpk_writer_init(&writer);
    if (open) {
        all = mpk_open(&writer, NULL);
        a = mpk_open(&writer, "a");
    } else {
        mpk_put_map(&writer, 2);
        mpk_put_str(&writer, "a");
        mpk_put_array(&writer, 3);
    }
    mpk_put_u64(&writer, 0);
    if (open) {
        map = mpk_open(&writer, NULL);
        pairs = mpk_open(&writer, "k");
    } else {
        mpk_put_map(&writer, 1);
        mpk_put_str(&writer, "k");
        mpk_put_map(&writer, n);
    }
    for (uint32_t i = 0; i < n; i++) {
        mpk_put_array(&writer, 2);
        mpk_put_u64(&writer, i);
        mpk_put_str(&writer, "x");
        mpk_put_bool(&writer, true);
    }
    if (open) {
        mpk_close_map(&writer, &pairs);
        mpk_close_map(&writer, &map);
        nils = mpk_open(&writer, NULL);
    } else {
        mpk_put_array(&writer, n);
    }
    for (uint32_t i = 0; i < n; i++) {
        mpk_put_f64(&writer, i % 2 ? (double)NAN : 1.5);
    }
    if (open) {
        mpk_close_array(&writer, &nils);
        mpk_close_array(&writer, &a);
    }
    mpk_pair_str(&writer, "b", "end");
    if (open) {
        mpk_close_map(&writer, &all);
    }
    return bytes_written(&writer);
}

TEST(a_length_that_is_found_is_written_like_one_that_is_said)
{
    static const uint32_t counts[] = {0, 1, 15, 16, 255, 65535, 65536};

    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        struct bytes said = nested(counts[i], false), found = nested(counts[i], true);

        assert_int_equal(found.len, said.len);
        assert_memory_equal(found.data, said.data, said.len);
        bytes_free(&said);
        bytes_free(&found);
    }
}

TEST(a_map_without_pairs_goes_with_its_key)
{
    struct mpk_writer writer;
    struct mpk_open all, none, some;
    OWNED(bytes_free) struct bytes bytes;

    mpk_writer_init(&writer);
    all = mpk_open(&writer, NULL);
    none = mpk_open(&writer, "none");
    mpk_close_map_if_any(&writer, &none);
    some = mpk_open(&writer, "some");
    mpk_pair_u64(&writer, "k", 7);
    mpk_close_map_if_any(&writer, &some);
    none = mpk_open(&writer, "none");
    mpk_close_map_if_any(&writer, &none);
    mpk_close_map(&writer, &all);
    bytes = bytes_written(&writer);
    assert_int_equal(bytes.len, 10);
    assert_memory_equal(bytes.data, "\x81\xa4some\x81\xa1k\x07", 10);
}
