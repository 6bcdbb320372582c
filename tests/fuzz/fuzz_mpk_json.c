/* SPDX-License-Identifier: MIT */
/* Any bytes as a document. The parser accepts all that mpk_check accepts, and it becomes JSON that
 * a JSON parser accepts. */
#include "tests/fuzz/fuzz.h"

#include "proto/err.h"
#include "proto/mpk.h"
#include <jansson.h>

static void check_json(const msgpack_object *root, unsigned indent)
{
    char *text = mpk_to_json(root, indent);
    json_t *json;

    REQUIRE(text);
    json = json_loads(text, JSON_DECODE_ANY, NULL);
    REQUIRE(json);
    json_decref(json);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct mpk_doc doc;
    int rc = mpk_parse(data, len, &mpk_header_limits, &doc);

    REQUIRE(rc == 0 || err_index(rc) >= 0);
    REQUIRE(rc == mpk_check(data, len, &mpk_header_limits));
    if (rc) {
        return 0;
    }
    check_json(doc.root, 0);
    check_json(doc.root, 2);
    (void)mpk_find(doc.root, "v");
    mpk_doc_clear(&doc);
    return 0;
}
