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

#endif
