/* SPDX-License-Identifier: MIT */
/* read: reads answers of attnd into the model. A field that is missing in an answer, or of another
 * type, stays as it was or counts as missing: answers may come from a newer attnd. Pure; one
 * thread. */
#ifndef CLIENTS_CLI_TOP_READ_H
#define CLIENTS_CLI_TOP_READ_H

#include "clients/cli/top/model.h"

/* Each takes the `result` of the method of its name. */

/* Says through model->needs what else has changed since the last one. */
void read_monitor(struct model *model, const msgpack_object *result, int64_t now_ms);
void read_config(struct model *model, const msgpack_object *result);
void read_live(struct model *model, const msgpack_object *result);
void read_summary(struct model *model, const msgpack_object *result);
/* Packed, of all layers. */
void read_grid(struct model *model, const msgpack_object *result);
void read_alerts(struct model *model, const msgpack_object *result);

/* `live` or `summary` of the layer of the head that is looked at. */
void read_detail_live(struct model *model, const msgpack_object *result);
void read_detail_summary(struct model *model, const msgpack_object *result);
/* `grid`, packed, of its layer and one metric. */
void read_detail_grid(struct model *model, const msgpack_object *result);

/* "512MiB" in bytes; 0 for what is no size. */
uint64_t read_size(const char *text);

#endif
