/* SPDX-License-Identifier: MIT */
/* libzmq lets everybody in when no handler answers, unless the socket has a ZAP domain and
 * ZMQ_ZAP_ENFORCE_DOMAIN. Nothing here relies on having read that right: keys_test knocks at every
 * socket after it was bound. The handler must outlive the sockets; if it fails, the process ends at
 * once, since its peers could no longer be told apart.
 *
 * The User-Id of a connection is its public key, by which its messages are judged. */
#include "daemon/base/keys.h"

#include "daemon/base/grow.h"
#include "daemon/base/keys_internal.h"
#include "daemon/base/log.h"
#include "daemon/base/unfinished.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* In the draft block of zmq.h, but handled by every libzmq that has it (4.3.3 on). */
#define ENFORCE_DOMAIN 93
#define HANDLER        "inproc://zeromq.zap.01"
/* Bytes of a key, and of a frame of a request that is worth reading. */
#define KEY_BYTES     32
#define ZAP_FRAME_MAX 256
/* Characters of a key that has no name, for people. */
#define KEY_SHORT 8

/* Keys whose refused connections are counted one by one. */
#define KEYS_OUTSIDE_MAX 64
/* Keys whose refused messages are counted: those of a list, and as many that were taken away, whose
 * connections may go on, and which may come back. */
#define KEYS_REFUSED_MAX (2 * ACCESS_LINES_MAX)
/* The end of a socket's domain at the address of the next key. */
#define NEXT_DOMAIN "/next"
/* The property of messages that has the number of their connection: they grow, and the rest by
 * KEYS_OWN_COUNT is the enum keys_own that it came to. */
#define CONNECTION_PROPERTY "Attnd-Connection"

/* A connection that was heard, by its descriptor, which may be another connection's since. */
struct keys_connection {
    uint64_t number; /* 0: none */
    char key[KEY_LENGTH + 1];
    struct sockaddr_in6 from;
};

/* A key whose connections were refused, or messages. */
struct keys_outside {
    char key[KEY_LENGTH + 1];
    uint64_t count; /* of them; 0: none */
};

struct keyring {
    char path[CONFIG_TEXT_MAX];
    struct {
        char secret[KEY_LENGTH + 1], public[KEY_LENGTH + 1];
    } own[KEYS_OWN_COUNT];
    char next_address[ENDPOINT_MAX]; /* "": there is no next key */
    pthread_rwlock_t lock;           /* of the two below */
    struct access *access;
    char test[KEY_LENGTH + 1];                     /* the key of a test that goes on */
    pthread_mutex_t heard_lock;                    /* of what follows, within the other one */
    struct keys_connection *heard;                 /* by descriptor */
    uint32_t heard_size;                           /* places of it */
    struct keys_outside refused[KEYS_REFUSED_MAX]; /* messages; the oldest makes room */
    uint32_t refused_next;                         /* the place of the next one */
    struct stats *stats;
    struct keys_outside outside[KEYS_OUTSIDE_MAX]; /* this and the next two: the handler's alone */
    uint64_t others;                               /* connections of keys that the table lacks */
    uint64_t admitted;                             /* connections */
    void *handler;
    int stop_fd;
    pthread_t thread;
};

/* Judging ---------------------------------------------------------------------------------------
 */

/* A connection to a socket. Subscribers get everything, so they must be allowed to read all jobs.
 */
static bool keys_admit(const struct access *access, const char *key, const char *socket)
{
    if (strcmp(socket, "ingest") == 0 || strcmp(socket, "reliable") == 0) {
        return access_allows_some(access, key, ACCESS_PUBLISH);
    }
    if (strcmp(socket, "control") == 0) {
        return access_knows(access, key);
    }
    return access_allows(access, key, ACCESS_READ, NULL);
}

static const char *keys_sender(zmq_msg_t *frame)
{
    const char *key = zmq_msg_gets(frame, "User-Id");
    return key && key_is_text(key, strlen(key)) ? key : NULL;
}

