/* SPDX-License-Identifier: MIT */
/* attn: publish what a model's attention does, and read what attnd makes of it.
 *
 * A publisher is the trainer's side. It is made not to matter to the training: no call waits for
 * the network (except those that say how long), none prints, none ends the process, and while
 * nobody has subscribed to a layer nothing of it is even copied. A subscriber is a reader's side:
 * it receives the daemon's results as they are published. examples/train.c is a whole trainer.
 *
 * Threads: any number of threads may use a publisher at the same time, except that
 * attn_publisher_free must be the last call; a separate thread does the sending. Any other object
 * belongs to one thread at a time; different objects are independent. Fork: in the child, a
 * publisher of the parent is inert: nobody wants anything, publishing is ATTN_SKIPPED, waiting ends
 * at once, the counts are 0 and freeing forgets it. The parent's goes on, and the child may make
 * its own. Other objects must not be used there. Memory: what is passed in is copied before the
 * call returns, and stays the caller's. Objects are freed by their _free function, which takes the
 * address of the pointer, sets it to NULL, and accepts NULL. Errors: functions that can fail return
 * 0 or more on success and a negative attn_code on failure, and write their ret_ parameters only on
 * success. Addresses: one text names a daemon with all its sockets: a directory of Unix sockets
 * ("/run/user/1000/attnd"), or "tcp://host:5570", from which the other ports follow. Without one
 * (NULL or "") it is $ATTND_ADDRESS; without that the first of $XDG_RUNTIME_DIR/attnd,
 * /run/user/UID/attnd, /tmp/attnd-UID and /run/attnd in which a daemon answers and nobody else can
 * write. It is looked for about once a second, and again after its connection has ended. To a
 * daemon on TCP that asks for keys one comes with $ATTND_KEY, a file, and $ATTND_SERVER_KEY, read
 * when an object is made; attn_check_address says when they are wrong. */
#ifndef ATTN_ATTN_H
#define ATTN_ATTN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define ATTN_API __attribute__((visibility("default")))
#else
#define ATTN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum attn_code {
    ATTN_OK = 0,
    ATTN_SKIPPED = 1,      /* nobody wants it: nothing was copied or sent */
    ATTN_E_MEMORY = -1,    /* out of memory */
    ATTN_E_ARGUMENT = -2,  /* an argument is out of range */
    ATTN_E_DROPPED = -3,   /* the queue is full: the message was dropped and counted */
    ATTN_E_TIMEOUT = -4,   /* nothing happened in the given time */
    ATTN_E_TRANSPORT = -5, /* ZeroMQ refused, for instance a malformed endpoint */
    ATTN_E_MESSAGE = -6,   /* something arrived that is no result; it was thrown away */
    ATTN_E_NOT_FOUND = -7, /* the result has no such number */
    ATTN_E_REFUSED = -8,   /* the daemon refused: see attn_control_error */
    ATTN_E_TOO_LARGE = -9, /* the daemon does not take such a message: dropped and counted */
} attn_code;

/* The sentence of a code; a static string, also for unknown codes. */
ATTN_API const char *attn_strerror(int code);

/* The version of the library, "major.minor.patch"; a static string. */
ATTN_API const char *attn_version(void);

/* Asks who listens at an address, for when nothing comes from there: a ZeroMQ connection to another
 * port of attnd, to its page, or to something else altogether just stays silent. Waits for answers:
 * some seconds at most, and for the look-up of a host's name. Writes a sentence that says what to
 * do, cut to size - 1 bytes and a NUL. Returns 0 when attnd is there (the sentence is "", or that
 * the key may not publish), ATTN_E_ARGUMENT when it is no address, or the keys of the environment
 * are none, ATTN_E_TRANSPORT when somebody else is there or the keys are let in nowhere,
 * ATTN_E_TIMEOUT when nobody is. */
ATTN_API int attn_check_address(const char *address, char *ret_sentence, size_t size);

/* ---- which attention of the model ---- */

