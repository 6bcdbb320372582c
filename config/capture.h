/* SPDX-License-Identifier: MIT */
/* capture: how a plan chooses layers and heads in text. Private to config/. Pure; any thread. */
#ifndef CONFIG_CAPTURE_H
#define CONFIG_CAPTURE_H

/* `decoder.*.self encoder.0.cross`: patterns of stack.layer.site between single blanks. NULL when
 * the text is that, else what is wrong with it. */
const char *capture_layers_reason(const char *text);

/* `*`, or `0-3,7`: numbers and ranges between commas. NULL when the text is that, else what is
 * wrong with it. */
const char *capture_heads_reason(const char *text);

/* servers: how the servers of a fleet, and their domains, are written. Private to config/. Pure;
 * any thread. */

/* `nats://host:4222,tls://user:password@[::1]`: between commas, the port may be left out. NULL when
 * the text is that or empty, else what is wrong with it. */
const char *servers_reason(const char *text);

/* `rack-0 rack-1`: names between blanks. NULL when the text is that or empty, else what is wrong
 * with it. */
const char *servers_domains_reason(const char *text);

#endif
