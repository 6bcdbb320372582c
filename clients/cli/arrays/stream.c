/* SPDX-License-Identifier: MIT */
/* A plain file is copied from its mapping; an entry of an archive comes from libzip, which reads
 * the mapping, too. libzip compares the checksum at the end of an entry only, even when its last
 * byte is read in one go from the front, hence the one byte more. */
#include "clients/cli/arrays/array_internal.h"

#include <string.h>
#include <sys/mman.h>
#include <zip.h>

/* How much of a mapping may be in memory before it is given back. */
#define TOUCHED_MAX ((uint64_t)8 << 20)
#define SKIP_BYTES  ((size_t)32 << 10)

/* The pages are the file's own: they come back when they are read again. */
static void stream_give_back(struct array_stream *stream, uint64_t read)
{
    struct array_file *file = stream->array->file;
    stream->touched += read;
    if (stream->touched < TOUCHED_MAX || !file->mapped) {
        return;
    }
    madvise((void *)(uintptr_t)file->data, file->size, MADV_DONTNEED);
    stream->touched = 0;
}

/* Entries ------------------------------------------------------------------------------------- */

static int stream_fail_entry(const struct array_stream *stream, char *reterr)
{
    return npz_fail_entry(stream->array->file, stream->entry, stream->array->name, reterr);
}

/* `ret_data` NULL: only passes over them. */
static int read_entry(struct array_stream *stream, uint8_t *ret_data, uint64_t size, char *reterr)
{
    uint8_t passed[SKIP_BYTES];
    while (size > 0) {
        uint64_t most = ret_data || size < SKIP_BYTES ? size : SKIP_BYTES;
        most = most < TOUCHED_MAX ? most : TOUCHED_MAX;
        zip_int64_t got = zip_fread(stream->entry, ret_data ? ret_data : passed, most);
        if (got <= 0) {
            return stream_fail_entry(stream, reterr);
        }
        stream_give_back(stream, (uint64_t)got);
        ret_data = ret_data ? ret_data + got : NULL;
        size -= (uint64_t)got;
    }
    return 0;
}

static int open_entry(struct array_stream *stream, char *reterr)
{
    const struct array *array = stream->array;
    if (stream->entry) {
        zip_fclose(stream->entry);
    }
    stream->at = 0;
    stream->entry = zip_fopen_index(array->file->zip, array->entry, 0);
    if (!stream->entry) {
        return stream_fail_entry(stream, reterr);
    }
    return read_entry(stream, NULL, array->offset, reterr);
}

static int seek_entry(struct array_stream *stream, uint64_t from, char *reterr)
{
    int rc = 0;
    if (from == stream->at) {
        return 0;
    }
    if (stream->stored) {
        zip_int64_t place = (zip_int64_t)(stream->array->offset + from);
        rc = zip_fseek(stream->entry, place, SEEK_SET) == 0 ? 0 : stream_fail_entry(stream, reterr);
    } else {
        if (from < stream->at) {
            rc = open_entry(stream, reterr);
        }
        if (rc == 0) {
            rc = read_entry(stream, NULL, from - stream->at, reterr);
        }
    }
    stream->at = rc == 0 ? from : stream->at;
    return rc;
}

/* Any file ------------------------------------------------------------------------------------ */

int array_stream_open(const struct array *array, struct array_stream *ret_stream, char *reterr)
{
    *ret_stream = (struct array_stream){.array = array};
    if (!array->file->zip) {
        return 0;
    }
    zip_stat_t stat;
    zip_stat_init(&stat);
    ret_stream->stored = zip_stat_index(array->file->zip, array->entry, 0, &stat) == 0 &&
                         stat.comp_method == ZIP_CM_STORE;
    int rc = open_entry(ret_stream, reterr);
    if (rc != 0) {
        array_stream_close(ret_stream);
    }
    return rc;
}

int array_stream_read(struct array_stream *stream, uint64_t from, void *ret_data, size_t size,
                      char *reterr)
{
    const struct array *array = stream->array;
    uint8_t *to = ret_data;
    if (array->file->zip) {
        uint8_t byte;
        int rc = seek_entry(stream, from, reterr);
        if (rc == 0) {
            rc = read_entry(stream, ret_data, size, reterr);
        }
        if (rc != 0) {
            return rc;
        }
        stream->at += size;
        if (stream->at == stream->array->bytes && zip_fread(stream->entry, &byte, 1) != 0) {
            return stream_fail_entry(stream, reterr);
        }
        return 0;
    }
    while (size > 0) {
        size_t part = size < TOUCHED_MAX ? size : (size_t)TOUCHED_MAX;
        memcpy(to, array->file->data + array->offset + from, part);
        stream_give_back(stream, part);
        to += part;
        from += part;
        size -= part;
    }
    stream->at = from;
    return 0;
}

bool array_stream_reaches(const struct array_stream *stream, const struct array *array,
                          uint64_t from)
{
    return stream->array == array && (from >= stream->at || !stream->entry || stream->stored);
}

void array_stream_close(struct array_stream *stream)
{
    if (stream->entry) {
        zip_fclose(stream->entry);
    }
    if (stream->array) {
        stream->touched = TOUCHED_MAX;
        stream_give_back(stream, 0);
    }
    *stream = (struct array_stream){0};
}
