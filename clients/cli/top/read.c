/* SPDX-License-Identifier: MIT */
/* How attnd is, its jobs, and what fires. */
#include "clients/cli/top/internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Trends are asked for again when there are new windows, but not more often than this, and than
 * lets attnd spend more than a small share of its time on them. */
#define GRID_EVERY_MS   2000
#define GRID_SHARE      50
#define SERIES_EVERY_MS 5000
#define AGAIN_MS        2000 /* more than history.commit */

/* attnd */

uint64_t read_size(const char *text)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    char *end;
    double number = strtod(text, &end);
    if (end == text || !(number >= 0 && number < 1e15)) {
        return 0;
    }
    for (int i = 0; i < 5; i++) {
        if (strcmp(end, units[i]) == 0) {
            return (uint64_t)(number * (double)(UINT64_C(1) << (10 * i)));
        }
    }
    return *end == '\0' ? (uint64_t)number : 0;
}

void read_config(struct model *model, const msgpack_object *result)
{
    char text[32];
    field_text(result, "ingest.budget", text, sizeof text);
    model->health.budget_bytes = read_size(text);
}

static double read_rate(uint64_t now, uint64_t before, int64_t ms)
{
    return ms > 0 && now >= before ? (double)(now - before) * 1000 / (double)ms : NAN;
}

static uint64_t losses(const struct health *health)
{
    return health->lost + health->dropped + health->source_dropped;
}

static struct health health_of(const msgpack_object *stats, int64_t now_ms)
{
    const msgpack_object *pool = mpk_find(stats, "pool");
    struct health health = {
        .known = true,
        .received = field_received(stats),
        .bytes = mpk_find_u64(stats, "bytes"),
        .lost = mpk_find_u64(stats, "lost"),
        .dropped = field_dropped(stats),
        .source_dropped = mpk_find_u64(stats, "source_dropped"),
        .in_flight_bytes = mpk_find_u64(stats, "in_flight_bytes"),
        .threads = mpk_find_u64(pool, "threads"),
        .queued = mpk_find_u64(pool, "queued"),
        .uptime_s = mpk_number(mpk_find(stats, "uptime_s")),
        .summaries = mpk_find_u64(stats, "summaries"),
        .alerts = mpk_find_u64(stats, "alerts"),
        .rate = NAN,
        .bytes_rate = NAN,
        .at_ms = now_ms,
    };
    /* The reason that most dropped messages have. */
    const msgpack_object *dropped = mpk_find(stats, "dropped");
    uint64_t most = 0, number;
    health.reason[0] = '\0';
    for (uint32_t i = 0; i < mpk_pairs(dropped); i++) {
        const msgpack_object_kv *pair = &dropped->via.map.ptr[i];
        if (mpk_get_u64(&pair->val, UINT64_MAX, &number) == 0 && number > most &&
            !mpk_is_str(&pair->key, "repeated")) {
            most = number;
            field_show(&pair->key, health.reason, 48);
        }
    }
    return health;
}

/* Jobs */

static uint64_t count_firing(const msgpack_object *firing)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < mpk_items(firing); i++) {
        count += mpk_find_u64(field_at(firing, i), "count");
    }
    return count;
}

/* Takes from the job's own numbers what is new. */
static void follow_job(struct model *model)
{
    const struct job_entry *entry = model_find_job(model);
    model->job_known = entry != NULL;
    if (!entry) {
        return;
    }
    if (strcmp(entry->run, model->entry.run) != 0) {
        model_forget(model);
    }
    bool moved = entry->received != model->entry.received || entry->step != model->entry.step;
    model->needs.live = model->needs.live || moved;
    model->needs.detail = model->needs.detail || moved;
    if (entry->firing != model->entry.firing || strcmp(entry->state, model->entry.state) != 0) {
        model->needs.alerts = model->needs.verdict = true;
    }
    model->entry = *entry;
}

/* New windows: what follows from them, as often as is sensible. */
static void follow_windows(struct model *model, int64_t now_ms)
{
    struct needs *needs = &model->needs;
    bool head = model->ui.page == PAGE_HEAD;
    if (needs->again_ms < 0) {
        needs->again_ms = now_ms + AGAIN_MS;
    }
    if (needs->again_ms > 0 && now_ms >= needs->again_ms) {
        needs->windows = true;
        needs->again_ms = 0;
    }
    if (!needs->windows) {
        return;
    }
    needs->detail_window = true;
    if (now_ms - needs->verdict_ms >= GRID_EVERY_MS) {
        needs->verdict = true;
        needs->verdict_ms = now_ms;
    }
    if (head && now_ms - needs->series_ms >= SERIES_EVERY_MS) {
        needs->series = true;
        needs->series_next = 0;
        needs->windows = false;
    } else if (!head && now_ms - needs->grid_ms >= GRID_EVERY_MS &&
               now_ms - needs->grid_ms >= GRID_SHARE * model->grid_took_ms) {
        needs->grid = true;
        needs->summary_next = 0;
        needs->windows = false;
    }
}

