/* SPDX-License-Identifier: MIT */
/* servers: how the servers of a fleet, and their domains, are written. Private to config/. Pure;
 * any thread. */
#ifndef CONFIG_SERVERS_H
#define CONFIG_SERVERS_H

/* `nats://host:4222,tls://user:password@[::1]`: between commas, the port may be left out. NULL when
 * the text is that or empty, else what is wrong with it. */
const char *servers_reason(const char *text);

/* `rack-0 rack-1`: names between blanks. NULL when the text is that or empty, else what is wrong
 * with it. */
const char *servers_domains_reason(const char *text);

#endif
