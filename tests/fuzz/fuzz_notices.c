/* SPDX-License-Identifier: MIT */
/* Any bytes as what somebody subscribes to at a client in C, line by line: 0x01 and 0x00 as the
 * first byte stand for themselves, any other adds the line whole. The plan that holds can be used,
 * bounds are of known types, and when all is taken back nothing is left. */
#include "tests/fuzz/fuzz.h"

#include "clients/c/src/bounds.h"
#include "clients/c/src/plan.h"

#include <string.h>

static void fuzz_notices_look(const struct prefixes *prefixes)
{
    const struct plan_requests own = {ATTN_UNSAID, ATTN_UNSAID, ATTN_UNSAID};
    struct header header = {.type = MESSAGE_ATTENTION, .heads = 2, .heads_total = 2};
    uint64_t malformed = 0;
    attn_plan plan;
    struct bounds bounds = bounds_of(prefixes, &malformed);
    REQUIRE(malformed <= prefixes->count && prefixes->count <= PREFIXES_MAX);
    bounds_take(&bounds, &header, 100);
    REQUIRE(!plan_choose(prefixes, "gpt-small", &own, &plan, &malformed) || prefixes->count > 0);
    REQUIRE(plan_valid(&plan) && malformed <= prefixes->count);
    plan_takes_layer(&plan, (struct layer_id){STACK_DECODER, 3, SITE_SELF});
    for (uint64_t step = 0; step < 3; step++) {
        uint32_t first, stride, count = attn_plan_rows(&plan, step, 7, &first, &stride);
        REQUIRE(count >= 1 && first + (count - 1) * stride < 7);
    }
    for (size_t i = 0; i < prefixes->count; i++) {
        REQUIRE(strlen(prefixes->items[i].text) < prefixes->items[i].len ||
                prefixes_match(prefixes, prefixes->items[i].text));
    }
    prefixes_touch(prefixes, "tensor/gpt-small/");
}

static void fuzz_notices_each(const uint8_t *data, size_t len, bool back, struct prefixes *prefixes)
{
    uint8_t notice[PLAN_PREFIX_MAX + 64];
    for (size_t at = 0; at < len;) {
        const uint8_t *end = memchr(data + at, '\n', len - at);
        size_t length = end ? (size_t)(end - data) - at : len - at;
        size_t room = sizeof notice - 1, kept = length < room ? length : room;
        bool said = kept > 0 && data[at] <= 1;
        notice[0] = back || (said && data[at] == 0) ? 0 : 1;
        memcpy(notice + 1, data + at + said, kept - said);
        REQUIRE(prefixes_apply(prefixes, notice, 1 + kept - said));
        at += length + 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct prefixes prefixes = {0};
    fuzz_notices_each(data, len, false, &prefixes);
    fuzz_notices_look(&prefixes);
    fuzz_notices_each(data, len, true, &prefixes);
    REQUIRE(prefixes.count == 0);
    prefixes_clear(&prefixes);
    return 0;
}
