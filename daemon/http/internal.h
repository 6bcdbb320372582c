/* SPDX-License-Identifier: MIT */
/* http/internal: the state shared by the files of the HTTP thread, and one request being answered.
 * HTTP thread only, unless stated otherwise. */
#ifndef DAEMON_HTTP_INTERNAL_H
#define DAEMON_HTTP_INTERNAL_H

#include "daemon/http/events.h"
#include "daemon/http/http.h"
#include "daemon/http/metrics/metrics.h"
#include "daemon/http/route.h"
#include "daemon/http/whose.h"

#include <stdatomic.h>

/* peer: the connections of the server, and how long each has been without a complete request. A
 * client that sends its request byte by byte is never idle to the server; here it is. */
struct peer {
    int fd;            /* of the server */
    uint64_t since_ns; /* when a request was last expected to begin; 0 = one is being answered */
    struct whose_peer whose; /* at the other end, when it connected */
    bool judged, may_ask;    /* whether that user may ask, once a request wanted to know */
    struct peer *next, *previous;
};

struct peers {
    struct peer *first;
    unsigned count;
};

/* Shuts down those that have not sent a whole request for timeout_ns; the server then ends them. */
void peers_cut(const struct peers *peers, uint64_t now_ns, uint64_t timeout_ns);

struct http {
    struct config *config;
    struct stats *stats;
    int listen_fd;
    bool owns_endpoint;    /* no service manager has bound it */
    const char *directory; /* with the file `page`; "" = none */
    uint64_t page_failures;
    /* Between the threads. */
    uv_async_t asked; /* of the daemon's loop */
    uv_async_t wake;  /* of the HTTP loop */
    uv_mutex_t lock;  /* of the lists */
    struct question *to_loop, *to_http;
    struct access *fresh_visitors; /* of http.token_file, to be taken over; NULL = none */
    struct feed feed;
    atomic_bool closing;
    struct control *control; /* loop thread */
    bool started, wake_ready;
    uv_thread_t thread;
    /* Used by the HTTP thread only. */
    uv_loop_t loop;
    uv_poll_t poll;     /* of the server's epoll descriptor */
    uv_timer_t timeout; /* of the server's connections */
    uv_timer_t second;  /* looks for requests that wait too long, and sends heartbeats */
    uv_timer_t live;    /* runs while live values are held back */
    struct MHD_Daemon *server;
    struct published *taken; /* from the feed, and not encoded yet */
    bool taken_lost;         /* something was lost before the last of them */
    struct events events;
    struct metrics *metrics;
    struct request *waiting;   /* suspended, for an answer of the loop thread */
    struct question *to_ask;   /* of those that wait, what has not gone to the loop thread yet */
    unsigned asked_count;      /* questions that have */
    struct question *answered; /* that are back, and not encoded yet */
    uint64_t heard_ns;         /* when the last answer was taken */
    struct access *visitors;   /* who may ask besides the users of this machine; NULL = nobody */
    struct whose whose;
    struct peers peers;
    uint64_t answer_bytes; /* of answers that are being sent */
    bool stopping;         /* nobody waits any more */
};

/* One request. Lives as long as the server deals with it, and a question of it at least. */
struct request {
    struct http *http;
    struct MHD_Connection *connection;
    const char *path;
    const struct route *route;
    struct guard_visitor visitor;     /* who asks */
    struct argument_reader arguments; /* of the API */
    struct MHD_Response *response;    /* owned; NULL = not ready */
    unsigned status;
    uint64_t began_ns;
    uint64_t patience_ns;      /* how long it waits for the loop thread */
    struct question *question; /* on its way; its data is this */
    void (*answered)(struct request *request, struct question *question);
    struct request *next, *previous; /* of those that wait */
    char *body;                      /* of a change, owned; NULL: there is none */
    size_t body_size, body_room;
    bool has_nul;   /* in the path */
    bool head_only; /* no body is wanted */
    bool checked;   /* the headers have been looked at */
    bool handled;   /* the route's handler has been called */
};