typedef enum attn_stack { ATTN_ENCODER = 0, ATTN_DECODER = 1 } attn_stack;
typedef enum attn_site { ATTN_SELF = 0, ATTN_CROSS = 1 } attn_site;
typedef enum attn_dtype { ATTN_F32 = 0, ATTN_F16 = 1, ATTN_BF16 = 2, ATTN_F64 = 3 } attn_dtype;

typedef struct attn_layer {
    attn_stack stack;
    uint32_t layer; /* 0..65535, counted from 0 within the stack */
    attn_site site;
    uint32_t heads; /* of the whole model, not of this rank's slice */
} attn_layer;

/* ---- plan: what a daemon wants captured ---- */

#define ATTN_UNSAID          UINT32_MAX
#define ATTN_PLAN_RANGES_MAX 288
#define ATTN_PLAN_LAYERS_MAX 1024

typedef struct attn_range {
    uint32_t first, last; /* both included */
} attn_range;

/* The part of the training that is looked at. A daemon's plan changes while the job runs;
 * attn_publisher_plan returns the current one. */
typedef struct attn_plan {
    uint32_t every;       /* steps that it divides are captured; 0 = none */
    uint32_t samples;     /* of a batch, its first ones; 0 = all */
    uint32_t rows;        /* at most this number of queries at a time: attn_plan_rows; 0 = all */
    uint32_t range_count; /* 0 = all heads */
    attn_range ranges[ATTN_PLAN_RANGES_MAX]; /* of the layer's heads; ascending, apart */
    char layers[ATTN_PLAN_LAYERS_MAX]; /* patterns of "decoder.3.self" with * ? [a-z] [!a-z], of
                                          which one must match, separated by blanks */
} attn_plan;

/* Everything of every step. */
ATTN_API void attn_plan_default(attn_plan *ret_plan);

/* The rows of `queries` that a plan takes at a step: every *ret_stride-th from *ret_first on, which
 * is another one at each captured step, until each row has had its turn. Returns how many. */
ATTN_API uint32_t attn_plan_rows(const attn_plan *plan, uint64_t step, uint32_t queries,
                                 uint32_t *ret_first, uint32_t *ret_stride);

/* ---- publisher ---- */

typedef struct attn_publisher attn_publisher;

typedef struct attn_publisher_options {
    const char *endpoint; /* exactly this socket, the daemon's ingest (default NULL: see address) */
    const char *job;      /* 1..128 of [A-Za-z0-9._-]; required (default NULL) */
    /* 16 bytes that tell this start of the trainer from others; all ranks of one start must give
       the same (default NULL: random, right for one rank) */
    const uint8_t *run;
    uint32_t rank, world; /* rank < world <= 1048576 (default 0 of 1) */
    /* Two bounds limit the messages that wait to be sent; beyond either bound messages are
     * dropped. */
    uint64_t max_queued_bytes;    /* copied tensors (default 256 MiB) */
    uint32_t max_queued_messages; /* 1..65536; room for a step of all layers (default 256).
                                     ZeroMQ holds up to 64 more */
    uint32_t linger_ms;           /* how long attn_publisher_free waits for them (default 1000) */
    /* The plan that the job itself asks for, at most 10^9 each: overrides the daemon's default
       plan, but not a plan made for the job (default ATTN_UNSAID: nothing) */
    uint32_t every, samples, rows;
    /* While the position moves on and nothing is published, a hello is sent as a sign of life, at
       most so often: what attn_hello said, or one without layers; 0 = never (default 30000) */
    uint32_t alive_ms;
    const char *address; /* the daemon, unless by endpoint; both are refused (default NULL) */
    /* Called with what people should know, as a sentence, each thing once: that attnd is stopped
       or has gone, or refuses the job of this key. By the sending thread; it must not call
       attn_publisher_free, and should return soon. (default NULL: nobody is told) */
    void (*warn)(void *context, const char *sentence);
    void *warn_context;
} attn_publisher_options;

/* Fills in the defaults above. */
ATTN_API void attn_publisher_options_default(attn_publisher_options *ret_options);

