/* SPDX-License-Identifier: MIT */
/* Any bytes as a .npy, .npz or .safetensors file. A listed array has the bytes that its shape says,
 * and they can be loaded, or there is a sentence that says why not. Piece by piece they are the
 * same.
 */
#include "tests/fuzz/fuzz.h"

#include "clients/cli/arrays/array.h"

#include <stdlib.h>
#include <string.h>

/* Larger ones are not loaded: the declared size is what is fuzzed, not the memory. */
#define LOAD_MAX 1048576

static void check_shape(const struct array *array)
{
    uint64_t bytes = array_type_size(array->type);
    char text[ARRAY_SHAPE_TEXT_MAX];

    REQUIRE(array->rank <= ARRAY_RANK_MAX && strlen(array->name) <= ARRAY_NAME_MAX);
    for (uint32_t i = 0; i < array->rank; i++) {
        bytes *= array->shape[i];
    }
    REQUIRE(array->type == ARRAY_OTHER || bytes == array->bytes);
    array_shape_text(array, text);
    REQUIRE(text[strlen(text) - 1] == ']');
}

/* Reads every byte, so that a sanitizer sees one that is not there. */
static void check_contents(const struct array *array)
{
    char error[ARRAY_ERROR_MAX] = "";
    struct array_data data;
    uint64_t sum = 0;

    if (array_load(array, &data, error) != 0) {
        REQUIRE(error[0] != '\0');
        return;
    }
    for (uint64_t i = 0; i < array->bytes; i++) {
        sum += ((const uint8_t *)data.data)[i];
    }
    REQUIRE(sum <= 255 * array->bytes);
    array_data_clear(&data);
}

static void read_as(const char *path, const uint8_t *bytes, size_t len)
{
    char error[ARRAY_ERROR_MAX] = "";
    struct array_list list = {0};
    struct array_file file;

    if (array_file_read(path, bytes, len, &file, &list, error) != 0) {
        REQUIRE(error[0] != '\0' && list.count == 0);
    } else {
        for (size_t i = 0; i < list.count; i++) {
            check_shape(&list.items[i]);
            if (list.items[i].type != ARRAY_OTHER && list.items[i].bytes <= LOAD_MAX) {
                check_contents(&list.items[i]);
            }
        }
    }
    array_list_clear(&list);
    array_file_close(&file);
}

/* The ending counts when the first bytes are those of no format. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const char *const paths[] = {"decoder.0.self.npy", "x.npz", "x.safetensors"};

    for (int i = 0; i < 3; i++) {
        read_as(paths[i], data, len);
    }
    return 0;
}
