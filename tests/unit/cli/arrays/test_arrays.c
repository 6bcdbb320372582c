/* SPDX-License-Identifier: MIT */
/* The readers of .npy and .safetensors, on files in memory. Files that numpy writes, and .npz, are
 * read in tests/cli. */
#include "tests/unit/cli/fake.h"

#include "clients/cli/arrays/array.h"

/* A file in memory, and what was read of it. */
struct sample {
    uint8_t data[512];
    size_t size;
    struct array_file file;
    struct array_list list;
    char error[ARRAY_ERROR_MAX];
};

static void arrays_put(struct sample *sample, const void *data, size_t size)
{
    assert_true(sample->size + size <= sizeof sample->data);
    memcpy(sample->data + sample->size, data, size);
    sample->size += size;
}

/* A .npy file of version 1 with this dictionary, and `bytes` bytes 0, 1, 2, ... */
static struct sample npy(const char *dictionary, size_t bytes)
{
    struct sample sample = {.size = 0};
    size_t len = strlen(dictionary);
    arrays_put(&sample, "\x93NUMPY\1\0", 8);
    arrays_put(&sample, (uint8_t[]){(uint8_t)len, (uint8_t)(len >> 8)}, 2);
    arrays_put(&sample, dictionary, len);
    for (size_t i = 0; i < bytes; i++) {
        arrays_put(&sample, &(uint8_t){(uint8_t)i}, 1);
    }
    return sample;
}

static struct sample safetensors(const char *header, size_t bytes)
{
    struct sample sample = {.size = 0};
    uint64_t len = strlen(header);
    arrays_put(&sample, &len, 8);
    arrays_put(&sample, header, len);
    sample.size += bytes;
    return sample;
}

static int read_sample(struct sample *sample, const char *path)
{
    return array_file_read(path, sample->data, sample->size, &sample->file, &sample->list,
                           sample->error);
}

static void arrays_clear(struct sample *sample)
{
    array_list_clear(&sample->list);
    array_file_close(&sample->file);
}

static void arrays_assert_refused(struct sample sample, const char *path, const char *error)
{
    assert_int_equal(read_sample(&sample, path), -1);
    assert_string_equal(sample.error, error);
    assert_int_equal(sample.list.count, 0);
    arrays_clear(&sample);
}

/* The bytes of the only array of a .npy file. */
static void assert_contents(struct sample sample, const uint8_t *expected, size_t size)
{
    OWNED(array_data_clear) struct array_data data;
    assert_int_equal(read_sample(&sample, "x.npy"), 0);
    assert_int_equal(sample.list.items[0].bytes, size);
    assert_int_equal(array_load(&sample.list.items[0], &data, sample.error), 0);
    assert_memory_equal(data.data, expected, size);
    arrays_clear(&sample);
}

TEST(a_npy_file_is_one_array_named_like_it)
{
    struct sample sample =
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n", 24);
    assert_int_equal(read_sample(&sample, "some/folder.d/decoder.0.self.npy"), 0);
    const struct array *array = &sample.list.items[0];
    char shape[ARRAY_SHAPE_TEXT_MAX];
    array_shape_text(array, shape);
    assert_string_equal(array->name, "decoder.0.self");
    assert_string_equal(array->type_name, "<f4");
    assert_string_equal(shape, "[2, 3]");
    assert_int_equal(array->type, ARRAY_F32);
    assert_int_equal(array->bytes, 24);
    arrays_clear(&sample);
}

TEST(the_header_is_read_as_python_writes_it)
{
    const uint8_t bytes[] = {0, 1, 2, 3};
    assert_contents(npy("{'descr':'|u1','fortran_order':False,'shape':(4,)}", 4), bytes, 4);
    assert_contents(npy("{\"shape\": (4L,), \"descr\": \"<V2\", 'fortran_order': False}", 8),
                    (const uint8_t[]){0, 1, 2, 3, 4, 5, 6, 7}, 8);
    assert_contents(npy("{'descr': '|b1', 'fortran_order': True, 'shape': ()}", 1), bytes, 1);
    assert_contents(npy("{'descr': '<i2', 'fortran_order': False, 'shape': (2, 0)}", 0), bytes, 0);
}

TEST(fortran_order_is_put_in_order)
{
    assert_contents(npy("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3)}", 6),
                    (const uint8_t[]){0, 2, 4, 1, 3, 5}, 6);
    assert_contents(npy("{'descr': '<i2', 'fortran_order': True, 'shape': (1, 2, 2)}", 8),
                    (const uint8_t[]){0, 1, 4, 5, 2, 3, 6, 7}, 8);
}

TEST(dtypes_that_cannot_be_read_are_listed_all_the_same)
{
    static const char *const types[] = {"'>f4'", "'|O'", "'<c8'", "'<M8[ns]'",
                                        "[('x', '<f4'), ('y', [('z', '|u1')])]"};
    for (int i = 0; i < 5; i++) {
        char header[128];
        snprintf(header, sizeof header, "{'descr': %s, 'fortran_order': False, 'shape': (1,)}",
                 types[i]);
        OWNED(arrays_clear) struct sample sample = npy(header, 3);
        assert_int_equal(read_sample(&sample, "x.npy"), 0);
        assert_int_equal(sample.list.items[0].type, ARRAY_OTHER);
    }
}