/* Makes a publisher and starts connecting in the background; the daemon need not be there, now or
 * ever, and may be found in another place after it was gone. Returns 0, ATTN_E_ARGUMENT,
 * ATTN_E_MEMORY or ATTN_E_TRANSPORT. */
ATTN_API int attn_publisher_new(const attn_publisher_options *options,
                                attn_publisher **ret_publisher);

/* Says bye, waits up to linger_ms until what is queued is sent, and frees. Messages that are not
 * sent by then are lost. */
ATTN_API void attn_publisher_free(attn_publisher **publisher);

/* Waits until the daemon has subscribed to anything of this job. A trainer that starts to publish
 * before that loses nothing but the first messages; after a time-out attn_check_address may know
 * why. timeout_ms < 0 is refused: this wait is always
 * bounded. Returns 0, ATTN_E_TIMEOUT or ATTN_E_ARGUMENT. */
ATTN_API int attn_publisher_wait(attn_publisher *publisher, int timeout_ms);

/* Sets where the training is: both are written into every message that follows. Steps count from
 * the start of the run, not of the epoch. Both start at 0. */
ATTN_API void attn_set_position(attn_publisher *publisher, uint64_t epoch, uint64_t step);

/* Whether anyone wants this layer at the current position: somebody has subscribed to it, takes
 * what is sent, and the plan has the step and the layer. Ask before computing what is only
 * computed to be published. A step is
 *
 *     attn_set_position(publisher, epoch, step);
 *     for each layer
 *         if (attn_publisher_wants(publisher, stack, layer, site))
 *             compute, and attn_publish_...
 *
 * Publishing by itself does not ask the plan: whoever publishes has decided to. */
ATTN_API bool attn_publisher_wants(attn_publisher *publisher, attn_stack stack, uint32_t layer,
                                   attn_site site);

/* The plan that holds now, as a copy: the daemon's, in which `every`, `samples` and `rows` of the
 * options replace those of its default. Returns 0, or ATTN_SKIPPED when no daemon has said one;
 * then it is attn_plan_default with what the options say. */
ATTN_API int attn_publisher_plan(attn_publisher *publisher, attn_plan *ret_plan);

/* Introduces the model: its layers in any order (at most 1024), copied. It is repeated by itself
 * whenever a daemon newly subscribes, for instance after a restart, and as a sign of life.
 * Optional. Returns 0 (queued), ATTN_SKIPPED (remembered until there is a daemon), ATTN_E_ARGUMENT,
 * ATTN_E_MEMORY or ATTN_E_DROPPED. */
ATTN_API int attn_hello(attn_publisher *publisher, const attn_layer *layers, size_t count);

/* Return values of the publishing calls below; a training loop may ignore all of them.
 *     0                 queued
 *     ATTN_SKIPPED      nobody has subscribed to this layer
 *     ATTN_E_DROPPED    the queue is full, or the daemon has taken nothing for three seconds; told
 *                       to it with the layer's next message, and with an event within 5 s
 *     ATTN_E_TOO_LARGE  it is larger than the daemon takes (its config: ingest.max_message,
 *                       limits.entries, limits.heads), of a type that it does not know, or it is
 *                       too old: not copied, told like the above. Fewer rows or samples per message
 *                       help (`plan`, or attnctl plan set JOB rows=512), queries and keys instead
 *                       of weights (attn_publish_qk), or a larger ingest.max_message
 *     ATTN_E_ARGUMENT   a field is out of range or contradicts another (found out whether or not
 *                       anybody listens), or q_len and k_len do not fit the 64 KiB header
 *     ATTN_E_MEMORY     no memory for the copy; counted as dropped
 * Each copies once and returns; none waits. Arrays are C-contiguous, last dimension fastest, and
 * numbers little-endian; dimensions are 1..INT32_MAX.
 *
 * With `plan`, only what it asks for of samples, heads and rows is copied and sent, as one message
 * for each range of heads; `every` and `layers` are the caller's to ask (attn_publisher_wants).
 * NULL: all. */

