/* SPDX-License-Identifier: MIT */
/* Maps of a recording: which message they are of, padding, and labels. */
#include "tests/unit/cli/source/opened.h"

#include "proto/header.h"
#include "clients/cli/recording/internal.h"

/* One message of a layer: `heads` of 2 heads of maps [1, heads, 1, 2] with the weights
 * (w, 1 - w). */
struct message {
    uint8_t run;
    uint32_t rank, layer, first_head, heads, stride;
    uint64_t step;
    float weight;
    const char *const *labels; /* [2] or NULL */
    int32_t *k_len;            /* [1] or NULL */
    const uint8_t *mask;       /* [1, 1, 2] or NULL */
};

static void source_record(struct recorder *recorder, const struct message *m, char *reterr)
{
    char topic[TOPIC_MAX];
    float weights[4] = {m->weight, 1 - m->weight, m->weight, 1 - m->weight};
    struct header header = {
        .type = MESSAGE_ATTENTION,
        .job = "job",
        .run = {m->run},
        .rank = m->rank,
        .world = 4,
        .step = m->step,
        .layer = {STACK_DECODER, m->layer, SITE_SELF},
        .tensor_count = m->mask ? 2 : 1,
        .tensors = {{TENSOR_WEIGHTS, DTYPE_F32, 4, {1, m->heads, 1, 2}, 8 * m->heads},
                    {TENSOR_MASK, DTYPE_U8, 3, {1, 1, 2}, 2}},
        .q_stride = m->stride,
        .head_offset = m->first_head,
        .heads_total = 2,
        .labels = m->labels,
        .label_count = m->labels ? 2 : 0,
        .batch = 1,
        .k_len = m->k_len,
        .q_offset = m->mask ? 1 : 0, /* behind the padding */
    };
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    mpk_writer_init(&writer);
    assert_int_equal(header_encode(&header, &writer), 0);
    struct recording_frame frames[] = {{topic, topic_layer("tensor", "job", header.layer, topic)},
                                       {writer.buffer.data, writer.buffer.size},
                                       {weights, 8 * m->heads},
                                       {m->mask, 2}};
    assert_int_equal(recorder_write(recorder, 1, frames, m->mask ? 4 : 3, reterr), 0);
}

static void write_recording(struct fixture *f, const struct message *messages, size_t count)
{
    struct recorder recorder;
    snprintf(f->path, sizeof f->path, "%s/run.rec", f->directory);
    assert_int_equal(recorder_open(f->path, true, 1, &recorder, f->error), 0);
    for (size_t i = 0; i < count; i++) {
        source_record(&recorder, &messages[i], f->error);
    }
    assert_int_equal(recorder_close(&recorder, f->error), 0);
}

#define WRITE(f, ...)                                                                              \
    write_recording(f, (const struct message[]){__VA_ARGS__},                                      \
                    sizeof((const struct message[]){__VA_ARGS__}) / sizeof(struct message))

static void expect_weight(struct fixture *f, size_t layer, uint32_t head, float weight)
{
    float map[2] = {-1, -1};
    assert_int_equal(source_map(f->source, layer, 0, head, map, f->error), CLI_OK);
    assert_true(map[0] == weight && map[1] == 1 - weight);
}

SOURCE_TEST(the_newest_message_of_each_layer_counts)
{
    WRITE(f, {.layer = 1, .heads = 2, .step = 1, .weight = 0.125},
          {.layer = 0, .heads = 2, .step = 1, .weight = 0.25},
          {.layer = 0, .heads = 2, .step = 3, .weight = 0.5},
          {.layer = 0, .heads = 2, .step = 2, .weight = 0.75} /* of a rank that is behind */);
    opened_open(f);
    assert_int_equal(f->source->layer_count, 2);
    assert_int_equal(f->source->kind, SOURCE_RECORDING);
    assert_int_equal(f->source->layers[0].step, 3);
    assert_int_equal(f->source->layers[1].step, 1);
    expect_weight(f, 0, 1, 0.5);
    expect_weight(f, 1, 0, 0.125);
}

