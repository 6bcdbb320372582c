/* SPDX-License-Identifier: MIT */
/* Any bytes as what a node or a hub says: refused, or a body, a sign of life or a question whose
 * fields keep their bounds, and that is written as it was read. */
#include "tests/fuzz/fuzz.h"

#include "proto/fleet.h"

#include <string.h>

/* Encodes what was read of a part, and reads it again. */
static void fuzz_fleet_again(const struct fleet_body *body)
{
    struct mpk_writer writer;
    struct mpk_doc doc;
    struct fleet_body again;
    mpk_writer_init(&writer);
    fleet_body_encode(body, &writer);
    REQUIRE(mpk_writer_ok(&writer));
    REQUIRE(mpk_parse(writer.buffer.data, writer.buffer.size, &fleet_limits, &doc) == 0);
    REQUIRE(fleet_body_decode(doc.root, &again) == 0);
    REQUIRE(again.part == body->part && again.state_size == body->state_size &&
            memcmp(again.state, body->state, body->state_size) == 0);
    mpk_doc_clear(&doc);
    mpk_writer_clear(&writer);
}

static void fuzz_fleet_body(const struct fleet_body *body)
{
    struct fleet_point point;
    REQUIRE(body->job_size >= 1 && body->job_size <= JOB_NAME_MAX && body->run);
    if (body->kind == FLEET_PART) {
        REQUIRE(body->rule.length >= 1 && body->rule.length <= FLEET_RULE_MAX);
        REQUIRE(body->state || body->state_size == 0);
        fuzz_fleet_again(body);
        return;
    }
    REQUIRE(body->ranks_found && body->dropped_found);
    for (uint32_t i = 0; body->kind == FLEET_RUN && i < body->points_found->via.array.size; i++) {
        if (fleet_point_decode(&body->points_found->via.array.ptr[i], &point) == 0) {
            REQUIRE(point.name_size >= 1 && point.name_size <= NAMED_NAME_MAX);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct mpk_doc doc;
    struct fleet_body body;
    struct fleet_beat beat;
    struct fleet_ask ask;
    if (mpk_parse(data, len, &fleet_limits, &doc) != 0) {
        return 0;
    }
    if (fleet_body_decode(doc.root, &body) == 0) {
        fuzz_fleet_body(&body);
    }
    if (fleet_beat_decode(doc.root, &beat) == 0) {
        REQUIRE(strlen(beat.name) <= FLEET_NAME_MAX && strlen(beat.host) <= FLEET_NAME_MAX);
        for (uint32_t i = 0; i < beat.runs_found->via.array.size; i++) {
            struct fleet_beat_run run;
            (void)fleet_beat_run_decode(&beat.runs_found->via.array.ptr[i], &run);
        }
    }
    if (fleet_ask_decode(doc.root, &ask) == 0) {
        REQUIRE(strlen(ask.hub) <= FLEET_NAME_MAX && strlen(ask.refused) < sizeof ask.refused);
    }
    mpk_doc_clear(&doc);
    return 0;
}
