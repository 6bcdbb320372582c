/* SPDX-License-Identifier: MIT */
#include "tests/unit/daemon/alerts/trouble_fixture.h"

#include "tests/unit/unit.h"

#include <unistd.h>

static const uint8_t run_id[RUN_BYTES] = {0xa0, 0xa1};

static void trouble_on_event(void *data, const struct alert_result *event)
{
    (void)event;
    ((struct trouble_fixture *)data)->events++;
}

static void trouble_on_overflow(void *data, uint32_t events)
{
    (void)data;
    (void)events;
}

static void trouble_load(struct config *config, const char *text)
{
    char path[] = "/tmp/attnd-test-XXXXXX", error[CONFIG_ERROR_MAX] = "";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    int code = config_load(config, path, error);
    unlink(path);
    assert_string_equal(error, "");
    assert_int_equal(code, 0);
}

struct trouble_fixture *trouble_start(const char *rules)
{
    static struct trouble_fixture fixture;
    struct trouble_fixture *f = &fixture;
    struct config plain;
    char text[8192] = "rules:\n";
    memset(f, 0, sizeof *f);
    config_defaults(&plain);
    config_defaults(&f->config);
    for (uint32_t i = 0; i < config_rule_count(&plain) && *rules; i++) {
        sprintf(text + strlen(text), "  %s: {enabled: false}\n", config_rule(&plain, i)->name);
    }
    if (*rules) {
        strcat(text, rules);
        trouble_load(&f->config, text);
    }
    f->alerts = alerts_new(&f->config, "gpt");
    assert_non_null(f->alerts);
    f->sink = (struct alert_sink){trouble_on_event, trouble_on_overflow, f};
    return f;
}

void trouble_stop(struct trouble_fixture *f)
{
    alerts_free(&f->alerts);
    config_clear(&f->config);
}

static struct result_common trouble_common(const struct trouble_fixture *f)
{
    return (struct result_common){"gpt", run_id, f->window, f->window * 10, 0};
}

void trouble_begin(struct trouble_fixture *f, uint32_t heads)
{
    f->summary = (struct summary_result){.common = trouble_common(f), .heads = heads};
    f->summary.layer.id = (struct layer_id){STACK_DECODER, 3, SITE_SELF};
    f->summary.layer.shape[3] = 50;
}

void trouble_put(struct trouble_fixture *f, int metric, const double *values)
{
    for (uint32_t h = 0; h < f->summary.heads; h++) {
        bool has = !isnan(values[h]);
        f->stat[metric][h] =
            (struct result_stat){.mean = values[h], .max = values[h], .count = has};
    }
    f->summary.stat[metric] = f->stat[metric];
}

void trouble_put_invalid(struct trouble_fixture *f, const double *shares)
{
    const double rows = 1000; /* of each head */
    for (uint32_t h = 0; h < f->summary.heads; h++) {
        f->invalid_share[h] = shares[h];
        f->summary.layer.invalid_rows += isnan(shares[h]) ? 0 : (uint64_t)(shares[h] * rows);
        f->summary.layer.rows += isnan(shares[h]) ? 0 : (uint64_t)((1 - shares[h]) * rows);
    }
    f->summary.invalid_share = f->invalid_share;
}

void trouble_end_window(struct trouble_fixture *f)
{
    struct alert_run run = {.common = trouble_common(f), .processed = 10};
    assert_int_equal(alerts_layer(f->alerts, &f->summary, &f->sink), 0);
    assert_int_equal(trouble_layer(f->alerts, &f->summary, &f->trouble), 0);
    assert_int_equal(alerts_run(f->alerts, &run, &f->sink), 0);
    f->window++;
}

void trouble_give(struct trouble_fixture *f, int metric, uint32_t heads, const double *values)
{
    trouble_begin(f, heads);
    trouble_put(f, metric, values);
    trouble_end_window(f);
}