/* Writes the other end of a connection. Returns whether there is one. */
static bool keys_read_other_end(int fd, struct sockaddr_in6 *ret_from)
{
    socklen_t size = sizeof *ret_from;
    memset(ret_from, 0, size);
    return getpeername(fd, (struct sockaddr *)ret_from, &size) == 0;
}

/* Notes over which connection the key was heard. A message may be read after its connection has
 * ended, and after a later one, which has the descriptor, was heard. */
static void keys_hear(struct keyring *keys, const char *key, zmq_msg_t *frame)
{
    const char *text = zmq_msg_gets(frame, CONNECTION_PROPERTY);
    uint64_t number = text ? strtoull(text, NULL, 10) : 0;
    int fd = zmq_msg_get(frame, ZMQ_SRCFD);
    pthread_mutex_lock(&keys->heard_lock);
    bool has_place =
        fd >= 0 && grow_to(&keys->heard, (uint32_t)fd, &keys->heard_size, sizeof *keys->heard);
    struct keys_connection *place = has_place ? &keys->heard[fd] : NULL;
    if (place && number > place->number && keys_read_other_end(fd, &place->from)) {
        place->number = number;
        strcpy(place->key, key);
    }
    pthread_mutex_unlock(&keys->heard_lock);
}

/* NULL: no message of the key was refused. */
static struct keys_outside *keys_find_refused(struct keyring *keys, const char *key)
{
    for (uint32_t i = 0; i < KEYS_REFUSED_MAX && *keys->refused[i].key; i++) {
        if (strcmp(keys->refused[i].key, key) == 0) {
            return &keys->refused[i];
        }
    }
    return NULL;
}

void keys_each(struct keyring *keys,
               void (*visit)(void *data, const struct access_line *line,
                             const bool connected[KEYS_OWN_COUNT], uint64_t refused),
               void *data)
{
    bool connected[ACCESS_LINES_MAX][KEYS_OWN_COUNT];
    pthread_rwlock_rdlock(&keys->lock);
    pthread_mutex_lock(&keys->heard_lock);
    /* Marks, at the first line of each key, which of attnd's own keys have connections that go on.
     */
    memset(connected, 0, ACCESS_LINES_MAX * sizeof *connected);
    for (uint32_t fd = 0; fd < keys->heard_size; fd++) {
        const struct keys_connection *place = &keys->heard[fd];
        struct sockaddr_in6 from;
        bool goes_on = place->number > 0 && keys_read_other_end((int)fd, &from) &&
                       memcmp(&from, &place->from, sizeof from) == 0;
        int line = goes_on ? access_find_key(keys->access, place->key) : -1;
        if (line >= 0) {
            connected[line][place->number % KEYS_OWN_COUNT] = true;
        }
    }
    for (uint32_t i = 0; i < access_count(keys->access); i++) {
        struct access_line line = access_line(keys->access, i);
        const struct keys_outside *refused = keys_find_refused(keys, line.who);
        int first = access_find_key(keys->access, line.who);
        visit(data, &line, connected[first], refused ? refused->count : 0);
    }
    pthread_mutex_unlock(&keys->heard_lock);
    pthread_rwlock_unlock(&keys->lock);
}

int keys_receive(struct keyring *keys, void *socket, void *buffer, size_t size, int *ret_fd)
{
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    int length = zmq_msg_recv(&frame, socket, ZMQ_DONTWAIT);
    if (length > 0) {
        memcpy(buffer, zmq_msg_data(&frame), (size_t)length < size ? (size_t)length : size);
        keys_know(keys, &frame);
    }
    unfinished_taken(&frame);
    *ret_fd = length > 0 ? zmq_msg_get(&frame, ZMQ_SRCFD) : -1;
    zmq_msg_close(&frame);
    return length;
}

bool keys_allow(struct keyring *keys, zmq_msg_t *frame, enum access_role role, const char *job)
{
    const char *key = keys ? keys_sender(frame) : NULL;
    if (!key) {
        return !keys;
    }
    pthread_rwlock_rdlock(&keys->lock);
    bool allowed = access_allows(keys->access, key, role, job);
    keys_hear(keys, key, frame);
    pthread_rwlock_unlock(&keys->lock);
    return allowed;
}

