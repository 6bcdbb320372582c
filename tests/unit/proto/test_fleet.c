/* SPDX-License-Identifier: MIT */
/* Bodies, signs of life and questions of a fleet. */
#include "tests/unit/unit.h"

#include "proto/err.h"
#include "proto/fleet.h"

static const uint8_t run[RUN_BYTES] = {1, 2, 3}, instance[FLEET_ID_BYTES] = {9, 8};
static const uint32_t ranks[] = {4, 0};
static const struct reason_count dropped[] = {{"late", 3}, {"source", 1}};
static const struct fleet_point points[] = {{"loss", 4, 1, 2, 3, 0.5}, {"norm", 4, 1, 2, 3, NAN}};

static struct fleet_body body_of(enum fleet_kind kind)
{
    return (struct fleet_body){
        .kind = kind,
        .job = "job",
        .job_size = 3,
        .run = run,
        .rule = {WINDOW_STEP, 100, 50},
        .part = 7,
        .layer = {.layer = 11, .site = SITE_CROSS},
        .module = "h.11.attn",
        .module_size = 9,
        .state = "state",
        .state_size = 5,
        .next_before = 6,
        .complete_from = 2,
        .cut = true,
        .layers = 12,
        .world = 8,
        .epoch = 1,
        .step = 399,
        .time_ns = UINT64_MAX,
        .received = 20,
        .processed = 16,
        .lost = 1,
        .dropped = dropped,
        .dropped_count = 2,
        .ranks = ranks,
        .rank_count = 2,
        .state_of_run = JOB_IDLE,
        .failure = {.type = "ValueError", .message = "bad", .step = 7, .rank = 3},
        .settings = "\x80",
        .settings_size = 1,
        .points = points,
        .point_count = 2,
    };
}

/* Encodes and parses; the document borrows from the writer. */
static void body_parse(const struct fleet_body *body, struct mpk_writer *writer,
                       struct mpk_doc *ret_doc)
{
    mpk_writer_init(writer);
    fleet_body_encode(body, writer);
    assert_true(mpk_writer_ok(writer));
    assert_int_equal(mpk_parse(writer->buffer.data, writer->buffer.size, &fleet_limits, ret_doc),
                     0);
}

TEST(a_part_is_read_as_it_was_written)
{
    struct fleet_body body = body_of(FLEET_PART), read;
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    body_parse(&body, &writer, &doc);
    assert_int_equal(fleet_body_decode(doc.root, &read), 0);
    assert_int_equal(read.kind, FLEET_PART);
    assert_int_equal(read.job_size, 3);
    assert_memory_equal(read.run, run, RUN_BYTES);
    assert_int_equal(read.rule.unit, WINDOW_STEP);
    assert_int_equal(read.rule.length, 100);
    assert_int_equal(read.rule.every, 50);
    assert_int_equal(read.part, 7);
    assert_int_equal(read.layer.layer, 11);
    assert_int_equal(read.layer.site, SITE_CROSS);
    assert_memory_equal(read.module, "h.11.attn", read.module_size);
    assert_memory_equal(read.state, "state", read.state_size);
}

TEST(an_end_and_a_run_are_read_as_they_were_written)
{
    struct fleet_body body = body_of(FLEET_CLOSED), read;
    struct fleet_point point;
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    body_parse(&body, &writer, &doc);
    assert_int_equal(fleet_body_decode(doc.root, &read), 0);
    assert_int_equal(read.next_before, 6);
    assert_int_equal(read.complete_from, 2);
    assert_true(read.cut);
    assert_int_equal(read.layers, 12);
    assert_int_equal(read.world, 8);
    assert_true(read.time_ns == UINT64_MAX);
    assert_int_equal(read.ranks_found->via.array.size, 2);
    assert_int_equal(read.dropped_found->via.map.size, 2);
    mpk_doc_clear(&doc);
    mpk_writer_clear(&writer);
    body.kind = FLEET_RUN;
    body_parse(&body, &writer, &doc);
    assert_int_equal(fleet_body_decode(doc.root, &read), 0);
    assert_int_equal(read.state_of_run, JOB_IDLE);
    assert_string_equal(read.failure.type, "ValueError");
    assert_true(read.failure.step == 7 && read.failure.rank == 3);
    assert_int_equal(read.settings_size, 1);
    assert_int_equal(read.points_found->via.array.size, 2);
    assert_int_equal(fleet_point_decode(&read.points_found->via.array.ptr[0], &point), 0);
    assert_true(point.value == 0.5 && point.step == 2 && point.name_size == 4);
    assert_int_equal(fleet_point_decode(&read.points_found->via.array.ptr[1], &point), 0);
    assert_nan(point.value);
}

TEST(every_row_tells_the_windows_that_its_run_asks_for)
{
    for (int kind = FLEET_PART; kind <= FLEET_RUN; kind++) {
        struct fleet_body body = body_of((enum fleet_kind)kind), read;
        OWNED(mpk_writer_clear) struct mpk_writer writer;
        OWNED(mpk_doc_clear) struct mpk_doc doc;
        body.own_window = (struct own_window){WINDOW_STEP, 200};
        body_parse(&body, &writer, &doc);
        assert_int_equal(fleet_body_decode(doc.root, &read), 0);
        assert_int_equal(read.own_window.unit, WINDOW_STEP);
        assert_int_equal(read.own_window.length, 200);
    }
}

