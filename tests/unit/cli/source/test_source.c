/* SPDX-License-Identifier: MIT */
/* Where maps come from: array files of every kind, and an attnd; what is not there is refused with
 * what is. */
#include "tests/unit/cli/fake.h"
#include "tests/unit/cli/source/opened.h"
#include "tests/unit/mpk_text.h"

#include <unistd.h>
#include <zip.h>

enum { B = 2, H = 3, Q = 4, K = 5, MAP = Q * K, COUNT = B * H * MAP };

/* Files ------------------------------------------------------------------------------------------
 */

struct bytes {
    uint8_t data[16384];
    size_t size;
};

static void source_put(struct bytes *bytes, const void *data, size_t size)
{
    assert_true(bytes->size + size <= sizeof bytes->data);
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
}

static void put_header(struct bytes *bytes, const char *descr, bool fortran, const char *shape)
{
    char text[160];
    int len = snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }\n",
                       descr, fortran ? "True" : "False", shape);
    source_put(bytes, "\x93NUMPY\1\0", 8);
    source_put(bytes, (uint8_t[]){(uint8_t)len, (uint8_t)(len >> 8)}, 2);
    source_put(bytes, text, (size_t)len);
}

/* Entry n of a map has the value n, which all dtypes have. */
static void source_put_number(struct bytes *bytes, const char *descr, int n)
{
    float f32 = (float)n;
    double f64 = n;
    uint32_t bits;
    memcpy(&bits, &f32, sizeof bits);
    uint16_t bf16 = (uint16_t)(bits >> 16);
    /* Exponent and fraction of an f32 that an f16 has, too. */
    uint16_t f16 = n == 0 ? 0 : (uint16_t)((((bits >> 23) - 112) << 10) | (bits >> 13 & 0x3ff));
    if (strcmp(descr, "<f4") == 0) {
        source_put(bytes, &f32, sizeof f32);
    } else if (strcmp(descr, "<f8") == 0) {
        source_put(bytes, &f64, sizeof f64);
    } else if (strcmp(descr, "<f2") == 0) {
        source_put(bytes, &f16, sizeof f16);
    } else {
        source_put(bytes, &bf16, sizeof bf16);
    }
}

static struct bytes make_npy(const char *descr)
{
    struct bytes bytes = {.size = 0};
    put_header(&bytes, descr, false, "(2, 3, 4, 5)");
    for (int n = 0; n < COUNT; n++) {
        source_put_number(&bytes, descr, n);
    }
    return bytes;
}

/* The same array, its first axis fastest. */
static struct bytes make_fortran(void)
{
    struct bytes bytes = {.size = 0};
    put_header(&bytes, "<f4", true, "(2, 3, 4, 5)");
    for (int j = 0; j < K; j++) {
        for (int i = 0; i < Q; i++) {
            for (int h = 0; h < H; h++) {
                for (int b = 0; b < B; b++) {
                    source_put_number(&bytes, "<f4", ((b * H + h) * Q + i) * K + j);
                }
            }
        }
    }
    return bytes;
}

static void source_write_file(struct fixture *f, const char *name, const struct bytes *bytes)
{
    snprintf(f->path, sizeof f->path, "%s/%s", f->directory, name);
    FILE *file = fopen(f->path, "w");
    assert_non_null(file);
    assert_true(fwrite(bytes->data, bytes->size, 1, file) == 1);
    assert_int_equal(fclose(file), 0);
}

static void write_npz(struct fixture *f, int method, const char *name, const struct bytes *bytes)
{
    snprintf(f->path, sizeof f->path, "%s/maps.npz", f->directory);
    zip_t *zip = zip_open(f->path, ZIP_CREATE | ZIP_TRUNCATE, NULL);
    assert_non_null(zip);
    zip_source_t *source = zip_source_buffer(zip, bytes->data, bytes->size, 0);
    zip_int64_t index = zip_file_add(zip, name, source, 0);
    assert_true(index >= 0);
    assert_int_equal(zip_set_file_compression(zip, (zip_uint64_t)index, method, 9), 0);
    assert_int_equal(zip_close(zip), 0);
}

