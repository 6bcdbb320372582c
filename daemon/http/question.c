/* SPDX-License-Identifier: MIT */
#include "daemon/http/question.h"

#include <stdlib.h>
#include <utlist.h>

struct question *question_new(struct http *http, const char *method)
{
    struct question *question = calloc(1, sizeof *question);
    if (!question) {
        return NULL;
    }
    question->http = http;
    question->method = method;
    mpk_writer_init(&question->params);
    return question;
}

void question_free(struct question **question_p)
{
    struct question *question = *question_p;
    if (!question) {
        return;
    }
    mpk_writer_clear(&question->params);
    free(question->result);
    free(question);
    *question_p = NULL;
}

void question_put(struct question **list, struct question *question)
{
    if (question->urgent) {
        DL_PREPEND2(*list, question, previous, next);
    } else {
        DL_APPEND2(*list, question, previous, next);
    }
}

struct question *question_take(struct question **list)
{
    struct question *first = *list;
    if (first) {
        DL_DELETE2(*list, first, previous, next);
    }
    return first;
}
