/* SPDX-License-Identifier: MIT */
/* npz: a zip archive of .npy entries, stored (np.savez) or deflated (np.savez_compressed), by
 * libzip.
 *
 * A zip bomb is a small file that claims, or unpacks to, far more than it should. Nothing is
 * believed: the size in the archive's directory must be what the entry's own .npy header comes to,
 * no deflate stream can be more than 1032 times its size, nothing larger than the machine's memory
 * is unpacked, and exactly the declared bytes are read: more or fewer is an error. libzip compares
 * the checksum when the end of an entry is reached. */
#include "clients/cli/arrays/array_internal.h"

#include "proto/err.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>

#define DEFLATE_RATIO_MAX 1100
/* More entries are no model. */
#define ENTRIES_MAX 100000
/* A first look at an entry; a longer header gets a second one. */
#define PEEK_BYTES 4096

bool npz_is(const uint8_t *data, size_t size)
{
    return size >= 4 && (memcmp(data, "PK\3\4", 4) == 0 || memcmp(data, "PK\5\6", 4) == 0);
}

static uint64_t memory_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : UINT64_MAX;
}

static int open_archive(struct array_file *file, char *reterr)
{
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t *source = zip_source_buffer_create(file->data, file->size, 0, &error);
    zip_t *zip = source ? zip_open_from_source(source, ZIP_RDONLY, &error) : NULL;
    int rc = 0;
    if (!zip) {
        rc = zip_error_code_zip(&error) == ZIP_ER_MEMORY
                 ? array_fail_memory(reterr)
                 : array_fail(reterr, "truncated or no zip archive (%s)",
                              zip_error_strerror(&error));
        zip_source_free(source);
    }
    zip_error_fini(&error);
    file->zip = zip;
    return rc;
}

void npz_close(struct array_file *file)
{
    if (file->zip) {
        zip_discard(file->zip);
    }
    file->zip = NULL;
}

/* Reads up to `size` bytes; returns how many came before the end, or -1. */
static int64_t npz_read_some(zip_file_t *entry, uint8_t *ret_data, uint64_t size)
{
    uint64_t done = 0;
    while (done < size) {
        zip_int64_t got = zip_fread(entry, ret_data + done, size - done);
        if (got < 0) {
            return -1;
        }
        if (got == 0) {
            break;
        }
        done += (uint64_t)got;
    }
    return (int64_t)done;
}

/* The error that an entry's stream or the archive reports. */
static int npz_fail_entry(struct array_file *file, zip_file_t *entry, const char *name,
                          char *reterr)
{
    zip_error_t *error = entry ? zip_file_get_error(entry) : zip_get_error(file->zip);
    if (zip_error_code_zip(error) == ZIP_ER_MEMORY) {
        return array_fail_memory(reterr);
    }
    return array_fail(reterr, "%.200s: corrupt: %s", name, zip_error_strerror(error));
}

/* The first bytes of an entry, at most `size`; returns how many there are, or an error. */
static int64_t peek(struct array_file *file, const zip_stat_t *stat, uint8_t *ret_data,
                    uint64_t size, char *reterr)
{
    zip_file_t *entry = zip_fopen_index(file->zip, stat->index, 0);
    int64_t got = entry ? npz_read_some(entry, ret_data, size) : -1;
    if (got < 0) {
        got = npz_fail_entry(file, entry, stat->name, reterr);
    }
    if (entry) {
        zip_fclose(entry);
    }
    return got;
}

/* The entry's .npy header, when it ends within the first `size` bytes. */
static int npz_read_header(struct array_file *file, const zip_stat_t *stat, uint64_t size,
                           struct array *ret_array, char *reterr)
{
    uint8_t *data = malloc(size);
    if (!data) {
        return array_fail_memory(reterr);
    }
    char error[ARRAY_ERROR_MAX];
    int64_t got = peek(file, stat, data, size, reterr);
    int rc = got < 0 ? (int)got : npy_header(data, (size_t)got, ret_array, error);
    if (got >= 0 && rc != 0) {
        array_fail(reterr, "%.200s: %.700s", stat->name, error);
    }
    free(data);
    return rc;
}

/* A header is usually 128 bytes long. */
static int find_header(struct array_file *file, const zip_stat_t *stat, struct array *ret_array,
                       char *reterr)
{
    int rc = npz_read_header(file, stat, PEEK_BYTES, ret_array, reterr);
    if (rc == 0 || rc == ERR_MEMORY || stat->size <= PEEK_BYTES) {
        return rc;
    }
    return npz_read_header(file, stat, NPY_HEADER_MAX + 12, ret_array, reterr);
}