/* The nodes of a hub that are late, and the rank of the job that is odd. */
static void read_fleet(struct model *model, const msgpack_object *fleet)
{
    const msgpack_object *nodes = mpk_find(fleet, "nodes");
    const msgpack_object *run = field_fleet_run(fleet, model->job, model->entry.run);
    const msgpack_object *compared = mpk_find(run, "compared");
    const msgpack_object *odd = field_at(mpk_find(compared, "odd"), 0);
    uint32_t late = 0;
    char node[FIELD_NAME_MAX];
    for (uint32_t i = 0; i < mpk_items(nodes); i++) {
        const msgpack_object *state = mpk_find(field_at(nodes, i), "state");
        late += state && !mpk_is_str(state, "ok") && !mpk_is_str(state, "ended");
    }
    field_text(odd, "node", node, sizeof node);
    model->hub = nodes != NULL;
    int used = 0;
    model->fleet[0] = '\0';
    if (odd) {
        uint64_t more = mpk_find_u64(compared, "count") - 1;
        char others[40] = "";
        if (more > 0) {
            snprintf(others, sizeof others, " (and %" PRIu64 " more)", more);
        }
        used = snprintf(model->fleet, sizeof model->fleet,
                        "! rank %" PRIu64 " of %.64s is odd%s: attnctl ranks %.100s",
                        mpk_find_u64(odd, "rank"), node, others, model->job);
    }
    if (late > 0) {
        snprintf(model->fleet + used, sizeof model->fleet - (size_t)used,
                 "%s! %" PRIu32 " node%s late%s", odd ? "  " : "", late,
                 late == 1 ? " is" : "s are", odd ? "" : ": attnctl fleet");
    }
}

void read_monitor(struct model *model, const msgpack_object *result, int64_t now_ms)
{
    const msgpack_object *stats = mpk_find(result, "stats");
    struct health before = model->health, health = health_of(stats, now_ms);
    bool again = before.known && health.uptime_s < before.uptime_s;
    health.budget_bytes = before.budget_bytes;
    if (again) {
        /* Everything is asked anew of an attnd that has been started again. */
        model->needs = model_needs_all;
    }
    if (before.known && !again) {
        health.rate = read_rate(health.received, before.received, now_ms - before.at_ms);
        health.bytes_rate = read_rate(health.bytes, before.bytes, now_ms - before.at_ms);
        health.new_losses = losses(&health) - losses(&before);
        if (health.summaries != before.summaries) {
            model->needs.windows = true;
            model->needs.again_ms = now_ms + AGAIN_MS;
        }
        model->needs.alerts = model->needs.alerts || health.alerts != before.alerts;
    }
    model->health = health;
    model->refused[0] = '\0';
    const msgpack_object *jobs = mpk_find(result, "jobs");
    uint32_t count = mpk_items(jobs);
    model->job_count = count < MODEL_JOBS_MAX ? count : MODEL_JOBS_MAX;
    model->jobs_left_out = count - model->job_count;
    for (uint32_t i = 0; i < model->job_count; i++) {
        const msgpack_object *map = field_at(jobs, i);
        struct job_entry entry = {
            .epoch = mpk_find_u64(map, "epoch"),
            .step = mpk_find_u64(map, "step"),
            .ranks = mpk_find_u64(map, "ranks"),
            .world = mpk_find_u64(map, "world"),
            .layers = mpk_find_u64(map, "layers"),
            .received = field_received(map),
            .lost = mpk_find_u64(map, "lost"),
            .dropped = field_dropped(map),
            .firing = count_firing(mpk_find(map, "firing")),
        };
        field_text(map, "job", entry.job, sizeof entry.job);
        field_text(map, "run", entry.run, sizeof entry.run);
        field_text(map, "state", entry.state, sizeof entry.state);
        model->jobs[i] = entry;
    }
    bool alone = model->job_count == 1 && model->jobs_left_out == 0;
    if (model->job[0] == '\0' && alone && !model->ui.stays) {
        model_choose_job(model, model->jobs[0].job);
    }
    if (model->job[0] != '\0') {
        follow_job(model);
    }
    follow_windows(model, now_ms);
    read_fleet(model, mpk_find(result, "fleet"));
}

/* Alerts */

static enum severity read_severity_of(const msgpack_object *map)
{
    const msgpack_object *value = mpk_find(map, "severity");
    return value && mpk_is_str(value, "critical")  ? SEVERITY_CRITICAL
           : value && mpk_is_str(value, "warning") ? SEVERITY_WARNING
                                                   : SEVERITY_INFO;
}

