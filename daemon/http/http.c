/* SPDX-License-Identifier: MIT */
/* Two threads meet here. The loop thread: http_put fills the feed, on_asked puts questions to
 * control, whose answers go back by answer_question. The HTTP thread: on_wake takes both. Nothing
 * is done under the lock but moving pointers. */
#include "daemon/http/internal.h"

#include "daemon/base/activation.h"
#include "daemon/base/clock.h"
#include "daemon/control/control.h"
#include "proto/err.h"
#include "daemon/base/keys.h"
#include "daemon/base/log.h"
#include "daemon/http/listen.h"
#include "daemon/http/page_url.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#define SECOND_MS 1000
/* Live values go out, and those that are held back are looked at, so often at most: waking hundreds
 * of clients takes longer than telling them of several layers at once. */
#define LIVE_MS 50
/* The loop thread answers for so long, and then looks after trainers first; the HTTP thread encodes
 * results for so long, then answers, and then looks after its connections. */
#define TURN_NS UINT64_C(5000000)

/* The loop thread */

static void answer_question(void *data, int code, const char *detail,
                            const struct mpk_writer *result)
{
    struct question *question = data;
    struct http *http = question->http;
    question->code = code;
    snprintf(question->detail, sizeof question->detail, "%s", detail ? detail : "");
    if (!code) {
        question->size = result->buffer.size;
        question->result = malloc(question->size + 1);
        if (question->result) {
            memcpy(question->result, result->buffer.data, question->size);
        } else {
            question->code = ERR_MEMORY;
        }
    }
    if (atomic_load(&http->closing)) {
        question_free(&question); /* nobody is there */
    } else {
        uv_mutex_lock(&http->lock);
        question_put(&http->to_http, question);
        uv_mutex_unlock(&http->lock);
        uv_async_send(&http->wake);
    }
}

static void http_on_asked(uv_async_t *asked)
{
    struct http *http = asked->data;
    uint64_t until_ns = clock_monotonic_ns() + TURN_NS;
    for (;;) {
        uv_mutex_lock(&http->lock);
        struct question *question = question_take(&http->to_loop);
        uv_mutex_unlock(&http->lock);
        if (!question) {
            return;
        }
        control_call(http->control, question->method, question->params.buffer.data,
                     question->params.buffer.size, answer_question, question);
        if (clock_monotonic_ns() >= until_ns) {
            uv_async_send(asked); /* there may be more */
            return;
        }
    }
}

void http_put(struct http *http, const char *topic, const void *map, size_t size)
{
    if (!http || !http->started) {
        return;
    }
    if (!feed_put(&http->feed, topic, map, size)) {
        stats_add(http->stats, COUNT_HTTP_DROPPED, 1);
    }
    uv_async_send(&http->wake);
}

/* The HTTP thread */

static void on_live(uv_timer_t *timer)
{
    struct http *http = timer->data;
    if (!events_send_held(&http->events, clock_monotonic_ns())) {
        uv_timer_stop(timer);
    }
    server_run(http);
}

/* Takes over the questions that the loop thread has answered. */
static void take_back(struct http *http)
{
    struct question *question;
    uv_mutex_lock(&http->lock);
    struct question *fresh = http->to_http;
    http->to_http = NULL;
    uv_mutex_unlock(&http->lock);
    while ((question = question_take(&fresh))) {
        question->is_back = true;
        question_put(&http->answered, question);
    }
}

static void close_handles(struct http *http)
{
    if (http->server) {
        server_stop(http);
        uv_close((uv_handle_t *)&http->poll, NULL);
    }
    uv_close((uv_handle_t *)&http->timeout, NULL);
    uv_close((uv_handle_t *)&http->second, NULL);
    uv_close((uv_handle_t *)&http->live, NULL);
    uv_close((uv_handle_t *)&http->wake, NULL);
}

