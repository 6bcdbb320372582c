/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/headers.h"

#include "proto/err.h"
#include "proto/header.h"

GOLDEN_TEST(the_attention_header_is_read, "attention")
{
    assert_int_equal(header->type, MESSAGE_ATTENTION);
    assert_string_equal(header->job, "gpt-small");
    assert_int_equal(header->run[15], 0xaf);
    assert_int_equal(header->rank, 0);
    assert_int_equal(header->world, 1);
    assert_int_equal(header->seq, 7);
    assert_int_equal(header->time_ns, 1700000000000000000);
    assert_int_equal(header->epoch, 3);
    assert_int_equal(header->step, 1200);
    assert_int_equal(header->layer.stack, STACK_DECODER);
    assert_int_equal(header->layer.layer, 5);
    assert_int_equal(header->layer.site, SITE_SELF);
    assert_int_equal(header->tensor_count, 1);
    assert_int_equal(header->tensors[0].dtype, DTYPE_F32);
    assert_int_equal(header->tensors[0].bytes, 2 * 4 * 8 * 8 * 4);
    assert_int_equal(header->heads, 4);
    assert_int_equal(header->heads_total, 4);
    assert_true(header->causal);
    assert_null(header->q_len);
}

GOLDEN_TEST(every_optional_key_is_read, "attention_full")
{
    assert_int_equal(header->rank, 1);
    assert_int_equal(header->world, 8);
    assert_int_equal(header->seq, (uint64_t)1 << 40);
    assert_int_equal(header->dropped, 300);
    assert_int_equal(header->tensor_count, 4);
    assert_int_equal(header->tensors[3].bytes, 2 * 2 * 3 * 5 * 8);
    assert_int_equal(header->window, 128);
    assert_int_equal(header->q_len[1], 2);
    assert_int_equal(header->k_len[1], 0);
    assert_int_equal(header->head_offset, 2);
    assert_int_equal(header->heads_total, 4);
    assert_true(header->dropout && header->learned_sink);
    assert_int_equal(header_frame_of(header, TENSOR_WEIGHTS), 2);
    assert_int_equal(header_frame_of(header, TENSOR_GRAD), 5);
}

GOLDEN_TEST(the_samples_of_a_batch_have_numbers, "attention_batch")
{
    assert_int_equal(header->batch, 3);
    assert_int_equal(header->whole_batch, 8);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(header_sample_number(header, i), 1 + 2 * i);
    }
}

HEADERS(samples_beyond_their_batch_are_refused,
        {"attention_batch", "batch", LITERAL("\x06"), 0, NULL},
        {"attention_batch", "batch", LITERAL("\x05"), ERR_KEY_RANGE, "batch"},
        {"attention_batch", "sample", LITERAL("\x04"), ERR_KEY_RANGE, "batch"},
        {"attention_batch", "sample_stride", LITERAL("\x00"), ERR_KEY_RANGE, "sample_stride"});

GOLDEN_TEST(the_qk_header_is_read, "qk_full")
{
    assert_int_equal(header->type, MESSAGE_QK);
    assert_int_equal(header->batch, 2);
    assert_int_equal(header->heads, 3);
    assert_int_equal(header->queries, 3);
    assert_int_equal(header->keys, 6);
    assert_int_equal(header->kv_heads, 1);
    assert_int_equal(header->head_dim, 4);
    assert_int_equal(header->value_dim, 5);
    assert_true(header->scale == 0.5 && header->softcap == 50);
    assert_int_equal(header->q_offset, 3);
    assert_int_equal(header->window, 4);
    assert_int_equal(header->k_len[1], 5);
    assert_int_equal(header->head_offset, 3);
    assert_int_equal(header->heads_total, 6);
    assert_int_equal(header_frame_of(header, TENSOR_DOCUMENTS), 2);
    assert_int_equal(header_frame_of(header, TENSOR_K), 5);
}