static struct alert alert_of(const msgpack_object *map)
{
    const msgpack_object *since = mpk_find(map, "since");
    struct alert alert = {
        .severity = read_severity_of(map),
        .at_end = mpk_is_str(mpk_find(map, "state"), "firing_at_end"),
        .head = -1,
        .value = mpk_number(mpk_find(map, "value")),
        .bound = mpk_number(mpk_find(map, "bound")),
        .since_epoch = mpk_find_u64(since, "epoch"),
        .since_step = mpk_find_u64(since, "step"),
    };
    uint64_t head;
    const msgpack_object *value = mpk_find(map, "head");
    if (value && mpk_get_u64(value, UINT32_MAX, &head) == 0) {
        alert.head = (int64_t)head;
    }
    alert.has_layer = read_place(map, &alert.place);
    if (!alert.has_layer) {
        alert.place = (struct layer_place){.layer = 0};
    }
    field_text(map, "rule", alert.rule, sizeof alert.rule);
    field_text(map, "metric", alert.metric, sizeof alert.metric);
    field_text(map, "message", alert.message, sizeof alert.message);
    field_text(map, "why", alert.why, sizeof alert.why);
    field_text(map, "advice", alert.advice, sizeof alert.advice);
    return alert;
}

/* -1 = it is not there yet. */
static int64_t find_alert(const struct model *model, const struct alert *alert)
{
    for (uint32_t i = 0; i < model->alert_count; i++) {
        const struct alert *known = &model->alerts[i];
        if (known->has_layer == alert->has_layer && known->head == alert->head &&
            known->since_step == alert->since_step && strcmp(known->rule, alert->rule) == 0 &&
            model_compare_places(&known->place, &alert->place) == 0) {
            return i;
        }
    }
    return -1;
}

static void add_alerts(struct model *model, const msgpack_object *list, bool firing)
{
    for (uint32_t i = 0; i < mpk_items(list); i++) {
        struct alert alert = alert_of(field_at(list, i));
        alert.firing = firing;
        if (read_is_run(model, field_at(list, i))) {
            /* The past, newest first, has an alert twice: how it was resolved, and how it began,
             * which says more and is kept. */
            int64_t at = find_alert(model, &alert);
            if (at < 0 && model->alert_count < MODEL_ALERTS_MAX) {
                model->alerts[model->alert_count++] = alert;
            } else if (at >= 0 && !model->alerts[at].firing) {
                model->alerts[at] = alert;
            }
        }
    }
}

/* The gravest first; of equal ones the newest. */
static int compare_alerts(const void *left, const void *right)
{
    const struct alert *a = left, *b = right;
    if (a->severity != b->severity) {
        return a->severity > b->severity ? -1 : 1;
    }
    return (a->since_step < b->since_step) - (a->since_step > b->since_step);
}

void read_alerts(struct model *model, const msgpack_object *result)
{
    model->alert_count = 0;
    add_alerts(model, mpk_find(result, "firing"), true);
    model->firing_count = model->alert_count;
    qsort(model->alerts, model->firing_count, sizeof *model->alerts, compare_alerts);
    add_alerts(model, mpk_find(result, "alerts"), false);
}

/* The verdict */

static void mark_head(struct head *head, const struct alert *alert)
{
    if (alert->severity > head->severity) {
        head->severity = alert->severity;
        head->since_step = alert->since_step;
        memcpy(head->rule, alert->rule, sizeof head->rule);
    }
}

/* One that is about a layer is about all its heads. */
static void mark_layer(struct layer *layer, const struct alert *alert)
{
    layer->firing++;
    if (alert->severity > layer->severity) {
        layer->severity = alert->severity;
        memcpy(layer->rule, alert->rule, sizeof layer->rule);
    }
    for (uint32_t head = 0; head < layer->head_count; head++) {
        if (alert->head < 0 || alert->head == head) {
            mark_head(&layer->heads[head], alert);
        }
    }
}

static void forget_verdict(struct model *model)
{
    model->verdict_count = 0;
    for (uint32_t i = 0; i < model->layer_count; i++) {
        struct layer *layer = &model->layers[i];
        layer->severity = SEVERITY_NONE;
        layer->firing = 0;
        for (uint32_t head = 0; head < layer->head_count; head++) {
            layer->heads[head].severity = SEVERITY_NONE;
            layer->heads[head].rule[0] = '\0';
        }
    }
}

/* The alerts come worst first. */
void read_verdict(struct model *model, const msgpack_object *result)
{
    const msgpack_object *step = mpk_find(result, "step"), *alerts = mpk_find(result, "alerts"),
                         *checks = mpk_find(result, "checks");
    if (!read_is_run(model, result)) {
        return;
    }
    forget_verdict(model);
    model->judged = step && mpk_get_u64(step, UINT64_MAX, &model->judged_step) == 0;
    model->checks = mpk_find_u64(checks, "judged");
    model->unmeasured = mpk_items(mpk_find(checks, "unjudged"));
    for (uint32_t i = 0; i < mpk_items(alerts); i++) {
        struct alert alert = alert_of(field_at(alerts, i));
        int64_t at = alert.has_layer ? model_find_layer(model, &alert.place) : -1;
        if (at >= 0) {
            mark_layer(&model->layers[at], &alert);
        }
        if (model->verdict_count < MODEL_VERDICT_MAX) {
            model->verdict[model->verdict_count++] = alert;
        }
    }
    model->verdict_cut = model->verdict_count < mpk_items(alerts) || field_bool(result, "more");
}