/* One attention layer's weights in one step. */
typedef struct attn_attention {
    attn_stack stack;
    uint32_t layer; /* 0..65535 */
    attn_site site;

    const void *weights; /* [batch][heads][queries][keys], after softmax: rows sum to 1 */
    attn_dtype dtype;
    uint32_t batch, heads, queries, keys;

    /* Everything below is optional. The visible keys are stated here and never guessed from
     * zeros. */
    bool causal;           /* a query at position p sees keys 0..p */
    uint32_t window;       /* a query at position p sees keys after p - window; 0 = all */
    const int32_t *q_len;  /* [batch] valid queries of each sample, 0..queries; NULL = all */
    const int32_t *k_len;  /* [batch] valid keys of each sample, 0..keys; NULL = all */
    const uint8_t *mask;   /* [batch][queries][keys], 1 = may attend; NULL = by the above alone */
    const int32_t *tokens; /* [batch][keys] token numbers; NULL = not given */
    const void *grad;      /* gradient of the loss by the weights, same shape; NULL = not given */
    attn_dtype grad_dtype;

    uint32_t
        head_offset; /* first head of this slice, when heads are split over ranks (default 0) */
    uint32_t heads_total; /* heads of the whole layer; 0 = `heads` */
    bool dropout;         /* the weights are after dropout */
    bool learned_sink;    /* rows may sum to less than 1 */

    uint32_t q_offset;         /* position of query 0 among the keys' */
    uint32_t q_stride;         /* query i is at position q_offset + i * q_stride; 0 = 1. Above 1 the
                                  rows are a sample, which has numbers of rows only, no maps */
    const int32_t *documents;  /* [batch][keys] which document of a packed sequence a key is of: a
                                  query sees its own; site self, a key at every query's position */
    const char *const *labels; /* [keys] texts of the first sample's tokens, UTF-8; left out when
                                  the header gets too large for them */
    uint32_t microbatch;       /* which forward of the step this is, from 0 */
    const attn_plan *plan;
    /* Path of the module that attends, "vision_model.encoder.layers.3.self_attn", which results
       repeat: 1..256 bytes of UTF-8 without control characters; NULL = not said */
    const char *module;

    /* With values attnd has numbers of the output. */
    const void *v; /* [batch][kv_heads][keys][value_dim]: head h reads
                      h / (heads / kv_heads); NULL = not given */
    attn_dtype v_dtype;
    uint32_t kv_heads; /* divides heads; 0 = heads */
    uint32_t value_dim;
    const float *wo_r;    /* [heads][written_dim][value_dim] R of the QR of each head's columns of
                             the output projection; needs v; NULL = not given */
    uint32_t written_dim; /* 1..value_dim */
    const float *x_norm;  /* [batch][queries] norms of the layer's input; needs wo_r */
} attn_attention;

/* Sets everything to zero: encoder self-attention of layer 0, f32, no shape. */
ATTN_API void attn_attention_default(attn_attention *ret_attention);
ATTN_API int attn_publish_attention(attn_publisher *publisher, const attn_attention *attention);

/* One attention layer's queries and keys in one step, where the weights never exist: attnd computes
 * what they would be. */
