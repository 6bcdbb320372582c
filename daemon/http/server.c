/* SPDX-License-Identifier: MIT */
/* A request's life: on_uri makes it, on_request checks its headers and refuses a body, or takes
 * that of a change (change.c), and then finds the route, whose handler makes the response at once
 * or suspends the connection until the loop thread has answered; the server then calls on_request
 * again, which sends the response. on_completed ends it. */
#include "daemon/http/internal.h"

#include "daemon/base/clock.h"
#include "daemon/http/guard.h"
#include "daemon/base/log.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

/* A new connection, which expects a request. One whose other side does not acknowledge, or does not
 * read, what is sent to it ends after timeout_ns: an event stream has nothing else to notice it by.
 * NULL when out of memory: then nobody counts its time. */
static struct peer *peer_add(struct peers *peers, int fd, struct whose_peer whose,
                             uint64_t timeout_ns, uint64_t now_ns)
{
    unsigned timeout_ms = (unsigned)(timeout_ns / 1000000);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
    struct peer *peer = malloc(sizeof *peer);
    if (!peer) {
        return NULL;
    }
    *peer = (struct peer){.fd = fd, .whose = whose, .since_ns = now_ns};
    DL_PREPEND2(peers->first, peer, previous, next);
    peers->count++;
    return peer;
}

/* Accepts NULL. */
static void peer_remove(struct peers *peers, struct peer *peer)
{
    if (!peer) {
        return;
    }
    DL_DELETE2(peers->first, peer, previous, next);
    peers->count--;
    free(peer);
}

/* A request is expected from now_ns on; 0: there is one. Accepts NULL. */
static void peer_expect(struct peer *peer, uint64_t now_ns)
{
    if (peer) {
        peer->since_ns = now_ns;
    }
}

/* It is not chosen again before the server has ended it. */
static void peer_cut(struct peer *peer)
{
    shutdown(peer->fd, SHUT_RDWR);
    peer->since_ns = 0;
}

/* Shuts down the one that has sent no request for longest, if there is one: the others are answered
 * or read. */
static void peers_make_room(const struct peers *peers)
{
    struct peer *idlest = NULL;
    for (struct peer *peer = peers->first; peer; peer = peer->next) {
        if (peer->since_ns != 0 && (!idlest || peer->since_ns < idlest->since_ns)) {
            idlest = peer;
        }
    }
    if (idlest) {
        peer_cut(idlest);
    }
}

void peers_cut(const struct peers *peers, uint64_t now_ns, uint64_t timeout_ns)
{
    for (struct peer *peer = peers->first; peer; peer = peer->next) {
        if (peer->since_ns != 0 && now_ns - peer->since_ns > timeout_ns) {
            peer_cut(peer);
        }
    }
}

/* How long a clean end may take: readers that do not read are cut off then. */
#define STOP_NS UINT64_C(500000000)

/* The largest request line and headers of one request. */
#define REQUEST_BYTES 16384

/* Whom a proxy has found the client to be. */
#define USER_HEADER "X-Forwarded-User"

/* Connections */

/* NULL when there was no memory for it. */
static struct peer *peer_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* At most half of the descriptors: the others are for trainers, subscribers and the history. */
static unsigned connection_limit(const struct config *config)
{
    struct rlimit limit;
    uint64_t wanted = config->http_connections;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && wanted > limit.rlim_cur / 2) {
        wanted = limit.rlim_cur / 2;
    }
    return (unsigned)wanted;
}

static void on_connection(void *data, struct MHD_Connection *connection, void **peer,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http *http = data;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        peer_remove(&http->peers, *peer);
        return;
    }
    /* With the last quarter of the limit in use, silent connections make room for active ones. */
    unsigned limit = connection_limit(http->config);
    if (http->peers.count >= limit - limit / 4) {
        peers_make_room(&http->peers);
    }
    if (info) {
        *peer = peer_add(&http->peers, info->connect_fd, whose_ask(&http->whose, info->connect_fd),
                         http->config->http_timeout, clock_monotonic_ns());
    }
}

/* Requests */

static void *on_uri(void *data, const char *uri, struct MHD_Connection *connection)
{
    struct http *http = data;
    struct request *request = calloc(1, sizeof *request);
    if (!request) {
        return NULL; /* on_request then ends the connection */
    }
    /* In the path, which comes unescaped and then ends there. */
    const char *nul = strstr(uri, "%00");
    request->has_nul = nul && nul < uri + strcspn(uri, "?");
    request->http = http;
    request->connection = connection;
    request->began_ns = clock_monotonic_ns();
    request->patience_ns = http->config->http_timeout;
    return request;
}

