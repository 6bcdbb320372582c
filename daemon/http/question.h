/* SPDX-License-Identifier: MIT */
/* question: one request to a method of control, made on the HTTP thread, answered on the loop
 * thread, read on the HTTP thread again. Belongs to one of them at a time. */
#ifndef DAEMON_HTTP_QUESTION_H
#define DAEMON_HTTP_QUESTION_H

#include "proto/mpk.h"

#include <stdbool.h>

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
