/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "tests/unit/daemon/run/fixture.h"

static void run_fixture_put(void *data, const struct run *run, const char *topic, uint32_t track,
                            struct mpk_writer *writer, enum result_kind kind)
{
    (void)run;
    struct run_fixture *f = data;
    f->live += strncmp(topic, "live/", 5) == 0;
    f->alerts += kind == RESULT_ALERT;
    if (kind != RESULT_SUMMARY || f->summaries == SUMMARIES) {
        return;
    }
    f->summary[f->summaries].track = track;
    f->summary[f->summaries].size = writer->buffer.size;
    f->summary[f->summaries++].data = msgpack_sbuffer_release(&writer->buffer);
}

void fixture_start(struct run_fixture *f, const char *also)
{
    char error[CONFIG_ERROR_MAX], setting[200];
    memset(f, 0, sizeof *f);
    config_defaults(&f->config);
    f->config.window_unit = CONFIG_UNIT_STEP;
    f->config.window_length = f->config.window_every = 4;
    f->cut.capture_every = 1;
    snprintf(setting, sizeof setting, "window.also=%s", also);
    assert_int_equal(config_set(&f->config, setting, error), 0);
    f->sink = (struct result_sink){.put = run_fixture_put, .stats = &f->stats, .data = f};
    f->budget.limit = UINT64_C(1) << 30;
    f->now = 1000 * S;
    fixture_new_run(f);
}

void fixture_new_run(struct run_fixture *f)
{
    static const uint8_t id[RUN_BYTES] = {1};
    f->run = run_new("job", id, &f->cut, &f->config, &f->sink, &f->budget, f->now);
    assert_non_null(f->run);
}

void fixture_stop(struct run_fixture *f)
{
    run_free(&f->run);
    assert_int_equal(f->budget.used, 0);
    for (int i = 0; i < f->summaries; i++) {
        free(f->summary[i].data);
    }
}

void fixture_also(struct run_fixture *f, const char *also)
{
    struct store *store = f->sink.store;
    fixture_stop(f);
    fixture_start(f, also);
    f->sink.store = store;
}

void fixture_begin(struct run_fixture *f)
{
    fixture_start(f, "[]");
}

static void fill_numbers(struct sample *sample, uint32_t layer, uint32_t rank, uint64_t step)
{
    sample->measured.heads = HEADS;
    sample->measured.rows = 1;
    sample->measured.head = sample->head;
    for (int m = METRIC_ROW_COUNT; m < METRIC_COUNT; m++) {
        sample->measured.value[m] = sample->value[m];
        for (int h = 0; h < HEADS; h++) {
            sample->value[m][h] =
                sin((double)(step * 100 + (uint64_t)m * 7 + layer * 13 + rank * 17 + (uint64_t)h)) /
                3;
        }
    }
}

struct sample *fixture_make(struct run_fixture *f, uint32_t layer, uint32_t rank, uint64_t step)
{
    struct sample *sample = calloc(1, sizeof *sample);
    assert_non_null(sample);
    struct header *header = &sample->message.header;
    sample->message.received_ns = f->now;
    *header = (struct header){.type = MESSAGE_ATTENTION, .run = {1}, .rank = rank, .world = 1};
    strcpy(header->job, "job");
    header->layer.layer = layer;
    header->seq = f->seq[layer][rank]++;
    header->step = step;
    header->batch = header->queries = header->keys = 1;
    header->heads = header->heads_total = HEADS;
    fill_numbers(sample, layer, rank, step);
    return sample;
}

struct sample *fixture_make_weights(struct run_fixture *f, uint64_t step)
{
    static const struct weights_result nothing;
    struct sample *sample = fixture_make(f, 0, 0, step);
    sample->message.header.type = MESSAGE_WEIGHTS;
    sample->measured.weights = &nothing;
    return sample;
}

bool fixture_queue(struct run_fixture *f, struct sample *sample)
{
    return queue_put(f->run, &sample->message, f->now);
}

void fixture_finish(struct run_fixture *f, struct sample *sample)
{
    sample->message.measured = &sample->measured;
    queue_finish(f->run, &sample->message);
}

int fixture_take_all(struct run_fixture *f)
{
    int code = 1;
    struct message *message;
    while ((message = queue_take(f->run)) || run_closes(f->run)) {
        code = message ? message->code : code;
        free(message);
    }
    return code;
}

bool fixture_pause(void *data, struct run *run)
{
    struct run_fixture *f = data;
    assert_ptr_equal(run, f->run);
    return ++f->pauses % 2;
}

int fixture_send(struct run_fixture *f, uint32_t layer, uint32_t rank, uint64_t step)
{
    struct sample *sample = fixture_make(f, layer, rank, step);
    if (fixture_queue(f, sample)) {
        fixture_finish(f, sample);
    }
    return fixture_take_all(f);
}

static int send_event(struct run_fixture *f, uint32_t rank, enum event_type event, uint64_t epoch,
                      uint64_t step, uint64_t dropped_total)
{
    struct message *message = calloc(1, sizeof *message);
    assert_non_null(message);
    message->received_ns = f->now;
    message->header = (struct header){.type = MESSAGE_EVENT,
                                      .event = event,
                                      .run = {1},
                                      .rank = rank,
                                      .world = 1,
                                      .epoch = epoch,
                                      .step = step,
                                      .dropped_total = dropped_total,
                                      .seq = f->event_seq[rank]++};
    strcpy(message->header.job, "job");
    queue_put(f->run, message, f->now);
    return fixture_take_all(f);
}

int fixture_event(struct run_fixture *f, uint32_t rank, enum event_type event, uint64_t epoch)
{
    return send_event(f, rank, event, epoch, 0, 0);
}

int fixture_hello(struct run_fixture *f, uint32_t rank, uint64_t step)
{
    return send_event(f, rank, EVENT_HELLO, 0, step, 0);
}

int fixture_total(struct run_fixture *f, uint32_t rank, uint64_t dropped)
{
    return send_event(f, rank, EVENT_HELLO, 0, 0, dropped);
}

void fixture_assert_same_summaries(const struct run_fixture *a, const struct run_fixture *b)
{
    assert_int_equal(a->summaries, b->summaries);
    for (int i = 0; i < a->summaries; i++) {
        assert_int_equal(a->summary[i].track, b->summary[i].track);
        assert_int_equal(a->summary[i].size, b->summary[i].size);
        assert_memory_equal(a->summary[i].data, b->summary[i].data, a->summary[i].size);
    }
}

uint64_t fixture_number(const struct run_fixture *f, int summary, const char *map, const char *key)
{
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    uint64_t value = UINT64_MAX;
    assert_int_equal(
        mpk_parse(f->summary[summary].data, f->summary[summary].size, &mpk_result_limits, &doc), 0);
    const msgpack_object *of = map ? mpk_find(doc.root, map) : doc.root;
    const msgpack_object *found = mpk_find(of, key);
    if (found) {
        mpk_get_u64(found, UINT64_MAX, &value);
    }
    return value;
}
