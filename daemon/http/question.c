/* SPDX-License-Identifier: MIT */
#include "daemon/http/question.h"

#include <stdlib.h>

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

void question_list_init(struct question_list *list)
{
    list->first = NULL;
    list->last = &list->first;
}

void question_list_put(struct question_list *list, struct question *question)
{
    question->next = NULL;
    *list->last = question;
    list->last = &question->next;
}

struct question *question_list_take(struct question_list *list)
{
    struct question *first = list->first;
    if (!first) {
        return NULL;
    }
    list->first = first->next;
    if (!list->first) {
        list->last = &list->first;
    }
    return first;
}