GOLDEN_TEST(the_tensors_of_the_output_are_read, "qk_output")
{
    assert_int_equal(header->heads, 4);
    assert_int_equal(header->kv_heads, 2);
    assert_int_equal(header->value_dim, 5);
    assert_int_equal(header_frame_of(header, TENSOR_DOUT), 5);
    assert_int_equal(header_frame_of(header, TENSOR_WO_R), 6);
    assert_int_equal(header->tensors[4].shape[1], 2);
    assert_int_equal(header_frame_of(header, TENSOR_X_NORM), 7);
}

GOLDEN_TEST(values_beside_weights_are_read, "attention_output")
{
    OWNED(golden_clear) struct golden other = golden_decode("attention");

    assert_int_equal(header->type, MESSAGE_ATTENTION);
    assert_int_equal(header->kv_heads, 2);
    assert_int_equal(header->value_dim, 5);
    assert_int_equal(header->head_dim, 0);
    assert_int_equal(header_frame_of(header, TENSOR_V), 3);
    assert_int_equal(header_frame_of(header, TENSOR_X_NORM), 5);
    assert_int_equal(other.header.kv_heads, other.header.heads);
}

GOLDEN_TEST(a_block_of_rows_is_read, "attention_rows")
{
    assert_int_equal(header->type, MESSAGE_ATTENTION);
    assert_int_equal(header->q_offset, 3);
    assert_int_equal(header->queries, 2);
    assert_int_equal(header->keys, 6);
    assert_int_equal(header->microbatch, 1);
}

GOLDEN_TEST(the_module_of_a_layer_is_read, "attention_module")
{
    OWNED(golden_clear) struct golden other = golden_decode("hello_modules");

    assert_string_equal(header->module, "mod\xc3\xa8le.vision_model.encoder.layers.3.self_attn#1");
    assert_int_equal(other.header.layer_count, 3);
    assert_string_equal(other.header.layers[0].module, "text.blocks.0.attn");
    assert_null(other.header.layers[1].module);
    assert_string_equal(other.header.layers[2].module, "vision.blocks.0.attn");
}

/* 256 bytes in all, and one more. */
TEST(a_module_has_at_most_256_bytes_and_nothing_that_moves_a_cursor)
{
    static const struct {
        const char *text;
        size_t len;
        int rc;
    } cases[] = {
        {LITERAL("a"), 0},
        {LITERAL(" \xc2\xa0~\xef\xbf\xbd\xf4\x8f\xbf\xbf"), 0},
        {LITERAL(""), ERR_KEY_RANGE},
        {LITERAL("a\0b"), ERR_KEY_RANGE},
        {LITERAL("a\x1b[2J"), ERR_KEY_RANGE},
        {LITERAL("a\n"), ERR_KEY_RANGE},
        {LITERAL("a\x7f"), ERR_KEY_RANGE},
        {LITERAL("a\xc2\x9b"), ERR_KEY_RANGE},
        {LITERAL("a\xff"), ERR_KEY_RANGE},
        {LITERAL("a\xc3"), ERR_KEY_RANGE},
    };
    static const char *const goldens[] = {"attention", "qk", "weights"};
    unsigned char value[3 + MODULE_MAX + 1] = {0xda};
    const char *key;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        value[1] = 0;
        value[2] = (unsigned char)cases[i].len;
        memcpy(value + 3, cases[i].text, cases[i].len);
        for (size_t g = 0; g < 3; g++) {
            assert_int_equal(headers_change(goldens[g], "module", value, 3 + cases[i].len, &key),
                             cases[i].rc);
        }
    }
    memset(value + 3, 'm', MODULE_MAX + 1);
    value[1] = 1;
    value[2] = 0;
    assert_int_equal(headers_change("attention", "module", value, 3 + MODULE_MAX, NULL), 0);
    value[2] = 1;
    assert_int_equal(headers_change("attention", "module", value, 3 + MODULE_MAX + 1, &key),
                     ERR_KEY_RANGE);
    assert_string_equal(key, "module");
}