static void source_expect_map(struct fixture *f, uint32_t sample, uint32_t head)
{
    float map[MAP];
    assert_int_equal(source_map(f->source, 0, sample, head, map, f->error), CLI_OK);
    for (uint32_t n = 0; n < MAP; n++) {
        assert_true(map[n] == (float)((sample * H + head) * MAP + n));
    }
}

/* Forwards, backwards, and the same one twice. */
static void expect_all_maps(struct fixture *f)
{
    const struct source_layer *layer = opened_layer(f, 0);
    assert_true(layer->batch == B && layer->heads == H && layer->queries == Q && layer->keys == K);
    assert_true(layer->rows == Q && layer->columns == K && layer->first_sample == 0);
    for (uint32_t b = 0; b < B; b++) {
        for (uint32_t h = 0; h < H; h++) {
            source_expect_map(f, b, h);
        }
    }
    for (uint32_t h = H; h-- > 0;) {
        source_expect_map(f, 1, h);
    }
    source_expect_map(f, 0, 2);
    source_expect_map(f, 0, 2);
}

SOURCE_TEST(maps_of_every_dtype_are_read)
{
    static const char *const descr[] = {"<f4", "<f8", "<f2", "|V2"};
    for (size_t i = 0; i < sizeof descr / sizeof descr[0]; i++) {
        struct bytes bytes = make_npy(descr[i]);
        source_write_file(f, "decoder.0.self.npy", &bytes);
        opened_open(f);
        assert_int_equal(f->source->kind, SOURCE_FILES);
        assert_string_equal(f->source->run, "");
        expect_all_maps(f);
        source_free(&f->source);
    }
}

SOURCE_TEST(archives_are_read_whether_packed_or_not)
{
    static const int methods[] = {ZIP_CM_STORE, ZIP_CM_DEFLATE};
    struct bytes plain = make_npy("<f4"), fortran = make_fortran();
    for (int i = 0; i < 4; i++) {
        write_npz(f, methods[i & 1], "encoder.2.cross.npy", i < 2 ? &plain : &fortran);
        opened_open(f);
        expect_all_maps(f);
        assert_true(opened_layer(f, 0)->id.stack == STACK_ENCODER &&
                    opened_layer(f, 0)->id.layer == 2 && opened_layer(f, 0)->id.site == SITE_CROSS);
        source_free(&f->source);
    }
}

SOURCE_TEST(fortran_order_is_turned)
{
    struct bytes bytes = make_fortran();
    source_write_file(f, "decoder.0.self.npy", &bytes);
    opened_open(f);
    expect_all_maps(f);
}

/* Opening looks at the first 4096 bytes. */
SOURCE_TEST(a_damaged_entry_is_refused_when_it_is_read)
{
    static const int methods[] = {ZIP_CM_STORE, ZIP_CM_DEFLATE};
    float map[40 * 40];
    for (int i = 0; i < 2; i++) {
        struct bytes bytes = {.size = 0};
        put_header(&bytes, "<f4", false, "(1, 2, 40, 40)");
        for (int n = 0; n < 2 * 40 * 40; n++) {
            source_put_number(&bytes, "<f4", (n * 7919) % 251);
        }
        write_npz(f, methods[i], "decoder.0.self.npy", &bytes);
        FILE *file = fopen(f->path, "r+");
        assert_non_null(file);
        assert_int_equal(fseek(file, i == 0 ? 10000 : -400, i == 0 ? SEEK_SET : SEEK_END), 0);
        putc(0x55, file);
        fclose(file);
        opened_open(f);
        assert_int_equal(source_map(f->source, 0, 0, 1, map, f->error), CLI_USAGE);
        assert_non_null(strstr(f->error, "maps.npz: decoder.0.self: corrupt: "));
        source_free(&f->source);
    }
}