SOURCE_TEST(a_sample_of_rows_is_no_map)
{
    WRITE(f, {.heads = 2, .step = 1, .weight = 0.25},
          {.heads = 2, .step = 2, .stride = 3, .weight = 0.5});
    opened_open(f);
    expect_weight(f, 0, 0, 0.25);
    source_free(&f->source);
    WRITE(f, {.heads = 2, .step = 2, .stride = 3, .weight = 0.5});
    opened_expect_refusal(f, CLI_USAGE,
                          "1 messages, but no whole map of attention nor its queries and keys");
}

SOURCE_TEST(a_step_is_found_or_the_nearest_named)
{
    WRITE(f, {.heads = 2, .step = 1, .weight = 0.25}, {.heads = 2, .step = 5, .weight = 0.5},
          {.heads = 2, .step = 9, .weight = 0.75});
    f->request.at_step = true;
    f->request.step = 5;
    opened_open(f);
    expect_weight(f, 0, 0, 0.5);
    source_free(&f->source);
    f->request.step = 6;
    opened_expect_refusal(f, CLI_USAGE, "has no map of step 6 (the nearest: 5, 9)");
    f->request.step = 10;
    opened_expect_refusal(f, CLI_USAGE, "has no map of step 10 (the nearest: 9)");
}

SOURCE_TEST(heads_in_slices_are_put_together)
{
    WRITE(f, {.heads = 1, .step = 1, .weight = 0.125},
          {.rank = 1, .first_head = 1, .heads = 1, .step = 2, .weight = 0.25},
          {.rank = 2, .heads = 1, .step = 2, .weight = 0.5},
          {.rank = 0, .heads = 1, .step = 2, .weight = 0.75});
    opened_open(f);
    assert_int_equal(opened_layer(f, 0)->heads, 2);
    expect_weight(f, 0, 0, 0.75); /* of the lowest rank */
    expect_weight(f, 0, 1, 0.25);
}

SOURCE_TEST(a_head_that_did_not_come_is_named)
{
    float map[2];
    WRITE(f, {.heads = 1, .step = 2, .weight = 0.125});
    opened_open(f);
    assert_int_equal(source_map(f->source, 0, 0, 1, map, f->error), CLI_USAGE);
    assert_string_equal(f->error, "the recording has no head 1 of decoder.0.self at step 2: heads "
                                  "come in slices over ranks");
}

SOURCE_TEST(the_newest_run_counts_unless_another_is_asked_for)
{
    WRITE(f, {.run = 1, .heads = 2, .step = 7, .weight = 0.25},
          {.run = 2, .heads = 2, .step = 1, .weight = 0.5},
          {.run = 1, .heads = 2, .step = 8, .weight = 0.75});
    opened_open(f);
    assert_string_equal(f->source->run, "02000000000000000000000000000000");
    expect_weight(f, 0, 0, 0.5);
    source_free(&f->source);
    f->request.run = "01";
    opened_open(f);
    expect_weight(f, 0, 0, 0.75);
    source_free(&f->source);
    f->request.run = "03";
    opened_expect_refusal(f, CLI_USAGE, "has no map of a run 03...");
}

SOURCE_TEST(the_nearest_steps_are_of_the_run_that_is_looked_at)
{
    WRITE(f, {.run = 1, .heads = 2, .step = 20}, {.run = 1, .heads = 2, .step = 40},
          {.run = 2, .heads = 2, .step = 10}, {.run = 2, .heads = 2, .step = 90});
    f->request.at_step = true;
    f->request.step = 30;
    opened_expect_refusal(f, CLI_USAGE, "has no map of step 30 (the nearest: 10, 90)");
}

/* As attnctl record --force does it, while somebody reads. */
SOURCE_TEST(a_recording_that_is_written_again_meanwhile_is_refused)
{
    float map[2];
    WRITE(f, {.heads = 2, .step = 1, .weight = 0.25});
    opened_open(f);
    WRITE(f, {.layer = 7, .heads = 2, .step = 1, .weight = 0.5});
    assert_int_equal(source_map(f->source, 0, 0, 0, map, f->error), CLI_USAGE);
    assert_string_equal(f->error, "the recording was changed while it was read");
}

