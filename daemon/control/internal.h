/* SPDX-License-Identifier: MIT */
/* control/internal: a request being answered, now or later (pending.c). Between control.c, which
 * has the socket, and the methods. Loop thread only. */
#ifndef DAEMON_CONTROL_INTERNAL_H
#define DAEMON_CONTROL_INTERNAL_H

#include "daemon/control/control.h"

#include "daemon/base/unread.h"

#include <zmq.h>

/* Returned by a method instead of 0 or an error when it has deferred the answer. */
#define CONTROL_WAIT 1
/* Room for what went wrong in this case, when that says more than the error's own sentence. */
#define CONTROL_DETAIL_MAX 512

/* Frames before the request: identity, and a REQ's empty one. */
#define ENVELOPE_MAX 4

/* Where an answer goes: to a socket, by the frames before the request, or to a caller. */
struct envelope {
    zmq_msg_t frames[ENVELOPE_MAX];
    int count;
    uint64_t id;
    control_answered *answered; /* NULL: to the socket */
    void *data;
};

struct answers {
    void *socket;
    struct stats *stats;
    struct pending *waiting; /* all that are not answered */
    struct unread unread;
};

struct control_request {
    const struct control_view *view;
    const char *method, *takes;   /* its name and parameters (method.def) */
    const msgpack_object *params; /* a map, or what else the client sent */
    struct mpk_writer *result;    /* one value, written before 0 is returned */
    char *detail;                 /* CONTROL_DETAIL_MAX; written before an error is returned */
    struct control *control;
    struct answers *answers;
    struct jobs_lists *lists;
    struct envelope *envelope; /* where the answer goes; empty once deferred */
    uint64_t asker;            /* the client's key, or its connection (history_ask) */
};

/* Answers of method_jobs that are being made (jobs.c). */
struct jobs_lists {
    uv_idle_t turn; /* runs as long as there are any */
    const struct registry *registry;
    struct jobs_list *first;
};
/* Initialises `turn`, which the owner closes; and the end: answers those that wait. */
void jobs_start(struct jobs_lists *lists, uv_loop_t *loop, const struct registry *registry);
void jobs_stop(struct jobs_lists *lists);

void envelope_clear(struct envelope *envelope);
/* Answers and empties the envelope; `result` may be NULL with an error. */
void envelope_answer(struct answers *answers, struct envelope *envelope, int code,
                     const char *detail, const struct mpk_writer *result);

/* Takes the request to answer it later. Returns NULL when out of memory. */
struct pending *request_defer(struct control_request *request);
/* Answers and frees: with a result, or an error and what else there is to say about it (NULL, "":
 * the error's own sentence). */
void pending_answer(struct pending **pending, int code, const char *detail,
                    const struct mpk_writer *result);
/* Answers all that wait: attnd stops. */
void answers_close(struct answers *answers);

/* A parameter; NULL when it is missing, or nil. */
const msgpack_object *request_param(const struct control_request *request, const char *key);
/* Writes to `detail` that a parameter that is given may not have its value, and which it may have.
 * Returns ERR_ARGUMENT. */
int request_refuse(const struct control_request *request, const char *key, const char *valid);
/* The readers below have refused a value, in `detail`, when they return false or NULL. */
/* Reads a number of these; without one *ret_number stays. */
bool number_param(const struct control_request *request, const char *key, uint64_t least,
                  uint64_t most, uint64_t *ret_number);
/* Reads true or false; without one *ret_flag stays. */
bool flag_param(const struct control_request *request, const char *key, bool *ret_flag);
/* A string parameter, or `fallback` when it is missing, in `buffer`, which is returned; NULL when
 * it does not fit or is no string, or is missing without a fallback. */
const char *string_param(const struct control_request *request, const char *key,
                         const char *fallback, char *buffer, size_t size);
/* One of the words in "a, b, c"; or "", also when it is missing. */
bool word_param(const struct control_request *request, const char *key, const char *words,
                char *buffer, size_t size);
/* Whether the answer may list this job, or pattern of jobs, by the parameter `jobs`: patterns
 * between blanks, or none for all. */
bool request_lists(const struct control_request *request, const char *job);
/* Whether params is no map, or has no other keys than these of method.def; else `detail` names one.
 */
bool request_takes(struct control_request *request, const char *takes);

/* The run of a job whose digits begin with `prefix`, the newest of them; of those in memory.
 * Returns 0, or ERR_JOB_UNKNOWN or ERR_RUN_UNKNOWN with a detail. */
int request_find_run(struct control_request *request, const char *job, const char *prefix,
                     struct run **ret_run);

/* For judging_unmeasured: `data` is the writer of a list, to which it adds. */
void layers_on_unmeasured(void *data, const char *layer);
/* Names the layers of a run, the first ones of many: "encoder.0.self, decoder.0.self, ...". */
#define LAYERS_LIST_MAX 256
void layers_list(const struct run *run, char ret_text[LAYERS_LIST_MAX]);

/* Methods: each returns 0, an error, or CONTROL_WAIT */
#define PRESENT(function) int method_##function(struct control_request *request);
#define BOTH(function)    PRESENT(function)
#define PAST(function)
#define OWN(function)
#define METHOD(name, function, when, role, of_all, takes, result) when(function)
#include "proto/method.def"

/* Any method of the past. */
int method_history(struct control_request *request);

#endif
