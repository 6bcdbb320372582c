/* SPDX-License-Identifier: MIT */
#include "daemon/base/unread.h"

#include "daemon/base/clock.h"
#include "daemon/base/endpoint.h"
#include "daemon/base/log.h"

#include <stdlib.h>
#include <string.h>

/* How often one looks for peers that do not read, once this part of the budget waits, and how long
 * they may go on. */
#define STALLED_LOOK_MS 100
#define STALLED_SHARE   16
#define STALLED_NS      UINT64_C(500000000)
/* From one cut to the next: time to free what was for those that are gone. */
#define CUT_NS UINT64_C(200000000)
/* Besides its bytes a body takes a block, a topic, and places in queues. */
#define BODY_OVERHEAD 512

struct unread_body {
    enum unread_kind kind;
    uint64_t cost;
    uint8_t bytes[];
};

static _Atomic uint64_t unread_bytes[UNREAD_KINDS];

/* Any thread. */
static void unread_on_body_gone(void *data, void *hint)
{
    struct unread_body *body = hint;
    (void)data;
    atomic_fetch_sub(&unread_bytes[body->kind], body->cost);
    free(body);
}

static void unread_on_timer(uv_timer_t *timer)
{
    struct unread *unread = timer->data;
    uint64_t waiting = atomic_load(&unread_bytes[unread->kind]), now = clock_monotonic_ns();
    uint64_t budget = unread->config->publish_budget;
    char next[ENDPOINT_MAX] = "";
    if (waiting <= budget / STALLED_SHARE) {
        stalled_clear(&unread->stalled);
        uv_timer_stop(timer);
        return;
    }
    if (unread->keys) {
        keys_next_endpoint(unread->keys, unread->service, next);
    }
    stalled_look(&unread->stalled, unread->endpoint, next);
    unsigned count = waiting > budget / 2 && now - unread->cut_ns > CUT_NS
                         ? stalled_cut(&unread->stalled, STALLED_NS)
                         : 0;
    if (count > 0) {
        unread->cut_ns = now;
        stats_add(unread->stats, COUNT_SUBSCRIBERS_CUT, count);
        log_event(LOG_WARNING, "subscribers_cut", LOG_STR("socket", unread->service),
                  LOG_NUM("count", count), LOG_NUM("unread_bytes", waiting));
    }
}

void unread_start(struct unread *unread, uv_loop_t *loop)
{
    uv_timer_init(loop, &unread->timer);
    unread->timer.data = unread;
}

int unread_make(struct unread *unread, const struct unread_piece *pieces, int count,
                zmq_msg_t *ret_body)
{
    size_t size = 0;
    for (int i = 0; i < count; i++) {
        size += pieces[i].size;
    }
    uint64_t cost = size + BODY_OVERHEAD, waiting = atomic_load(&unread_bytes[unread->kind]);
    uint64_t budget = unread->config->publish_budget;
    bool fits = waiting == 0 || waiting + cost <= budget;
    struct unread_body *body = fits ? malloc(sizeof *body + size) : NULL;
    if (waiting > budget / STALLED_SHARE && !uv_is_active((const uv_handle_t *)&unread->timer)) {
        uv_timer_start(&unread->timer, unread_on_timer, STALLED_LOOK_MS, STALLED_LOOK_MS);
    }
    if (!body) {
        return -1;
    }
    *body = (struct unread_body){unread->kind, cost};
    uint8_t *to = body->bytes;
    for (int i = 0; i < count; i++) {
        memcpy(to, pieces[i].bytes, pieces[i].size);
        to += pieces[i].size;
    }
    if (zmq_msg_init_data(ret_body, body->bytes, size, unread_on_body_gone, body) != 0) {
        free(body);
        return -1;
    }
    atomic_fetch_add(&unread_bytes[unread->kind], cost);
    return 0;
}

static void unread_on_closed(uv_handle_t *timer)
{
    struct unread *unread = timer->data;
    stalled_clear(&unread->stalled);
    unread->closed(unread->owner);
}

void unread_close(struct unread *unread, void (*closed)(void *owner), void *owner)
{
    unread->closed = closed;
    unread->owner = owner;
    uv_close((uv_handle_t *)&unread->timer, unread_on_closed);
}