SOURCE_TEST(labels_of_a_recording_are_of_its_first_sample)
{
    static const char *const labels[] = {"the", "cat"};
    WRITE(f, {.heads = 2, .step = 1, .weight = 0.25, .labels = labels});
    opened_open(f);
    expect_weight(f, 0, 0, 0.25);
    assert_string_equal(source_label(f->source, 0, 0, 1), "cat");
    assert_string_equal(source_query_label(f->source, 0, 0, 0), "the");
    assert_null(source_label(f->source, 0, 0, 2));
    assert_null(source_label(f->source, 0, 1, 0));
    expect_weight(f, 0, 1, 0.25);
}

SOURCE_TEST(padding_of_a_recording_is_left_out)
{
    static const char *const labels[] = {"the", "cat"};
    static int32_t one = 1;
    static const uint8_t second[] = {0, 1};
    float weight = -1;
    WRITE(f, {.heads = 2, .step = 1, .weight = 0.25, .labels = labels, .k_len = &one},
          {.layer = 1, .heads = 2, .step = 1, .weight = 0.25, .labels = labels, .mask = second});
    opened_open(f);
    for (uint32_t layer = 0; layer < 2; layer++) {
        const struct source_layer *l = opened_layer(f, layer);
        assert_int_equal(source_choose(f->source, layer, 0, HEAD_MEAN, f->error), CLI_OK);
        assert_int_equal(l->keys, 1);
        assert_int_equal(l->columns, 1);
        assert_int_equal(l->padding_keys, 1);
        assert_int_equal(l->padding_queries, 0);
        assert_int_equal(source_map(f->source, layer, 0, 1, &weight, f->error), CLI_OK);
        assert_true(weight == (layer == 0 ? 0.25f : 0.75f));
        assert_string_equal(source_label(f->source, layer, 0, 0), labels[layer]);
        assert_string_equal(source_query_label(f->source, layer, 0, 0), labels[layer]);
    }
}

SOURCE_TEST(given_labels_are_of_the_keys_shown_or_of_all)
{
    static const uint8_t second[] = {0, 1};
    static const char *const tokens[] = {"cat", "the cat"};
    WRITE(f, {.heads = 2, .step = 1, .weight = 0.25, .mask = second});
    for (int i = 0; i < 2; i++) {
        f->request.tokens = tokens[i];
        opened_open(f);
        assert_int_equal(source_choose(f->source, 0, 0, HEAD_MEAN, f->error), CLI_OK);
        assert_string_equal(source_label(f->source, 0, 0, 0), "cat");
        assert_string_equal(source_query_label(f->source, 0, 0, 0), "cat");
        source_free(&f->source);
    }
    f->request.tokens = "a b c";
    opened_open(f);
    opened_expect_labels_refused(
        f, "3 tokens were given, but decoder.0.self has 1 key, 2 with padding");
}

SOURCE_TEST(padding_of_a_recording_is_shown_when_asked_for)
{
    static int32_t one = 1;
    WRITE(f, {.heads = 2, .step = 1, .weight = 0.25, .k_len = &one});
    f->request.padding = true;
    opened_open(f);
    assert_int_equal(source_choose(f->source, 0, 0, HEAD_MEAN, f->error), CLI_OK);
    assert_int_equal(opened_layer(f, 0)->keys, 2);
    expect_weight(f, 0, 1, 0.25);
}

SOURCE_TEST(a_sample_of_padding_alone_is_refused)
{
    static int32_t none = 0;
    WRITE(f, {.heads = 2, .step = 1, .weight = 0.25, .k_len = &none});
    opened_open(f);
    assert_int_equal(source_choose(f->source, 0, 0, HEAD_MEAN, f->error), CLI_USAGE);
    assert_string_equal(f->error, "--sample: sample 0 of decoder.0.self is all padding (--padding "
                                  "shows it)");
}
