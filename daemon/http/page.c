/* SPDX-License-Identifier: MIT */
/* The page and its files, from memory. Kept compressed, and unpacked for clients without gzip. */
#include "daemon/http/asset.h"
#include "daemon/http/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* Only what comes with the page: no script, style or connection from elsewhere, and nothing inline
 * but the script and the style of the first paint. */
static const char policy[] =
    "default-src 'none'; script-src 'self' %s; style-src 'self' %s; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static const struct asset *page_find(const char *name)
{
    for (size_t i = 0; i < asset_count; i++) {
        if (strcmp(assets[i].name, name) == 0) {
            return &assets[i];
        }
    }
    return NULL;
}

/* NULL when out of memory. */
static void *page_unpack(const struct asset *asset)
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
    if (inflate(&stream, Z_FINISH) != Z_STREAM_END) {
        free(bytes);
        bytes = NULL;
    }
    inflateEnd(&stream);
    return bytes;
}

static void reply_content(struct request *request, const struct asset *asset)
{
    if (request_quality(request, MHD_HTTP_HEADER_ACCEPT_ENCODING, "gzip") > 0) {
        reply_bytes(request, MHD_HTTP_OK, asset->type, asset->gzip, asset->gzip_size);
        reply_header(request, MHD_HTTP_HEADER_CONTENT_ENCODING, "gzip");
        return;
    }
    void *bytes = page_unpack(asset);
    if (bytes) {
        reply_owned(request, MHD_HTTP_OK, asset->type, bytes, asset->size);
    } else {
        reply_code(request, ERR_MEMORY, NULL);
    }
}

/* "*", or a list in which it is. */
static bool page_matches(const char *given, const char *etag)
{
    return given && (strcmp(given, "*") == 0 || strstr(given, etag));
}

static void reply_asset(struct request *request, const struct asset *asset)
{
    if (!asset) {
        reply_error(request, MHD_HTTP_NOT_FOUND, "path", "no such file");
        return;
    }
    if (page_matches(request_header(request, MHD_HTTP_HEADER_IF_NONE_MATCH), asset->etag)) {
        reply_bytes(request, MHD_HTTP_NOT_MODIFIED, asset->type, "", 0);
    } else {
        reply_content(request, asset);
    }
    reply_header(request, MHD_HTTP_HEADER_ETAG, asset->etag);
    reply_header(request, MHD_HTTP_HEADER_VARY, MHD_HTTP_HEADER_ACCEPT_ENCODING);
    reply_header(request, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache"); /* asked for by its ETag */
}

void handle_page(struct request *request)
{
    char text[sizeof policy + 128];
    snprintf(text, sizeof text, policy, asset_policy_script, asset_policy_style);
    reply_asset(request, page_find("index.html"));
    reply_header(request, "Content-Security-Policy", text);
}

void handle_asset(struct request *request)
{
    reply_asset(request, page_find(request->path + strlen("/assets/")));
}