typedef struct attn_qk {
    attn_stack stack;
    uint32_t layer; /* 0..65535 */
    attn_site site;

    const void *q; /* [batch][heads][queries][head_dim], after the position encoding */
    const void *k; /* [batch][kv_heads][keys][head_dim]: head h reads h / (heads / kv_heads) */
    const void *v; /* [batch][kv_heads][keys][value_dim]; NULL = no numbers of the output */
    attn_dtype q_dtype, k_dtype, v_dtype;
    uint32_t batch, heads, queries, keys, head_dim;
    uint32_t kv_heads;  /* divides heads; 0 = heads */
    uint32_t value_dim; /* 0 = head_dim */

    double scale;   /* of the products, finite; 0 = 1 / sqrt(head_dim) */
    double softcap; /* c > 0: logits S become c tanh(S / c); 0 = none */

    /* As in attn_attention. */
    bool causal;
    uint32_t window;
    const int32_t *q_len, *k_len;
    const uint8_t *mask;
    const int32_t *tokens;
    uint32_t head_offset, heads_total; /* of the query heads */
    bool dropout, learned_sink;
    uint32_t q_offset; /* for instance how many keys came out of a cache */
    uint32_t q_stride;
    const int32_t *documents;
    const char *const *labels;
    uint32_t microbatch;
    const attn_plan *plan;
    const char *module;

    const void *dout; /* [batch][heads][queries][value_dim] gradient of the loss by the output of
                         the heads, before the output projection; needs v; NULL = not given */
    attn_dtype dout_dtype;
    /* As in attn_attention. */
    const float *wo_r;
    uint32_t written_dim;
    const float *x_norm;
} attn_qk;

/* Sets everything to zero: encoder self-attention of layer 0, f32, no shape. */
ATTN_API void attn_qk_default(attn_qk *ret_qk);
ATTN_API int attn_publish_qk(attn_publisher *publisher, const attn_qk *qk);

/* A projection matrix, [out][in] as nn.Linear has it. */
typedef struct attn_matrix {
    const void *data; /* NULL = not given */
    attn_dtype dtype;
    uint32_t width; /* the side that heads do not tell: `in` of wq, wk and wv, `out` of wo */
} attn_matrix;

/* One attention layer's projection matrices. At least one must be given. */
typedef struct attn_weights {
    attn_stack stack;
    uint32_t layer; /* 0..65535 */
    attn_site site;

    uint32_t heads, head_dim;
    uint32_t kv_heads;    /* divides heads; 0 = heads */
    uint32_t heads_total; /* heads of the whole layer, when this rank has a slice; 0 = heads */
    attn_matrix wq;       /* [heads * head_dim][width] */
    attn_matrix wk, wv;   /* [kv_heads * head_dim][width] */
    attn_matrix wo;       /* [width][heads * head_dim] */
    const char *module;   /* as in attn_attention */
} attn_weights;

/* Sets everything to zero: encoder self-attention of layer 0, no matrices. */
ATTN_API void attn_weights_default(attn_weights *ret_weights);
ATTN_API int attn_publish_weights(attn_publisher *publisher, const attn_weights *weights);

/* Says that the current epoch (attn_set_position) is complete on this rank. Events wait behind
 * what is queued and are not dropped for lack of room, unless 1024 of them wait. Returns 0,
 * ATTN_SKIPPED, ATTN_E_DROPPED or ATTN_E_MEMORY. */
ATTN_API int attn_epoch_end(attn_publisher *publisher);

/* A number that the training reports, such as its loss. */
typedef struct attn_value {
    const char *name; /* 1..64 bytes of UTF-8 without control characters */
    double value;     /* NaN and infinities are reported as "not finite" */
} attn_value;

/* Reports numbers of the training at the current position (attn_set_position): 1..32 of different
 * names. Returns 0, ATTN_SKIPPED (nobody listens), ATTN_E_ARGUMENT, ATTN_E_DROPPED (the queue is
 * full) or ATTN_E_MEMORY. */
ATTN_API int attn_log(attn_publisher *publisher, const attn_value *values, size_t count);

/* Totals since attn_publisher_new, events included; hellos that were repeated are not. At any
 * moment published = sent + skipped + dropped + queued. */
typedef struct attn_publisher_counts {
    uint64_t published;    /* messages that were to be sent */
    uint64_t sent;         /* handed to ZeroMQ; only a lost connection can still lose them */
    uint64_t skipped;      /* nobody wanted them */
    uint64_t dropped;      /* too large, found the queue full or no memory, or their reader gone */
    uint64_t queued;       /* copied, and waiting to be handed to ZeroMQ */
    uint64_t bytes;        /* tensor bytes of the messages sent */
    uint64_t queued_bytes; /* copies that are waiting to be sent now, in ZeroMQ included */
    uint64_t bad_plans;    /* plans and limits said now that are ignored: malformed */
    uint64_t too_large;    /* of `dropped`: ATTN_E_TOO_LARGE */
} attn_publisher_counts;