/* Whether the sizes of directory, header and packed data can belong together. */
static int check_sizes(const zip_stat_t *stat, const struct array *array, char *reterr)
{
    uint64_t whole = array->offset + array->bytes;
    if (array->type == ARRAY_OTHER) {
        return 0;
    }
    if (whole != stat->size) {
        return array_fail(reterr,
                          "%.200s: the array takes %" PRIu64 " bytes, the archive has %" PRIu64,
                          stat->name, whole, (uint64_t)stat->size);
    }
    if (stat->size / DEFLATE_RATIO_MAX > stat->comp_size) {
        return array_fail(reterr, "%.200s: %" PRIu64 " bytes cannot be packed into %" PRIu64,
                          stat->name, whole, (uint64_t)stat->comp_size);
    }
    if (array->bytes > memory_bytes()) {
        return array_fail(reterr, "%.200s: its %" PRIu64 " bytes do not fit this machine's memory",
                          stat->name, array->bytes);
    }
    return 0;
}

/* "decoder.0.self.npy" without its ending. */
static int check_entry(const zip_stat_t *stat, size_t *ret_len, char *reterr)
{
    zip_uint64_t needed = ZIP_STAT_NAME | ZIP_STAT_INDEX | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE |
                          ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    if ((stat->valid & needed) != needed) {
        return array_fail(reterr, "the archive's directory is incomplete");
    }
    size_t len = strlen(stat->name);
    if (len < 4 || strcmp(stat->name + len - 4, ".npy") != 0) {
        return array_fail(reterr,
                          "its entry %.200s is not a .npy array (PyTorch's own files must be saved "
                          "as .safetensors or by numpy)",
                          stat->name);
    }
    if (stat->encryption_method != ZIP_EM_NONE) {
        return array_fail(reterr, "%.200s is encrypted", stat->name);
    }
    if (stat->comp_method != ZIP_CM_STORE && stat->comp_method != ZIP_CM_DEFLATE) {
        return array_fail(reterr, "%.200s is compressed by method %d (known: stored, deflated)",
                          stat->name, stat->comp_method);
    }
    *ret_len = len - 4;
    return 0;
}

static int list_entry(struct array_file *file, uint64_t index, struct array_list *list,
                      char *reterr)
{
    zip_stat_t stat;
    size_t len = 0;
    struct array array = {.file = file, .entry = index};
    zip_stat_init(&stat);
    if (zip_stat_index(file->zip, index, ZIP_FL_ENC_RAW, &stat) != 0) {
        return array_fail(reterr, "%s", zip_strerror(file->zip));
    }
    int rc = check_entry(&stat, &len, reterr);
    if (rc == 0) {
        rc = find_header(file, &stat, &array, reterr);
    }
    if (rc == 0) {
        rc = check_sizes(&stat, &array, reterr);
    }
    return rc != 0 ? rc : array_list_add(list, &array, stat.name, len, reterr);
}

int npz_list(struct array_file *file, struct array_list *list, char *reterr)
{
    int rc = open_archive(file, reterr);
    if (rc != 0) {
        return rc;
    }
    zip_int64_t entries = zip_get_num_entries(file->zip, 0);
    if (entries > ENTRIES_MAX) {
        return array_fail(reterr, "%" PRId64 " entries (at most %d)", (int64_t)entries,
                          ENTRIES_MAX);
    }
    for (zip_int64_t i = 0; i < entries && rc == 0; i++) {
        rc = list_entry(file, (uint64_t)i, list, reterr);
    }
    return rc;
}

/* Skips the .npy header, reads the contents, and one byte more: the end, where the checksum is
 * compared. */
static bool npz_unpack(zip_file_t *entry, const struct array *array, uint8_t *ret_data)
{
    uint8_t byte;
    for (uint64_t i = 0; i < array->offset; i++) {
        if (zip_fread(entry, &byte, 1) != 1) {
            return false;
        }
    }
    return npz_read_some(entry, ret_data, array->bytes) == (int64_t)array->bytes &&
           zip_fread(entry, &byte, 1) == 0;
}

int npz_load(const struct array *array, void *ret_data, char *reterr)
{
    zip_file_t *entry = zip_fopen_index(array->file->zip, array->entry, 0);
    bool good = entry && npz_unpack(entry, array, ret_data);
    int rc = 0;
    if (!good && entry && zip_error_code_zip(zip_file_get_error(entry)) == ZIP_ER_OK) {
        rc = array_fail(reterr, "%s: corrupt: not as many bytes as declared", array->name);
    } else if (!good) {
        rc = npz_fail_entry(array->file, entry, array->name, reterr);
    }
    if (entry) {
        zip_fclose(entry);
    }
    return rc;
}
