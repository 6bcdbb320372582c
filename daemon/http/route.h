/* SPDX-License-Identifier: MIT */
/* route: the requests of HTTP: one table of paths, and one of their parameters, from which requests
 * are checked and the OpenAPI description is made. */
#ifndef DAEMON_HTTP_ROUTE_H
#define DAEMON_HTTP_ROUTE_H

#include "config/access.h"
#include "proto/method.h"
#include "proto/metric.h"
#include "proto/mpk.h"

struct request;

enum argument_type { ARGUMENT_TEXT, ARGUMENT_NUMBER, ARGUMENT_FLAG, ARGUMENT_LIST };

struct argument {
    const char *name;
    enum argument_type type;
    const char *help;
};

enum {
#define ARGUMENT(name, type, help) ARG_##name,
#include "daemon/http/argument.def"
#undef ARGUMENT
    ARG_COUNT
};
extern const struct argument arguments[ARG_COUNT];

/* The clients that get the answer. */
enum route_for {
    FOR_KNOWN,        /* attnd's users, and who brings a token */
    FOR_TOKEN_HOLDER, /* these, and who could have a token: the page asks for it */
    FOR_ALL,
};

/* The jobs that an answer is about, for those who may not see all: a job they may not see reads
 * like one that is not there. */
enum route_jobs {
    JOBS_NAMED,  /* the jobs that its parameters name */
    JOBS_LISTED, /* any: `jobs` tells the method which may be in the answer */
    JOBS_BOTH,   /* the one that is named, or any */
    JOBS_ALL,    /* all together: not there for them */
    JOBS_NONE,   /* none, or the handler looks after it */
};

struct route {
    const char *path;                        /* with a final '*': any that begin so */
    const char *type;                        /* of the answer */
    void (*handle)(struct request *request); /* NULL: handle_openapi, which reads this table */
    const char *method;                      /* of control; NULL: the handler knows */
    const char *takes;                       /* of its parameters (method.def) */
    const char *more;                        /* that the method does not know */
    enum route_for who;
    enum route_jobs about;
    const char *answer; /* of JSON: "{keys that it has}", "[keys that each of a list has]"; NULL:
                           told elsewhere */
    const char *help;
    enum access_role role; /* beyond `read`: it changes something, and is asked by POST */
};
extern const struct route routes[];
extern const size_t route_count;

/* NULL when there is none. */
const struct route *route_find(const char *path);

/* How the query, or body, of a route treats this one of the arguments. */
enum method_parameter argument_use(const struct route *route, int argument);

/* Reads arguments into a MessagePack map, one after the other. */
struct argument_reader {
    const struct route *route;
    struct mpk_writer pairs; /* key, value, key, value */
    uint64_t given;          /* bits of ARG_ */
    unsigned count;          /* of those that are in `pairs` */
    bool or_null;
    bool metrics[METRIC_COUNT]; /* of an answer, when ARG_metrics is given */
    char reterr[256];           /* why not */
};
void argument_reader_init(struct argument_reader *reader, const struct route *route);
void argument_reader_clear(struct argument_reader *reader);
/* One of the query; `value` may be NULL. Returns false with a sentence in reterr. */
bool argument_read(struct argument_reader *reader, const char *name, const char *value);
/* Whether all that are needed were given; else reterr says which is not. */
bool arguments_complete(struct argument_reader *reader);
/* Appends the map of all; with `jobs`, unless that is NULL. */
void argument_put_map(const struct argument_reader *reader, const char *jobs,
                      struct mpk_writer *params);

/* Handlers of routes: each makes the response, or waits, or begins a stream. */
void handle_method(struct request *request); /* a method of control, as JSON */
void handle_change(struct request *request); /* one that changes something (change.c) */
void handle_events(struct request *request);
void handle_metrics(struct request *request);
void handle_metric_list(struct request *request);
void handle_openapi(struct request *request);
void handle_health(struct request *request);
void handle_ready(struct request *request);
void handle_page(struct request *request);
void handle_asset(struct request *request);

#endif