ATTN_API void attn_publisher_stats(attn_publisher *publisher, attn_publisher_counts *ret_counts);

/* ---- subscriber ---- */

typedef struct attn_subscriber attn_subscriber;
typedef struct attn_result attn_result;

typedef struct attn_subscriber_options {
    const char *endpoint; /* exactly this socket, the daemon's results (default NULL) */
    const char *prefix;   /* of the topics wanted: "summary/", "live/my-job/", "" = all (default
                             "summary/") */
    const char *address;  /* the daemon, unless by endpoint; both are refused (default NULL) */
} attn_subscriber_options;

/* Fills in the defaults above. */
ATTN_API void attn_subscriber_options_default(attn_subscriber_options *ret_options);

/* Makes a subscriber and starts connecting in the background. NULL options are the defaults. The
 * daemon first sends the last value of every matching topic, marked `snapshot`. Returns 0,
 * ATTN_E_ARGUMENT, ATTN_E_MEMORY or ATTN_E_TRANSPORT. */
ATTN_API int attn_subscriber_new(const attn_subscriber_options *options,
                                 attn_subscriber **ret_subscriber);

ATTN_API void attn_subscriber_free(attn_subscriber **subscriber);

/* Waits for the next result; timeout_ms 0 = only look, < 0 = for ever. The caller owns *ret_result.
 * While some 1000 wait to be taken, further ones are dropped. Returns 0, ATTN_E_TIMEOUT,
 * ATTN_E_MESSAGE, ATTN_E_MEMORY or ATTN_E_TRANSPORT. */
ATTN_API int attn_subscriber_next(attn_subscriber *subscriber, int timeout_ms,
                                  attn_result **ret_result);

/* The topic ("summary/job/decoder/5/self/") and the result's kind ("live", "summary", "job",
 * "alert", "log"; "" when it has none). The result's own strings, valid until it is freed. */
ATTN_API const char *attn_result_topic(const attn_result *result);
ATTN_API const char *attn_result_kind(const attn_result *result);

/* The whole result as one line of JSON. The result's own string, made at the first call; NULL when
 * out of memory. Key names, units and shapes are those of PROTOCOL.md. */
ATTN_API const char *attn_result_json(attn_result *result);

/* A number at the top of the result ("epoch", "step", "messages"). Returns 0 or ATTN_E_NOT_FOUND.
 */
ATTN_API int attn_result_u64(const attn_result *result, const char *key, uint64_t *ret_number);

/* A text at the top of the result ("job", "run", "stack"), cut to size - 1 bytes and a NUL. Returns
 * 0, ATTN_E_NOT_FOUND, or ATTN_E_ARGUMENT when size is 0. */
ATTN_API int attn_result_text(const attn_result *result, const char *key, char *ret_text,
                              size_t size);

/* Heads of a layer's result; 0 when it is not about a layer. */
ATTN_API uint32_t attn_result_heads(const attn_result *result);

/* One number of one head: metric "entropy", statistic "mean" of a summary; live results have one
 * value per metric, and `stat` must be NULL or "last" for them. A number that does not exist is
 * NaN. Returns 0, or ATTN_E_NOT_FOUND when the metric was not computed or head is out of range. */
ATTN_API int attn_result_stat(const attn_result *result, const char *metric, const char *stat,
                              uint32_t head, double *ret_number);

ATTN_API void attn_result_free(attn_result **result);

/* ---- questions about the past ---- */

/* A connection to the daemon's control socket. Calls wait for their answer, up to the timeout; one
 * without an answer over TCP then asks for up to a second more whether its keys are wrong. */
typedef struct attn_control attn_control;

