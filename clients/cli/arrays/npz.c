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

#include "clients/cli/base/system.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zip.h>

#define DEFLATE_RATIO_MAX 1100
/* More entries are no model. */
#define ENTRIES_MAX 100000
/* A first look at an entry; a longer header gets a second one. */
#define PEEK_BYTES 4096
/* How much of a mapping is read before it is given back. */
#define READ_BYTES ((uint64_t)8 << 20)

bool npz_is(const uint8_t *data, size_t size)
{
    return size >= 4 && (memcmp(data, "PK\3\4", 4) == 0 || memcmp(data, "PK\5\6", 4) == 0);
}

void npz_close(struct array_file *file)
{
    if (file->zip) {
        zip_discard(file->zip);
    }
    file->zip = NULL;
}

/* The error that an entry (or NULL) or the archive reports. */
static int npz_fail_entry(const struct array_file *file, zip_file_t *entry, const char *name,
                          char *reterr)
{
    zip_error_t *error = entry ? zip_file_get_error(entry) : zip_get_error(file->zip);
    int code = zip_error_code_zip(error);
    if (code == ZIP_ER_MEMORY) {
        memory_short();
    }
    return array_fail(reterr, "%.200s: corrupt: %s", name,
                      code == ZIP_ER_OK ? "not as many bytes as declared"
                                        : zip_error_strerror(error));
}

/* The entry's .npy header, when it ends within the first `size` bytes. */
static int npz_read_header(struct array_file *file, const zip_stat_t *stat, uint64_t size,
                           struct array *ret_array, char *reterr)
{
    uint8_t *data = memory_new(size, 1);
    char error[ARRAY_ERROR_MAX];
    zip_file_t *entry = zip_fopen_index(file->zip, stat->index, 0);
    zip_int64_t got = entry ? 1 : -1;
    uint64_t there = 0;
    while (got > 0 && there < size) {
        got = zip_fread(entry, data + there, size - there);
        there += got > 0 ? (uint64_t)got : 0;
    }
    int rc = got < 0 ? npz_fail_entry(file, entry, stat->name, reterr)
                     : npy_header(data, there, ret_array, error);
    if (got >= 0 && rc != 0) {
        array_fail(reterr, "%.200s: %.700s", stat->name, error);
    }
    if (entry) {
        zip_fclose(entry);
    }
    free(data);
    return rc;
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
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0 && array->bytes > (uint64_t)pages * (uint64_t)page) {
        return array_fail(reterr, "%.200s: its %" PRIu64 " bytes do not fit this machine's memory",
                          stat->name, array->bytes);
    }
    return 0;
}

/* "decoder.0.self.npy" without its ending. */
static int check_entry(const zip_stat_t *stat, size_t *ret_len, char *reterr)
{
    size_t len = strlen(stat->name);
    if (len < 4 || strcmp(stat->name + len - 4, ".npy") != 0) {
        return array_fail(reterr,
                          "its entry %.200s is not a .npy array (PyTorch's own files must be saved "
                          "as .safetensors or by numpy)",
                          stat->name);
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
        /* A header is usually 128 bytes long. */
        rc = npz_read_header(file, &stat, PEEK_BYTES, &array, reterr);
        if (rc == -1 && stat.size > PEEK_BYTES) {
            rc = npz_read_header(file, &stat, NPY_HEADER_MAX + 12, &array, reterr);
        }
    }
    if (rc == 0) {
        rc = check_sizes(&stat, &array, reterr);
    }
    return rc != 0 ? rc : array_list_add(list, &array, stat.name, len, reterr);
}

int npz_list(struct array_file *file, struct array_list *list, char *reterr)
{
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t *source = zip_source_buffer_create(file->data, file->size, 0, &error);
    file->zip = source ? zip_open_from_source(source, ZIP_RDONLY, &error) : NULL;
    int rc = 0;
    if (!file->zip) {
        rc = array_fail(reterr, "truncated or no zip archive (%s)", zip_error_strerror(&error));
        zip_source_free(source);
    }
    zip_error_fini(&error);
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

/* libzip compares the checksum at the end of an entry only, even when its last byte is read in one
 * go from the front, hence the one byte more. */
int npz_load(const struct array *array, uint8_t *ret_data, char *reterr)
{
    struct array_file *file = array->file;
    zip_file_t *entry = zip_fopen_index(file->zip, array->entry, 0);
    uint64_t at = 0, end = array->offset + array->bytes;
    uint8_t passed[PEEK_BYTES];
    zip_int64_t got = entry ? 1 : -1;
    while (got > 0 && at < end) {
        uint64_t skip = at < array->offset ? array->offset - at : 0;
        uint64_t most = skip > 0 ? (skip < sizeof passed ? skip : sizeof passed)
                                 : (end - at < READ_BYTES ? end - at : READ_BYTES);
        got = zip_fread(entry, skip > 0 ? passed : ret_data + (at - array->offset), most);
        at += got > 0 ? (uint64_t)got : 0;
        if (file->mapped) {
            madvise((void *)(uintptr_t)file->data, file->size, MADV_DONTNEED);
        }
    }
    bool whole = got > 0 && zip_fread(entry, passed, 1) == 0;
    int rc = whole ? 0 : npz_fail_entry(file, entry, array->name, reterr);
    if (entry) {
        zip_fclose(entry);
    }
    return rc;
}
