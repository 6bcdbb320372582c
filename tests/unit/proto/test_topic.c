/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/support.h"

#include "proto/err.h"
#include "proto/header.h"

static struct header tensor_header(void)
{
    struct header header = {
        .type = MESSAGE_ATTENTION, .job = "run.1", .layer = {STACK_DECODER, 12, SITE_CROSS}};

    return header;
}

static int test_topic_check(const struct header *header, const char *topic)
{
    OWNED(bytes_free) struct bytes copy = bytes_copy(topic, strlen(topic));
    int rc = topic_check(header, copy.data, copy.len);

    return rc;
}

TEST(topics_are_written_as_documented)
{
    struct layer_id id = {STACK_ENCODER, 65535, SITE_SELF};
    char topic[TOPIC_MAX];

    assert_int_equal(topic_layer("live", "a", id, topic), strlen("live/a/encoder/65535/self/"));
    assert_string_equal(topic, "live/a/encoder/65535/self/");
    assert_int_equal(topic_job("job", "a", topic), strlen("job/a/"));
    assert_string_equal(topic, "job/a/");
}

TEST(the_longest_topic_fits)
{
    struct layer_id id = {STACK_ENCODER, LAYER_MAX, SITE_CROSS};
    char topic[TOPIC_MAX], job[JOB_NAME_MAX + 1] = {0};

    memset(job, 'j', JOB_NAME_MAX);
    assert_int_equal(topic_layer("summary", job, id, topic),
                     7 + 1 + 128 + 1 + 7 + 1 + 5 + 1 + 5 + 1);
    assert_int_equal(strlen(topic), 157);
}

TEST(its_own_topic_is_accepted)
{
    struct header header = tensor_header();

    assert_int_equal(test_topic_check(&header, "tensor/run.1/decoder/12/cross/"), 0);
    header.type = MESSAGE_EVENT;
    assert_int_equal(test_topic_check(&header, "event/run.1/"), 0);
}

TEST(another_ones_topic_is_a_mismatch)
{
    static const char *const topics[] = {
        "tensor/run.2/decoder/12/cross/", "tensor/run.1/encoder/12/cross/",
        "tensor/run.1/decoder/1/cross/",  "tensor/run.1/decoder/12/self/",
        "tensor/run.1/decoder/0/cross/",  "event/run.1/"};
    struct header header = tensor_header();

    for (size_t i = 0; i < sizeof topics / sizeof topics[0]; i++) {
        assert_int_equal(test_topic_check(&header, topics[i]), ERR_TOPIC_MISMATCH);
    }
    header.type = MESSAGE_EVENT;
    assert_int_equal(test_topic_check(&header, "tensor/run.1/decoder/12/cross/"),
                     ERR_TOPIC_MISMATCH);
}

TEST(other_forms_are_no_topics)
{
    static const char *const topics[] = {"",
                                         "/",
                                         "tensor",
                                         "tensor/",
                                         "tensor/run.1/",
                                         "event/run.1",
                                         "event//",
                                         "event/a b/",
                                         "tensor/run.1/decoder/12/cross",
                                         "tensor/run.1/decoder/12/cross/x/",
                                         "tensor/run.1/decoder/12/cross//",
                                         "tensor/run.1/decoder/012/cross/",
                                         "tensor/run.1/decoder/65536/cross/",
                                         "tensor/run.1/decoder/-1/cross/",
                                         "tensor/run.1/decoder//cross/",
                                         "tensor/run.1/middle/12/cross/",
                                         "tensor/run.1/decoder/12/both/",
                                         "live/run.1/decoder/12/cross/",
                                         "tensor/run.1/decoder/99999999999999999999/cross/"};
    struct header header = tensor_header();

    for (size_t i = 0; i < sizeof topics / sizeof topics[0]; i++) {
        assert_int_equal(test_topic_check(&header, topics[i]), ERR_TOPIC);
    }
}

TEST(job_names_have_a_narrow_alphabet)
{
    char name[JOB_NAME_MAX + 1];

    memset(name, 'x', sizeof name);
    assert_true(job_name_valid(name, JOB_NAME_MAX));
    assert_false(job_name_valid(name, JOB_NAME_MAX + 1));
    assert_false(job_name_valid("", 0));
    assert_true(job_name_valid(LITERAL("Az09._-")));
    assert_false(job_name_valid(LITERAL("a/b")));
    assert_false(job_name_valid(LITERAL("a b")));
    assert_false(job_name_valid(LITERAL("a\0b")));
    assert_false(job_name_valid(LITERAL("\xc3\xa4")));
}