/* Exactly this socket (endpoint NULL: the daemon that the rule of addresses finds), or the daemon
 * of an address. Connects in the background; whether anybody is there shows with the first call.
 * timeout_ms, of each call: 1 or more; attnd itself allows a question 5 s. Returns 0,
 * ATTN_E_ARGUMENT, ATTN_E_MEMORY or ATTN_E_TRANSPORT. */
ATTN_API int attn_control_new(const char *endpoint, int timeout_ms, attn_control **ret_control);
ATTN_API int attn_control_new_at(const char *address, int timeout_ms, attn_control **ret_control);
ATTN_API void attn_control_free(attn_control **control);

/* The daemon's last refusal: "no_history: decoder.0.self has no ...". The connection's own string,
 * valid until its next call; "" when it never did. */
ATTN_API const char *attn_control_error(const attn_control *control);

/* The subject of a question. Texts are borrowed for the call; NULL or negative: any, or what
 * PROTOCOL.md says is meant then. */
typedef struct attn_question {
    const char *job;           /* required but by attn_alerts */
    const char *run;           /* first digits; NULL: the newest */
    const char *job_b, *run_b; /* of attn_compare; job_b NULL: the same job */
    int stack, site;           /* attn_stack, attn_site; -1 */
    int32_t layer;             /* -1 */
    int64_t head;              /* -1: all of the layer */
    const char *metric;
    const char *window; /* "1 epoch", "100 steps every 10" */
    uint64_t from, to;  /* units that windows end in, of attn_alerts steps; 0 and UINT64_MAX: all */
    uint64_t last;      /* of attn_map: the window that ends there; UINT64_MAX: the newest */
    uint64_t limit;     /* 1 to 200000 windows, alerts or heads (default 1000) */
} attn_question;

/* Fills in "any" and the defaults. */
ATTN_API void attn_question_default(attn_question *ret_question);

/* One metric of a layer, window by window. */
typedef struct attn_series attn_series;

/* The newest `limit` windows, or with `from` the oldest. Like the other questions it returns 0,
 * ATTN_E_ARGUMENT, ATTN_E_TIMEOUT, ATTN_E_REFUSED, ATTN_E_MESSAGE, ATTN_E_MEMORY or
 * ATTN_E_TRANSPORT. */
ATTN_API int attn_history(attn_control *control, const attn_question *question,
                          attn_series **ret_series);
ATTN_API void attn_series_free(attn_series **series);
ATTN_API uint32_t attn_series_windows(const attn_series *series);
/* 1 with a head, or for a number that the layer has as a whole. */
ATTN_API uint32_t attn_series_heads(const attn_series *series);
/* Whether windows were left out. */
ATTN_API bool attn_series_more(const attn_series *series);
/* [windows] of "first", "last" (units), "epoch", "step" or "time_ns"; NULL for another key. The
 * series' own. */
ATTN_API const uint64_t *attn_series_units(const attn_series *series, const char *key);
/* [windows] of "mean", "std", "min", "max", "p10", "p50", "p90", "p99", "last" or "count"; NaN
 * where there is none. NULL for another statistic, or when head is out of range. The series' own.
 */
ATTN_API const double *attn_series_values(const attn_series *series, const char *stat,
                                          uint32_t head);

#define ATTN_MAP_SIDE_MAX 128

/* A layer's mean map over its heads, pooled: row i, column j at values[i * columns + j]. */
typedef struct attn_mean_map {
    uint32_t rows, columns;
    uint64_t epoch, step;
    float values[ATTN_MAP_SIDE_MAX * ATTN_MAP_SIDE_MAX];
} attn_mean_map;

ATTN_API int attn_map(attn_control *control, const attn_question *question, attn_mean_map *ret_map);

/* The answers of `alerts` and `compare` in PROTOCOL.md, to be read as JSON; free with
 * attn_result_free. */
ATTN_API int attn_alerts(attn_control *control, const attn_question *question,
                         attn_result **ret_result);
ATTN_API int attn_compare(attn_control *control, const attn_question *question,
                          attn_result **ret_result);

#ifdef __cplusplus
}
#endif

#endif