GOLDEN_TEST(what_a_qk_header_leaves_out_is_none, "qk")
{
    assert_int_equal(header->kv_heads, 2);
    assert_int_equal(header->value_dim, 0);
    assert_true(header->softcap == 0);
    assert_int_equal(header->q_offset, 0);
    assert_int_equal(header->heads_total, 4);
}

/* Matrices have no samples, queries and keys: 1 of each, so that products of dimensions hold. */
GOLDEN_TEST(the_weights_header_is_read, "weights")
{
    OWNED(golden_clear) struct golden other = golden_decode("weights_slice");

    assert_int_equal(header->type, MESSAGE_WEIGHTS);
    assert_int_equal(header->tensor_count, 4);
    assert_int_equal(header->heads, 4);
    assert_int_equal(header->kv_heads, 2);
    assert_int_equal(header->head_dim, 8);
    assert_int_equal(header->heads_total, 4);
    assert_int_equal(header->batch, 1);
    assert_int_equal(header->queries, 1);
    assert_int_equal(header->keys, 1);
    assert_int_equal(other.header.kv_heads, 2);
    assert_int_equal(other.header.heads_total, 4);
}

GOLDEN_TEST(parts_of_matrices_say_where_they_lie, "weights_part")
{
    OWNED(golden_clear) struct golden other = golden_decode("weights");

    assert_true(header->in_parts);
    assert_int_equal(header->matrix[PROJECTION_Q].out, 32);
    assert_int_equal(header->matrix[PROJECTION_Q].row, 20);
    assert_int_equal(header->matrix[PROJECTION_K].out, 16);
    assert_int_equal(header->matrix[PROJECTION_V].out, 0);
    assert_int_equal(header->matrix[PROJECTION_O].in, 32);
    assert_int_equal(header->matrix[PROJECTION_O].column, 16);
    assert_false(other.header.in_parts);
    assert_int_equal(other.header.matrix[PROJECTION_O].in, 32);
    assert_int_equal(other.header.matrix[PROJECTION_O].column, 0);
}

TEST(events_are_read)
{
    static const struct {
        const char *name;
        enum event_type event;
    } events[] = {{"hello", EVENT_HELLO},
                  {"epoch_end", EVENT_EPOCH_END},
                  {"bye", EVENT_BYE},
                  {"log", EVENT_LOG}};

    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        OWNED(bytes_free) struct bytes bytes = headers_golden(events[i].name);
        OWNED(header_clear) struct header header;
        const char *key;

        assert_int_equal(headers_decode(&bytes, &header, &key), 0);
        assert_int_equal(header.type, MESSAGE_EVENT);
        assert_int_equal(header.event, events[i].event);
        assert_string_equal(event_name(header.event), events[i].name);
        assert_int_equal(header.layer_count, i == 0 ? 2 : 0);
        assert_string_equal(header.client, i == 0 ? "libattn/0.1.0" : "");
        if (i == 0) {
            assert_int_equal(header.layers[1].heads, 8);
        }
    }
}

GOLDEN_TEST(the_cost_of_a_step_is_read, "hello_cost")
{
    assert_true(header->step_seconds == 0.25);
    assert_true(header->capture_seconds == 0.0625);
    assert_int_equal(header->own_every, 20);
}

GOLDEN_TEST(the_windows_that_a_job_asks_for_are_read, "hello_window")
{
    assert_int_equal(header->own_window.unit, WINDOW_STEP);
    assert_int_equal(header->own_window.length, 200);
}

#define WINDOW(value, rc)                                                                          \
    {                                                                                              \
        "hello_window", "own_window", LITERAL(value), rc, "own_window"                             \
    }
