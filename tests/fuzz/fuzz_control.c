/* SPDX-License-Identifier: MIT */
/* Any bytes as a request on the control socket, to the real methods over a registry, last values
 * and a history with a run in them: each gets one answer, which is a map or an error, and the id
 * that it came with. */
#include "tests/fuzz/fuzz.h"

#include "daemon/control/control.h"
#include "daemon/base/endpoint.h"
#include "daemon/history/history.h"
#include "daemon/base/log.h"
#include "daemon/state/maps.h"
#include "daemon/ingest/plan.h"
#include "workers/base/pool.h"
#include "daemon/store/store.h"
#include "tests/fuzz/trained.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#define REQUEST_MOST 60000 /* control.c closes connections that send more than 64 KiB */
#define JOB          "gpt"

static char directory[] = "/tmp/attnd-fuzz-XXXXXX";
static uv_loop_t loop;
static struct config config;
static struct stats stats;
static struct map_shelf maps = {.limit = 1 << 20};
static struct publisher *publisher;
static struct control *control;
static void *zmq, *client;

static void fuzz_control_put(void *data, const struct run *run, const char *topic, uint32_t track,
                             struct mpk_writer *writer, enum result_kind kind)
{
    (void)data;
    publisher_put(publisher, run->id, topic, track, writer, kind == RESULT_SUMMARY);
}

static void fuzz_control_forget(void *data, const char *job)
{
    (void)data, (void)job;
}

static int changed(void *data)
{
    (void)data;
    return 0;
}

static uint64_t nothing(void *data)
{
    (void)data;
    return 0;
}

static void fuzz_control_remove_directory(void)
{
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    REQUIRE(system(command) == 0);
}

static void set_text(char *text, size_t size, const char *scheme, const char *name)
{
    snprintf(text, size, "%s%s/%s", scheme, directory, name);
}

/* Everything but the threads that measure and receive. */
static void fuzz_control_start(void)
{
    static struct result_sink sink;
    char error[CONFIG_ERROR_MAX];
    REQUIRE(mkdtemp(directory));
    atexit(fuzz_control_remove_directory);
    trained_config(&config);
    log_setup(LOG_ERROR, false);
    set_text(config.history_path.text, sizeof config.history_path.text, "", "history.db");
    set_text(config.control_endpoint.text, sizeof config.control_endpoint.text, "ipc://",
             "control");
    set_text(config.publish_endpoint.text, sizeof config.publish_endpoint.text, "ipc://",
             "publish");
    zmq = endpoint_context_new();
    REQUIRE(uv_loop_init(&loop) == 0);
    static struct control_view view = {.loop = &loop,
                                       .config = &config,
                                       .stats = &stats,
                                       .plan_config = &config,
                                       .plans_changed = changed,
                                       .bytes_in_flight = nothing,
                                       .messages_in_flight = nothing};
    view.plans = plans_new(&config);
    REQUIRE(view.plans && pool_new(1, 4, &view.pool) == 0);
    REQUIRE(publisher_new(&loop, zmq, NULL, &config, &stats, &publisher, error) == 0);
    REQUIRE(store_new(&config, &stats, &view.store) == 0);
    sink = (struct result_sink){
        .put = fuzz_control_put, .store = view.store, .stats = &stats, .maps = &maps};
    view.publisher = publisher;
    view.registry = registry_new(&config, &sink, fuzz_control_forget, NULL);
    REQUIRE(view.registry);
    trained_fill(view.registry, JOB);
    while (store_waiting(view.store) > 0) {
        usleep(1000);
    }
    REQUIRE(history_new(&loop, &config, view.store, &view.history, error) == 0);
    REQUIRE(control_new(zmq, &view, &control, error) == 0);
    client = zmq_socket(zmq, ZMQ_DEALER);
    REQUIRE(zmq_connect(client, config.control_endpoint.text) == 0);
}

/* An answer that takes longer than libFuzzer's -timeout is a hang. */
static void fuzz_control_receive(zmq_msg_t *ret_answer)
{
    zmq_msg_init(ret_answer);
    while (zmq_msg_recv(ret_answer, client, ZMQ_DONTWAIT) < 0) {
        uv_run(&loop, UV_RUN_NOWAIT);
        control_settle(control);
    }
    REQUIRE(!zmq_msg_more(ret_answer));
}

static uint64_t id_of(const void *data, size_t size, uint64_t fallback)
{
    struct mpk_doc doc;
    uint64_t id = fallback;
    if (mpk_parse(data, size, &mpk_header_limits, &doc) != 0) {
        return fallback;
    }
    if (doc.root->type == MSGPACK_OBJECT_ARRAY && doc.root->via.array.size == 4) {
        mpk_get_u64(&doc.root->via.array.ptr[1], UINT64_MAX, &id);
    }
    mpk_doc_clear(&doc);
    return id;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    zmq_msg_t answer;
    if (!client) {
        fuzz_control_start();
    }
    if (len > REQUEST_MOST) {
        return 0;
    }
    REQUIRE(zmq_send(client, data, len, 0) == (int)len);
    fuzz_control_receive(&answer);
    REQUIRE(mpk_check(zmq_msg_data(&answer), zmq_msg_size(&answer), &mpk_result_limits) == 0);
    REQUIRE(id_of(zmq_msg_data(&answer), zmq_msg_size(&answer), 1) == id_of(data, len, 0));
    zmq_msg_close(&answer);
    return 0;
}
