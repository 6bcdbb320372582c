/* SPDX-License-Identifier: MIT */
#include "clients/c/src/listener.h"

#include "clients/c/src/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* In a local network; whoever takes longer is not known. */
#define CONNECT_MS 500
#define ANSWER_MS  300

#define ANSWER_MAX     4096
#define GREETING_BYTES 64
#define MECHANISM_AT   12 /* in the greeting */

static const char *const types[ADDRESS_COUNT] = {"SUB", "XPUB", "ROUTER", "XPUB", "ROUTER"};

/* Connecting ---------------------------------------------------------------------------------- */

/* Closes the socket when nobody is there. */
static int connect_within(int fd, const struct sockaddr *place, socklen_t size)
{
    struct pollfd item = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t length = sizeof error;
    if (fd < 0) {
        return -1;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    if (connect(fd, place, size) == 0 ||
        (errno == EINPROGRESS && poll(&item, 1, CONNECT_MS) == 1 &&
         getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0)) {
        return fd;
    }
    close(fd);
    return -1;
}

static int connect_path(const char *path)
{
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof place.sun_path) {
        return -1;
    }
    strcpy(place.sun_path, path);
    return connect_within(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), (struct sockaddr *)&place,
                          sizeof place);
}

/* "host:5570", "[::1]:5570" */
static int connect_host(const char *place)
{
    struct addrinfo *found = NULL, wanted = {.ai_socktype = SOCK_STREAM};
    const char *colon = strrchr(place, ':');
    char host[ADDRESS_MAX];
    bool bracketed = *place == '[';
    int fd = -1;
    if (!colon || (size_t)(colon - place) >= sizeof host) {
        return -1;
    }
    snprintf(host, sizeof host, "%.*s", (int)(colon - place) - 2 * bracketed, place + bracketed);
    if (getaddrinfo(host, colon + 1, &wanted, &found) != 0) {
        return -1;
    }
    for (const struct addrinfo *at = found; at && fd < 0; at = at->ai_next) {
        fd = connect_within(socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), at->ai_addr,
                            at->ai_addrlen);
    }
    freeaddrinfo(found);
    return fd;
}

/* Asking -------------------------------------------------------------------------------------- */

/* The type in a ZMTP greeting with READY behind it, or NULL as long as it is not there. Ends the
 * type with a NUL, in the text. */
static const char *ready_type(char *text, size_t size)
{
    static const char key[] = "\x0bSocket-Type";
    if (size <= GREETING_BYTES || text[0] != '\xff' || text[9] != '\x7f') {
        return NULL;
    }
    char *at = memmem(text + GREETING_BYTES, size - GREETING_BYTES, key, sizeof key - 1);
    size_t left = at ? (size_t)(text + size - at) - (sizeof key - 1) : 0;
    if (left < 4) {
        return NULL;
    }
    at += sizeof key - 1;
    size_t length = (unsigned char)at[3];
    if (at[0] || at[1] || at[2] || length + 4 > left) {
        return NULL;
    }
    at[4 + length] = '\0';
    return at + 4;
}

/* Asks, and takes what comes, up to a ZMTP peer's READY. Returns false when nobody is there. */
static bool listener_exchange(const char *endpoint, const char *question, size_t size,
                              char ret_answer[ANSWER_MAX + 1], size_t *ret_size,
                              const char **ret_type)
{
    int fd = strncmp(endpoint, "tcp://", 6) == 0   ? connect_host(endpoint + 6)
             : strncmp(endpoint, "ipc://", 6) == 0 ? connect_path(endpoint + 6)
                                                   : -1;
    struct pollfd item = {.fd = fd, .events = POLLIN};
    uint64_t deadline = socket_now_ms() + ANSWER_MS, now;
    *ret_size = 0;
    *ret_type = NULL;
    if (fd < 0) {
        return false;
    }
    if (send(fd, question, size, MSG_NOSIGNAL) == (ssize_t)size) {
        while (*ret_size < ANSWER_MAX && !*ret_type && (now = socket_now_ms()) < deadline &&
               poll(&item, 1, (int)(deadline - now)) == 1) {
            ssize_t came = recv(fd, ret_answer + *ret_size, ANSWER_MAX - *ret_size, 0);
            if (came <= 0) {
                break;
            }
            *ret_size += (size_t)came;
            *ret_type = ready_type(ret_answer, *ret_size);
        }
    }
    ret_answer[*ret_size] = '\0';
    close(fd);
    return true;
}