HEADERS(windows_that_are_none_are_refused, WINDOW(STR9 "200 steps", ERR_KEY_TYPE),
        WINDOW("\x82\xa4unit\x01\xa6length\x01", ERR_KEY_TYPE),
        WINDOW("\x82\xa4unit\xa4step\xa6length\xa1z", ERR_KEY_TYPE),
        WINDOW("\x81\xa4unit\xa4step", ERR_KEY_MISSING),
        WINDOW("\x82\xa4unit\xa4step\xa6length\x00", ERR_KEY_RANGE),
        WINDOW("\x82\xa4unit\xa4step\xa6length\xce\x00\x0f\x42\x41", ERR_KEY_RANGE),
        WINDOW("\x82\xa4unit" STR4 "auto\xa6length\x01", ERR_KEY_RANGE),
        WINDOW("\x83\xa4unit\xa4step\xa6length\x01\xa6length\x02", ERR_KEY_DUPLICATE));

TEST(encoding_gives_the_golden_bytes)
{
    static const char *const names[] = {"attention",
                                        "attention_full",
                                        "attention_documents",
                                        "attention_rows",
                                        "attention_module",
                                        "attention_sample",
                                        "attention_output",
                                        "qk",
                                        "qk_full",
                                        "qk_output",
                                        "weights",
                                        "weights_slice",
                                        "rows",
                                        "rows_weights",
                                        "hello",
                                        "hello_modules",
                                        "log",
                                        "epoch_end",
                                        "bye",
                                        "bye_dropped"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        OWNED(bytes_free) struct bytes bytes = headers_golden(names[i]), again;
        struct mpk_writer writer;
        OWNED(header_clear) struct header header;
        const char *key;

        assert_int_equal(headers_decode(&bytes, &header, &key), 0);
        mpk_writer_init(&writer);
        assert_int_equal(header_encode(&header, &writer), 0);
        again = bytes_written(&writer);
        assert_int_equal(again.len, bytes.len);
        assert_memory_equal(again.data, bytes.data, bytes.len);
    }
}

TEST(unknown_keys_are_skipped)
{
    struct bytes bytes = headers_golden("attention_unknown_keys");

    assert_int_equal(headers_verdict(bytes.data, bytes.len), 0);
    bytes_free(&bytes);
    assert_int_equal(headers_change("epoch_end", "layers", LITERAL("\xc0"), NULL), 0);
    assert_int_equal(headers_change("epoch_end", "tensors", LITERAL("\xc0"), NULL), 0);
}

HEADERS(integers_of_any_width_are_accepted,
        {"attention", "layer", LITERAL("\xcf\x00\x00\x00\x00\x00\x00\x00\x05"), 0, NULL},
        {"attention", "layer", LITERAL("\xd3\x00\x00\x00\x00\x00\x00\x00\x05"), 0, NULL},
        {"attention", "layer", LITERAL("\xd0\x05"), 0, NULL},
        {"attention", "v", LITERAL("\xce\x00\x00\x00\x01"), 0, NULL});

/* Counts stay below the point where sums of them could wrap. */
TEST(counts_go_up_to_2_to_the_62)
{
    static const char *const keys[] = {"seq", "dropped", "time_ns", "epoch", "step"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        assert_int_equal(headers_change("attention", keys[i],
                                        LITERAL("\xcf\x40\x00\x00\x00\x00\x00\x00\x00"), NULL),
                         0);
        assert_int_equal(headers_change("attention", keys[i],
                                        LITERAL("\xcf\x40\x00\x00\x00\x00\x00\x00\x01"), NULL),
                         ERR_KEY_RANGE);
    }
}

TEST(a_header_cut_anywhere_is_truncated)
{
    static const char *const names[] = {"attention", "attention_full", "qk_full", "weights",
                                        "hello"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        OWNED(bytes_free) struct bytes bytes = headers_golden(names[i]);

        for (size_t len = 0; len < bytes.len; len++) {
            assert_int_equal(headers_verdict(bytes.data, len), ERR_HEADER_TRUNCATED);
        }
    }
}

