/* SPDX-License-Identifier: MIT */
/* The structs here and tests/golden/make.py say the same; the encoders must agree to the byte. */
#include "tests/unit/proto/support.h"

#include "proto/err.h"
#include "proto/result.h"

#define NONE ((double)NAN)

static const uint8_t run[RUN_BYTES] = {0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
                                       0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
static const struct result_common common = {"gpt-small", run, 3, 1200, 1700000000000000000};
static const struct result_layer layer = {
    {STACK_DECODER, 5, SITE_SELF}, {2, 2, 8, 8}, true, 30, 0, 2, 0.125, MESSAGE_ATTENTION, NULL};
static const struct pair pairs[] = {{7, 0, 0.5}, {3, 2, 0.25}};

static struct result_stat result_stat_of(double base, uint64_t count)
{
    return (struct result_stat){base, base / 2,   base - 1,    base + 1, base - 0.5,
                                base, base + 0.5, base + 0.75, NONE,     count};
}

static void expect_golden(struct mpk_writer *writer, const char *name)
{
    OWNED(bytes_free) struct bytes got = bytes_written(writer), golden;
    char path[512];

    snprintf(path, sizeof path, "%s/%s.msgpack", GOLDEN_DIR, name);
    golden = bytes_file(path);
    assert_int_equal(got.len, golden.len);
    assert_memory_equal(got.data, golden.data, golden.len);
}

/* The encoder makes the golden file of the result. */
#define GOLDEN(encode, result, name)                                                               \
    do {                                                                                           \
        struct mpk_writer writer;                                                                  \
        mpk_writer_init(&writer);                                                                  \
        encode(result, &writer);                                                                   \
        expect_golden(&writer, name);                                                              \
    } while (0)

static struct live_result live_bare(void)
{
    struct live_result live = {.common = common, .layer = layer, .numbers = {.heads = 2}};

    live.layer.row_sum_error = NONE;
    return live;
}

/* Rows of singular values: three of head 0, none of head 1. */
static void fill_singular(double singular[2][SINGULAR_VALUES_MAX])
{
    for (unsigned i = 0; i < SINGULAR_VALUES_MAX; i++) {
        singular[0][i] = i < 3 ? 1.0 / (1u << i) : NONE, singular[1][i] = NONE;
    }
}

static void fill_aggregate(struct layer_numbers *numbers, unsigned count)
{
    for (unsigned a = 0; a < count; a++) {
        numbers->has_aggregate[a] = true;
        numbers->aggregate[a][MAP_MEAN] = a + 0.5;
        numbers->aggregate[a][MAP_MAX] = a + 1.0;
        numbers->aggregate[a][MAP_MIN] = a;
        numbers->aggregate[a][MAP_STD] = a + 0.25;
    }
}

TEST(live_has_the_golden_bytes)
{
    static const double entropy[] = {0.5, 1.5}, importance[] = {0.5, 0.5}, norm[] = {1.0, 1.25};
    double diagonal[] = {NONE, 0.25}, condition[] = {NONE, 2.0}, singular[2][SINGULAR_VALUES_MAX];
    struct live_result live = {
        .common = common,
        .layer = layer,
        .rank = 1,
        .numbers = {.heads = 2, .pairs = {.pairs = pairs, .count = 2}},
    };

    fill_singular(singular);
    live.numbers.value[METRIC_ENTROPY] = entropy;
    live.numbers.value[METRIC_DIAGONAL] = diagonal;
    live.numbers.value[METRIC_IMPORTANCE] = importance;
    live.numbers.value[METRIC_SPECTRAL_NORM] = norm;
    live.numbers.value[METRIC_CONDITION_NUMBER] = condition;
    live.numbers.vector[VECTOR_SINGULAR_VALUES] = singular[0];
    fill_aggregate(&live.numbers, 3);
    GOLDEN(live_encode, &live, "live");
}

/* Numbers of every kind there is, for the golden files of whatever holds them. */
struct everything {
    double value[METRIC_COUNT][2];
    double singular[2][SINGULAR_VALUES_MAX], errors[2][LOW_RANK_COUNT];
    double cosine[2][2], js[2][2];
    enum pattern pattern[2];
    struct pair head_pairs[2][3];
    uint32_t head_count[2];
    struct redundant_pair redundant;
};

static void fill_everything(struct everything *all)
{
    *all = (struct everything){.cosine = {{1, 0.5}, {0.5, 1}},
                               .js = {{0, 0.03125}, {0.03125, 0}},
                               .pattern = {PATTERN_INDUCTION, PATTERN_NONE},
                               .head_pairs = {{{7, 0, 0.5}, {3, 2, 0.25}}, {{1, 1, 1.0}}},
                               .head_count = {2, 1},
                               .redundant = {0, 1, 0.03125}};
    for (unsigned m = 0; m < METRIC_COUNT; m++) {
        all->value[m][0] = m, all->value[m][1] = NONE;
    }
    fill_singular(all->singular);
    for (unsigned k = 0; k < LOW_RANK_COUNT; k++) {
        all->errors[0][k] = k < 4 ? 1.0 / (2u << k) : NONE, all->errors[1][k] = NONE;
    }
}

static struct layer_numbers result_numbers_of(const struct everything *all)
{
    struct layer_numbers numbers = {
        .heads = 2,
        .pattern = all->pattern,
        .sink_rate = 0.5,
        .local_window = 8,
        .pairs = {pairs, 2, all->head_pairs[0], all->head_count, 3},
        .similarity = {all->cosine[0], all->js[0], &all->redundant, 1, 7},
    };

    for (unsigned m = 0; m < METRIC_COUNT; m++) {
        numbers.value[m] = all->value[m];
    }
    numbers.vector[VECTOR_SINGULAR_VALUES] = numbers.vector[VECTOR_QK_SINGULAR_VALUES] =
        all->singular[0];
    numbers.vector[VECTOR_LOW_RANK_ERROR] = all->errors[0];
    fill_aggregate(&numbers, AGGREGATE_COUNT);
    return numbers;
}

TEST(live_with_every_number_has_the_golden_bytes)
{
    struct everything all;
    struct live_result live = {.common = common, .layer = layer, .rank = 1};

    fill_everything(&all);
    live.numbers = result_numbers_of(&all);
    live.layer.tier = MESSAGE_QK;
    GOLDEN(live_encode, &live, "live_full");
}

TEST(a_layer_of_an_analysis_has_the_golden_bytes)
{
    struct everything all;
    struct analysis_layer analysis = {
        .layer = layer, .stack_known = true, .layer_known = true, .site_known = true};

    fill_everything(&all);
    analysis.numbers = result_numbers_of(&all);
    GOLDEN(analysis_encode_layer, &analysis, "analysis_layer");
}

static struct spectrum spectrum_at(double base)
{
    struct spectrum spectrum = {.spectral_norm = base,
                                .condition_number = NONE,
                                .rank = base + 1,
                                .effective_rank = base + 2,
                                .effective_rank_entropy = base + 3,
                                .stable_rank = base + 4,
                                .nuclear_norm = base + 5};

    for (unsigned i = 0; i < SINGULAR_VALUES_MAX; i++) {
        spectrum.singular_values[i] = i < 2 ? base / (i + 1) : NONE;
    }
    return spectrum;
}

/* W_q with two heads, W_k with one, and what the two compare. */
struct projections {
    struct spectrum q[2], k[1], qk[2];
    double correlation[2][2], alone[1];
    struct weights_result result;
};

static void fill_projections(struct projections *p)
{
    *p = (struct projections){.q = {spectrum_at(1), spectrum_at(2)},
                              .k = {spectrum_at(3)},
                              .qk = {spectrum_at(4), spectrum_at(5)},
                              .correlation = {{1, 0.25}, {0.25, 1}},
                              .alone = {1}};
    p->result.heads = 2;
    p->result.projection[PROJECTION_Q] = (struct projection_result){
        true, spectrum_at(6), 0.5, 1.5, 2, p->q, p->correlation[0], 0.25};
    p->result.projection[PROJECTION_K] =
        (struct projection_result){true, spectrum_at(7), NONE, NONE, 1, p->k, p->alone, NONE};
    p->result.circuit[CIRCUIT_QK] = p->qk;
}

/* Weight matrices have no heads' numbers and no shape. */
static struct result_layer weights_layer(void)
{
    struct result_layer of_weights = {.id = layer.id, .row_sum_error = NONE};

    of_weights.tier = MESSAGE_WEIGHTS;
    return of_weights;
}

TEST(live_of_weights_has_the_golden_bytes)
{
    struct projections p;
    struct live_result live = {.common = common, .layer = weights_layer()};

    fill_projections(&p);
    live.numbers.heads = 2;
    live.numbers.weights = &p.result;
    GOLDEN(live_encode, &live, "live_weights");
}

TEST(live_of_a_sketch_has_the_golden_bytes)
{
    struct result_layer of_sketch = {.id = layer.id, .row_sum_error = NONE, .tier = MESSAGE_SKETCH};
    struct live_result live = {.common = common, .layer = of_sketch};
    struct mpk_writer map;
    mpk_writer_init(&map);
    mpk_put_map(&map, 3);
    mpk_pair_u64(&map, "step", 1200);
    mpk_pair_array(&map, "stored", 1);
    mpk_put_str(&map, "bf16");
    mpk_pair_map(&map, "wk", 4);
    mpk_pair_array(&map, "moved", 2);
    mpk_put_f64(&map, 0.25);
    mpk_put_nil(&map);
    mpk_pair_array(&map, "cosine", 2);
    mpk_put_f64(&map, 0.5);
    mpk_put_nil(&map);
    mpk_pair_array(&map, "hash", 2);
    mpk_put_str(&map, "0123456789abcdef");
    mpk_put_str(&map, "0123456789abcdef");
    mpk_pair_array(&map, "flags", 2);
    mpk_put_u64(&map, 0);
    mpk_put_u64(&map, 9);
    live.sketch = map.buffer.data;
    live.sketch_size = map.buffer.size;
    GOLDEN(live_encode, &live, "live_sketch");
    mpk_writer_clear(&map);
}

TEST(an_analysis_says_what_is_not_known)
{
    struct projections p;
    struct analysis_layer analysis = {.layer = weights_layer(), .layer_known = true};

    fill_projections(&p);
    analysis.numbers.heads = 2;
    analysis.numbers.weights = &p.result;
    GOLDEN(analysis_encode_layer, &analysis, "analysis_weights");
}

TEST(what_was_not_computed_is_left_out)
{
    struct live_result live = live_bare();

    GOLDEN(live_encode, &live, "live_bare");
}

TEST(summary_has_the_golden_bytes)
{
    const struct result_stat entropy[] = {result_stat_of(2, 30), result_stat_of(3, 28)},
                             mean[] = {result_stat_of(4, 300), result_stat_of(5, 300)},
                             rank[] = {result_stat_of(8, 3), result_stat_of(7, 3)};
    static const struct reason_count dropped[] = {{"late", 3}, {"size_mismatch", 70000}};
    struct result_stat singular[2][SINGULAR_VALUES_MAX] = {
        {result_stat_of(2, 3), result_stat_of(1, 3)}, {result_stat_of(3, 3)}};
    struct result_stat aggregate[AGGREGATE_COUNT][MAP_STAT_COUNT];
    struct summary_result summary = {.common = common,
                                     .layer = layer,
                                     .window = {WINDOW_EPOCH, 2, 3, 2, 1, false},
                                     .ranks = 1,
                                     .messages = 300,
                                     .lost = 4,
                                     .dropped = dropped,
                                     .dropped_count = 2,
                                     .heads = 2,
                                     .has_aggregate = {true, true, true},
                                     .pairs = {.pairs = pairs, .count = 2}};

    for (unsigned a = 0; a < AGGREGATE_COUNT; a++) {
        for (unsigned s = 0; s < MAP_STAT_COUNT; s++) {
            aggregate[a][s] = result_stat_of(a + s / 4.0, 300);
        }
    }
    summary.aggregate = (const struct result_stat(*)[MAP_STAT_COUNT])aggregate;
    summary.vector[VECTOR_SINGULAR_VALUES] = singular[0];
    summary.stat[METRIC_ENTROPY] = entropy;
    summary.stat[METRIC_MEAN] = mean;
    summary.stat[METRIC_RANK] = rank;
    GOLDEN(summary_encode, &summary, "summary");
}

/* Head 1 was never seen in the baseline. */
static void fill_drift(struct result_drift drift[METRIC_COUNT][2], struct summary_result *summary)
{
    for (unsigned m = 0; m < METRIC_COUNT; m++) {
        drift[m][0] = (struct result_drift){m / 4.0, m / 2.0 - 8, m / 64.0, m};
        drift[m][1] = (struct result_drift){NONE, NONE, NONE, NONE};
        summary->drift[m] = drift[m];
    }
}

TEST(summary_with_every_number_has_the_golden_bytes)
{
    struct everything all;
    struct projections p;
    struct result_stat stat[METRIC_COUNT][2], sink = result_stat_of(0.5, 300);
    struct result_stat errors[2][LOW_RANK_COUNT] = {{result_stat_of(1, 3)}};
    struct result_stat singular[2][SINGULAR_VALUES_MAX] = {{result_stat_of(2, 3)}};
    struct result_stat aggregate[AGGREGATE_COUNT][MAP_STAT_COUNT] = {{{0}}};
    struct result_drift drift[METRIC_COUNT][2];
    struct summary_result summary = {
        .common = common,
        .layer = layer,
        .window = {WINDOW_STEP, 0, 0, 1, 1, true},
        .heads = 2,
        .sink_rate = &sink,
        .local_window = 8,
        .quantile_error = 0.03125,
        .pattern = all.pattern,
        .aggregate = (const struct result_stat(*)[MAP_STAT_COUNT])aggregate,
        .weights = &p.result,
    };

    fill_everything(&all);
    fill_projections(&p);
    for (unsigned m = 0; m < METRIC_COUNT; m++) {
        stat[m][0] = result_stat_of(m, 30), stat[m][1] = result_stat_of(m + 1, 28);
        summary.stat[m] = stat[m];
    }
    fill_drift(drift, &summary);
    for (unsigned s = 0; s < MAP_STAT_COUNT; s++) {
        aggregate[AGGREGATE_WEIGHTED][s] = result_stat_of(s, 300);
    }
    summary.has_aggregate[AGGREGATE_WEIGHTED] = true;
    summary.vector[VECTOR_LOW_RANK_ERROR] = errors[0];
    summary.vector[VECTOR_QK_SINGULAR_VALUES] = singular[0];
    summary.pairs = result_numbers_of(&all).pairs;
    summary.similarity = result_numbers_of(&all).similarity;
    GOLDEN(summary_encode, &summary, "summary_full");
}

TEST(the_deepest_answer_is_within_the_limits)
{
    OWNED(bytes_free) struct bytes summary, answer;
    struct mpk_writer writer;
    OWNED(mpk_doc_clear) struct mpk_doc doc;

    summary = bytes_file(GOLDEN_DIR "/summary_full.msgpack");
    mpk_writer_init(&writer);
    mpk_put_array(&writer, 4);
    mpk_put_u64(&writer, 1);
    mpk_put_u64(&writer, 7);
    mpk_put_nil(&writer);
    mpk_put_array(&writer, 1);
    mpk_put_raw(&writer, summary.data, summary.len);
    answer = bytes_written(&writer);
    assert_int_equal(mpk_parse(answer.data, answer.len, &mpk_result_limits, &doc), 0);
}

TEST(job_has_the_golden_bytes)
{
    static const struct layer_info layers[] = {{{STACK_ENCODER, 0, SITE_SELF}, 8, NULL},
                                               {{STACK_DECODER, 11, SITE_CROSS}, 16, NULL}};
    static const struct reason_count dropped[] = {{"late", 10}};
    struct job_result job = {.common = common,
                             .state = JOB_ACTIVE,
                             .heard_ns = UINT64_C(1790000000000000123),
                             .world = 2,
                             .ranks = 1,
                             .layers = layers,
                             .layer_count = 2,
                             .received = 1000,
                             .processed = 990,
                             .lost = 5,
                             .dropped = dropped,
                             .dropped_count = 1};

    GOLDEN(job_encode, &job, "job");
}

TEST(snapshot_is_flipped_in_place)
{
    struct live_result live = live_bare();
    struct mpk_writer writer;
    struct mpk_doc doc;
    OWNED(bytes_free) struct bytes bytes;
    bool snapshot = false;

    mpk_writer_init(&writer);
    live_encode(&live, &writer);
    bytes = bytes_written(&writer);
    result_set_snapshot(bytes.data, bytes.len, true);
    assert_int_equal(mpk_parse(bytes.data, bytes.len, &mpk_result_limits, &doc), 0);
    assert_int_equal(mpk_get_bool(mpk_find(doc.root, "snapshot"), &snapshot), 0);
    assert_true(snapshot);
    mpk_doc_clear(&doc);
    result_set_snapshot(bytes.data, bytes.len, false);
    assert_int_equal(bytes.data[bytes.len - 1], 0xc2);
}

TEST(names_of_units_and_states)
{
    char hex[2 * RUN_BYTES + 1];

    assert_string_equal(window_unit_name(WINDOW_EPOCH), "epoch");
    assert_string_equal(window_unit_name(WINDOW_STEP), "step");
    assert_string_equal(window_unit_name(WINDOW_SECOND), "second");
    assert_string_equal(job_state_name(JOB_ACTIVE), "active");
    assert_string_equal(job_state_name(JOB_IDLE), "idle");
    assert_string_equal(job_state_name(JOB_ENDED), "ended");
    run_hex(run, hex);
    assert_string_equal(hex, "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf");
}

static struct alert_result alert_of_head(void)
{
    return (struct alert_result){
        .common = common,
        .rule = "entropy_collapse",
        .severity = ALERT_CRITICAL,
        .state = ALERT_FIRING,
        .metric = "entropy_normalized",
        .has_layer = true,
        .layer = {STACK_DECODER, 5, SITE_SELF},
        .head = 3,
        .value = 0.0625,
        .bound = 0.125,
        .since_after = 1050,
        .since_step = 1100,
        .message =
            "entropy_normalized of decoder.5.self head 3 is 0.0625, below 0.125 for 2 windows",
    };
}

TEST(alert_has_the_golden_bytes)
{
    struct alert_result alert = alert_of_head();

    GOLDEN(alert_encode, &alert, "alert");
}

TEST(log_is_the_golden_file)
{
    struct named_value list[] = {{.name = "loss", .number = 2.5},
                                 {.name = "tokens", .number = 4096},
                                 {.name = "grad_norm", .kind = NAMED_NONE}};
    const struct named_values values = {list, 3, NULL};
    const struct log_result log = {alert_of_head().common, &values};

    GOLDEN(log_encode, &log, "log_result");
}

TEST(alert_of_a_run_names_no_layer)
{
    struct alert_result alert = alert_of_head();

    alert.rule = alert.metric = "silence";
    alert.severity = ALERT_WARNING;
    alert.state = ALERT_RESOLVED;
    alert.has_layer = false;
    alert.head = -1;
    alert.value = NONE;
    alert.bound = 60;
    alert.since_after = ALERT_FROM_START;
    alert.since_step = 70000;
    alert.message = "the run has ended";
    GOLDEN(alert_encode, &alert, "alert_run");
}

static void expect_module_after_site(struct mpk_writer *writer, const char *list)
{
    OWNED(bytes_free) struct bytes bytes = bytes_written(writer);
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    const msgpack_object *of;

    assert_int_equal(mpk_parse(bytes.data, bytes.len, &mpk_result_limits, &doc), 0);
    of = list ? &mpk_find(doc.root, list)->via.array.ptr[0] : doc.root;
    assert_true(mpk_is_str(mpk_find(of, "module"), "vision.blocks.5.attn"));
    for (uint32_t i = 1; i < of->via.map.size; i++) {
        if (mpk_is_str(&of->via.map.ptr[i].key, "module")) {
            assert_true(mpk_is_str(&of->via.map.ptr[i - 1].key, "site"));
        }
    }
}

/* The goldens are those of layers without one. */
TEST(whatever_names_a_layer_names_its_module)
{
    static const char module[] = "vision.blocks.5.attn";
    struct layer_info info = {{STACK_DECODER, 5, SITE_SELF}, 8, module};
    struct live_result live = live_bare();
    struct summary_result summary = {.common = common, .layer = layer};
    struct job_result job = {.common = common, .layers = &info, .layer_count = 1};
    struct alert_result alert = alert_of_head();
    struct mpk_writer writer;

    live.layer.module = summary.layer.module = alert.module = module;
    mpk_writer_init(&writer);
    live_encode(&live, &writer);
    expect_module_after_site(&writer, NULL);
    mpk_writer_init(&writer);
    summary_encode(&summary, &writer);
    expect_module_after_site(&writer, NULL);
    mpk_writer_init(&writer);
    job_encode(&job, &writer);
    expect_module_after_site(&writer, "layers");
    mpk_writer_init(&writer);
    alert_encode(&alert, &writer);
    expect_module_after_site(&writer, NULL);
}

TEST(only_a_sample_of_rows_says_of_how_many)
{
    for (uint64_t of = 29; of <= 31; of++) {
        struct live_result live = live_bare();
        OWNED(mpk_doc_clear) struct mpk_doc doc;
        struct mpk_writer writer;

        live.layer.rows = 30;
        live.layer.rows_of = of;
        mpk_writer_init(&writer);
        live_encode(&live, &writer);
        OWNED(bytes_free) struct bytes bytes = bytes_written(&writer);
        assert_int_equal(mpk_parse(bytes.data, bytes.len, &mpk_result_limits, &doc), 0);
        assert_int_equal(mpk_find_u64(doc.root, "rows_of"), of > 30 ? of : 0);
        assert_true((mpk_find(doc.root, "rows_of") != NULL) == (of > 30));
    }
}

TEST(alerts_name_their_states_and_severities)
{
    assert_string_equal(alert_state_name(ALERT_FIRING), "firing");
    assert_string_equal(alert_state_name(ALERT_RESOLVED), "resolved");
    assert_string_equal(alert_severity_name(ALERT_INFO), "info");
    assert_string_equal(alert_severity_name(ALERT_WARNING), "warning");
    assert_string_equal(alert_severity_name(ALERT_CRITICAL), "critical");
}