SOURCE_TEST(the_mean_is_over_heads)
{
    struct bytes bytes = make_npy("<f4");
    float mean[MAP];
    source_write_file(f, "decoder.0.self.npy", &bytes);
    opened_open(f);
    assert_int_equal(source_map(f->source, 0, 1, HEAD_MEAN, mean, f->error), CLI_OK);
    for (uint32_t n = 0; n < MAP; n++) {
        assert_true(mean[n] == (float)(H * MAP + MAP + n)); /* head 1 is the middle one */
    }
}

SOURCE_TEST(what_is_not_there_is_named)
{
    struct bytes bytes = make_npy("<f4");
    float map[MAP];
    source_write_file(f, "decoder.0.self.npy", &bytes);
    opened_open(f);
    assert_int_equal(source_map(f->source, 0, 2, 0, map, f->error), CLI_USAGE);
    assert_string_equal(f->error, "--sample: decoder.0.self has no sample 2 (valid: 0 to 1)");
    assert_int_equal(source_map(f->source, 0, 0, 3, map, f->error), CLI_USAGE);
    assert_string_equal(f->error, "--head: decoder.0.self has no head 3 (valid: 0 to 2)");
}

SOURCE_TEST(files_that_are_none_are_refused)
{
    struct bytes bytes = {.data = "nothing", .size = 7};
    snprintf(f->path, sizeof f->path, "%s/x.npy", f->directory);
    opened_expect_refusal(f, CLI_USAGE, "x.npy: No such file or directory");
    source_write_file(f, "x.npy", &bytes);
    opened_expect_refusal(f, CLI_USAGE, "x.npy: not a .npy file");
}

/* Layers -----------------------------------------------------------------------------------------
 */

static void write_safetensors(struct fixture *f, const char *const *names, int count)
{
    struct bytes bytes = {.size = 0}, header = {.size = 0};
    source_put(&header, "{", 1);
    for (int i = 0; i < count; i++) {
        char text[160];
        int len =
            snprintf(text, sizeof text,
                     "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1],\"data_offsets\":[%d,%d]}",
                     i ? "," : "", names[i], 4 * i, 4 * i + 4);
        source_put(&header, text, (size_t)len);
    }
    source_put(&header, "}", 1);
    uint64_t size = header.size;
    source_put(&bytes, &size, sizeof size);
    source_put(&bytes, header.data, header.size);
    for (int i = 0; i < count; i++) {
        source_put(&bytes, &(float){(float)i}, sizeof(float));
    }
    source_write_file(f, "x.safetensors", &bytes);
}

static void expect_layer(struct fixture *f, const char *text, size_t index)
{
    size_t found = SIZE_MAX;
    assert_int_equal(source_find_layer(f->source, text, &found, f->error), CLI_OK);
    assert_int_equal(found, index);
}

SOURCE_TEST(layers_are_sorted_and_found_by_parts_of_their_names)
{
    static const char *const names[] = {"decoder.1.cross", "decoder.1.self", "encoder.0.self",
                                        "decoder.0.self"};
    size_t found;
    write_safetensors(f, names, 4);
    opened_open(f);
    expect_layer(f, NULL, 0);
    expect_layer(f, "encoder.0.self", 0);
    expect_layer(f, "encoder", 0);
    expect_layer(f, "decoder.0", 1);
    expect_layer(f, "1.self", 2);
    expect_layer(f, "cross", 3);
    assert_int_equal(source_find_layer(f->source, "0", &found, f->error), CLI_USAGE);
    assert_string_equal(f->error,
                        "--layer: '0' may be any of encoder.0.self, decoder.0.self: say which");
    assert_int_equal(source_find_layer(f->source, "decoder.7", &found, f->error), CLI_USAGE);
    assert_string_equal(f->error,
                        "--layer: there is no 'decoder.7' (valid: encoder.0.self, decoder.0.self, "
                        "decoder.1.self, decoder.1.cross)");
    assert_int_equal(source_find_layer(f->source, "decoder.0.selfish", &found, f->error),
                     CLI_USAGE);
    assert_int_equal(source_find_layer(f->source, "", &found, f->error), CLI_USAGE);
}

