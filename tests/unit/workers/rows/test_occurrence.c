/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"
#include "workers/rows/occurrence.h"

#define N 600

/* By looking at all earlier positions. */
static void occurrence_check(const int32_t *tokens, uint32_t n)
{
    uint32_t order[2 * N], previous[N];
    occurrence_link(tokens, n, order, previous);
    for (uint32_t j = 0; j < n; j++) {
        uint32_t want = OCCURRENCE_NONE;
        for (uint32_t k = 0; k < j; k++) {
            want = tokens[k] == tokens[j] ? k : want;
        }
        assert_int_equal(previous[j], want);
    }
}

TEST(random_tokens)
{
    const double vocabulary[] = {1, 2, 10, 300, 70000, 4e9};
    uint64_t random = 1;
    int32_t tokens[N];
    for (size_t v = 0; v < sizeof vocabulary / sizeof vocabulary[0]; v++) {
        for (uint32_t n = 0; n <= N; n = n * 2 + 1) {
            for (uint32_t j = 0; j < n; j++) {
                int64_t token = (int64_t)(random_unit(&random) * vocabulary[v]);
                tokens[j] = (int32_t)(token - (int64_t)(vocabulary[v] / 2));
            }
            occurrence_check(tokens, n);
        }
    }
}

TEST(tokens_that_differ_in_one_byte)
{
    const int32_t tokens[] = {0, 1, 256, 65536, 16777216, -1, 0, 256, INT32_MIN, 65536, 0, -1};
    occurrence_check(tokens, 12);
}

TEST(unaligned_tokens)
{
    const int32_t tokens[] = {5, 6, 5, 6, 5};
    unsigned char bytes[sizeof tokens + 1];
    memcpy(bytes + 1, tokens, sizeof tokens);
    uint32_t order[10], previous[5];
    occurrence_link((const int32_t *)(const void *)(bytes + 1), 5, order, previous);
    const uint32_t want[] = {OCCURRENCE_NONE, OCCURRENCE_NONE, 0, 1, 2};
    assert_memory_equal(previous, want, sizeof want);
}