static void on_completed(void *data, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode why)
{
    struct request *request = *state;
    (void)data, (void)why;
    if (!request) {
        return;
    }
    if (request->question) {
        request_stop_waiting(request);
    }
    if (request->response) {
        MHD_destroy_response(request->response);
    }
    argument_reader_clear(&request->arguments);
    free(request->body);
    stats_add(request->http->stats, COUNT_HTTP_REQUESTS, 1);
    peer_expect(peer_of(connection), clock_monotonic_ns());
    if (!request->route || request->route->handle != handle_events) {
        latency_add_between(&request->http->stats->latency[LATENCY_HTTP], request->began_ns,
                            clock_monotonic_ns());
    }
    free(request);
    *state = NULL;
}

/* Checks */

static bool has_body(struct request *request)
{
    const char *length = request_header(request, MHD_HTTP_HEADER_CONTENT_LENGTH);
    return request_header(request, MHD_HTTP_HEADER_TRANSFER_ENCODING) ||
           (length && strspn(length, "0") != strlen(length));
}

struct header_visit {
    const char *name; /* NULL: any by which somebody forwards */
    unsigned count;
};

static enum MHD_Result on_header(void *data, enum MHD_ValueKind kind, const char *name,
                                 const char *value)
{
    struct header_visit *visit = data;
    (void)kind, (void)value;
    visit->count += visit->name ? strcasecmp(name, visit->name) == 0 : whose_is_forwarding(name);
    return MHD_YES;
}

static unsigned server_count_headers(struct request *request, const char *name)
{
    struct header_visit visit = {.name = name};
    MHD_get_connection_values(request->connection, MHD_HEADER_KIND, on_header, &visit);
    return visit.count;
}

/* Once per connection: the user at its other end does not change. */
static bool server_knows(struct http *http, struct peer *peer)
{
    if (!peer->judged) {
        peer->may_ask =
            peer->whose.kind == WHOSE_USER && whose_may_ask(&http->whose, peer->whose.uid);
    }
    peer->judged = true;
    return peer->may_ask;
}

/* The reason why the user is unknown. Returns false when nothing is wrong with it. */
static bool is_stranger(struct request *request, char *ret_why, size_t size)
{
    struct peer *peer = peer_of(request->connection);
    enum whose_kind kind = peer ? peer->whose.kind : WHOSE_UNKNOWN;
    if (kind == WHOSE_PROXY) {
        snprintf(ret_why, size, "a request over the Unix socket needs a token, or " USER_HEADER);
    } else if (server_count_headers(request, NULL) > 0) {
        snprintf(ret_why, size, "a request that somebody forwards needs a token");
    } else if (kind == WHOSE_ELSEWHERE) {
        snprintf(ret_why, size, "a request from another machine needs a token");
    } else if (kind == WHOSE_UNKNOWN) {
        snprintf(ret_why, size,
                 "the kernel does not say whose connection this is: it needs a token");
    } else if (!server_knows(request->http, peer)) {
        snprintf(ret_why, size, "user %u needs a token unless http.users names it",
                 (unsigned)peer->whose.uid);
    } else {
        return false;
    }
    return true;
}

static void refuse_stranger(struct request *request, const char *why)
{
    char message[320];
    if (request->http->visitors) {
        snprintf(message, sizeof message,
                 "%s; send a token of http.token_file: Authorization: Bearer TOKEN", why);
        reply_refuse(request, MHD_HTTP_UNAUTHORIZED, "token", message);
        reply_header(request, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer realm=\"attnd\"");
    } else {
        snprintf(message, sizeof message, "%s; this attnd has none: start it with http.token_file",
                 why);
        reply_refuse(request, MHD_HTTP_FORBIDDEN, "user", message);
    }
}

/* A text with a NUL in it is none. */
static enum MHD_Result on_argument(void *data, enum MHD_ValueKind kind, const char *name,
                                   size_t name_size, const char *value, size_t value_size)
{
    (void)kind;
    bool is_text = strlen(name) == name_size && (!value || strlen(value) == value_size);
    return argument_read(data, name, is_text ? value : NULL) ? MHD_YES : MHD_NO;
}