SOURCE_TEST(projections_have_no_map)
{
    static const char *const maps[] = {"decoder.0.self", "weights.0.wq"}, *const none[] = {
                                                                              "weights.0.wq"};
    write_safetensors(f, maps, 2);
    opened_open(f);
    assert_int_equal(f->source->layer_count, 1);
    source_free(&f->source);
    write_safetensors(f, none, 1);
    opened_expect_refusal(f, CLI_USAGE, "of projections there are no maps");
}

/* Queries and keys -------------------------------------------------------------------------------
 */

/* q [1,2,2,1], k [1,1,2,1]: logits are products. */
static void write_qk(struct fixture *f)
{
    static const float numbers[] = {1, 2, 0, -1, /* q: heads 0, 1 */ 0, 3 /* k */};
    static const char header[] = "{\"decoder.0.self.q\":{\"dtype\":\"F32\",\"shape\":[1,2,2,1],"
                                 "\"data_offsets\":[0,16]},\"decoder.0.self.k\":{\"dtype\":\"F32\","
                                 "\"shape\":[1,1,2,1],\"data_offsets\":[16,24]}}";
    struct bytes bytes = {.size = 0};
    uint64_t size = strlen(header);
    source_put(&bytes, &size, sizeof size);
    source_put(&bytes, header, strlen(header));
    source_put(&bytes, numbers, sizeof numbers);
    source_write_file(f, "qk.safetensors", &bytes);
}

static void expect_weights(struct fixture *f, uint32_t head, const double *expected)
{
    float map[4];
    assert_int_equal(source_map(f->source, 0, 0, head, map, f->error), CLI_OK);
    for (int i = 0; i < 4; i++) {
        assert_true(fabs((double)map[i] - expected[i]) < 1e-6);
    }
}

SOURCE_TEST(maps_of_queries_and_keys_are_made)
{
    double e3 = 1 / (1 + exp(3)), e6 = 1 / (1 + exp(6)), e15 = 1 / (1 + exp(1.5));
    write_qk(f);
    opened_open(f);
    assert_int_equal(opened_layer(f, 0)->tier, MESSAGE_QK);
    expect_weights(f, 0, (double[]){e3, 1 - e3, e6, 1 - e6});
    expect_weights(f, 1, (double[]){0.5, 0.5, 1 - e3, e3});
    source_free(&f->source);
    f->request.causal = true;
    f->request.scale = 0.5;
    opened_open(f);
    expect_weights(f, 0, (double[]){1, 0, e3, 1 - e3});
    expect_weights(f, 1, (double[]){1, 0, 1 - e15, e15});
}

/* Labels -----------------------------------------------------------------------------------------
 */

SOURCE_TEST(tokens_are_words)
{
    struct bytes bytes = make_npy("<f4");
    source_write_file(f, "decoder.0.self.npy", &bytes);
    f->request.tokens = "  the cat  sat \xff";
    opened_open(f);
    assert_string_equal(source_label(f->source, 0, 1, 0), "the");
    assert_string_equal(source_label(f->source, 0, 0, 2), "sat");
    assert_string_equal(source_label(f->source, 0, 0, 3), "\xef\xbf\xbd");
    assert_null(source_label(f->source, 0, 0, 4));
    /* Queries that are fewer than the keys are the last ones. */
    assert_string_equal(source_query_label(f->source, 0, 0, 0), "cat");
    assert_string_equal(source_query_label(f->source, 0, 0, 1), "sat");
    opened_expect_labels_refused(f, "4 tokens were given, but decoder.0.self has 5 keys");
    source_free(&f->source);
    f->request.tokens = "a b c d e";
    opened_open(f);
    assert_int_equal(source_choose(f->source, 0, 0, HEAD_MEAN, f->error), CLI_OK);
    source_free(&f->source);
    f->request.tokens = "a b c d e f";
    opened_open(f);
    opened_expect_labels_refused(f, "6 tokens were given, but decoder.0.self has 5 keys");
    source_free(&f->source);
    f->request.tokens = "  ";
    opened_expect_refusal(f, CLI_USAGE, "--tokens: there are no tokens in it");
}

