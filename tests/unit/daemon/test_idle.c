/* SPDX-License-Identifier: MIT */
#include "daemon/idle.h"
#include "tests/unit/unit.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LIMIT_NS    UINT64_C(20000000)
#define MANY_MS     400
#define PATIENCE_MS 30000

union place {
    struct sockaddr any;
    struct sockaddr_un local;
    struct sockaddr_in inet;
};

struct line {
    int listener, near, far; /* far: what was accepted */
};

static void listen_at(struct line *line, union place *place, socklen_t size)
{
    line->listener = socket(place->any.sa_family, SOCK_STREAM, 0);
    assert_int_equal(bind(line->listener, &place->any, size), 0);
    assert_int_equal(listen(line->listener, 4), 0);
    assert_int_equal(getsockname(line->listener, &place->any, &size), 0);
}

static void call(struct line *line, const union place *place, socklen_t size)
{
    line->near = socket(place->any.sa_family, SOCK_STREAM, 0);
    assert_int_equal(connect(line->near, &place->any, size), 0);
    line->far = accept(line->listener, NULL, NULL);
    assert_true(line->far >= 0);
}

static void hang_up(struct line *line)
{
    close(line->near);
    close(line->far);
}

static struct line local_line(char directory[32])
{
    struct line line;
    union place place = {.local = {.sun_family = AF_UNIX}};
    strcpy(directory, "/tmp/attnd-idle-XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(place.local.sun_path, sizeof place.local.sun_path, "%s/socket", directory);
    listen_at(&line, &place, sizeof place.local);
    assert_false(idle_has_peers());
    call(&line, &place, sizeof place.local);
    unlink(place.local.sun_path);
    return line;
}

TEST(a_connection_of_a_unix_socket_is_somebody)
{
    char directory[32];
    struct line line = local_line(directory);
    assert_true(idle_has_peers());
    hang_up(&line);
    assert_false(idle_has_peers());
    close(line.listener);
    rmdir(directory);
}

/* As that of a webhook, whose other end is elsewhere. */
TEST(a_connection_of_our_own_to_others_is_nobody)
{
    union place place = {.inet = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}}};
    OWNED(hang_up) struct line line;
    listen_at(&line, &place, sizeof place.inet);
    assert_false(idle_has_peers());
    call(&line, &place, sizeof place.inet);
    assert_true(idle_has_peers());
    close(line.listener); /* what is left is no connection to a listener of ours */
    assert_false(idle_has_peers());
}

struct watcher {
    uv_loop_t loop;
    uv_timer_t bound;
    struct stats stats;
    struct idle *idle;
    int told;
};

static void on_bound(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

static void on_idle(void *data)
{
    struct watcher *watcher = data;
    watcher->told++;
    uv_stop(&watcher->loop);
}

static struct watcher *watcher_new(void)
{
    struct watcher *watcher = calloc(1, sizeof *watcher);
    assert_non_null(watcher);
    uv_loop_init(&watcher->loop);
    uv_timer_init(&watcher->loop, &watcher->bound);
    watcher->idle = idle_new(&watcher->loop, &watcher->stats, LIMIT_NS, on_idle, watcher);
    assert_non_null(watcher->idle);
    return watcher;
}

static void run_for(struct watcher *watcher, uint64_t ms)
{
    uv_timer_start(&watcher->bound, on_bound, ms, 0);
    uv_run(&watcher->loop, UV_RUN_DEFAULT);
}

static void watcher_free(struct watcher *watcher)
{
    idle_close(&watcher->idle);
    idle_close(&watcher->idle); /* nothing is left */
    uv_close((uv_handle_t *)&watcher->bound, NULL);
    uv_run(&watcher->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&watcher->loop), 0);
    free(watcher);
}

TEST(it_is_told_once_nobody_is_connected)
{
    char directory[32];
    struct line line = local_line(directory);
    struct watcher *watcher = watcher_new();
    run_for(watcher, MANY_MS);
    assert_int_equal(watcher->told, 0);
    hang_up(&line);
    run_for(watcher, PATIENCE_MS);
    assert_int_equal(watcher->told, 1);
    run_for(watcher, MANY_MS);
    assert_int_equal(watcher->told, 1);
    watcher_free(watcher);
    close(line.listener);
    rmdir(directory);
}

static void on_request(uv_timer_t *timer)
{
    stats_add(timer->data, COUNT_REQUESTS, 1);
}

/* As of attnctl in a loop, which is never connected when one looks. */
TEST(requests_are_somebody)
{
    struct watcher *watcher = watcher_new();
    uv_timer_t asking;
    uv_timer_init(&watcher->loop, &asking);
    asking.data = &watcher->stats;
    uv_timer_start(&asking, on_request, 0, 1); /* far more often than it looks */
    run_for(watcher, MANY_MS);
    assert_int_equal(watcher->told, 0);
    uv_timer_stop(&asking);
    run_for(watcher, PATIENCE_MS);
    assert_int_equal(watcher->told, 1);
    uv_close((uv_handle_t *)&asking, NULL);
    watcher_free(watcher);
}
