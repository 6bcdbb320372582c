/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/headers.h"

#include "proto/err.h"

struct bytes headers_golden(const char *name)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s.msgpack", GOLDEN_DIR, name);
    return bytes_file(path);
}

int headers_decode(const struct bytes *bytes, struct header *ret_header, const char **reterr_key)
{
    int rc = header_decode(bytes->data, bytes->len, ret_header, reterr_key);

    if (rc) {
        assert_null(ret_header->layers);
        assert_null(ret_header->q_len);
        assert_null(ret_header->k_len);
    }
    return rc;
}

struct golden golden_decode(const char *name)
{
    struct golden golden = {.bytes = headers_golden(name)};
    const char *key;

    assert_int_equal(headers_decode(&golden.bytes, &golden.header, &key), 0);
    return golden;
}

void golden_clear(struct golden *golden)
{
    header_clear(&golden->header);
    bytes_free(&golden->bytes);
}

int headers_verdict(const void *data, size_t len)
{
    struct bytes bytes = bytes_copy(data, len);
    struct header header;
    const char *key;
    int rc = headers_decode(&bytes, &header, &key);

    bytes_free(&bytes);
    if (rc == 0) {
        header_clear(&header);
    }
    return rc;
}

int headers_change(const char *name, const char *key, const void *value, size_t len,
                   const char **reterr_key)
{
    struct bytes bytes = headers_golden(name);
    struct header header;
    const char *err_key = NULL;
    int rc;

    bytes_change(&bytes, key, value, len);
    rc = headers_decode(&bytes, &header, &err_key);
    bytes_free(&bytes);
    if (rc == 0) {
        header_clear(&header);
    }
    if (reterr_key) {
        *reterr_key = err_key;
    }
    return rc;
}

void headers_judge(const struct header_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct header_case *c = &cases[i];
        const char *fault;
        int rc = headers_change(c->golden, c->key, c->value, c->len, &fault);

        if (rc != c->rc || (rc && c->fault && (!fault || strcmp(fault, c->fault) != 0))) {
            fail_msg("case %zu, %s of %s: %s of %s", i, c->key, c->golden, err_slug(rc),
                     rc && fault ? fault : "nothing");
        }
    }
}