static void server_refuse_path(struct request *request)
{
    reply_error(request, MHD_HTTP_NOT_FOUND, "path",
                "no such path; /api/v1/openapi.json lists all");
}

static void handle(struct request *request, const char *path)
{
    request->path = path;
    request->route = route_find(path);
    if (!request->route) {
        server_refuse_path(request);
        return;
    }
    /* A token that is brought has to be right, whoever brings it; where there are none it counts
     * for nothing. */
    const struct access *visitors = request->http->visitors;
    struct guard_visitor *visitor = &request->visitor;
    const char *token =
        visitors ? guard_token(request_header(request, MHD_HTTP_HEADER_AUTHORIZATION)) : NULL;
    /* The user that a proxy names, which is believed over the Unix socket only: NULL = none. */
    struct peer *peer = peer_of(request->connection);
    bool believed = peer && peer->whose.kind == WHOSE_PROXY;
    const char *user = believed ? request_header(request, USER_HEADER) : NULL;
    enum route_for who = request->route->who;
    char why[160];
    bool open = who == FOR_ALL || (visitors && who == FOR_TOKEN_HOLDER);
    guard_visitor_init(visitor,
                       token  ? GUARD_TOKEN
                       : user ? GUARD_USER
                              : GUARD_LOCAL,
                       token ? token : user);
    if (!open) {
        visitor->is_own = peer && peer->whose.kind == WHOSE_USER &&
                          whose_is_own(&request->http->whose, peer->whose.uid);
        if (visitor->kind == GUARD_LOCAL && is_stranger(request, why, sizeof why)) {
            refuse_stranger(request, why);
        } else if (!guard_judge(visitor, visitors)) {
            refuse_stranger(request,
                            token ? "the token is wrong"
                                  : "the user that the proxy names is not in http.token_file");
        }
    }
    if (!request->response && request->route->about == JOBS_ALL &&
        !access_jobs_match(request->visitor.jobs, NULL)) {
        server_refuse_path(request);
    }
    /* Applies to the API only: scrapers and followed links may add any parameters. */
    if (!request->response && strncmp(request->path, "/api/", strlen("/api/")) == 0) {
        struct argument_reader *reader = &request->arguments;
        argument_reader_init(reader, request->route);
        if (request->route->role > ACCESS_READ) {
            handle_change(request);
            return;
        }
        MHD_get_connection_values_n(request->connection, MHD_GET_ARGUMENT_KIND, on_argument,
                                    reader);
        if (*reader->reterr || !arguments_complete(reader)) {
            reply_code(request, ERR_ARGUMENT, reader->reterr);
        }
    }
    if (!request->response) {
        (request->route->handle ? request->route->handle : handle_openapi)(request);
    }
}

static enum MHD_Result send_response(struct request *request)
{
    reply_finish(request);
    return MHD_queue_response(request->connection, request->status, request->response);
}

