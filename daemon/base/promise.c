/* SPDX-License-Identifier: MIT */
#include "daemon/base/promise.h"

#include "proto/err.h"

#include <assert.h>
#include <stdlib.h>

struct promise *promises_take(struct promises *promises)
{
    struct promise *promise = promises->first;
    if (promise) {
        promises->first = promise->next;
        promises->last = promises->first ? promises->last : NULL;
        promise->next = NULL;
        assert(promises->bytes >= promise->bytes);
        promises->bytes -= promise->bytes;
    }
    return promise;
}

void promises_move(struct promises *into, struct promises *from)
{
    if (!from->first) {
        return;
    }
    if (into->last) {
        into->last->next = from->first;
    } else {
        into->first = from->first;
    }
    into->last = from->last;
    into->bytes += from->bytes;
    *from = (struct promises){0};
}

void promises_add(struct promises *promises, struct promise *promise)
{
    struct promises one = {promise, promise, promise->bytes};
    promise->next = NULL;
    promises_move(promises, &one);
}

void promise_took(struct promise *promise, int code)
{
    promise->repeated = code == ERR_REPEATED;
    promise->dropped = promise->repeated ? 0 : code;
}

void promises_mark(struct promises *promises, int code)
{
    for (struct promise *promise = promises->first; promise; promise = promise->next) {
        promise->code = code;
    }
}

void promises_free(struct promises *promises)
{
    struct promise *promise;
    while ((promise = promises_take(promises))) {
        free(promise);
    }
}
