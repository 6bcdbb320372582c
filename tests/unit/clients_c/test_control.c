/* SPDX-License-Identifier: MIT */
/* Questions about the past: what is asked, what becomes of the answers, and of none. */
#include "tests/unit/proto/support.h"

#include "clients/c/include/attn/attn.h"
#include "proto/mpk.h"
#include "tests/unit/clients_c/peer.h"
#include "tests/unit/mpk_text.h"

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

/* A daemon that answers one request. */
struct fake_daemon {
    struct peer peer;
    pthread_t thread;
    void (*put)(struct mpk_writer *reply); /* result, or NULL: refuses */
    const char *refusal;                   /* as JSON; NULL: the usual one */
    uint64_t id_ahead;                     /* a late answer goes first when this is not 0 */
    char asked[1024];                      /* method and parameters as JSON */
};

static void note_request(struct fake_daemon *daemon, const msgpack_object *request)
{
    char *params = mpk_to_json(&request->via.array.ptr[3], 0);
    const msgpack_object_str *method = &request->via.array.ptr[2].via.str;

    snprintf(daemon->asked, sizeof daemon->asked, "%.*s %s", (int)method->size, method->ptr,
             params);
    free(params);
}

static void test_control_send_reply(struct fake_daemon *daemon, const zmq_msg_t *peer, uint64_t id)
{
    OWNED(mpk_writer_clear) struct mpk_writer reply;

    mpk_writer_init(&reply);
    mpk_put_array(&reply, 4);
    mpk_put_u64(&reply, 1);
    mpk_put_u64(&reply, id);
    if (daemon->put) {
        mpk_put_nil(&reply);
        daemon->put(&reply);
    } else {
        mpk_text(&reply, "%s",
                 daemon->refusal ? daemon->refusal
                                 : "{'code': 'no_history', 'message': 'it has entropy'}");
        mpk_put_nil(&reply);
    }
    zmq_send(daemon->peer.socket, zmq_msg_data((zmq_msg_t *)(uintptr_t)peer), zmq_msg_size(peer),
             ZMQ_SNDMORE);
    zmq_send(daemon->peer.socket, reply.buffer.data, reply.buffer.size, 0);
}

static void *test_control_serve(void *data)
{
    struct fake_daemon *daemon = data;
    struct mpk_doc doc;
    OWNED(zmq_msg_close) zmq_msg_t peer, body;
    uint64_t id = 0;

    zmq_msg_init(&peer);
    zmq_msg_init(&body);
    if (zmq_msg_recv(&peer, daemon->peer.socket, 0) >= 0 &&
        zmq_msg_recv(&body, daemon->peer.socket, 0) >= 0 &&
        mpk_parse(zmq_msg_data(&body), zmq_msg_size(&body), &mpk_header_limits, &doc) == 0) {
        mpk_get_u64(&doc.root->via.array.ptr[1], UINT64_MAX, &id);
        note_request(daemon, doc.root);
        if (daemon->id_ahead) {
            test_control_send_reply(daemon, &peer, id + daemon->id_ahead);
        }
        test_control_send_reply(daemon, &peer, id);
        mpk_doc_clear(&doc);
    }
    return NULL;
}

static attn_control *control_start(struct fake_daemon *daemon,
                                   void (*put)(struct mpk_writer *reply))
{
    int wait_ms = PEER_WAIT_MS;
    attn_control *control;

    *daemon = (struct fake_daemon){.peer = peer_open(ZMQ_ROUTER, NULL, 0), .put = put};
    zmq_setsockopt(daemon->peer.socket, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms);
    assert_int_equal(attn_control_new(daemon->peer.endpoint, PEER_WAIT_MS, &control), 0);
    return control;
}

/* After this nothing may touch the socket until stop. */
static void go(struct fake_daemon *daemon)
{
    assert_int_equal(pthread_create(&daemon->thread, NULL, test_control_serve, daemon), 0);
}

