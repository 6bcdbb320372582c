/* SPDX-License-Identifier: MIT */
/* Every allocation of the codecs fails once; leaks and wild frees are ASan's and valgrind's to
 * find. */
#include "tests/unit/proto/support.h"

#include "tests/unit/heap.h"
#include "proto/err.h"
#include "proto/header.h"
#include <jansson.h>

/* No codec allocates more often than this on a golden file. */
#define ALLOCATIONS_MAX 2000

static struct bytes memory_golden(const char *name)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s.msgpack", GOLDEN_DIR, name);
    return bytes_file(path);
}

static int decode_failing_at(const struct bytes *bytes, unsigned nth, struct header *ret_header)
{
    const char *key;
    int rc;

    heap_fail_at(nth);
    rc = header_decode(bytes->data, bytes->len, ret_header, &key);
    heap_fail_at(0);
    return rc;
}

TEST(decoding_without_memory_is_refused_as_such)
{
    static const char *const names[] = {"attention_full", "qk_full",        "hello",
                                        "hello_modules",  "hello_settings", "log"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        OWNED(bytes_free) struct bytes bytes = memory_golden(names[i]);
        OWNED(header_clear) struct header header;
        unsigned nth = 1;

        while (decode_failing_at(&bytes, nth, &header) == ERR_MEMORY) {
            assert_null(header.layers);
            assert_null(header.q_len);
            assert_null(header.k_len);
            assert_true(++nth < ALLOCATIONS_MAX);
        }
        assert_true(nth > 1);
        assert_string_equal(header.job, "gpt-small");
    }
}

TEST(encoding_without_memory_is_reported_at_the_end)
{
    OWNED(bytes_free) struct bytes bytes = memory_golden("attention_full");
    OWNED(header_clear) struct header header;
    OWNED(mpk_writer_clear) struct mpk_writer writer;

    assert_int_equal(decode_failing_at(&bytes, 0, &header), 0);
    mpk_writer_init(&writer);
    heap_fail_at(1);
    assert_int_equal(header_encode(&header, &writer), ERR_MEMORY);
    heap_fail_at(0);
    assert_false(mpk_writer_ok(&writer));
    mpk_writer_clear(&writer);
    assert_int_equal(header_encode(&header, &writer), 0);
}

static void *memory_allocate(size_t bytes)
{
    return malloc(bytes);
}

/* The text, or NULL; *ret_failed tells whether an allocation failed. */
static char *convert_failing_at(const msgpack_object *root, unsigned nth, bool *ret_failed)
{
    char *text;

    heap_fail_at(nth);
    text = mpk_to_json(root, 0);
    *ret_failed = heap_has_failed();
    heap_fail_at(0);
    return text;
}

TEST(json_without_memory_is_null_or_whole)
{
    OWNED(bytes_free) struct bytes bytes = memory_golden("live");
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    bool failed = true;
    char *whole;

    json_set_alloc_funcs(memory_allocate, free);
    assert_int_equal(mpk_parse(bytes.data, bytes.len, &mpk_header_limits, &doc), 0);
    whole = mpk_to_json(doc.root, 0);
    assert_non_null(whole);
    for (unsigned nth = 1; failed; nth++) {
        char *text = convert_failing_at(doc.root, nth, &failed);

        assert_true(nth < ALLOCATIONS_MAX);
        if (text) {
            assert_string_equal(text, whole);
        } else {
            assert_true(failed);
        }
        free(text);
    }
    free(whole);
}
