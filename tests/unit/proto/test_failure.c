/* SPDX-License-Identifier: MIT */
/* The exception that ended a training. */
#include "proto/failure.h"

#include "proto/err.h"
#include "tests/unit/mpk_text.h"
#include "tests/unit/unit.h"

#include <string.h>

/* Reads what is written as JSON, with ' for its quotes, over `failure`. */
static int failure_of(const char *text, struct failure *failure)
{
    struct mpk_writer writer;
    struct mpk_doc doc;
    mpk_writer_init(&writer);
    mpk_text(&writer, "%s", text);
    assert_int_equal(mpk_parse(writer.buffer.data, writer.buffer.size, &mpk_header_limits, &doc),
                     0);
    int rc = failure_read(doc.root, failure);
    mpk_doc_clear(&doc);
    mpk_writer_clear(&writer);
    return rc;
}

TEST(a_failure_is_read_as_it_was_put)
{
    struct failure failure = {.step = 0}, read = {.step = 0};
    struct mpk_writer writer;
    struct mpk_doc doc;
    char sentence[80];
    assert_int_equal(
        failure_of("{'type': 'ValueError', 'message': 'bad loss', 'where': 'a.py:3: f',"
                   " 'step': 120, 'rank': 2}",
                   &failure),
        0);
    mpk_writer_init(&writer);
    failure_put(&failure, &writer);
    assert_int_equal(mpk_parse(writer.buffer.data, writer.buffer.size, &mpk_header_limits, &doc),
                     0);
    assert_int_equal(failure_read(doc.root, &read), 0);
    assert_memory_equal(&read, &failure, sizeof read);
    mpk_find_text(doc.root, "sentence", sentence, sizeof sentence);
    assert_string_equal(sentence, "ValueError: bad loss, at step 120");
    mpk_doc_clear(&doc);
    mpk_writer_clear(&writer);
}

TEST(a_failure_that_cannot_be_leaves_the_one_before)
{
    struct failure failure = {.type = "KeyError", .step = 9};
    assert_int_equal(failure_of("{'message': 'x'}", &failure), ERR_KEY_MISSING);
    assert_int_equal(failure_of("{'type': 3}", &failure), ERR_KEY_TYPE);
    assert_int_equal(failure_of("{'type': ''}", &failure), ERR_KEY_RANGE);
    assert_int_equal(failure_of("{'type': 'A', 'message': 'a\\u0007b'}", &failure), ERR_KEY_RANGE);
    assert_int_equal(failure_of("{'type': 'A', 'where': []}", &failure), ERR_KEY_TYPE);
    assert_int_equal(failure_of("{'type': 'A', 'rank': 4294967296}", &failure), ERR_KEY_RANGE);
    assert_int_equal(failure_of("[]", &failure), ERR_KEY_TYPE);
    assert_string_equal(failure.type, "KeyError");
    assert_true(failure.step == 9);
}
