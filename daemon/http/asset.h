/* SPDX-License-Identifier: MIT */
/* asset: a file of the page, compiled in by ../../clients/web/embed.py. */
#ifndef DAEMON_HTTP_ASSET_H
#define DAEMON_HTTP_ASSET_H

#include <stddef.h>

struct asset {
    const char *name;          /* without a folder */
    const char *type;          /* as in Content-Type */
    const char *etag;          /* with its quotes; of the content */
    const unsigned char *gzip; /* compressed */
    size_t gzip_size, size;    /* size: as a file */
};
extern const struct asset assets[];
extern const size_t asset_count;

/* The script and the style that stand in the page itself, as a Content-Security-Policy names them:
 * 'sha256-...'. */
extern const char asset_policy_script[], asset_policy_style[];

#endif
