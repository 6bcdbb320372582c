/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/support.h"

struct bytes bytes_copy(const void *data, size_t len)
{
    struct bytes copy = {malloc(len), len};

    assert_true(copy.data || len == 0); /* of malloc(0) any read is out of bounds */
    if (len > 0) {
        memcpy(copy.data, data, len);
    }
    return copy;
}

struct bytes bytes_repeat(unsigned char byte, size_t len)
{
    struct bytes bytes = {malloc(len), len};

    assert_non_null(bytes.data);
    memset(bytes.data, byte, len);
    return bytes;
}

struct bytes bytes_written(struct mpk_writer *writer)
{
    struct bytes bytes;

    assert_true(mpk_writer_ok(writer));
    bytes = bytes_copy(writer->buffer.data, writer->buffer.size);
    mpk_writer_clear(writer);
    return bytes;
}

struct bytes bytes_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct bytes bytes = {0};
    long len;

    if (!file) {
        fail_msg("cannot open %s", path);
    }
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    len = ftell(file);
    assert_true(len > 0);
    rewind(file);
    bytes = bytes_repeat(0, (size_t)len);
    assert_int_equal(fread(bytes.data, 1, bytes.len, file), bytes.len);
    fclose(file);
    return bytes;
}

void bytes_free(struct bytes *bytes)
{
    free(bytes->data);
    *bytes = (struct bytes){0};
}

static void put_raw(struct mpk_writer *writer, const char *key, const void *value, size_t len)
{
    mpk_put_str(writer, key);
    assert_int_equal(msgpack_sbuffer_write(&writer->buffer, value, len), 0);
}

void bytes_change(struct bytes *map, const char *key, const void *value, size_t len)
{
    struct mpk_doc doc;
    struct mpk_writer writer;
    uint32_t size;

    assert_int_equal(mpk_parse(map->data, map->len, &mpk_header_limits, &doc), 0);
    size = doc.root->via.map.size;
    mpk_writer_init(&writer);
    mpk_put_map(&writer, size - (mpk_find(doc.root, key) != NULL) + (value != NULL));
    for (uint32_t i = 0; i < size; i++) {
        const msgpack_object_kv *pair = &doc.root->via.map.ptr[i];

        if (mpk_is_str(&pair->key, key)) {
            continue;
        }
        msgpack_pack_object(&writer.packer, pair->key);
        msgpack_pack_object(&writer.packer, pair->val);
    }
    if (value) {
        put_raw(&writer, key, value, len);
    }
    mpk_doc_clear(&doc);
    bytes_free(map);
    *map = bytes_written(&writer);
}