TEST(one_byte_more_than_64_kib_is_refused)
{
    OWNED(bytes_free) struct bytes bytes = bytes_repeat(0xc0, HEADER_BYTES_MAX + 1);

    assert_int_equal(headers_verdict(bytes.data, bytes.len), ERR_HEADER_SIZE);
}

TEST(encodings_that_are_no_header_are_refused)
{
    OWNED(bytes_free) struct bytes bomb = bytes_repeat(0x91, 4096);

    assert_int_equal(headers_verdict(bomb.data, bomb.len), ERR_HEADER_DEPTH);
    assert_int_equal(headers_verdict(LITERAL("\xdd\xff\xff\xff\xff")), ERR_HEADER_ELEMENTS);
    assert_int_equal(headers_verdict(LITERAL("\x81\xa1v\xd4\x00\x00")), ERR_HEADER_MALFORMED);
    assert_int_equal(headers_verdict(LITERAL("\x80\x80")), ERR_HEADER_TRAILING);
    assert_int_equal(headers_verdict(LITERAL("\x90")), ERR_HEADER_NOT_MAP);
    assert_int_equal(headers_verdict(LITERAL("\xc0")), ERR_HEADER_NOT_MAP);
}

TEST(the_version_is_judged_before_everything_else)
{
    static const struct header_case cases[] = {
        {"attention", "v", LITERAL("\x02"), ERR_VERSION, "v"},
        {"attention", "v", LITERAL("\x00"), ERR_VERSION, "v"},
        {"attention", "v", LITERAL(STR1 "1"), ERR_VERSION, "v"},
    };

    headers_judge(cases, sizeof cases / sizeof cases[0]);
    assert_int_equal(headers_verdict(LITERAL("\x83\xa4type\xc0\xa4type\xc0\xa1v\x02")),
                     ERR_VERSION);
    assert_int_equal(headers_verdict(LITERAL("\x82\x01\x02\xa1v\x02")), ERR_VERSION);
    assert_int_equal(headers_verdict(LITERAL("\x80")), ERR_KEY_MISSING);
}

HEADERS(other_types_are_unknown, {"attention", "type", LITERAL("\xa4sums"), ERR_TYPE_UNKNOWN, NULL},
        {"bye", "event", LITERAL(STR3 "bzz"), ERR_EVENT_UNKNOWN, NULL});

TEST(every_required_key_is_required)
{
    static const char *const keys[][2] = {
        {"attention", "v"},    {"attention", "type"},    {"attention", "job"},
        {"attention", "run"},  {"attention", "rank"},    {"attention", "world"},
        {"attention", "seq"},  {"attention", "dropped"}, {"attention", "epoch"},
        {"attention", "step"}, {"attention", "stack"},   {"attention", "layer"},
        {"attention", "site"}, {"attention", "tensors"}, {"attention", "time_ns"},
        {"bye", "event"},      {"log", "values"},        {"qk", "scale"},
        {"weights", "heads"},  {"weights", "head_dim"},  {"rows", "tensors"},
        {"rows", "sums"},      {"rows", "queries"},      {"rows", "keys"},
        {"sketch", "tensors"}, {"sketch", "stored"},
    };

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        headers_judge(
            &(struct header_case){keys[i][0], keys[i][1], NULL, 0, ERR_KEY_MISSING, keys[i][1]}, 1);
    }
}

HEADERS(keys_of_other_types_are_skipped, {"attention", "scale", LITERAL("\xc0"), 0, NULL},
        {"attention", "heads", LITERAL("\xc0"), 0, NULL}, {"qk", "heads", LITERAL("\xc0"), 0, NULL},
        {"qk", "head_dim", LITERAL("\xc0"), 0, NULL},
        {"weights", "scale", LITERAL("\xc0"), 0, NULL},
        {"weights", "causal", LITERAL("\xc0"), 0, NULL},
        {"weights", "q_len", LITERAL("\xc0"), 0, NULL},
        {"weights", "head_offset", LITERAL("\xc0"), 0, NULL},
        {"weights", "q_offset", LITERAL("\xc0"), 0, NULL},
        {"weights", "microbatch", LITERAL("\xc0"), 0, NULL},
        {"weights", "q_stride", LITERAL("\xc0"), 0, NULL});