bool listener_ask(const char *endpoint, char ret_text[LISTENER_TEXT_MAX])
{
    static const char greeting[GREETING_BYTES] = "\xff\0\0\0\0\0\0\0\0\x7f\x03\0NULL";
    static const char request[] = "GET /api/v1/ HTTP/1.0\r\nHost: localhost\r\n\r\n";
    char answer[ANSWER_MAX + 1];
    const char *type;
    size_t size;
    if (!listener_exchange(endpoint, greeting, sizeof greeting, answer, &size, &type)) {
        return false;
    }
    if (size == 0 && strncmp(endpoint, "tcp://", 6) == 0 &&
        !listener_exchange(endpoint, request, sizeof request - 1, answer, &size, &type)) {
        return false;
    }
    if (type) {
        snprintf(ret_text, LISTENER_TEXT_MAX, "%.32s", type);
    } else if (strncmp(answer, "HTTP/", 5) == 0) {
        bool is_page = strstr(answer, "{\"error\":{\"code\":"); /* whoever asks */
        strcpy(ret_text, is_page ? "page" : "http");
    } else {
        answer[size < 40 ? size : 40] = '\0';
        answer[strcspn(answer, "\r\n")] = '\0';
        for (char *at = answer; *at; at++) {
            *at = *at < ' ' || *at > '~' ? '?' : *at;
        }
        snprintf(ret_text, LISTENER_TEXT_MAX, size ? "it says '%s'" : "%s", size ? answer : "");
    }
    return true;
}

/* Sentences ----------------------------------------------------------------------------------- */

/* Says who listener_ask found, when it is none of attnd's sockets. */
static void describe(const char *found, char ret_text[ADDRESS_REASON_MAX])
{
    if (strcmp(found, "page") == 0) {
        snprintf(ret_text, ADDRESS_REASON_MAX,
                 "attnd's page, for browsers; attnd's address has another port, by default 5570, "
                 "and is not needed on attnd's machine");
    } else if (strcmp(found, "http") == 0 || !*found) {
        snprintf(ret_text, ADDRESS_REASON_MAX, "%s, not attnd",
                 *found ? "a server of HTTP" : "somebody who is silent");
    } else if (*found >= 'A' && *found <= 'Z') {
        snprintf(ret_text, ADDRESS_REASON_MAX, "a ZeroMQ socket of type %s, not attnd", found);
    } else {
        snprintf(ret_text, ADDRESS_REASON_MAX, "not attnd: %s", found);
    }
}

static bool is_wrong_endpoint(enum address_socket which, const char *endpoint,
                              char ret_sentence[ADDRESS_REASON_MAX])
{
    static const char *const names[ADDRESS_COUNT] = {"ingest", "publish or tap",
                                                     "control or reliable"};
    char found[LISTENER_TEXT_MAX], text[ADDRESS_REASON_MAX];
    if (!listener_ask(endpoint, found) || strcmp(found, types[which]) == 0) {
        return false;
    }
    for (int i = 0; i < ADDRESS_TAP; i++) {
        if (strcmp(found, types[i]) == 0) {
            snprintf(ret_sentence, ADDRESS_REASON_MAX,
                     "%.255s is attnd's %s socket, by its type, but the %s socket is wanted: name "
                     "attnd by its address",
                     endpoint, names[i], address_socket_name[which]);
            return true;
        }
    }
    describe(found, text);
    snprintf(ret_sentence, ADDRESS_REASON_MAX, "%.255s is %.700s", endpoint, text);
    return true;
}

/* The address is attnd's; its other port may not be. */
static bool is_wrong_port(enum address_socket which, const char *address, const char *own,
                          char ret_sentence[ADDRESS_REASON_MAX])
{
    char there[LISTENER_TEXT_MAX], text[ADDRESS_REASON_MAX] = "nobody listens at";
    if (listener_ask(own, there)) {
        if (strcmp(there, types[which]) == 0) {
            return false;
        }
        describe(there, text);
        strncat(text, " is at", sizeof text - strlen(text) - 1);
    }
    snprintf(ret_sentence, ADDRESS_REASON_MAX,
             "attnd takes messages at %.255s, but %.300s %.255s, its %s port: is that set, or "
             "blocked?",
             address, text, own, address_socket_name[which]);
    return true;
}