static void http_on_wake(uv_async_t *wake)
{
    struct http *http = wake->data;
    if (atomic_load(&http->closing)) {
        close_handles(http);
        return;
    }
    /* Requests that are being answered have been judged; streams go on and are judged anew. */
    uv_mutex_lock(&http->lock);
    struct access *fresh = http->fresh_visitors;
    http->fresh_visitors = NULL;
    uv_mutex_unlock(&http->lock);
    if (fresh) {
        access_free(&http->visitors);
        http->visitors = fresh;
        events_judge(&http->events, fresh);
    }
    uint64_t now_ns = clock_monotonic_ns();
    bool more = http->taken != NULL; /* of the turn before; others may wait in the feed as well */
    struct published *item;
    if (!more) {
        http->taken = feed_take(&http->feed, &http->taken_lost);
    }
    while ((item = http->taken)) {
        http->taken = item->next;
        metrics_put(http->metrics, item, now_ns);
        events_put(&http->events, item, now_ns);
        free(item);
        if (clock_monotonic_ns() >= now_ns + TURN_NS) {
            break;
        }
    }
    if (!http->taken && http->taken_lost) {
        events_lost(&http->events);
        http->taken_lost = false;
    }
    if (http->taken || more) {
        uv_async_send(&http->wake);
    }
    if (!uv_is_active((const uv_handle_t *)&http->live)) {
        uv_timer_start(&http->live, on_live, LIVE_MS, LIVE_MS);
    }
    uint64_t until_ns = clock_monotonic_ns() + TURN_NS;
    struct question *question;
    take_back(http);
    while ((question = question_take(&http->answered))) {
        http->asked_count--;
        question->answered(question);
        http->heard_ns = clock_monotonic_ns();
        if (http->heard_ns >= until_ns) {
            break;
        }
    }
    if (http->answered) {
        uv_async_send(&http->wake);
    }
    requests_send(http);
    if (http->events.urgent) {
        events_wake(&http->events);
    }
    server_run(http);
}

static void on_second(uv_timer_t *timer)
{
    struct http *http = timer->data;
    uint64_t now_ns = clock_monotonic_ns();
    take_back(http);
    requests_check(http, now_ns);
    peers_cut(&http->peers, now_ns, http->config->http_timeout);
    events_tick(&http->events, now_ns);
    server_run(http);
}

static void http_run(void *data)
{
    struct http *http = data;
    pthread_setname_np(pthread_self(), "attnd-http");
    uv_run(&http->loop, UV_RUN_DEFAULT);
}

/* Start */

static int http_fail(char *reterr, const char *why)
{
    snprintf(reterr, CONFIG_ERROR_MAX, "cannot start HTTP: %s", why);
    return -1;
}

static int http_read_visitors(const struct config *config, struct access **ret_visitors,
                              char *reterr)
{
    char reason[CONFIG_ERROR_MAX];
    const char *path = config->http_token_file.text;
    *ret_visitors = NULL;
    if (!*path) {
        return 0;
    }
    if (access_load(path, ACCESS_VISITORS, ret_visitors, reason) != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "http.token_file: %.*s", CONFIG_ERROR_MAX - 32, reason);
        return -1;
    }
    keys_warn_if_empty(*ret_visitors, path);
    return 0;
}

int http_reload(struct http *http, char *reterr)
{
    struct access *visitors;
    if (!http || !*http->config->http_token_file.text) {
        return 0;
    }
    if (http_read_visitors(http->config, &visitors, reterr) != 0) {
        return -1;
    }
    int count = (int)access_count(visitors);
    uv_mutex_lock(&http->lock);
    struct access *before = http->fresh_visitors;
    http->fresh_visitors = visitors;
    uv_mutex_unlock(&http->lock);
    access_free(&before);
    uv_async_send(&http->wake);
    return count;
}

static int http_open_loop(struct http *http, char *reterr)
{
    int rc = uv_loop_init(&http->loop);
    rc = rc ? rc : uv_async_init(&http->loop, &http->wake, http_on_wake);
    if (rc != 0) {
        return http_fail(reterr, uv_strerror(rc));
    }
    http->wake_ready = true;
    uv_timer_init(&http->loop, &http->timeout);
    uv_timer_init(&http->loop, &http->second);
    uv_timer_init(&http->loop, &http->live);
    http->wake.data = http->timeout.data = http->second.data = http->live.data = http;
    return 0;
}

static void http_on_closed(uv_handle_t *asked)
{
    free(asked->data);
}

/* The default port is the first attnd's on a machine that many share; the next one takes any, and
 * says which. One that follows an attnd that was killed has the page where it was, for those who
 * have it open. A port that somebody chose is that one or an error. */
