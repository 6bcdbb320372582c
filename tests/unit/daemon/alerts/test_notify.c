/* SPDX-License-Identifier: MIT */
/* Real commands in a directory of their own, and a real HTTP server that does what it is told. */
#include "tests/unit/unit.h"

#include "daemon/base/log.h"
#include "daemon/alerts/notify.h"
#include "proto/result.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MS 60000

static uint64_t notify_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void pause_ms(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Fixture */

struct notify_fixture {
    char directory[64];
    struct config config;
    struct stats stats;
    struct notify *notify;
};

static void notify_begin(struct notify_fixture *f)
{
    config_defaults(&f->config);
    strcpy(f->directory, "/tmp/attnd-test-XXXXXX");
    assert_non_null(mkdtemp(f->directory));
}

static void notify_set(struct notify_fixture *f, const char *assignment)
{
    char error[CONFIG_ERROR_MAX] = "";
    int result = config_set(&f->config, assignment, error);
    assert_string_equal(error, "");
    assert_int_equal(result, 0);
}

static void test_notify_run(struct notify_fixture *f)
{
    char error[CONFIG_ERROR_MAX] = "";
    int result = notify_new(&f->config, &f->stats, &f->notify, error);
    assert_string_equal(error, "");
    assert_int_equal(result, 0);
    assert_non_null(f->notify);
}

static void expect_counts(struct notify_fixture *f, uint64_t notified, uint64_t failed)
{
    uint64_t until = notify_now_ms() + WAIT_MS;
    while (stats_get(&f->stats, COUNT_NOTIFIED) + stats_get(&f->stats, COUNT_NOTIFY_FAILED) <
               notified + failed &&
           notify_now_ms() < until) {
        pause_ms();
    }
    assert_int_equal(stats_get(&f->stats, COUNT_NOTIFIED), notified);
    assert_int_equal(stats_get(&f->stats, COUNT_NOTIFY_FAILED), failed);
}

static void notify_end(struct notify_fixture *f)
{
    char command[128];
    notify_free(&f->notify, 1000);
    snprintf(command, sizeof command, "rm -r %s", f->directory);
    assert_int_equal(system(command), 0);
}

#define NOTIFY_TEST(name) TEST_IN(name, struct notify_fixture, f, notify_begin, notify_end)

/* An event whose message is this text. */
static void test_notify_put(struct notify_fixture *f, const char *text)
{
    static const uint8_t run_id[RUN_BYTES] = {1};
    struct alert_result alert = {.common = {.job = "gpt", .run = run_id, .epoch = 3},
                                 .rule = "r",
                                 .metric = "entropy",
                                 .head = -1,
                                 .message = text};
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    mpk_writer_init(&writer);
    alert_encode(&alert, &writer);
    notify_put(f->notify, writer.buffer.data, writer.buffer.size);
}

/* Gives an event to what is configured now, and expects these totals of told and failed ones. */
static void notify_one(struct notify_fixture *f, uint64_t notified, uint64_t failed)
{
    if (!f->notify) {
        test_notify_run(f);
    }
    test_notify_put(f, "x");
    expect_counts(f, notified, failed);
}

static void expect_refusal(struct notify_fixture *f, const char *wanted)
{
    char error[CONFIG_ERROR_MAX];
    assert_int_equal(notify_new(&f->config, &f->stats, &f->notify, error), -1);
    assert_string_equal(error, wanted);
    assert_null(f->notify);
}

/* A stop that waits for 50 ms, or at least for so long, and not for what hangs. */
static void stop_soon(struct notify_fixture *f, uint64_t least_ms, uint64_t failed)
{
    uint64_t begin = notify_now_ms();
    notify_free(&f->notify, 50);
    assert_in_range(notify_now_ms() - begin, least_ms, WAIT_MS);
    expect_counts(f, 0, failed);
}

static const char *notify_path_of(const struct notify_fixture *f, const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", f->directory, name);
    return path;
}

/* A shell script, run in the fixture's directory, as alerts.command. */
static void set_script(struct notify_fixture *f, const char *body)
{
    char assignment[256];
    FILE *file = fopen(notify_path_of(f, "script"), "w");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\ncd %s\n%s\n", f->directory, body);
    fclose(file);
    chmod(notify_path_of(f, "script"), 0755);
    snprintf(assignment, sizeof assignment, "alerts.command=%s one two",
             notify_path_of(f, "script"));
    notify_set(f, assignment);
}

static char *content(const struct notify_fixture *f, const char *name)
{
    static char text[4096];
    FILE *file = fopen(notify_path_of(f, name), "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

static void wait_for_file(const struct notify_fixture *f, const char *name)
{
    uint64_t until = notify_now_ms() + WAIT_MS;
    while (access(notify_path_of(f, name), F_OK) != 0 && notify_now_ms() < until) {
        pause_ms();
    }
    assert_int_equal(access(notify_path_of(f, name), F_OK), 0);
}

/* Commands */

NOTIFY_TEST(nothing_configured_is_nothing_to_do)
{
    char error[CONFIG_ERROR_MAX];
    f->notify = (struct notify *)f;
    assert_int_equal(notify_new(&f->config, &f->stats, &f->notify, error), 0);
    assert_null(f->notify);
    test_notify_put(f, "to nobody");
}

NOTIFY_TEST(a_command_reads_a_line_of_json)
{
    set_script(f, "echo \"$@\" > words; cat > line");
    test_notify_run(f);
    test_notify_put(f, "it's \"low\"; $(rm -rf)");
    expect_counts(f, 1, 0);
    assert_string_equal(content(f, "words"), "one two\n");
    const char *line = content(f, "line");
    assert_int_equal(strncmp(line, "{\"v\":1,\"kind\":\"alert\"", 20), 0);
    assert_non_null(strstr(line, "\"message\":\"it's \\\"low\\\"; $(rm -rf)\""));
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
}

NOTIFY_TEST(events_go_out_in_order)
{
    set_script(f, "grep -o 'event-[0-9]' >> order");
    test_notify_run(f);
    test_notify_put(f, "event-1");
    test_notify_put(f, "event-2");
    test_notify_put(f, "event-3");
    expect_counts(f, 3, 0);
    assert_string_equal(content(f, "order"), "event-1\nevent-2\nevent-3\n");
}

NOTIFY_TEST(an_exit_status_or_signal_is_a_failure)
{
    set_script(f, "cat > /dev/null; exit 3");
    notify_one(f, 0, 1);
    notify_free(&f->notify, 1000);
    set_script(f, "kill -9 $$");
    notify_one(f, 0, 2);
}

NOTIFY_TEST(a_command_that_takes_too_long_is_killed_with_its_children)
{
    set_script(f, "sleep 1000 & echo $! > child.new; mv child.new child; wait");
    notify_set(f, "alerts.timeout=300ms");
    test_notify_run(f);
    uint64_t begin = notify_now_ms();
    uint64_t tries = 0;
    do { /* a busy machine may need longer than the limit until the script has said who its child is
          */
        test_notify_put(f, "x");
        expect_counts(f, 0, ++tries);
    } while (access(notify_path_of(f, "child"), F_OK) != 0 && notify_now_ms() < begin + WAIT_MS);
    pid_t child = (pid_t)atoi(content(f, "child"));
    assert_true(child > 1);
    uint64_t until = notify_now_ms() + WAIT_MS;
    char state_of[256] = "";
    while (notify_now_ms() < until) { /* an orphan's zombie stays until init takes it */
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/stat", (int)child);
        FILE *file = fopen(path, "r");
        bool there = file && fgets(state_of, sizeof state_of, file);
        if (file) {
            fclose(file);
        }
        if (!there || strstr(state_of, ") Z") || strstr(state_of, ") X")) {
            break;
        }
        pause_ms();
    }
    assert_true(notify_now_ms() < until);
}

NOTIFY_TEST(a_command_need_not_read)
{
    char *text = malloc(300001);
    memset(text, 'x', 300000); /* more than a pipe holds */
    text[300000] = '\0';
    set_script(f, "exit 0");
    test_notify_run(f);
    test_notify_put(f, text);
    expect_counts(f, 1, 0);
    notify_free(&f->notify, 1000);
    set_script(f, "exec sleep 1000");
    notify_set(f, "alerts.timeout=200ms");
    test_notify_run(f);
    test_notify_put(f, text);
    expect_counts(f, 1, 1);
    free(text);
}

NOTIFY_TEST(a_command_that_cannot_be_run_is_refused_at_the_start)
{
    char wanted[CONFIG_ERROR_MAX];
    notify_set(f, "alerts.command=/nowhere/at/all now");
    expect_refusal(f,
                   "alerts.command: '/nowhere/at/all': cannot be run: No such file or directory");
    set_script(f, "exit 0");
    chmod(notify_path_of(f, "script"), 0644);
    snprintf(wanted, sizeof wanted, "alerts.command: '%s': cannot be run: Permission denied",
             notify_path_of(f, "script"));
    expect_refusal(f, wanted);
}

NOTIFY_TEST(a_command_that_is_gone_later_is_a_failure)
{
    set_script(f, "exit 0");
    test_notify_run(f);
    unlink(notify_path_of(f, "script"));
    notify_one(f, 0, 1);
}

/* The C library keeps two real-time signals to itself, which are ignored. */
NOTIFY_TEST(a_command_inherits_no_descriptors_and_no_signal_settings)
{
    int leak = fcntl(STDERR_FILENO, F_DUPFD, 70); /* without close-on-exec */
    char body[512];
    signal(SIGPIPE, SIG_IGN);
    /* By the shell alone: it blocks signals while it waits for another program. */
    snprintf(body, sizeof body,
             "while read -r name value; do case $name in SigBlk:) blocked=$value ;; SigIgn:) "
             "ignored=$value ;; esac; done </proc/$$/status\n"
             "case $blocked in *[!0]*) exit 1 ;; esac\n"
             "case $ignored in *[08]0000000) test ! -e /proc/$$/fd/%d ;; *) exit 1 ;; esac",
             leak);
    set_script(f, body);
    notify_one(f, 1, 0);
    signal(SIGPIPE, SIG_DFL);
    close(leak);
}

NOTIFY_TEST(what_the_queue_cannot_hold_is_dropped)
{
    set_script(f, "touch started; exec sleep 1000");
    notify_set(f, "alerts.queue=2");
    test_notify_run(f);
    test_notify_put(f, "running");
    wait_for_file(f, "started");
    for (int i = 0; i < 5; i++) {
        test_notify_put(f, "waiting");
    }
    expect_counts(f, 0, 3);
    notify_free(&f->notify, 0);
    expect_counts(f, 0, 6);
}

NOTIFY_TEST(a_stop_delivers_what_waits)
{
    set_script(f, "exit 0");
    test_notify_run(f);
    for (int i = 0; i < 5; i++) {
        test_notify_put(f, "x");
    }
    notify_free(&f->notify, WAIT_MS);
    expect_counts(f, 5, 0);
}

NOTIFY_TEST(a_stop_does_not_wait_for_a_command_that_hangs)
{
    set_script(f, "touch started; exec sleep 1000");
    notify_set(f, "alerts.timeout=1h");
    test_notify_run(f);
    test_notify_put(f, "x");
    test_notify_put(f, "y");
    wait_for_file(f, "started");
    stop_soon(f, 50, 2);
}

/* A server: the first connection is answered with the first status, all others with the second; 0 =
 * not at all. */

struct server {
    int listener, port;
    int statuses[2];
    _Atomic int connections;
    char request[8192]; /* the newest */
    pthread_t thread;
    int wake[2];
};

static size_t body_length(const char *request)
{
    const char *field = strstr(request, "Content-Length: ");
    return field ? (size_t)atol(field + strlen("Content-Length: ")) : 0;
}

static void notify_read_request(struct server *server, int connection)
{
    size_t used = 0;
    for (;;) {
        ssize_t got = read(connection, server->request + used, sizeof server->request - 1 - used);
        if (got <= 0) {
            return;
        }
        used += (size_t)got;
        server->request[used] = '\0';
        const char *body = strstr(server->request, "\r\n\r\n");
        if (body && strlen(body + 4) >= body_length(server->request)) {
            return;
        }
    }
}

/* Waits for a connection; -1 when the server is to end. */
static int accept_one(struct server *server)
{
    struct pollfd sources[2] = {{.fd = server->listener, .events = POLLIN},
                                {.fd = server->wake[0], .events = POLLIN}};
    poll(sources, 2, -1);
    return sources[1].revents ? -1 : accept(server->listener, NULL, NULL);
}

static void *notify_serve(void *data)
{
    struct server *server = data;
    int held[16], held_count = 0;
    for (int connection; (connection = accept_one(server)) >= 0;) {
        int status = server->statuses[server->connections > 0];
        char answer[256];
        notify_read_request(server, connection);
        server->connections++;
        if (status == 0) {
            held[held_count++] = connection;
            continue;
        }
        snprintf(answer, sizeof answer,
                 "HTTP/1.1 %d X\r\nLocation: http://127.0.0.1:%d/other\r\nContent-Length: "
                 "2\r\nConnection: close\r\n\r\nok",
                 status, server->port);
        assert_int_equal(write(connection, answer, strlen(answer)), (ssize_t)strlen(answer));
        close(connection);
    }
    while (held_count > 0) {
        close(held[--held_count]);
    }
    return NULL;
}

static void notify_server_start(struct server *server, int first, int others)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    memset(server, 0, sizeof *server);
    server->statuses[0] = first;
    server->statuses[1] = others;
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(server->listener, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(server->listener, 16), 0);
    assert_int_equal(getsockname(server->listener, (struct sockaddr *)&address, &size), 0);
    server->port = ntohs(address.sin_port);
    assert_int_equal(pipe2(server->wake, O_CLOEXEC), 0);
    assert_int_equal(pthread_create(&server->thread, NULL, notify_serve, server), 0);
}

static void notify_server_stop(struct server *server)
{
    close(server->wake[1]);
    pthread_join(server->thread, NULL);
    close(server->wake[0]);
    close(server->listener);
}

/* Starts the server, as alerts.webhook. */
static void set_webhook(struct notify_fixture *f, struct server *server, int first, int others)
{
    char assignment[128];
    notify_server_start(server, first, others);
    snprintf(assignment, sizeof assignment, "alerts.webhook=http://127.0.0.1:%d/hook?key=1",
             server->port);
    notify_set(f, assignment);
}

static void wait_for_connections(struct server *server, int count)
{
    uint64_t until = notify_now_ms() + WAIT_MS;
    while (server->connections < count && notify_now_ms() < until) {
        pause_ms();
    }
    assert_true(server->connections >= count);
}

/* Webhooks */

NOTIFY_TEST(a_webhook_gets_a_post_of_json)
{
    struct server server;
    set_webhook(f, &server, 200, 200);
    test_notify_run(f);
    test_notify_put(f, "low");
    expect_counts(f, 1, 0);
    notify_server_stop(&server);
    assert_int_equal(strncmp(server.request, "POST /hook?key=1 HTTP/1.1\r\n", 27), 0);
    assert_non_null(strstr(server.request, "\r\nContent-Type: application/json\r\n"));
    assert_non_null(strstr(server.request, "\r\n\r\n{\"v\":1,\"kind\":\"alert\""));
    assert_non_null(strstr(server.request, "\"message\":\"low\""));
}

NOTIFY_TEST(a_server_error_is_tried_again_after_a_second)
{
    OWNED(notify_server_stop) struct server server;
    set_webhook(f, &server, 500, 204);
    uint64_t begin = notify_now_ms();
    test_notify_run(f);
    test_notify_put(f, "low");
    expect_counts(f, 1, 0);
    assert_true(notify_now_ms() - begin >= 1000);
    assert_int_equal(server.connections, 2);
}

NOTIFY_TEST(a_refusal_or_redirect_is_not_tried_again)
{
    OWNED(notify_server_stop) struct server server;
    set_webhook(f, &server, 404, 302);
    notify_one(f, 0, 1);
    notify_one(f, 0, 2);
    assert_int_equal(server.connections, 2);
}

NOTIFY_TEST(a_server_that_hangs_or_is_not_there_is_a_failure)
{
    struct server server;
    set_webhook(f, &server, 0, 0);
    notify_set(f, "alerts.timeout=100ms");
    notify_set(f, "alerts.retries=0");
    notify_one(f, 0, 1);
    notify_server_stop(&server);
    notify_one(f, 0, 2); /* now nobody listens */
}

NOTIFY_TEST(a_stop_does_not_wait_for_a_server_that_hangs)
{
    OWNED(notify_server_stop) struct server server;
    set_webhook(f, &server, 0, 0);
    notify_set(f, "alerts.timeout=1h");
    test_notify_run(f);
    test_notify_put(f, "x");
    wait_for_connections(&server, 1);
    stop_soon(f, 50, 1);
}

NOTIFY_TEST(a_stop_does_not_wait_for_the_next_try)
{
    OWNED(notify_server_stop) struct server server;
    set_webhook(f, &server, 503, 503);
    notify_set(f, "alerts.retries=100");
    test_notify_run(f);
    test_notify_put(f, "x");
    wait_for_connections(&server, 1);
    stop_soon(f, 0, 1);
}

NOTIFY_TEST(a_command_and_a_webhook_each_get_the_event)
{
    OWNED(notify_server_stop) struct server server;
    set_webhook(f, &server, 400, 400);
    set_script(f, "exit 0");
    notify_one(f, 1, 1);
}

NOTIFY_TEST(what_is_no_url_is_refused_at_the_start)
{
    notify_set(f, "alerts.webhook=http://a b:c/");
    expect_refusal(f, "alerts.webhook: not a URL");
}

int main(void)
{
    log_setup(LOG_ERROR, false); /* failures are what is tested */
    setenv("no_proxy", "*", 1);
    return unit_run(NULL, NULL);
}
