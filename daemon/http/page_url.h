/* SPDX-License-Identifier: MIT */
/* page_url: the address of the page, for people and for `attnctl page`: the file `page` in attnd's
 * directory, one line. Its port need not be the one that the config names. */
#ifndef DAEMON_HTTP_PAGE_URL_H
#define DAEMON_HTTP_PAGE_URL_H

#include "config/config.h"

#define PAGE_URL_MAX (ENDPOINT_MAX + 16)

/* "http://127.0.0.1:5580/" for tcp://127.0.0.1:5580 and for the same port of any address; "" for
 * what no browser opens.
 */
void page_url(const char *endpoint, char ret_url[PAGE_URL_MAX]);

/* Writes DIRECTORY/page, at once or not at all, readable by everybody who may enter the directory.
 * An endpoint that no browser opens removes it. Returns 0, or -1 with errno. */
int page_url_write(const char *directory, const char *endpoint);
/* The endpoint on loopback that DIRECTORY/page names, which an attnd that was killed has left;
 * false when there is none. */
bool page_url_left(const char *directory, char ret_endpoint[ENDPOINT_MAX]);
bool page_url_is_there(const char *directory);
/* Removes DIRECTORY/page. */
void page_url_remove(const char *directory);

#endif
