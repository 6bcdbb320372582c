/* SPDX-License-Identifier: MIT */
/* Any bytes as what a client sends over one connection, to the real server with the real handlers;
 * questions to the daemon are answered with a map or an error. Whatever comes: no reply that is not
 * HTTP, no reply but 4xx to what is not GET or HEAD, nothing left when the connection is gone. The
 * same bytes are also read as a query, as headers that say who asks, and as an id of the event
 * stream. */
#include "tests/fuzz/fuzz.h"

#include "config/config.h"
#include "daemon/control/control.h"
#include "proto/err.h"
#include "daemon/http/guard.h"
#include "daemon/http/internal.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Turns of both loops after which everything has been answered. */
#define TURNS 8

static struct config config;
static struct stats stats;
static uv_loop_t loop;
static struct http *http;

/* In place of the daemon's: the answer depends on the question only. */
void control_call(struct control *control, const char *method, const void *params, size_t size,
                  control_answered *answered, void *data)
{
    struct mpk_writer result;
    struct mpk_doc doc;
    (void)control;
    REQUIRE(mpk_parse(params, size, &mpk_header_limits, &doc) == 0);
    REQUIRE(doc.root->type == MSGPACK_OBJECT_MAP);
    mpk_writer_init(&result);
    mpk_put_map(&result, 2);
    mpk_pair_str(&result, "method", method);
    mpk_put_str(&result, "params");
    mpk_put_raw(&result, params, size);
    answered(data, doc.root->via.map.size % 2 ? ERR_JOB_UNKNOWN : 0, "", &result);
    mpk_writer_clear(&result);
    mpk_doc_clear(&doc);
}

/* Visitors that are let in, besides the user of this machine that connections are of. */
static const char list[] = "0123456789abcdef read *\nuser:ann* read a*\n";

static void fuzz_http_start(void)
{
    char error[CONFIG_ERROR_MAX];
    config_defaults(&config);
    strcpy(config.http_endpoint.text, "tcp://127.0.0.1:*");
    config.log_level = CONFIG_LEVEL_ERROR;
    REQUIRE(uv_loop_init(&loop) == 0);
    REQUIRE(http_new(&loop, &config, &stats, &http, error) == 0);
    REQUIRE(access_parse(list, strlen(list), "list", ACCESS_VISITORS, &http->visitors, error) == 0);
    REQUIRE(server_start(http) == 0);
}

static void fuzz_http_turn(void)
{
    uv_run(&http->loop, UV_RUN_NOWAIT);
    uv_run(&loop, UV_RUN_NOWAIT);
    server_run(http);
}

/* The reply begins as one of HTTP does, and no answer of the API or page is given to another
 * method. */
static void fuzz_http_check_reply(const char *reply, size_t size, const uint8_t *data, size_t len)
{
    if (size == 0) {
        return;
    }
    REQUIRE(size >= 13 && memcmp(reply, "HTTP/1.", 7) == 0);
    REQUIRE(reply[9] >= '1' && reply[9] <= '5');
    /* libmicrohttpd ends the method at a NUL. */
    bool reads =
        (len > 3 && memcmp(data, "GET", 3) == 0) || (len > 4 && memcmp(data, "HEAD", 4) == 0);
    /* It passes over lines that are empty, or are to C, before a request. */
    bool blank = len > 0 && strchr("\r\n ", data[0]); /* also NUL */
    REQUIRE(reads || blank || reply[9] != '2');
}

static void fuzz_http_send_all(const uint8_t *data, size_t len)
{
    static const struct sockaddr_in address = {.sin_family = AF_INET};
    static char reply[1 << 16];
    int pair[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
    REQUIRE(MHD_add_connection(http->server, pair[0], (const struct sockaddr *)&address,
                               sizeof address) == MHD_YES);
    if (http->peers.first && !memmem(data, len, "X-Forwarded-User", 16)) {
        http->peers.first->whose = (struct whose_peer){WHOSE_USER, geteuid()}; /* else a proxy */
    }
    ssize_t sent = write(pair[1], data, len < 32768 ? len : 32768);
    for (int i = 0; i < TURNS; i++) {
        fuzz_http_turn();
    }
    ssize_t got = read(pair[1], reply, sizeof reply);
    if (sent > 0 && got > 0) {
        fuzz_http_check_reply(reply, (size_t)got, data, len);
    }
    close(pair[1]);
    events_put(&http->events, &(struct published){.topic = "job/x/"}, 0);
    events_wake(&http->events);
    for (int i = 0; i < TURNS; i++) {
        fuzz_http_turn();
    }
    REQUIRE(!http->waiting);
}

/* "name=value&name=value" without decoding. */
static void read_query(char *text)
{
    for (size_t i = 0; i < route_count; i++) {
        char copy[512], *rest = copy;
        struct argument_reader reader;
        struct mpk_writer params;
        struct mpk_doc doc;
        snprintf(copy, sizeof copy, "%s", text);
        argument_reader_init(&reader, &routes[i]);
        for (char *pair; (pair = strsep(&rest, "&"));) {
            char *name = strsep(&pair, "=");
            if (!argument_read(&reader, name, pair)) {
                break;
            }
        }
        mpk_writer_init(&params);
        argument_put_map(&reader, i % 2 ? "a* b" : NULL, &params);
        if (!*reader.reterr) {
            REQUIRE(mpk_parse(params.buffer.data, params.buffer.size, &mpk_header_limits, &doc) ==
                    0);
            mpk_doc_clear(&doc);
        }
        mpk_writer_clear(&params);
        argument_reader_clear(&reader);
    }
}

/* Whether a visitor who brings these bytes is on the list. */
static bool is_listed(enum guard_kind kind, const char *name)
{
    struct guard_visitor visitor;
    guard_visitor_init(&visitor, kind, name);
    bool known = guard_judge(&visitor, http->visitors);
    REQUIRE(known == (*visitor.jobs != '\0'));
    REQUIRE(!known || access_jobs_match(visitor.jobs, "b") == (kind == GUARD_TOKEN));
    return known;
}

static void read_headers(const char *text)
{
    const char *token = guard_token(text);
    uint64_t number;
    if (guard_host(text, "attnd.example gpu7")) {
        REQUIRE(guard_origin(NULL, text));
    }
    REQUIRE(!guard_origin(text, "localhost") || strstr(text, "://"));
    REQUIRE(!token || is_listed(GUARD_TOKEN, token) == (strcmp(token, "0123456789abcdef") == 0));
    REQUIRE(!is_listed(GUARD_USER, text) || strncmp(text, "ann", 3) == 0);
    if (events_parse_id(text, 0x12345678, &number)) {
        REQUIRE(strncmp(text, "12345678-", 9) == 0 || strchr(text, '-'));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char text[512];
    size_t length = len < sizeof text - 1 ? len : sizeof text - 1;
    if (!http) {
        fuzz_http_start();
    }
    memcpy(text, data, length);
    text[length] = '\0';
    read_headers(text);
    read_query(text);
    fuzz_http_send_all(data, len);
    return 0;
}