/* A list of one layer. */
#define LAYER_OF(map, heads)                                                                       \
    "\x91" map "\xa5stack" STR7 "encoder\xa5layer\x00\xa4site\xa4self\xa5heads" heads

TEST(every_known_key_has_a_type)
{
    static const char *const keys[] = {
        "type",     "job",        "run",         "rank",        "world",        "seq",
        "dropped",  "time_ns",    "epoch",       "step",        "stack",        "layer",
        "site",     "tensors",    "causal",      "window",      "q_len",        "k_len",
        "labels",   "dropout",    "head_offset", "heads_total", "learned_sink", "q_offset",
        "q_stride", "microbatch", "module"};
    static const struct header_case others[] = {
        {"qk", "scale", LITERAL("\xc0"), ERR_KEY_TYPE, "scale"},
        {"qk", "softcap", LITERAL("\xc0"), ERR_KEY_TYPE, "softcap"},
        {"qk", "microbatch", LITERAL("\xc0"), ERR_KEY_TYPE, "microbatch"},
        {"weights", "heads", LITERAL("\xa1x"), ERR_KEY_TYPE, "heads"},
        {"weights", "kv_heads", LITERAL("\xa1x"), ERR_KEY_TYPE, "kv_heads"},
        {"weights", "head_dim", LITERAL("\xa1x"), ERR_KEY_TYPE, "head_dim"},
        {"attention", "labels", LITERAL("\x91\x01"), ERR_KEY_TYPE, NULL},
        {"attention", "q_len", LITERAL("\x92\x01\xc0"), ERR_KEY_TYPE, NULL},
        {"attention", "tensors", LITERAL("\x91\xc0"), ERR_KEY_TYPE, NULL},
        {"hello", "layers", LITERAL("\x91\xc0"), ERR_KEY_TYPE, NULL},
        {"hello", "layers", LITERAL(LAYER_OF("\x85", "\x01") "\xa6module\x01"), ERR_KEY_TYPE, NULL},
        {"hello", "client", LITERAL("\x01"), ERR_KEY_TYPE, NULL},
        {"bye", "event", LITERAL("\x01"), ERR_KEY_TYPE, NULL},
    };

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        headers_judge(
            &(struct header_case){"attention", keys[i], LITERAL("\xc0"), ERR_KEY_TYPE, keys[i]}, 1);
    }
    headers_judge(others, sizeof others / sizeof others[0]);
}

#define RANGE(golden, key, value, fault)                                                           \
    {                                                                                              \
        golden, key, LITERAL(value), ERR_KEY_RANGE, fault                                          \
    }