/* Answers: each makes `response`, and is the end of it. `code` is an error of err.h; the HTTP
 * status follows from it. */
void reply_bytes(struct request *request, unsigned status, const char *type, const void *bytes,
                 size_t size);
void reply_text(struct request *request, unsigned status, const char *type, const char *text);
/* Takes over `bytes`, which malloc gave. While answers that wait to be read take as
 * much as publish.budget, it is an error instead: `again`. */
void reply_owned(struct request *request, unsigned status, const char *type, void *bytes,
                 size_t size);
void reply_error(struct request *request, unsigned status, const char *slug, const char *message);
/* An error that is counted: the client may not ask so. */
void reply_refuse(struct request *request, unsigned status, const char *slug, const char *message);
void reply_code(struct request *request, int code, const char *detail);
void reply_header(struct request *request, const char *name, const char *value);
/* Parses the result of a question. Returns false when there is none: then the reply says why. */
bool reply_parse(struct request *request, const struct question *question, struct mpk_doc *ret_doc);
/* The headers that every response has. */
void reply_finish(struct request *request);

/* change.c: a request that changes something. The first looks at its headers: it is refused, or its
 * body is expected, of which the second takes a piece; false: it ends here. */
void change_begin(struct request *request);
bool change_take(struct request *request, const char *piece, size_t size);

/* For method questions: answers with the result as JSON, or why not. */
void api_on_result(struct request *request, struct question *question);

/* Asks the loop thread; `answered` makes the response. The caller has written the question's
 * params. Takes over the question; NULL = out of memory. */
void request_wait(struct request *request, struct question *question,
                  void (*answered)(struct request *request, struct question *question));
/* Asks without parameters, before all questions that have some: a supervisor does not wait for what
 * others want to know. */
void request_ask(struct request *request, const char *method,
                 void (*answered)(struct request *request, struct question *question));

/* The request goes on without an answer. */
void request_stop_waiting(struct request *request);
/* Sends questions to the loop thread as far as it takes them. */
void requests_send(struct http *http);
/* Refuses those that the loop thread has kept waiting for too long. A question that is back is
 * never refused: it waits for this thread only. */
void requests_check(struct http *http, uint64_t now_ns);
/* From here on a request that would have to wait is refused at once. */
void requests_end(struct http *http);

const char *request_header(struct request *request, const char *name);
const char *request_argument(struct request *request, const char *name);
/* The largest q that a header such as Accept gives a word; 0 when it does not have it. */
double request_quality(struct request *request, const char *header, const char *word);

/* Starts and stops the server on listen_fd. Returns 0 or -1. */
int server_start(struct http *http);
void server_stop(struct http *http);
/* Lets the server go on with what has been resumed. Not from inside its callbacks. */
void server_run(struct http *http);

/* question: one request to a method of control, made on the HTTP thread, answered on the loop
 * thread, read on the HTTP thread again. Belongs to one of them at a time. */

#define QUESTION_DETAIL_MAX 512

struct question {
    struct question *next, *previous; /* of a list: the urgent ones, then the oldest */
    struct http *http;
    void (*answered)(struct question *question); /* HTTP thread; NULL: nobody waits any more */
    void *data;
    const char *method; /* static */
    bool urgent;        /* goes before the others */
    bool is_back;       /* answered; waits for the HTTP thread's turn only */
    uint64_t asked_ns;  /* when it went to the loop thread; 0 = not yet */
    struct mpk_writer params;
    int code; /* 0, or an error of err.h */
    char detail[QUESTION_DETAIL_MAX];
    void *result; /* `size` bytes of MessagePack; owned */
    size_t size;
};

/* NULL when out of memory. The caller writes `params`, one value. */
struct question *question_new(struct http *http, const char *method);
/* Accepts NULL. */
void question_free(struct question **question);

void question_put(struct question **list, struct question *question);
/* The first; NULL when there is none. */
struct question *question_take(struct question **list);

#endif