TEST(bad_npy_files_are_refused)
{
    static const char good[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}";
    static const char *const dictionaries[] = {
        "",
        "{}",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 2}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
        "{'descr': [('x', '<f4', 'fortran_order': False, 'shape': (2,)}",
    };
    for (size_t i = 0; i < sizeof dictionaries / sizeof dictionaries[0]; i++) {
        arrays_assert_refused(npy(dictionaries[i], 8), "x.npy",
                              "its .npy header is not one that numpy writes");
    }
    arrays_assert_refused(npy(good, 7), "x.npy", "truncated: the array takes 8 bytes, 7 are there");
    arrays_assert_refused(npy(good, 9), "x.npy", "1 bytes follow the array");
    arrays_assert_refused(npy("{'descr': '<f8', 'fortran_order': False, 'shape': "
                              "(4294967296, 4294967296, 4294967296)}",
                              8),
                          "x.npy", "the declared shape is larger than any file");
}

TEST(headers_cut_short_are_refused)
{
    struct sample whole = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", 0);
    for (size_t size = 1; size < whole.size; size++) {
        struct sample cut = whole;
        cut.size = size;
        arrays_assert_refused(cut, "x.npy", "truncated: no whole .npy header");
    }
    whole.data[6] = 4;
    arrays_assert_refused(whole, "x.npy", "version 4.0 of the .npy format is not known");
}

TEST(safetensors_are_listed_with_their_shapes)
{
    struct sample sample =
        safetensors("{\"__metadata__\":{\"a\":\"b\"},"
                    "\"x\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[4,12]},"
                    "\"y\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]}}  ",
                    12);
    assert_int_equal(read_sample(&sample, "x"), 0);
    assert_int_equal(sample.list.count, 2);
    assert_string_equal(sample.list.items[0].name, "y");
    assert_int_equal(sample.list.items[0].rank, 0);
    assert_string_equal(sample.list.items[1].type_name, "BF16");
    assert_int_equal(sample.list.items[1].offset, sample.size - 8);
    arrays_clear(&sample);
}

#define TENSOR(name, shape, offsets)                                                               \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

TEST(bad_safetensors_are_refused)
{
    static const char path[] = "x.safetensors";
    arrays_assert_refused(safetensors("{" TENSOR("x", "[2]", "[0,2]"), 2), path,
                          "its header is not a JSON object: '}' expected near end of file");
    arrays_assert_refused(safetensors("[]", 0), path, "its header is not a JSON object");
    arrays_assert_refused(safetensors("{\"x\":1}", 0), path,
                          "x: not a tensor's dtype, shape and data_offsets");
    arrays_assert_refused(safetensors("{" TENSOR("x", "[-1]", "[0,2]") "}", 2), path,
                          "x: not a tensor's dtype, shape and data_offsets");
    arrays_assert_refused(safetensors("{" TENSOR("x", "[3]", "[0,2]") "}", 2), path,
                          "x: its shape takes 3 bytes, its data is 2");
    arrays_assert_refused(safetensors("{" TENSOR("x", "[3]", "[0,3]") "}", 2), path,
                          "truncated or corrupt: x is at 0 to 3 of 2 bytes");
    arrays_assert_refused(safetensors("{" TENSOR("x", "[2]", "[2,0]") "}", 2), path,
                          "truncated or corrupt: x is at 2 to 0 of 2 bytes");
    arrays_assert_refused(
        safetensors("{" TENSOR("x", "[2]", "[0,2]") "," TENSOR("y", "[2]", "[1,3]") "}", 3), path,
        "corrupt: y overlaps another tensor");
    arrays_assert_refused(
        safetensors("{" TENSOR("x", "[1]", "[0,1]") "," TENSOR("y", "[1]", "[2,3]") "}", 3), path,
        "corrupt: y leaves a hole before it");
    arrays_assert_refused(safetensors("{" TENSOR("x", "[1]", "[0,1]") "}", 3), path,
                          "corrupt: 2 bytes belong to no tensor");
    arrays_assert_refused(
        safetensors("{" TENSOR("x", "[1]", "[0,1]") "," TENSOR("x", "[1]", "[1,2]") "}", 2), path,
        "its header is not a JSON object: duplicate object key near '\"x\"'");
    arrays_assert_refused(safetensors("{" TENSOR("x", "[4294967296,4294967296]", "[0,1]") "}", 1),
                          path, "x: the declared shape is larger than any file");
}

TEST(what_is_no_array_file_is_refused)
{
    struct sample sample = {.data = "hello, world", .size = 12};
    arrays_assert_refused(sample, "x.txt", "not a .npy, .npz or .safetensors file");
    arrays_assert_refused(sample, "x.npy", "not a .npy file");
    arrays_assert_refused(sample, "x.npz", "truncated or no zip archive (Not a zip archive)");
    arrays_assert_refused(sample, "x.safetensors",
                          "not a .safetensors file: a header of 8583909746840200552 bytes");
    sample.size = 0;
    arrays_assert_refused(sample, "x.npy", "the file is empty");
}
