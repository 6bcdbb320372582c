/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/trained.h"

#include "daemon/run/judging.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/daemon/state/measured.h"

#include <stdio.h>
#include <string.h>

#define S UINT64_C(1000000000)

void trained_config(struct config *ret_config)
{
    char error[CONFIG_ERROR_MAX];
    config_defaults(ret_config);
    ret_config->window_unit = CONFIG_UNIT_STEP;
    ret_config->window_length = ret_config->window_every = 2;
    ret_config->log_level = CONFIG_LEVEL_ERROR;
    REQUIRE(config_set(ret_config, "window.also=[8 steps every 4]", error) == 0);
    REQUIRE(config_set(ret_config, "drift.windows=3", error) == 0);
    REQUIRE(config_check(ret_config, error) == 0);
}

void trained_fill(struct registry *registry, const char *job)
{
    uint64_t arrival = 0;
    for (uint64_t step = 0; step < TRAINED_STEPS; step++) {
        for (uint32_t layer = 0; layer < 2; layer++) {
            struct measured_options options = {.batch = 1,
                                               .heads = 2,
                                               .size = 8,
                                               .sharpness = step < TRAINED_STEPS - 5 ? 0.2 : 8,
                                               .seed = step * 2 + layer};
            struct measured_message *made = measured_message_new(&options, ++arrival);
            REQUIRE(made);
            struct message *message = &made->message;
            bool compute = false;
            snprintf(message->header.job, sizeof message->header.job, "%s", job);
            message->header.run[0] = 1;
            message->header.world = 1;
            message->header.layer = (struct layer_id){STACK_DECODER, layer, SITE_SELF};
            snprintf(message->header.module, sizeof message->header.module, "blocks.%u.attn",
                     layer);
            message->header.seq = message->header.step = step;
            message->received_ns = 1000 * S + step * S;
            message->measured = measure_result(made->measure);
            REQUIRE(registry_arrive(registry, message, message->received_ns, &compute) == 0);
            struct run *run = message->run;
            if (compute) {
                queue_finish(run, message);
            }
            REQUIRE(queue_take(run) == message && message->code == 0);
            if (layer == 1) { /* and it logs its loss, which ends as NaN */
                const bool last = step + 1 == TRAINED_STEPS;
                struct named_value loss = {"loss", last ? NAMED_NONE : NAMED_NUMBER,
                                           1 + 1 / (1 + (double)step), false, NULL};
                const struct named_values values = {&loss, 1, NULL};
                const struct log_result log = {{job, run->id, 0, step, message->received_ns},
                                               &values};
                judging_of_log(run, &log, 0, NULL);
            }
            measured_message_free(&made);
        }
    }
}
