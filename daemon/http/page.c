/* SPDX-License-Identifier: MIT */
/* The page and its files, from memory. Kept compressed: who does not take gzip has them unpacked.
 */
#include "asset.h"
#include "http_part.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* Only what comes with the page: no script, style or connection from elsewhere, and nothing inline.
 */
static const char policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static const struct asset *find(const char *name)
{
    for (size_t i = 0; i < asset_count; i++)
        if (strcmp(assets[i].name, name) == 0)
            return &assets[i];
    return NULL;
}

/* NULL when out of memory. */
static void *unpack(const struct asset *asset)
{
    unsigned char *bytes = malloc(asset->size + 1);
    z_stream stream = {.next_in = (unsigned char *)(uintptr_t)asset->gzip,
                       .avail_in = (uInt)asset->gzip_size,
                       .next_out = bytes,
                       .avail_out = (uInt)asset->size};
    if (!bytes || inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) {
        free(bytes);
        return NULL;
    }
    int rc = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
    if (rc == Z_STREAM_END)
        return bytes;
    free(bytes);
    return NULL;
}

static bool takes_gzip(struct request *request)
{
    const char *encodings = request_header(request, MHD_HTTP_HEADER_ACCEPT_ENCODING);
    const char *at = encodings ? strstr(encodings, "gzip") : NULL;
    return at && strncmp(at + strlen("gzip"), ";q=0", 4) != 0;
}

static void reply_unpacked(struct request *request, const struct asset *asset)
{
    void *bytes = unpack(asset);
    if (!bytes) {
        reply_code(request, ERR_MEMORY, NULL);
        return;
    }
    reply_owned(request, MHD_HTTP_OK, asset->type, bytes, asset->size);
}

static void reply_content(struct request *request, const struct asset *asset)
{
    if (!takes_gzip(request)) {
        reply_unpacked(request, asset);
        return;
    }
    reply_bytes(request, MHD_HTTP_OK, asset->type, asset->gzip, asset->gzip_size);
    reply_header(request, MHD_HTTP_HEADER_CONTENT_ENCODING, "gzip");
}

/* "*", or a list in which it is. */
static bool matches(const char *given, const char *etag)
{
    return given && (strcmp(given, "*") == 0 || strstr(given, etag));
}

static void reply_asset(struct request *request, const struct asset *asset)
{
    if (!asset) {
        reply_error(request, MHD_HTTP_NOT_FOUND, "path", "no such file");
        return;
    }
    if (matches(request_header(request, MHD_HTTP_HEADER_IF_NONE_MATCH), asset->etag))
        reply_bytes(request, MHD_HTTP_NOT_MODIFIED, asset->type, "", 0);
    else
        reply_content(request, asset);
    reply_header(request, MHD_HTTP_HEADER_ETAG, asset->etag);
    reply_header(request, MHD_HTTP_HEADER_VARY, MHD_HTTP_HEADER_ACCEPT_ENCODING);
    reply_header(request, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache"); /* asked for by its ETag */
}

void handle_page(struct request *request)
{
    reply_asset(request, find("index.html"));
    reply_header(request, "Content-Security-Policy", policy);
}

void handle_asset(struct request *request)
{
    reply_asset(request, find(request->path + strlen("/assets/")));
}