const char *keys_bounded(struct keyring *keys, zmq_msg_t *frame)
{
    const char *key = keys ? keys_sender(frame) : NULL;
    if (!key) {
        return NULL;
    }
    pthread_rwlock_rdlock(&keys->lock);
    bool all = access_allows(keys->access, key, ACCESS_PUBLISH, NULL);
    pthread_rwlock_unlock(&keys->lock);
    return all ? NULL : key;
}

bool keys_know(struct keyring *keys, zmq_msg_t *frame)
{
    const char *key = keys ? keys_sender(frame) : NULL;
    if (!key) {
        return !keys;
    }
    pthread_rwlock_rdlock(&keys->lock);
    bool known = access_knows(keys->access, key);
    keys_hear(keys, key, frame);
    pthread_rwlock_unlock(&keys->lock);
    return known;
}

void keys_count_refused(struct keyring *keys, zmq_msg_t *frame, struct keys_sender *ret_sender)
{
    const char *key = keys_sender(frame);
    *ret_sender = (struct keys_sender){.refused = 1};
    if (!key) {
        return;
    }
    snprintf(ret_sender->key, sizeof ret_sender->key, "%s", key);
    pthread_rwlock_rdlock(&keys->lock);
    int line = access_find_key(keys->access, key);
    const char *name = line < 0 ? "" : access_line(keys->access, (uint32_t)line).comment;
    snprintf(ret_sender->name, sizeof ret_sender->name, "%.*s",
             *name ? ACCESS_COMMENT_MAX : KEY_SHORT, *name ? name : key);
    pthread_mutex_lock(&keys->heard_lock);
    struct keys_outside *refused = keys_find_refused(keys, key);
    if (!refused) {
        refused = &keys->refused[keys->refused_next++ % KEYS_REFUSED_MAX];
        *refused = (struct keys_outside){.count = 0};
        strcpy(refused->key, key);
    }
    ret_sender->refused = ++refused->count;
    pthread_mutex_unlock(&keys->heard_lock);
    pthread_rwlock_unlock(&keys->lock);
}

/* The handler -----------------------------------------------------------------------------------
 */

/* The frames of a ZAP request, in their order. */
enum {
    ZAP_VERSION,
    ZAP_ID,
    ZAP_DOMAIN,
    ZAP_ADDRESS,
    ZAP_ROUTING,
    ZAP_MECHANISM,
    ZAP_CREDENTIALS,
    ZAP_FRAMES
};

struct zap_request {
    char text[ZAP_FRAMES][ZAP_FRAME_MAX];
    size_t size[ZAP_FRAMES]; /* of the frame, however much of it is in the text */
    int count;
};

static void keys_die(const char *what)
{
    log_event(LOG_ERROR, "keys_handler_failed", LOG_STR("call", what),
              LOG_STR("reason", zmq_strerror(zmq_errno())));
    abort();
}

static void keys_read_request(void *socket, struct zap_request *ret_request)
{
    int more = 1;
    size_t size = sizeof more;
    *ret_request = (struct zap_request){.count = 0};
    while (more) {
        char beyond[ZAP_FRAME_MAX];
        bool fits = ret_request->count < ZAP_FRAMES;
        int index = ret_request->count;
        int length =
            zmq_recv(socket, fits ? ret_request->text[index] : beyond, ZAP_FRAME_MAX - 1, 0);
        if (length < 0 && zmq_errno() == EINTR) {
            continue;
        }
        if (length < 0) {
            keys_die("zmq_recv");
        }
        while (zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size) != 0) {
            if (zmq_errno() != EINTR) {
                keys_die("zmq_getsockopt");
            }
        }
        if (fits) {
            ret_request->size[index] = (size_t)length;
        }
        ret_request->count++;
    }
}

static void zap_send(void *socket, const void *data, size_t size, int flags)
{
    while (zmq_send(socket, data, size, flags) < 0) {
        if (zmq_errno() != EINTR) {
            keys_die("zmq_send");
        }
    }
}