SOURCE_TEST(labels_are_lines)
{
    struct bytes bytes = make_npy("<f4"), lines = {.data = "the cat\r\n\nsat", .size = 13};
    char path[128];
    source_write_file(f, "labels", &lines);
    memcpy(path, f->path, sizeof path);
    source_write_file(f, "decoder.0.self.npy", &bytes);
    f->request.labels = path;
    opened_open(f);
    assert_string_equal(source_label(f->source, 0, 0, 0), "the cat");
    assert_string_equal(source_label(f->source, 0, 0, 1), "");
    assert_string_equal(source_label(f->source, 0, 0, 2), "sat");
    assert_null(source_label(f->source, 0, 0, 3));
    source_free(&f->source);
    unlink(path);
    opened_expect_refusal(f, CLI_USAGE, "labels: No such file or directory");
}

/* attnd ------------------------------------------------------------------------------------------
 */

/* The newest run has ended, one goes on, with two layers, the second before the first; of
 * decoder.1.self there is no map. Maps of 2 heads are [3, 2] cells of 6 queries and 4 keys. */
static void source_put_jobs(struct mpk_writer *reply)
{
    static const char site[] = "'stack': 'decoder', 'site': 'self', 'heads': 2";
    mpk_text(reply,
             "[{'job': 'gpt', 'run': 'ab', 'state': 'ended', 'heard_ns': 9},"
             " {'job': 'gpt', 'run': 'aa000000000000000000000000000000', 'state': 'active',"
             " 'time_ns': 5, 'heard_ns': 8,"
             " 'layers': [{'layer': 2, %s}, {'layer': 1, %s}, {'layer': 0, %s}]}]",
             site, site, site);
}

static void source_answer(const struct fake *fake, const char *method, uint64_t id,
                          const msgpack_object *params, struct mpk_writer *reply)
{
    (void)fake;
    uint64_t layer = mpk_find_u64(params, "layer"), head = mpk_find_u64(params, "head");
    bool one = mpk_find(params, "head");
    float values[12];
    if (strcmp(method, "jobs") == 0) {
        fake_put_ok(reply, id);
        source_put_jobs(reply);
    } else if (layer == 1) {
        fake_put_error(reply, id, "no_map", "there is no map: it is too long");
    } else if (layer == 2 && !one) {
        fake_put_error(reply, id, "argument", "the answer would be too large");
    } else {
        fake_put_ok(reply, id);
        for (int i = 0; i < 12; i++) {
            values[i] = i == 5 ? NAN : (float)(100 * layer + 6 * head + (uint64_t)i);
        }
        mpk_put_map(reply, 10);
        mpk_pair_u64(reply, "queries", 6);
        mpk_pair_u64(reply, "keys", 4);
        mpk_pair_u64(reply, "rows", 3);
        mpk_pair_u64(reply, "columns", 2);
        mpk_pair_u64(reply, "sample", 1);
        mpk_pair_u64(reply, "q_offset", 0);
        mpk_pair_u64(reply, "epoch", 2);
        mpk_pair_u64(reply, "step", 7);
        mpk_pair_array(reply, "labels", 1);
        mpk_put_str(reply, "the");
        mpk_pair_bin(reply, "values", values, (one ? 6 : 12) * sizeof *values);
    }
}

/* Maps whose bytes, as a number of 64 bits, are none: heads * rows * columns * 4 = 2^64. */
static void answer_endless(const struct fake *fake, const char *method, uint64_t id,
                           const msgpack_object *params, struct mpk_writer *reply)
{
    (void)fake, (void)params;
    fake_put_ok(reply, id);
    if (strcmp(method, "jobs") == 0) {
        source_put_jobs(reply);
    } else {
        mpk_text(reply, "{'queries': 2147483648, 'keys': 1073741824, 'rows': 2147483648,"
                        " 'columns': 1073741824, 'sample': 0, 'q_offset': 0, 'epoch': 2,"
                        " 'step': 7, 'values': ''}");
    }
}