static enum MHD_Result server_on_request(void *data, struct MHD_Connection *connection,
                                         const char *path, const char *method, const char *version,
                                         const char *upload, size_t *upload_size, void **state)
{
    struct request *request = *state;
    const struct route *route = route_find(path);
    bool changes = route && route->role > ACCESS_READ;
    (void)data, (void)connection, (void)version;
    if (!request) {
        return MHD_NO;
    }
    if (*upload_size > 0) {
        bool taken = change_take(request, upload, *upload_size);
        *upload_size = 0;
        return taken ? MHD_YES : MHD_NO;
    }
    if (!request->checked) {
        request->checked = true;
        request->head_only = strcmp(method, MHD_HTTP_METHOD_HEAD) == 0;
        if (!changes) {
            peer_expect(peer_of(connection), 0);
        }
        /* Refuses what should not go on; then there is a response. */
        const struct config *config = request->http->config;
        const char *host = request_header(request, MHD_HTTP_HEADER_HOST);
        static const char *const names[] = {MHD_HTTP_HEADER_HOST, MHD_HTTP_HEADER_CONTENT_LENGTH,
                                            MHD_HTTP_HEADER_AUTHORIZATION, USER_HEADER};
        bool repeated = false; /* a proxy before us may have looked at another of the two */
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            repeated = repeated || server_count_headers(request, names[i]) > 1;
        }
        if (request->has_nul || repeated) {
            reply_refuse(request, MHD_HTTP_BAD_REQUEST, "request",
                         "a zero byte in the path, or more than one Host, Content-Length, "
                         "Authorization or " USER_HEADER);
        } else if (changes ? strcmp(method, MHD_HTTP_METHOD_POST) != 0
                           : !request->head_only && strcmp(method, MHD_HTTP_METHOD_GET) != 0) {
            reply_refuse(request, MHD_HTTP_METHOD_NOT_ALLOWED, "method",
                         changes ? "this changes something: only POST is answered"
                                 : "only GET and HEAD are answered");
            reply_header(request, MHD_HTTP_HEADER_ALLOW, changes ? "POST" : "GET, HEAD");
        } else if (!changes && has_body(request)) {
            reply_refuse(request, MHD_HTTP_CONTENT_TOO_LARGE, "body", "requests have no body here");
        } else if (!guard_host(host, config->http_hosts.text)) {
            reply_refuse(request, MHD_HTTP_MISDIRECTED_REQUEST, "host",
                         "attnd is not known by this Host; add the name to http.hosts");
        } else if (!guard_origin(request_header(request, "Origin"), host)) {
            reply_refuse(request, MHD_HTTP_FORBIDDEN, "origin",
                         "pages of other origins may not ask");
        } else if (changes) {
            change_begin(request);
        }
        return request->response ? send_response(request) : MHD_YES;
    }
    if (!request->handled) {
        request->handled = true;
        peer_expect(peer_of(connection), 0);
        handle(request, path);
    }
    if (request->response) {
        return send_response(request);
    }
    return request->question ? MHD_YES : MHD_NO;
}

/* The server complains of what clients do: nothing to tell at the default level. */
__attribute__((format(printf, 2, 0))) static void on_log(void *data, const char *format,
                                                         va_list args)
{
    char text[256];
    (void)data;
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\r\n")] = '\0';
    log_event(LOG_DEBUG, "http", LOG_STR("detail", text));
}

/* The server and the loop */

static void server_set_timeout(struct http *http);

static void on_timeout(uv_timer_t *timer)
{
    server_run(timer->data);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events;
    server_run(poll->data);
}

static void server_set_timeout(struct http *http)
{
    MHD_UNSIGNED_LONG_LONG ms;
    if (MHD_get_timeout(http->server, &ms) == MHD_YES) {
        uv_timer_start(&http->timeout, on_timeout, ms, 0);
    } else {
        uv_timer_stop(&http->timeout);
    }
}

void server_run(struct http *http)
{
    MHD_run(http->server);
    server_set_timeout(http);
}

int server_start(struct http *http)
{
    const struct config *config = http->config;
    http->server = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        server_on_request, http, MHD_OPTION_EXTERNAL_LOGGER, on_log, http, MHD_OPTION_LISTEN_SOCKET,
        http->listen_fd, MHD_OPTION_URI_LOG_CALLBACK, on_uri, http, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, http, MHD_OPTION_NOTIFY_CONNECTION, on_connection, http,
        MHD_OPTION_CONNECTION_LIMIT, connection_limit(config), MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)(config->http_timeout / 1000000000), MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)REQUEST_BYTES, MHD_OPTION_END);
    if (!http->server) {
        return -1;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->server, MHD_DAEMON_INFO_EPOLL_FD);
    http->listen_fd = -1; /* the server closes it */
    if (!info || uv_poll_init(&http->loop, &http->poll, info->epoll_fd) != 0) {
        MHD_stop_daemon(http->server);
        http->server = NULL;
        return -1;
    }
    http->poll.data = http;
    uv_poll_start(&http->poll, UV_READABLE, on_ready);
    server_set_timeout(http);
    return 0;
}

void server_stop(struct http *http)
{
    uint64_t deadline = clock_monotonic_ns() + STOP_NS;
    uv_poll_stop(&http->poll);
    int fd = MHD_quiesce_daemon(http->server);
    requests_end(http);
    events_close(&http->events);
    while (http->events.clients && clock_monotonic_ns() < deadline) {
        MHD_run(http->server);
        uv_sleep(1);
    }
    for (int turn = 0; turn < 3 && http->peers.count > 0; turn++) {
        MHD_run(http->server);
    }
    MHD_stop_daemon(http->server);
    http->server = NULL;
    if (fd >= 0) {
        close(fd);
    }
}