/* Whether the connection may be; its key, "" when it has none. */
static bool keys_judge(struct keyring *keys, const struct zap_request *request,
                       char ret_key[KEY_LENGTH + 1], bool *ret_is_test)
{
    bool sound =
        request->count == ZAP_FRAMES && strcmp(request->text[ZAP_VERSION], "1.0") == 0 &&
        strcmp(request->text[ZAP_MECHANISM], "CURVE") == 0 &&
        request->size[ZAP_CREDENTIALS] == KEY_BYTES &&
        zmq_z85_encode(ret_key, (const uint8_t *)request->text[ZAP_CREDENTIALS], KEY_BYTES);
    if (!sound) {
        *ret_key = '\0';
        *ret_is_test = false;
        return false;
    }
    pthread_rwlock_rdlock(&keys->lock);
    bool admitted = keys_admit(keys->access, ret_key, request->text[ZAP_DOMAIN]);
    *ret_is_test = strcmp(ret_key, keys->test) == 0;
    pthread_rwlock_unlock(&keys->lock);
    return admitted;
}

/* The count of refused connections that the key has; what the table has no room for has one. */
static uint64_t *keys_outside_count(struct keyring *keys, const char *key)
{
    for (int i = 0; i < KEYS_OUTSIDE_MAX; i++) {
        struct keys_outside *outside = &keys->outside[i];
        if (outside->count == 0) {
            strcpy(outside->key, key);
        }
        if (strcmp(outside->key, key) == 0) {
            return &outside->count;
        }
    }
    return &keys->others;
}

/* Writes the properties of a connection that is let in: the length of the name, the name, that of
 * the value in four bytes, the value. Returns their size. */
static size_t keys_number(struct keyring *keys, enum keys_own own, char *ret_property, size_t size)
{
    uint64_t number = ++keys->admitted * KEYS_OWN_COUNT + own;
    char *value = ret_property + sizeof CONNECTION_PROPERTY + 4;
    int length = snprintf(ret_property, size, "?%s????%" PRIu64, CONNECTION_PROPERTY, number);
    ret_property[0] = sizeof CONNECTION_PROPERTY - 1;
    memset(value - 4, 0, 3);
    value[-1] = (char)(ret_property + length - value);
    return (size_t)length;
}

static void keys_answer(struct keyring *keys)
{
    char property[sizeof CONNECTION_PROPERTY + 4 + sizeof "18446744073709551615"];
    struct zap_request request;
    char key[KEY_LENGTH + 1];
    bool is_test;
    keys_read_request(keys->handler, &request);
    /* The key that a socket's domain stands for, which loses what names the next address. */
    char *next = strstr(request.text[ZAP_DOMAIN], NEXT_DOMAIN);
    if (next) {
        *next = '\0';
    }
    enum keys_own own = next ? KEYS_NEXT : KEYS_SERVER;
    bool admitted = keys_judge(keys, &request, key, &is_test);
    const char *status = admitted ? "200" : "400", *text = admitted ? "OK" : "No access";
    if (!admitted && !is_test) {
        uint64_t *count = keys_outside_count(keys, key);
        stats_add(keys->stats, COUNT_KEYS_REFUSED, 1);
        if (log_is_round((*count)++)) {
            log_event(LOG_WARNING, "connection_refused",
                      LOG_STR("socket", request.text[ZAP_DOMAIN]),
                      LOG_STR("from", request.text[ZAP_ADDRESS]), LOG_STR("public_key", key),
                      LOG_NUM(count == &keys->others ? "count_of_other_keys" : "count", *count));
        }
    }
    zap_send(keys->handler, "1.0", 3, ZMQ_SNDMORE);
    zap_send(keys->handler, request.text[ZAP_ID], strlen(request.text[ZAP_ID]), ZMQ_SNDMORE);
    zap_send(keys->handler, status, 3, ZMQ_SNDMORE);
    zap_send(keys->handler, text, strlen(text), ZMQ_SNDMORE);
    zap_send(keys->handler, key, admitted ? strlen(key) : 0, ZMQ_SNDMORE);
    size_t size = admitted ? keys_number(keys, own, property, sizeof property) : 0;
    zap_send(keys->handler, property, size, 0);
}