/* Opens the job of an attnd that answers so. */
static int open_job(struct fixture *f, struct fake *fake, const char *job)
{
    static struct args args;
    static struct cli cli;
    args = (struct args){.endpoint = fake->endpoint, .timeout_ms = 60000};
    cli = (struct cli){.args = &args, .out = stdout, .err = stderr};
    f->request = (struct source_request){.cli = &cli, .job = job};
    return source_open(&f->request, &f->source, f->error);
}

SOURCE_TEST(an_attnd_gives_the_maps_it_keeps)
{
    OWNED(fake_stop) struct fake fake;
    float map[6];
    fake_start(&fake, source_answer);
    assert_int_equal(open_job(f, &fake, "gpt"), CLI_OK);
    assert_int_equal(f->source->layer_count, 2);
    const struct source_layer *layers = f->source->layers;
    assert_true(layers[0].id.layer == 0 && layers[1].id.layer == 2);
    assert_true(layers[0].queries == 6 && layers[0].rows == 3 && layers[0].columns == 2);
    assert_true(layers[0].step == 7 && layers[0].first_sample == 1 && layers[0].batch == 1);
    assert_int_equal(source_map(f->source, 0, 1, 1, map, f->error), CLI_OK);
    assert_true(map[0] == 6 && map[5] == 11);
    assert_int_equal(source_map(f->source, 0, 1, 0, map, f->error), CLI_OK);
    assert_true(map[0] == 0 && isnan(map[5]));
    assert_int_equal(source_map(f->source, 1, 1, 1, map, f->error), CLI_OK); /* one by one */
    assert_true(map[0] == 206);
    assert_int_equal(source_map(f->source, 0, 0, 0, map, f->error), CLI_USAGE);
    assert_string_equal(f->error, "--sample: decoder.0.self has no sample 0 (valid: 1)");
    assert_null(source_label(f->source, 0, 1, 0)); /* labels are of the first sample */
    assert_string_equal(f->source->run, "aa000000000000000000000000000000");
    source_free(&f->source);
}

static void source_count_row(void *data, uint32_t row, const float *weights)
{
    (void)row, (void)weights;
    ++*(uint64_t *)data;
}

SOURCE_TEST(sizes_that_attnd_makes_up_are_held_against_what_came)
{
    OWNED(fake_stop) struct fake fake;
    uint64_t rows = 0;
    fake_start(&fake, answer_endless);
    assert_int_equal(open_job(f, &fake, "gpt"), CLI_OK);
    assert_int_equal(source_rows(f->source, 0, 0, 0, source_count_row, &rows, f->error),
                     CLI_FINDING);
    assert_int_equal(rows, 0);
    assert_non_null(strstr(f->error, "changed their size"));
    source_free(&f->source);
}

SOURCE_TEST(an_attnd_without_the_job_says_so)
{
    struct fake fake;
    fake_start(&fake, source_answer);
    assert_int_equal(open_job(f, &fake, "bert"), CLI_FINDING);
    assert_string_equal(f->error, "no such job: 'bert' (see attnctl jobs)");
    fake_stop(&fake);
    char path[] = "ipc:///nowhere/at/all";
    struct args args = {.endpoint = path, .timeout_ms = 50};
    struct cli cli = {.args = &args, .err = stderr};
    f->request.cli = &cli;
    assert_int_equal(source_open(&f->request, &f->source, f->error), CLI_UNREACHABLE);
    assert_non_null(strstr(f->error, "cannot reach attnd at ipc:///nowhere/at/all within"));
}

TEST(cells_are_found_again)
{
    for (uint32_t length = 1; length < 40; length++) {
        for (uint32_t cells = 1; cells <= length; cells++) {
            for (uint32_t at = 0; at < length; at++) {
                uint32_t cell = source_cell(at, length, cells);
                assert_true(cell < cells && source_edge(cell, length, cells) <= at &&
                            at < source_edge(cell + 1, length, cells));
            }
        }
    }
}

TEST(words_are_files_or_jobs)
{
    assert_true(source_is_file("nowhere/maps.npz"));
    assert_true(source_is_file("/etc/passwd"));
    assert_false(source_is_file("gpt-small"));
    assert_false(source_is_file(".npz"));
}