HEADERS(numbers_out_of_range_are_refused, RANGE("attention", "rank", "\x01", "rank"),
        RANGE("attention", "rank", "\xff", "rank"), RANGE("attention", "world", "\x00", "rank"),
        RANGE("attention", "world", "\xce\x00\x10\x00\x01", "world"),
        RANGE("attention", "layer", "\xce\x00\x01\x00\x00", "layer"),
        RANGE("attention", "layer", "\xd0\xff", "layer"),
        RANGE("attention", "stack", STR5 "other", "stack"),
        RANGE("attention", "site", "\xa0", "site"),
        RANGE("attention", "run",
              "\xc4\x0f"
              "0123456789abcde",
              "run"),
        RANGE("attention", "run",
              "\xc4\x11"
              "0123456789abcdefg",
              "run"),
        RANGE("attention", "epoch", "\xff", "epoch"),
        RANGE("attention", "window", "\xcf\x00\x00\x00\x01\x00\x00\x00\x00", "window"),
        RANGE("attention", "heads_total", "\x03", "heads_total"),
        RANGE("attention", "heads_total", "\xce\x00\x10\x00\x01", "heads_total"),
        RANGE("attention", "head_offset", "\x01", "heads_total"),
        RANGE("hello", "layers", LAYER_OF("\x84", "\x00"), "layers"),
        RANGE("hello", "layers", LAYER_OF("\x85", "\x01") "\xa6module\xa1\n", "layers"),
        RANGE("qk", "scale", "\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00", "scale"),
        RANGE("qk", "scale", "\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", "scale"),
        RANGE("qk", "softcap", "\xff", "softcap"),
        RANGE("qk", "softcap", "\xca\x7f\x80\x00\x00", "softcap"),
        RANGE("qk", "q_offset", "\xce\xff\xff\xff\xf8", "q_offset"), /* + 8 queries */
        RANGE("qk", "q_offset", "\xcf\x00\x00\x00\x01\x00\x00\x00\x00", "q_offset"),
        RANGE("qk", "heads_total", "\x03", "heads_total"),
        RANGE("attention", "q_offset", "\xce\xff\xff\xff\xf8", "q_offset"),
        RANGE("attention", "q_stride", "\x00", "q_stride"),
        RANGE("qk", "q_stride", "\xcf\x00\x00\x00\x01\x00\x00\x00\x00", "q_stride"),
        RANGE("attention_sample", "q_stride", "\xce\x7f\xff\xff\xff", "q_stride"), /* 2 of 3 */
        RANGE("attention", "microbatch", "\xff", "microbatch"),
        RANGE("qk", "microbatch", "\xcf\x00\x00\x00\x01\x00\x00\x00\x00", "microbatch"),
        RANGE("weights", "heads", "\x00", "heads"),
        RANGE("weights", "heads", "\xce\x00\x10\x00\x01", "heads"),
        RANGE("weights", "kv_heads", "\x00", "kv_heads"),
        RANGE("weights", "head_dim", "\x00", "head_dim"),
        RANGE("weights", "head_dim", "\xce\x80\x00\x00\x00", "head_dim"),
        RANGE("weights", "heads_total", "\x03", "heads_total"),
        RANGE("hello", "client", "\xa1\n", "client"),
        RANGE("hello", "step_seconds", "\x00", "step_seconds"),
        RANGE("hello", "step_seconds", "\xca\x7f\x80\x00\x00", "step_seconds"),
        RANGE("hello_cost", "capture_seconds", "\xff", "capture_seconds"),
        RANGE("hello_cost", "own_every", "\x00", "own_every"),
        RANGE("hello_cost", "own_every", "\xce\x3b\x9a\xca\x01", "own_every"),
        RANGE("hello", "client",
              "\xd9\x41"
              "0123456789012345678901234567890123456789012345678901234567890123x",
              "client"));

HEADERS(what_a_capture_costs_needs_what_a_step_takes,
        {"hello", "capture_seconds", LITERAL("\x01"), ERR_KEY_MISSING, "step_seconds"},
        {"hello", "capture_seconds", LITERAL("\x00"), 0, NULL},
        {"hello", "step_seconds", LITERAL("\x01"), 0, NULL});

TEST(real_numbers_may_be_integers)
{
    OWNED(bytes_free) struct bytes bytes = headers_golden("qk");
    OWNED(header_clear) struct header header;
    const char *key;

    bytes_change(&bytes, "scale", LITERAL("\xfe"));
    bytes_change(&bytes, "softcap", LITERAL("\xca\x41\xf0\x00\x00"));
    bytes_change(&bytes, "q_offset", LITERAL("\xce\xff\xff\xff\xf7"));
    assert_int_equal(headers_decode(&bytes, &header, &key), 0);
    assert_true(header.scale == -2 && header.softcap == 30);
    assert_int_equal(header.q_offset, UINT32_MAX - 8);
}

HEADERS(job_names_are_checked, {"attention", "job", LITERAL("\xa0"), ERR_JOB_NAME, NULL},
        {"attention", "job", LITERAL(STR3 "a/b"), ERR_JOB_NAME, NULL});