static void *keys_main(void *data)
{
    struct keyring *keys = data;
    zmq_pollitem_t items[] = {{.socket = keys->handler, .events = ZMQ_POLLIN},
                              {.fd = keys->stop_fd, .events = ZMQ_POLLIN}};
    pthread_setname_np(pthread_self(), "attnd-keys");
    while (!items[1].revents) {
        if (zmq_poll(items, 2, -1) < 0) {
            if (zmq_errno() != EINTR) {
                keys_die("zmq_poll");
            }
            continue;
        }
        if (items[0].revents) {
            keys_answer(keys);
        }
    }
    zmq_close(keys->handler);
    return NULL;
}

/* Sockets ---------------------------------------------------------------------------------------
 */

static int keys_set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value);
}

int keys_secure(struct keyring *keys, void *socket, const char *name, enum keys_own own)
{
    const char *secret = keys->own[own].secret;
    char domain[ZAP_FRAME_MAX];
    int length = snprintf(domain, sizeof domain, "%s%s", name, own == KEYS_NEXT ? NEXT_DOMAIN : "");
    int rc = keys_set_int(socket, ZMQ_CURVE_SERVER, 1);
    rc |= zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret, KEY_LENGTH + 1);
    rc |= zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, domain, (size_t)length);
    rc |= keys_set_int(socket, ENFORCE_DOMAIN, 1);
    return rc == 0 ? 0 : -1;
}

int keys_test(struct keyring *keys, const char *name, int type, const char *endpoint,
              enum keys_own own, char *reterr)
{
    char secret[KEY_LENGTH + 1], public[KEY_LENGTH + 1];
    int event = 0;
    if (zmq_curve_keypair(public, secret) == 0) {
        pthread_rwlock_wrlock(&keys->lock);
        strcpy(keys->test, public);
        pthread_rwlock_unlock(&keys->lock);
        event = keys_knock(type, endpoint, keys->own[own].public, public, secret);
    }
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) {
        return 0;
    }
    snprintf(reterr, CONFIG_ERROR_MAX, "keys: the test of %s at %s failed: %s", name, endpoint,
             event ? "an unknown key got in" : "an unknown key was not refused in 30 s");
    return -1;
}

bool keys_next_endpoint(const struct keyring *keys, const char *name,
                        char ret_endpoint[ENDPOINT_MAX])
{
    char reason[ADDRESS_REASON_MAX];
    for (int i = 0; i < ADDRESS_COUNT && *keys->next_address; i++) {
        if (strcmp(name, address_socket_name[i]) == 0) {
            return address_endpoint(keys->next_address, (enum address_socket)i, ret_endpoint,
                                    reason) == 0;
        }
    }
    return false;
}

/* Life ------------------------------------------------------------------------------------------
 */

void keys_warn_if_empty(const struct access *access, const char *path)
{
    if (access_count(access) == 0) {
        log_event(LOG_WARNING, "access_empty", LOG_STR("file", path),
                  LOG_STR("detail", "it names nobody, so nobody is let in by it"));
    }
}

int keys_reload(struct keyring *keys, bool *ret_revoked, char *reterr)
{
    struct access *next = NULL;
    if (access_load(keys->path, ACCESS_KEYS, &next, reterr) != 0) {
        return -1;
    }
    keys_warn_if_empty(next, keys->path);
    *ret_revoked = !access_covers(next, keys->access);
    pthread_rwlock_wrlock(&keys->lock);
    struct access *before = keys->access;
    keys->access = next;
    pthread_rwlock_unlock(&keys->lock);
    access_free(&before);
    return 0;
}

uint32_t keys_count(struct keyring *keys)
{
    return access_count(keys->access);
}

static int keys_read_own(struct keyring *keys, enum keys_own own, const char *path, char *reterr)
{
    char reason[KEY_REASON_MAX];
    if (key_read(path, keys->own[own].secret, reason) != 0 ||
        zmq_curve_public(keys->own[own].public, keys->own[own].secret) != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "keys.%s: %.900s", own == KEYS_NEXT ? "next" : "server",
                 reason);
        return -1;
    }
    return 0;
}

