/* SPDX-License-Identifier: MIT */
#include "tests/unit/daemon/state/learned.h"

#include "tests/unit/unit.h"

uint64_t learned_windows(const struct drift *drift)
{
    uint64_t longest = 0;
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    mpk_writer_init(&writer);
    assert_int_equal(drift_pack(drift, &writer), 0);
    assert_int_equal(mpk_parse(writer.buffer.data, writer.buffer.size, &mpk_result_limits, &doc),
                     0);
    const msgpack_object_map *metrics = &mpk_find(doc.root, "metrics")->via.map;
    for (uint32_t m = 0; m < metrics->size; m++) {
        const msgpack_object_array *counts = &mpk_find(&metrics->ptr[m].val, "count")->via.array;
        for (uint32_t h = 0; h < counts->size; h++) {
            uint64_t count = counts->ptr[h].via.u64;
            longest = count > longest ? count : longest;
        }
    }
    return longest;
}