enum keys_verdict listener_try_keys(const struct key_client *keys, enum address_socket which,
                                    const char *endpoint, char ret_sentence[ADDRESS_REASON_MAX])
{
    static const char greeting[] = "\xff\0\0\0\0\0\0\0\0\x7f\x03\0"; /* says no mechanism yet */
    char answer[ANSWER_MAX + 1];
    const char *type;
    size_t size;
    if (strncmp(endpoint, "tcp://", 6) != 0 ||
        !listener_exchange(endpoint, greeting, sizeof greeting - 1, answer, &size, &type) ||
        size < GREETING_BYTES || answer[0] != '\xff' || answer[9] != '\x7f') {
        return KEYS_UNKNOWN;
    }
    bool asks = strncmp(answer + MECHANISM_AT, "CURVE", 6) == 0;
    if (asks && *keys->secret) {
        return keys_try(keys, which, endpoint, ret_sentence);
    }
    if (asks || *keys->secret) {
        snprintf(ret_sentence, ADDRESS_REASON_MAX,
                 asks ? "attnd at %.255s asks for keys: set ATTND_KEY, the file of this client's, "
                        "and ATTND_SERVER_KEY, attnd's public one"
                      : "attnd at %.255s has no keys: unset ATTND_KEY and ATTND_SERVER_KEY",
                 endpoint);
        return KEYS_WRONG;
    }
    return KEYS_UNKNOWN;
}

/* The same with the keys of the environment. */
static enum keys_verdict listener_try(enum address_socket which, const char *endpoint,
                                      const char *address, char ret_sentence[ADDRESS_REASON_MAX])
{
    char own[ADDRESS_MAX], reason[ADDRESS_REASON_MAX];
    struct key_client keys;
    if (!endpoint && address_endpoint(address, which, own, reason) == 0) {
        endpoint = own;
    }
    if (!endpoint || key_find(&keys, reason) != 0) {
        return KEYS_UNKNOWN;
    }
    return listener_try_keys(&keys, which, endpoint, ret_sentence);
}

bool listener_is_wrong(enum address_socket which, const char *endpoint, const char *address,
                       char ret_sentence[ADDRESS_REASON_MAX])
{
    char own[ADDRESS_MAX], base[ADDRESS_MAX], reason[ADDRESS_REASON_MAX];
    char found[LISTENER_TEXT_MAX], there[LISTENER_TEXT_MAX];
    bool is_like_attnd = false;
    enum keys_verdict verdict = listener_try(which, endpoint, address, ret_sentence);
    if (verdict != KEYS_UNKNOWN) {
        return verdict == KEYS_WRONG;
    }
    if (endpoint) {
        return is_wrong_endpoint(which, endpoint, ret_sentence);
    }
    if (strncmp(address, "tcp://", 6) != 0) {
        struct stat status;
        if (stat(address, &status) != 0 || !S_ISSOCK(status.st_mode)) {
            return false;
        }
        snprintf(ret_sentence, ADDRESS_REASON_MAX,
                 "%.255s is one socket: the address is its directory, %.*s", address,
                 (int)(strrchr(address, '/') - address), address);
        return true;
    }
    if (address_endpoint(address, which, own, reason) != 0 || !listener_ask(address, found)) {
        return false;
    }
    if (strcmp(found, types[ADDRESS_INGEST]) == 0) {
        return is_wrong_port(which, address, own, ret_sentence);
    }
    const char *digits = strrchr(address, ':') + 1;
    int port = atoi(digits);
    for (int i = ADDRESS_PUBLISH; i < ADDRESS_COUNT; i++) {
        bool is_like = port > i && strcmp(found, types[i]) == 0;
        snprintf(base, sizeof base, "%.*s%d", (int)(digits - address), address, port - i);
        is_like_attnd = is_like_attnd || is_like;
        if (is_like && listener_ask(base, there) && strcmp(there, types[ADDRESS_INGEST]) == 0) {
            snprintf(ret_sentence, ADDRESS_REASON_MAX,
                     "%.255s is attnd's %s port: its address is %s", address,
                     address_socket_name[i], base);
            return true;
        }
    }
    if (is_like_attnd) {
        snprintf(reason, sizeof reason,
                 "a socket such as attnd's, but not its ingest socket, whose address names attnd");
    } else {
        describe(found, reason);
    }
    snprintf(ret_sentence, ADDRESS_REASON_MAX, "%.255s is %.700s", address, reason);
    return true;
}
