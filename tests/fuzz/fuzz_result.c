/* SPDX-License-Identifier: MIT */
/* Any bytes as what attnd answers or publishes, to a client in C: no result, or one that can be
 * read by key, as JSON, as series and as a map, within the sizes that it says. */
#include "tests/fuzz/fuzz.h"

#include "clients/c/src/result.h"
#include "clients/c/src/series.h"

#include <string.h>

static void fuzz_result_read_series(const msgpack_object *answer)
{
    static const char *const statistics[] = {"mean", "p50", "count", "none"};
    attn_series *series = NULL;
    double sum = 0;
    if (series_new(answer, &series) != 0) {
        REQUIRE(!series);
        return;
    }
    uint32_t windows = attn_series_windows(series);
    const uint64_t *last = attn_series_units(series, "last");
    for (uint32_t head = 0; head < attn_series_heads(series) && head < 4; head++) {
        for (int i = 0; i < 4; i++) {
            const double *values = attn_series_values(series, statistics[i], head);
            for (uint32_t w = 0; values && w < windows; w++) {
                sum += values[w] > 0;
            }
        }
    }
    for (uint32_t w = 0; last && w < windows; w++) {
        sum += (double)(last[w] & 1);
    }
    REQUIRE(sum >= 0);
    attn_series_free(&series);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static attn_mean_map map;
    static const char topic[] = "summary/x/decoder/0/self/";
    attn_result *result = NULL;
    uint64_t number;
    char text[8];
    zmq_msg_t body;
    REQUIRE(zmq_msg_init_size(&body, len) == 0);
    if (len) {
        memcpy(zmq_msg_data(&body), data, len);
    }
    if (result_new(topic, sizeof topic - 1, &body, &result) == 0) {
        REQUIRE(strlen(attn_result_kind(result)) < KIND_MAX && attn_result_json(result));
        attn_result_u64(result, "step", &number);
        REQUIRE(attn_result_text(result, "job", text, sizeof text) != 0 ||
                strlen(text) < sizeof text);
        fuzz_result_read_series(result->root);
        if (map_read(result->root, &map) == 0) {
            REQUIRE(map.rows <= ATTN_MAP_SIDE_MAX && map.columns <= ATTN_MAP_SIDE_MAX);
        }
        attn_result_free(&result);
    }
    zmq_msg_close(&body);
    return 0;
}