TEST(repeated_keys_are_refused)
{
    struct bytes bytes = headers_golden("bye");
    struct header header;
    const char *key;

    /* 12 pairs become 13: `step` once more, at the end */
    assert_int_equal(bytes.data[0], 0x8c);
    bytes.data = realloc(bytes.data, bytes.len + 6);
    memcpy(bytes.data + bytes.len, "\xa4step\x01", 6);
    bytes.len += 6;
    bytes.data[0] = 0x8d;
    assert_int_equal(headers_decode(&bytes, &header, &key), ERR_KEY_DUPLICATE);
    assert_string_equal(key, "step");
    assert_string_equal(header.job, "gpt-small");
    bytes_free(&bytes);
    assert_int_equal(
        headers_change("attention", "tensors", LITERAL("\x91\x82\xa4name\xc0\xa4name\xc0"), NULL),
        ERR_KEY_DUPLICATE);
    assert_int_equal(
        headers_change("hello", "layers", LITERAL("\x91\x82\xa4site\xc0\xa4site\xc0"), NULL),
        ERR_KEY_DUPLICATE);
}

TEST(a_refused_header_still_names_its_job)
{
    OWNED(bytes_free) struct bytes bytes = headers_golden("attention_full");
    struct header header;
    const char *key;

    bytes_change(&bytes, "v", LITERAL("\x07"));
    assert_int_equal(headers_decode(&bytes, &header, &key), ERR_VERSION);
    assert_string_equal(header.job, "gpt-small");
    bytes_free(&bytes);

    bytes = headers_golden("attention_full");
    bytes_change(&bytes, "k_len", LITERAL("\x92\x05\x06"));
    assert_int_equal(headers_decode(&bytes, &header, &key), ERR_LENGTHS);
    assert_string_equal(header.job, "gpt-small");
    bytes_change(&bytes, "job", LITERAL("\xc0"));
    assert_int_equal(headers_decode(&bytes, &header, &key), ERR_KEY_TYPE);
    assert_string_equal(header.job, "");
}

TEST(frames_must_be_all_there_and_of_their_size)
{
    OWNED(bytes_free) struct bytes bytes = headers_golden("attention_full");
    size_t sizes[5] = {2 * 2 * 3 * 5 * 2, 2 * 3 * 5, 2 * 5 * 4, 2 * 2 * 3 * 5 * 8, 0};
    OWNED(header_clear) struct header header;
    const char *key;

    assert_int_equal(headers_decode(&bytes, &header, &key), 0);
    assert_int_equal(header_check_frames(&header, sizes, 4), 0);
    assert_int_equal(header_check_frames(&header, sizes, 3), ERR_FRAMES_MISSING);
    assert_int_equal(header_check_frames(&header, NULL, 0), ERR_FRAMES_MISSING);
    assert_int_equal(header_check_frames(&header, sizes, 5), ERR_FRAMES_EXTRA);
    for (size_t i = 0; i < 4; i++) {
        sizes[i]--;
        assert_int_equal(header_check_frames(&header, sizes, 4), ERR_SIZE_MISMATCH);
        sizes[i] += 2;
        assert_int_equal(header_check_frames(&header, sizes, 4), ERR_SIZE_MISMATCH);
        sizes[i]--;
    }
}

TEST(events_have_no_frames)
{
    OWNED(bytes_free) struct bytes bytes = headers_golden("bye");
    OWNED(header_clear) struct header header;
    const char *key;
    size_t size = 0;

    assert_int_equal(headers_decode(&bytes, &header, &key), 0);
    assert_int_equal(header_check_frames(&header, NULL, 0), 0);
    assert_int_equal(header_check_frames(&header, &size, 1), ERR_FRAMES_EXTRA);
    assert_int_equal(header_frame_of(&header, TENSOR_WEIGHTS), 0);
}