static int open_port(struct http *http, char *reterr)
{
    struct config *config = http->config;
    char *endpoint = config->http_endpoint.text, left[ENDPOINT_MAX];
    struct config defaults;
    int fd = activation_take("http", endpoint);
    http->owns_endpoint = fd < 0;
    config_defaults(&defaults);
    bool is_default = strcmp(endpoint, defaults.http_endpoint.text) == 0;
    if (fd < 0 && is_default && *config->directory && page_url_left(config->directory, left)) {
        fd = http_listen(left, reterr);
        if (fd >= 0) {
            strcpy(endpoint, left);
        }
    }
    if (fd < 0) {
        fd = http_listen(endpoint, reterr);
    }
    if (fd >= 0 || errno != EADDRINUSE || !is_default) {
        return fd;
    }
    strcpy(endpoint, "tcp://127.0.0.1:*");
    fd = http_listen(endpoint, reterr);
    if (fd >= 0) {
        log_event(LOG_WARNING, "http_port_taken", LOG_STR("endpoint", defaults.http_endpoint.text),
                  LOG_STR("instead", endpoint));
    }
    return fd;
}

int http_new(uv_loop_t *loop, struct config *config, struct stats *stats, struct http **ret_http,
             char *reterr)
{
    struct http *http = calloc(1, sizeof *http);
    if (!http || uv_async_init(loop, &http->asked, http_on_asked) != 0) {
        free(http);
        return http_fail(reterr, err_text(ERR_MEMORY));
    }
    *ret_http = http; /* http_close frees what there is */
    http->asked.data = http;
    http->config = config;
    http->stats = stats;
    http->listen_fd = -1;
    uv_mutex_init(&http->lock);
    feed_init(&http->feed, config->publish_budget / CONFIG_EVENTS_SHARE);
    events_init(&http->events, stats, config);
    http->metrics = metrics_new(config, stats);
    if (!http->metrics) {
        return http_fail(reterr, err_text(ERR_MEMORY));
    }
    if (http_read_visitors(config, &http->visitors, reterr) != 0 ||
        whose_init(&http->whose, config->http_users.text, reterr) != 0 ||
        http_open_loop(http, reterr) != 0) {
        return -1;
    }
    http->listen_fd = open_port(http, reterr);
    http->owns_endpoint = http->owns_endpoint && http->listen_fd >= 0;
    return http->listen_fd < 0 ? -1 : 0;
}

static void http_show_page(struct http *http)
{
    if (*http->directory &&
        page_url_write(http->directory, http->config->http_endpoint.text) != 0 &&
        log_is_round(http->page_failures++)) {
        log_event(LOG_WARNING, "page_not_told", LOG_STR("directory", http->directory),
                  LOG_STR("reason", strerror(errno)));
    }
}

int http_start(struct http *http, struct control *control, const char *directory, char *reterr)
{
    http->control = control;
    if (server_start(http) != 0) {
        return http_fail(reterr, "libmicrohttpd does not start");
    }
    uv_timer_start(&http->second, on_second, SECOND_MS, SECOND_MS);
    int rc = uv_thread_create(&http->thread, http_run, http);
    if (rc != 0) {
        return http_fail(reterr, uv_strerror(rc));
    }
    http->started = true;
    http->directory = directory;
    http_show_page(http);
    return 0;
}

void http_keep_page(void *data)
{
    struct http *http = data;
    if (*http->directory && !page_url_is_there(http->directory)) {
        http_show_page(http);
    }
}

/* Stop */

static void free_questions(struct question **list)
{
    struct question *question;
    while ((question = question_take(list))) {
        question_free(&question);
    }
}

void http_close(struct http **http_p)
{
    struct http *http = *http_p;
    if (!http) {
        return;
    }
    *http_p = NULL;
    atomic_store(&http->closing, true);
    if (http->started) {
        if (*http->directory) {
            page_url_remove(http->directory);
        }
        uv_async_send(&http->wake);
        uv_thread_join(&http->thread);
    } else if (http->wake_ready) { /* the loop of a thread that was never started */
        close_handles(http);
        uv_run(&http->loop, UV_RUN_DEFAULT);
    }
    if (http->wake_ready) {
        uv_loop_close(&http->loop);
    }
    if (http->listen_fd >= 0) {
        close(http->listen_fd);
    }
    if (http->owns_endpoint && strncmp(http->config->http_endpoint.text, "ipc://", 6) == 0) {
        unlink(http->config->http_endpoint.text + 6);
    }
    free_questions(&http->to_loop);
    free_questions(&http->to_http);
    free_questions(&http->to_ask);
    free_questions(&http->answered);
    feed_clear(&http->feed);
    while (http->taken) {
        struct published *item = http->taken;
        http->taken = item->next;
        free(item);
    }
    events_clear(&http->events);
    metrics_free(&http->metrics);
    whose_clear(&http->whose);
    access_free(&http->visitors);
    access_free(&http->fresh_visitors);
    uv_mutex_destroy(&http->lock);
    uv_close((uv_handle_t *)&http->asked, http_on_closed);
}