static void control_stop(struct fake_daemon *daemon, attn_control **control)
{
    int linger_ms = PEER_WAIT_MS;

    pthread_join(daemon->thread, NULL);
    zmq_setsockopt(daemon->peer.socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    attn_control_free(control);
    peer_close(&daemon->peer);
}

/* ---- answers ---- */

static void test_control_put_packed(struct mpk_writer *reply, const char *key, uint64_t first)
{
    uint64_t numbers[3] = {first, first + 1, first + 2};

    if (key) {
        mpk_put_str(reply, key);
    }
    mpk_put_bin(reply, numbers, sizeof numbers);
}

static void put_means(struct mpk_writer *reply, double first)
{
    double numbers[3] = {first, NAN, first + 2};

    mpk_put_bin(reply, numbers, sizeof numbers);
}

static void control_put_series(struct mpk_writer *reply, uint32_t heads)
{
    static const char *const keys[] = {"first", "last", "epoch", "step", "time_ns"};

    mpk_put_map(reply, 4);
    mpk_pair_array(reply, "heads", heads);
    for (uint32_t i = 0; i < heads; i++) {
        mpk_put_nil(reply);
    }
    mpk_pair_bool(reply, "more", true);
    mpk_pair_map(reply, "windows", 5);
    for (uint64_t i = 0; i < 5; i++) {
        test_control_put_packed(reply, keys[i], 10 * i);
    }
    mpk_pair_map(reply, "values", 1);
    mpk_put_str(reply, "mean");
    if (heads > 1) {
        mpk_put_array(reply, heads);
    }
    for (uint32_t i = 0; i < heads; i++) {
        put_means(reply, 0.5 + i);
    }
}

static void put_one_head(struct mpk_writer *reply)
{
    control_put_series(reply, 1);
}

static void put_two_heads(struct mpk_writer *reply)
{
    control_put_series(reply, 2);
}

static void test_control_put_number(struct mpk_writer *reply)
{
    mpk_put_u64(reply, 3);
}

static void control_put_map(struct mpk_writer *reply)
{
    /* 1, -0.5, 2^-24, infinite */
    static const unsigned char halves[8] = {0, 0x3c, 0, 0xb8, 1, 0, 0, 0x7c};

    mpk_put_map(reply, 4);
    mpk_pair_u64(reply, "rows", 2);
    mpk_pair_u64(reply, "columns", 2);
    mpk_pair_u64(reply, "step", 7);
    mpk_pair_bin(reply, "values", halves, sizeof halves);
}

static void control_put_list(struct mpk_writer *reply)
{
    mpk_text(reply, "{'firing': []}");
}

static attn_question question_of(const char *job)
{
    attn_question question;

    attn_question_default(&question);
    question.job = job;
    return question;
}

/* ---- tests ---- */

TEST(a_series_of_one_head)
{
    struct fake_daemon daemon;
    attn_control *control = control_start(&daemon, put_one_head);
    attn_question question = question_of("gpt");
    attn_series *series;

    question.run = "ab";
    question.stack = ATTN_DECODER;
    question.layer = 3;
    question.site = ATTN_SELF;
    question.head = 2;
    question.metric = "entropy";
    question.window = "1 epoch";
    question.from = 1;
    question.to = 9;
    go(&daemon);
    assert_int_equal(attn_history(control, &question, &series), 0);
    assert_string_equal(daemon.asked,
                        "history {\"job\":\"gpt\",\"run\":\"ab\",\"stack\":\"decoder\",\"layer\":3,"
                        "\"site\":\"self\",\"head\":2,\"metric\":\"entropy\",\"window\":\"1 "
                        "epoch\",\"from\":1,\"to\":9,\"limit\":1000,\"packed\":true}");
    assert_int_equal(attn_series_windows(series), 3);
    assert_int_equal(attn_series_heads(series), 1);
    assert_true(attn_series_more(series));
    assert_int_equal(attn_series_units(series, "step")[2], 32);
    assert_null(attn_series_units(series, "steps"));
    assert_true(attn_series_values(series, "mean", 0)[2] == 2.5);
    assert_true(isnan(attn_series_values(series, "mean", 0)[1]));
    assert_null(attn_series_values(series, "mean", 1));
    assert_null(attn_series_values(series, "std", 0));
    attn_series_free(&series);
    assert_null(series);
    attn_series_free(&series);
    control_stop(&daemon, &control);
}

TEST(a_series_of_all_heads)
{
    struct fake_daemon daemon;
    attn_control *control = control_start(&daemon, put_two_heads);
    attn_question question = question_of("gpt");
    attn_series *series;

    daemon.id_ahead = 7; /* an answer to something else comes first */
    go(&daemon);
    assert_int_equal(attn_history(control, &question, &series), 0);
    assert_string_equal(daemon.asked, "history {\"job\":\"gpt\",\"limit\":1000,\"packed\":true}");
    assert_int_equal(attn_series_heads(series), 2);
    assert_true(attn_series_values(series, "mean", 1)[2] == 3.5);
    attn_series_free(&series);
    control_stop(&daemon, &control);
}

TEST(a_map)
{
    struct fake_daemon daemon;
    attn_control *control = control_start(&daemon, control_put_map);
    attn_question question = question_of("gpt");
    static attn_mean_map map;

    question.last = 4;
    go(&daemon);
    assert_int_equal(attn_map(control, &question, &map), 0);
    assert_string_equal(daemon.asked, "map {\"job\":\"gpt\",\"last\":4,\"packed\":true}");
    assert_int_equal(map.rows, 2);
    assert_int_equal(map.columns, 2);
    assert_int_equal(map.step, 7);
    assert_true(map.values[0] == 1 && map.values[1] == -0.5f && map.values[2] == 0x1p-24f);
    assert_true(isinf(map.values[3]));
    control_stop(&daemon, &control);
}

TEST(alerts_and_comparisons_are_results)
{
    struct fake_daemon daemon;
    attn_control *control = control_start(&daemon, control_put_list);
    attn_question question = question_of(NULL);
    attn_result *result;

    go(&daemon);
    assert_int_equal(attn_alerts(control, &question, &result), 0);
    assert_string_equal(daemon.asked, "alerts {\"limit\":1000}");
    assert_string_equal(attn_result_json(result), "{\"firing\":[]}");
    attn_result_free(&result);
    control_stop(&daemon, &control);
    control = control_start(&daemon, control_put_list);
    question.job = "gpt";
    question.run = "1";
    question.run_b = "2";
    question.limit = 5;
    go(&daemon);
    assert_int_equal(attn_compare(control, &question, &result), 0);
    assert_string_equal(daemon.asked, "compare {\"job\":\"gpt\",\"run\":\"1\",\"run_b\":\"2\","
                                      "\"limit\":5}");
    attn_result_free(&result);
    control_stop(&daemon, &control);
}

TEST(a_refusal_says_why)
{
    struct fake_daemon daemon;
    attn_control *control = control_start(&daemon, NULL);
    attn_question question = question_of("gpt");
    attn_series *series = NULL;

    assert_string_equal(attn_control_error(control), "");
    go(&daemon);
    assert_int_equal(attn_history(control, &question, &series), ATTN_E_REFUSED);
    assert_null(series);
    assert_string_equal(attn_control_error(control), "no_history: it has entropy");
    assert_string_equal(attn_strerror(ATTN_E_REFUSED), "the daemon refused");
    control_stop(&daemon, &control);
}

TEST(a_refusal_of_any_length_is_cut)
{
    for (int code = 500; code < 520; code++) {
        struct fake_daemon daemon;
        attn_control *control = control_start(&daemon, NULL);
        attn_question question = question_of("gpt");
        attn_series *series = NULL;
        char refusal[4096];

        snprintf(refusal, sizeof refusal, "{'code': '%0*d', 'message': '%03000d'}", code, 7, 8);
        daemon.refusal = refusal;
        go(&daemon);
        assert_int_equal(attn_history(control, &question, &series), ATTN_E_REFUSED);
        assert_in_range(strlen(attn_control_error(control)), 509, 511);
        control_stop(&daemon, &control);
    }
}

TEST(what_is_no_such_answer_is_an_error)
{
    struct fake_daemon daemon;
    attn_control *control = control_start(&daemon, test_control_put_number);
    attn_question question = question_of("gpt");
    attn_series *series = NULL;

    go(&daemon);
    assert_int_equal(attn_history(control, &question, &series), ATTN_E_MESSAGE);
    assert_null(series);
    control_stop(&daemon, &control);
}

TEST(nobody_there_is_a_timeout)
{
    attn_question question = question_of("gpt");
    attn_series *series;
    OWNED(attn_control_free) attn_control *control;

    assert_int_equal(attn_control_new("tcp://127.0.0.1:1", 50, &control), 0);
    assert_int_equal(attn_history(control, &question, &series), ATTN_E_TIMEOUT);
    attn_control_free(&control);
    assert_null(control);
}

TEST(arguments_are_checked)
{
    attn_question question = question_of(NULL);
    attn_series *series;
    OWNED(attn_control_free) attn_control *control;

    assert_int_equal(attn_control_new("nowhere", 50, &control), ATTN_E_TRANSPORT);
    assert_int_equal(attn_control_new(NULL, 0, &control), ATTN_E_ARGUMENT);
    assert_int_equal(attn_control_new("tcp://127.0.0.1:1", 50, &control), 0);
    assert_int_equal(attn_history(control, &question, &series), ATTN_E_ARGUMENT);
    question.job = "gpt";
    question.limit = 0;
    assert_int_equal(attn_history(control, &question, &series), ATTN_E_ARGUMENT);
}

/* Nobody named it: it is found when something is asked, and again after it was gone. */
TEST(questions_go_to_the_daemon_that_is_there)
{
    char runtime[] = "/tmp/attn-control-XXXXXX", place[64], endpoint[80];
    int wait_ms = PEER_WAIT_MS;
    attn_control *control;
    attn_question question;
    attn_result *result;

    assert_non_null(mkdtemp(runtime));
    snprintf(place, sizeof place, "%s/attnd", runtime);
    snprintf(endpoint, sizeof endpoint, "ipc://%s/control", place);
    assert_int_equal(mkdir(place, 0700), 0);
    setenv("XDG_RUNTIME_DIR", runtime, 1);
    unsetenv("ATTND_ADDRESS");
    attn_question_default(&question);
    assert_int_equal(attn_control_new(NULL, 20, &control), 0);
    assert_int_equal(attn_alerts(control, &question, &result), ATTN_E_TIMEOUT);
    attn_control_free(&control);

    assert_int_equal(attn_control_new(NULL, PEER_WAIT_MS, &control), 0);
    for (int life = 0; life < 3; life++) {
        struct fake_daemon daemon = {.peer = peer_open(ZMQ_ROUTER, endpoint, 0)};

        zmq_setsockopt(daemon.peer.socket, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms);
        go(&daemon);
        assert_int_equal(attn_alerts(control, &question, &result), ATTN_E_REFUSED);
        control_stop(&daemon, NULL);
    }
    attn_control_free(&control);
    unlink(endpoint + strlen("ipc://"));
    rmdir(place);
    rmdir(runtime);
}