TEST(a_sign_of_life_is_read_as_it_was_written)
{
    const struct fleet_beat_run runs[] = {{{1, 2, 3}, 77, 8, 4}};
    struct fleet_beat beat = {.name = "a", .host = "b", .version = "c", .newest = 9, .taken = 8};
    struct fleet_beat read;
    struct fleet_beat_run one;
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    memcpy(beat.instance, instance, sizeof instance);
    beat.rows = beat.bytes = beat.unsent = beat.unsent_bytes = beat.outbox_lost = 5;
    beat.time_ns = UINT64_MAX;
    beat.stopping = true;
    strcpy(beat.domain, "rack-0");
    strcpy(beat.trouble, "its history cannot be written");
    beat.runs = runs;
    beat.run_count = 1;
    mpk_writer_init(&writer);
    fleet_beat_encode(&beat, &writer);
    assert_int_equal(mpk_parse(writer.buffer.data, writer.buffer.size, &mpk_header_limits, &doc),
                     0);
    assert_int_equal(fleet_beat_decode(doc.root, &read), 0);
    assert_memory_equal(read.instance, instance, sizeof instance);
    assert_string_equal(read.host, "b");
    assert_string_equal(read.domain, "rack-0");
    assert_string_equal(read.trouble, beat.trouble);
    assert_int_equal(read.newest, 9);
    assert_int_equal(read.taken, 8);
    assert_true(read.stopping && read.time_ns == UINT64_MAX);
    assert_int_equal(read.runs_found->via.array.size, 1);
    assert_int_equal(fleet_beat_run_decode(read.runs_found->via.array.ptr, &one), 0);
    assert_memory_equal(&one, runs, sizeof one);
}

TEST(a_question_is_read_as_it_was_written)
{
    struct fleet_ask ask = {.hub = "h", .from = 5, .to = 9, .refused = "no", .pause = true}, read;
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    memcpy(ask.instance, instance, sizeof instance);
    mpk_writer_init(&writer);
    fleet_ask_encode(&ask, &writer);
    assert_int_equal(mpk_parse(writer.buffer.data, writer.buffer.size, &mpk_header_limits, &doc),
                     0);
    assert_int_equal(fleet_ask_decode(doc.root, &read), 0);
    assert_memory_equal(&read.instance, instance, sizeof instance);
    assert_int_equal(read.from, 5);
    assert_int_equal(read.to, 9);
    assert_string_equal(read.refused, "no");
    assert_true(read.pause);
}

static int decode_any(const msgpack_object *root)
{
    struct fleet_body body;
    struct fleet_beat beat;
    struct fleet_ask ask;
    return fleet_body_decode(root, &body) && fleet_beat_decode(root, &beat) &&
           fleet_ask_decode(root, &ask);
}

/* Each value of the map in turn is something else, or is not there. */
TEST(no_key_may_be_missing_or_of_another_type)
{
    static const enum fleet_kind kinds[] = {FLEET_PART, FLEET_CLOSED, FLEET_RUN};
    for (int k = 0; k < 3; k++) {
        struct fleet_body body = body_of(kinds[k]), read;
        OWNED(mpk_writer_clear) struct mpk_writer writer;
        OWNED(mpk_doc_clear) struct mpk_doc doc;
        body_parse(&body, &writer, &doc);
        for (uint32_t i = 0; i < doc.root->via.map.size; i++) {
            msgpack_object_kv *pair = &doc.root->via.map.ptr[i], before = *pair;
            pair->val = (msgpack_object){.type = MSGPACK_OBJECT_NIL};
            assert_int_equal(fleet_body_decode(doc.root, &read), ERR_FLEET);
            pair->val = before.val;
            pair->key.via.str.size--;
            bool optional = mpk_is_str(&before.key, "module") ||
                            mpk_is_str(&before.key, "settings") ||
                            mpk_is_str(&before.key, "failure");
            assert_int_equal(fleet_body_decode(doc.root, &read), optional ? 0 : ERR_FLEET);
            *pair = before;
        }
        assert_int_equal(fleet_body_decode(doc.root, &read), 0);
    }
}

static void assert_refused(struct fleet_body body)
{
    struct fleet_body read;
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    body_parse(&body, &writer, &doc);
    assert_int_equal(fleet_body_decode(doc.root, &read), ERR_FLEET);
}

#define REFUSED(kind, ...)                                                                         \
    do {                                                                                           \
        struct fleet_body body = body_of(kind);                                                    \
        body.__VA_ARGS__;                                                                          \
        assert_refused(body);                                                                      \
    } while (0)

TEST(values_out_of_range_are_refused)
{
    REFUSED(FLEET_PART, rule.length = 0);
    REFUSED(FLEET_PART, rule.length = FLEET_RULE_MAX + 1);
    REFUSED(FLEET_PART, rule.unit = WINDOW_SECOND);
    REFUSED(FLEET_PART, own_window = (struct own_window){WINDOW_SECOND, 1});
    REFUSED(FLEET_PART, job = "a/b");
    REFUSED(FLEET_PART, module = "\xff.11.attn");
    REFUSED(FLEET_PART, layer.layer = UINT32_MAX);
    REFUSED(FLEET_CLOSED, ranks = (const uint32_t[]){4, UINT32_MAX});
    REFUSED(FLEET_CLOSED, part = UINT64_MAX);
}

TEST(other_documents_are_refused)
{
    static const char *const others[] = {
        "\x80", "\x90", "\xc0", "\x81\xa1v\x01", "\x81\xa1v\x02", "\x82\xa1v\x01\xa4kind\xa5other"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        OWNED(mpk_doc_clear) struct mpk_doc doc;
        assert_int_equal(mpk_parse(others[i], strlen(others[i]), &fleet_limits, &doc), 0);
        assert_true(decode_any(doc.root));
    }
}