static int keys_read(struct keyring *keys, const struct config *config, char *reterr)
{
    char reason[KEY_REASON_MAX];
    if (!zmq_has("curve")) {
        snprintf(reterr, CONFIG_ERROR_MAX,
                 "keys.server: this libzmq has no CURVE, so keys would be worth nothing");
        return -1;
    }
    if (keys_read_own(keys, KEYS_SERVER, config->keys_server.text, reterr) != 0 ||
        (*config->keys_next.text &&
         keys_read_own(keys, KEYS_NEXT, config->keys_next.text, reterr) != 0)) {
        return -1;
    }
    if (*config->keys_next.text &&
        strcmp(keys->own[KEYS_SERVER].secret, keys->own[KEYS_NEXT].secret) == 0) {
        snprintf(
            reterr, CONFIG_ERROR_MAX,
            "keys.next: '%.900s': the key of keys.server (valid: another one; attnctl key new)",
            config->keys_next.text);
        return -1;
    }
    strcpy(keys->next_address, config->keys_next_address.text);
    if (access_load(config->keys_access.text, ACCESS_KEYS, &keys->access, reason) != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "keys.access: %.900s", reason);
        return -1;
    }
    keys_warn_if_empty(keys->access, config->keys_access.text);
    strcpy(keys->path, config->keys_access.text);
    return 0;
}

/* Signals are the loop's business: the thread starts with all of them blocked. */
static int keys_start(struct keyring *keys, void *zmq_context, char *reterr)
{
    sigset_t all, before;
    keys->stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    keys->handler = zmq_socket(zmq_context, ZMQ_REP);
    if (keys->stop_fd < 0 || !keys->handler || keys_set_int(keys->handler, ZMQ_LINGER, 0) != 0 ||
        zmq_bind(keys->handler, HANDLER) != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "keys: cannot bind the handler: %s",
                 zmq_strerror(zmq_errno()));
        return -1;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&keys->thread, NULL, keys_main, keys);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "keys: cannot start the handler: %s", strerror(rc));
    }
    return rc == 0 ? 0 : -1;
}

static void keys_clear(struct keyring *keys)
{
    if (keys->stop_fd >= 0) {
        close(keys->stop_fd);
    }
    access_free(&keys->access);
    free(keys->heard);
    pthread_rwlock_destroy(&keys->lock);
    pthread_mutex_destroy(&keys->heard_lock);
    explicit_bzero(keys, sizeof *keys);
    free(keys);
}

int keys_new(void *zmq_context, const struct config *config, struct stats *stats,
             struct keyring **ret_keys, char *reterr)
{
    *ret_keys = NULL;
    if (!*config->keys_server.text) {
        return 0;
    }
    struct keyring *keys = calloc(1, sizeof *keys);
    if (!keys) {
        snprintf(reterr, CONFIG_ERROR_MAX, "keys: %s", err_text(ERR_MEMORY));
        return -1;
    }
    keys->stats = stats;
    keys->stop_fd = -1;
    pthread_rwlock_init(&keys->lock, NULL);
    pthread_mutex_init(&keys->heard_lock, NULL);
    if (keys_read(keys, config, reterr) != 0 || keys_start(keys, zmq_context, reterr) != 0) {
        if (keys->handler) {
            zmq_close(keys->handler);
        }
        keys_clear(keys);
        return -1;
    }
    if (!config_uses_tcp(config)) {
        log_event(LOG_WARNING, "keys_unused",
                  LOG_STR("detail", "keys are for TCP, and none of its sockets is on TCP: nobody "
                                    "is asked for a key (attnd --address tcp://HOST:PORT)"));
    }
    *ret_keys = keys;
    return 0;
}

void keys_free(struct keyring **keys_p)
{
    struct keyring *keys = *keys_p;
    uint64_t one = 1;
    if (!keys) {
        return;
    }
    (void)!write(keys->stop_fd, &one, sizeof one);
    pthread_join(keys->thread, NULL);
    keys_clear(keys);
    *keys_p = NULL;
}
