/* SPDX-License-Identifier: MIT */
/* view: draws the model on a screen. Pure except for the lists in model->ui, which are scrolled so
 * that the selection is visible. One thread. */
#ifndef CLIENTS_CLI_TOP_VIEW_H
#define CLIENTS_CLI_TOP_VIEW_H

#include "clients/cli/top/model.h"

/* Less than this is too small for anything. */
#define VIEW_WIDTH_MIN  60
#define VIEW_HEIGHT_MIN 10

/* `now_ms` is of the model's clock, `clock` what the user's says ("14:02:31"). */
void view_draw(struct model *model, struct screen *screen, int64_t now_ms, const char *clock);

#endif
