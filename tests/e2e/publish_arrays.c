/* SPDX-License-Identifier: MIT */
/* Publishes one message by libattn, from arrays in files, and says that its epoch ends.
 *
 *   publish_arrays ENDPOINT JOB attention|qk|weights [FIELD=NUMBER|DTYPE|@FILE...]
 *
 * Fields are those of the structs in attn.h; of the matrices `wq`, `wq_dtype` and `wq_width`; of a
 * plan `plan_samples`, `plan_rows`, `plan_first` and `plan_last` (heads). `step` is the position.
 */
#include <attn/attn.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { U32, FLAG, F64, DTYPE, FILE_OF };

struct field {
    const char *name;
    enum kind kind;
    void *to;
};

static attn_attention a;
static attn_qk qk;
static attn_weights w;
static attn_plan plan;
static uint32_t step, plan_first, plan_last = UINT32_MAX;

#define SAME(kind, name)                                                                           \
    {#name, kind, &a.name},                                                                        \
    {                                                                                              \
#name, kind, &qk.name                                                                      \
    }
#define MATRIX(name)                                                                               \
    {#name, FILE_OF, &w.name.data}, {#name "_dtype", DTYPE, &w.name.dtype},                        \
    {                                                                                              \
#name "_width", U32, &w.name.width                                                         \
    }

/* A name may stand for a field of several structs; only one of them is published. */
static const struct field fields[] = {
    SAME(U32, batch),
    SAME(U32, heads),
    SAME(U32, queries),
    SAME(U32, keys),
    SAME(FLAG, causal),
    SAME(U32, window),
    SAME(FILE_OF, q_len),
    SAME(FILE_OF, k_len),
    SAME(FILE_OF, mask),
    SAME(FILE_OF, tokens),
    SAME(FILE_OF, documents),
    SAME(U32, head_offset),
    SAME(U32, heads_total),
    SAME(FLAG, dropout),
    SAME(FLAG, learned_sink),
    SAME(U32, q_offset),
    SAME(U32, microbatch),
    {"weights", FILE_OF, &a.weights},
    {"dtype", DTYPE, &a.dtype},
    {"grad", FILE_OF, &a.grad},
    {"grad_dtype", DTYPE, &a.grad_dtype},
    {"q", FILE_OF, &qk.q},
    {"k", FILE_OF, &qk.k},
    SAME(FILE_OF, v),
    SAME(DTYPE, v_dtype),
    SAME(U32, value_dim),
    SAME(FILE_OF, wo_r),
    SAME(U32, written_dim),
    SAME(FILE_OF, x_norm),
    {"dout", FILE_OF, &qk.dout},
    {"dout_dtype", DTYPE, &qk.dout_dtype},
    {"q_dtype", DTYPE, &qk.q_dtype},
    {"k_dtype", DTYPE, &qk.k_dtype},
    {"head_dim", U32, &qk.head_dim},
    SAME(U32, kv_heads),
    {"scale", F64, &qk.scale},
    {"softcap", F64, &qk.softcap},
    {"heads", U32, &w.heads},
    {"head_dim", U32, &w.head_dim},
    {"kv_heads", U32, &w.kv_heads},
    {"heads_total", U32, &w.heads_total},
    MATRIX(wq),
    MATRIX(wk),
    MATRIX(wv),
    MATRIX(wo),
    {"plan_samples", U32, &plan.samples},
    {"plan_rows", U32, &plan.rows},
    {"plan_first", U32, &plan_first},
    {"plan_last", U32, &plan_last},
    {"step", U32, &step},
};

static void publish_arrays_die(const char *what)
{
    fprintf(stderr, "publish_arrays: %s\n", what);
    exit(EXIT_FAILURE);
}

static void *publish_arrays_read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    long bytes = -1;
    void *data = NULL;

    if (file && fseek(file, 0, SEEK_END) == 0) {
        bytes = ftell(file);
    }
    if (bytes >= 0) {
        data = malloc((size_t)bytes + 1);
    }
    if (!data || fseek(file, 0, SEEK_SET) != 0 ||
        fread(data, 1, (size_t)bytes, file) != (size_t)bytes) {
        publish_arrays_die(path);
    }
    fclose(file);
    return data;
}

static attn_dtype publish_arrays_dtype_of(const char *name)
{
    static const char *const names[] = {"f32", "f16", "bf16", "f64"};

    for (unsigned i = 0; i < 4; i++) {
        if (strcmp(name, names[i]) == 0) {
            return (attn_dtype)i;
        }
    }
    publish_arrays_die(name);
    return ATTN_F32;
}

static void publish_arrays_set(const struct field *field, const char *value)
{
    switch (field->kind) {
    case U32:
        *(uint32_t *)field->to = (uint32_t)strtoul(value, NULL, 10);
        break;
    case FLAG:
        *(bool *)field->to = strcmp(value, "0") != 0;
        break;
    case F64:
        *(double *)field->to = strtod(value, NULL);
        break;
    case DTYPE:
        *(attn_dtype *)field->to = publish_arrays_dtype_of(value);
        break;
    case FILE_OF:
        *(const void **)field->to = publish_arrays_read_file(value + 1);
        break;
    }
}

static void publish_arrays_parse(const char *argument)
{
    size_t len = strcspn(argument, "=");
    bool found = false;

    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (strlen(fields[i].name) != len || strncmp(argument, fields[i].name, len) != 0) {
            continue;
        }
        publish_arrays_set(&fields[i], argument + len + 1);
        found = true;
    }
    if (!found) {
        publish_arrays_die(argument);
    }
}

static int publish_arrays_publish(attn_publisher *publisher, const char *tier)
{
    if (plan.samples || plan.rows || plan_last != UINT32_MAX) {
        a.plan = qk.plan = &plan;
    }
    if (plan_last != UINT32_MAX) {
        plan.range_count = 1;
        plan.ranges[0] = (attn_range){plan_first, plan_last};
    }
    a.stack = qk.stack = w.stack = ATTN_DECODER;
    attn_set_position(publisher, 0, step);
    if (strcmp(tier, "attention") == 0) {
        return attn_publish_attention(publisher, &a);
    }
    return strcmp(tier, "qk") == 0 ? attn_publish_qk(publisher, &qk)
                                   : attn_publish_weights(publisher, &w);
}

int main(int argc, char **argv)
{
    attn_publisher_options options;
    attn_publisher *publisher;
    int rc;

    attn_publisher_options_default(&options);
    attn_attention_default(&a);
    attn_qk_default(&qk);
    attn_weights_default(&w);
    attn_plan_default(&plan);
    if (argc < 4) {
        publish_arrays_die("too few arguments");
    }
    for (int i = 4; i < argc; i++) {
        publish_arrays_parse(argv[i]);
    }
    options.endpoint = argv[1];
    options.job = argv[2];
    options.linger_ms = 10000;
    if (attn_publisher_new(&options, &publisher) != 0 ||
        attn_publisher_wait(publisher, 20000) != 0) {
        publish_arrays_die("no daemon");
    }
    rc = publish_arrays_publish(publisher, argv[3]);
    if (rc == 0) {
        rc = attn_epoch_end(publisher);
    }
    attn_publisher_free(&publisher);
    if (rc != 0) {
        publish_arrays_die(attn_strerror(rc));
    }
    return EXIT_SUCCESS;
}
