/* SPDX-License-Identifier: MIT */
/* header: frame 1 of a trainer's message, its topic, and the check of the frames that follow.
 *
 *   frame 0  topic   tensor/<job>/<stack>/<layer>/<site>/   or   event/<job>/
 *   frame 1  header  MessagePack map, at most 64 KiB
 *   frame 2..        one raw tensor each, in the header's order
 *
 * Pure; any thread. */
#ifndef PROTO_HEADER_H
#define PROTO_HEADER_H

#include "proto/failure.h"
#include "proto/metric.h"
#include "proto/named.h"
#include "proto/row_sum.h"
#include "proto/tensor.h"

/* own_window: the windows that a job asks for in its `hello`: they follow one another. Pure; any
 * thread. */

enum window_unit { WINDOW_EPOCH, WINDOW_STEP, WINDOW_SECOND, WINDOW_UNIT_COUNT };

/* "epoch", "step", "second". */
const char *window_unit_name(enum window_unit unit);

/* Units in one of them, at most. */
#define OWN_WINDOW_MAX 1000000

struct own_window {
    enum window_unit unit;
    uint64_t length; /* 0 = none were asked for */
};

/* Reads {unit, length}; nothing is written on failure. Returns 0, ERR_KEY_TYPE, ERR_KEY_MISSING,
 * ERR_KEY_RANGE or ERR_KEY_DUPLICATE. */
int own_window_read(const msgpack_object *value, struct own_window *ret_window);
/* Appends the same map. */
void own_window_put(const struct own_window *window, struct mpk_writer *writer);

#define PROTO_VERSION    1
#define HEADER_REVISION  11 /* of the keys: PROTOCOL.md, "What the daemon takes" */
#define HEADER_BYTES_MAX 65536
#define JOB_NAME_MAX     128
#define RUN_BYTES        16
#define TENSORS_MAX      TENSOR_ROLE_COUNT
#define COUNT_MAX                                                                                  \
    (UINT64_C(1) << 62) /* of seq, dropped, epoch, step, time_ns: sums cannot wrap                 \
                         */
#define LAYER_MAX        65535u
#define WORLD_MAX        1048576u
#define HEADS_TOTAL_MAX  1048576u
#define TOPIC_MAX        256 /* longest topic with its NUL: summary/<128>/encoder/65535/cross/ is 160 */
#define HELLO_LAYERS_MAX 4096
#define CLIENT_NAME_MAX  64
#define EVERY_MAX        1000000000u /* of the steps from one capture to the next */
#define AFTER_MAX        4000        /* topics that an event may wait for */
#define CHARGE_MIN       4096        /* bytes of credit that a reliable message takes at least */
#define MODULE_MAX       256         /* bytes of a module's path */
#define SENT_MAPS_SIDE   64          /* rows, and columns, of the maps that a message brings */
#define LOCAL_WINDOW     8           /* of local_mass in type rows, unless it says another */
#define SKETCH_PLACES    64 /* of a head in a matrix, of which type sketch has the values */

enum message_type {
    MESSAGE_ATTENTION,
    MESSAGE_QK,
    MESSAGE_WEIGHTS,
    MESSAGE_ROWS,
    MESSAGE_SKETCH,
    MESSAGE_EVENT /* the last one: the others have tensors */
};
enum event_type { EVENT_HELLO, EVENT_EPOCH_END, EVENT_BYE, EVENT_LOG };
enum stack { STACK_ENCODER, STACK_DECODER };
enum site { SITE_SELF, SITE_CROSS };

/* Identifies an attention layer of the model. */
struct layer_id {
    enum stack stack;
    uint32_t layer;
    enum site site;
};

/* A layer as one number, where it is a key: its number, then a bit for stack and one for site. */
static inline uint32_t header_layer_key(struct layer_id id)
{
    return id.layer << 2 | (uint32_t)id.stack << 1 | (uint32_t)id.site;
}

static inline struct layer_id header_layer_of(uint32_t key)
{
    return (struct layer_id){
        .stack = (enum stack)(key >> 1 & 1), .layer = key >> 2, .site = (enum site)(key & 1)};
}

/* One layer of a `hello`. */
struct layer_info {
    struct layer_id id;
    uint32_t heads;
    const char *module; /* the path of the module that attends; NULL = not said */
};

/* How far a topic of the other lane was when an event was sent. */
struct topic_position {
    struct layer_id layer;
    uint64_t seq; /* the one that comes next */
};

/* A projection matrix of the layer, and where the message's tensor begins in it. */
struct matrix_place {
    uint32_t out, in; /* of the whole; 0 = the layer has none, or none was sent */
    uint32_t row, column;
};

/* The pooled maps that a message of type rows brings, of its first sample. */
struct sent_maps {
    uint32_t heads, rows, columns; /* 0 = it has none */
    uint32_t sample;               /* the first one's number in the batch, of any type */
    uint32_t queries, keys;        /* that they are of, without padding */
    uint32_t first_query, first_key;
};

struct header {
    enum message_type type;
    char job[JOB_NAME_MAX + 1];
    uint8_t run[RUN_BYTES]; /* random per start of the trainer */
    uint32_t rank, world;   /* rank < world */
    uint64_t seq;           /* +1 per message of this publisher and topic */
    uint64_t dropped;       /* what the publisher itself has dropped on this topic */
    uint64_t time_ns;       /* the publisher's clock, since 1970 */
    uint64_t epoch, step;
    bool reliable; /* `seq` and `dropped` count on the reliable lane */

    /* events */
    enum event_type event;
    uint64_t dropped_total;    /* tensor messages that this rank has dropped, of all topics */
    struct layer_info *layers; /* hello; owned, may be NULL; their modules are in layer_modules */
    char *layer_modules;       /* owned, may be NULL */
    uint32_t layer_count;
    char client[CLIENT_NAME_MAX + 1]; /* hello; who publishes, printable ASCII; "" = not said */
    struct named_values settings;     /* hello; owned */
    double step_seconds;    /* hello; of a step in which nothing is captured; 0 = not said */
    double capture_seconds; /* hello; that a captured step takes in addition */
    bool alive;             /* hello; its process goes on, and its training has said nothing */
    uint32_t own_every;     /* hello; as the job's own code asks for; 0 = it does not */
    struct own_window own_window; /* hello; windows that the job asks for */
    struct named_values values;   /* log; owned; numbers */
    struct failure *failure;      /* bye; owned; the exception that ended the rank, or NULL */
    struct topic_position *after; /* what its rank sent before by the other lane; owned, or NULL */
    uint32_t after_count;

    /* tensors */
    struct layer_id layer;
    char module[MODULE_MAX + 1]; /* the path of the module that attends; "" = not said */
    uint32_t tensor_count;
    struct tensor tensors[TENSORS_MAX];
    uint32_t batch, heads, queries, keys; /* B, H, Tq, Tk; of weights and sketch: 1, heads, 1, 1; of
                                             rows, queries are those that were taken */
    uint32_t kv_heads;                    /* divides heads */
    uint32_t head_dim, value_dim; /* of q and k, of v (0 = not sent); of matrices: head_dim */
    bool in_parts; /* weights: the tensors are blocks of their matrices, as `matrix` says */
    struct matrix_place matrix[PROJECTION_COUNT]; /* weights */
    double scale, softcap;                        /* qk: finite; softcap >= 0, 0 = none */
    uint32_t q_offset;                            /* position of query 0 */
    uint32_t q_stride; /* positions from a query to the next; 0 in other types */
    bool causal;
    uint32_t window;                   /* keys a query may look back; 0 = all */
    int32_t *q_len, *k_len;            /* valid lengths per sample [B]; owned, NULL = all valid */
    uint32_t head_offset, heads_total; /* this slice of the model's heads; default 0 and H */
    bool dropout;                      /* weights are after dropout */
    bool learned_sink;                 /* rows may sum to less than 1 */
    uint32_t sample_stride; /* from the number of a sample in its batch to the next one's; 0 = 1 */
    uint32_t whole_batch;   /* samples of the batch that these are some of; 0 = not said */
    uint32_t microbatch;    /* which forward of the step this was, from 0 */
    uint32_t call_queries;  /* rows: of the call, some of which were taken; 0 in other types */
    uint8_t sum_column[ROW_SUM_COUNT];         /* rows: 1 + the column of `sums`; 0 = it has none */
    bool of_weights;                           /* rows: the sums are of weights, not of logits */
    enum dtype weights_dtype;                  /* of these */
    uint32_t local_window;                     /* rows: of local_mass, in positions */
    enum dtype stored_dtype[PROJECTION_COUNT]; /* sketch: of the parameter, where it is sent */
    bool frozen[PROJECTION_COUNT];             /* sketch: it needs no gradient */
    struct sent_maps maps;     /* of rows; their first head is head_offset, queries at q_offset */
    const char *const *labels; /* of the encoder: [label_count] texts; not owned, not read */
    uint32_t label_count;
};

/* Decodes and validates frame 1. On success *ret_header is filled and owns its arrays
 * (header_clear). On failure it holds nothing, but ret_header->job is the job's name if that could
 * be read, else "", and *reterr_key is the key at fault (static string) or NULL. Returns 0 or an
 * error of err.def (never ERR_AGAIN, ERR_CLOSED). */
int header_decode(const void *buf, size_t len, struct header *ret_header, const char **reterr_key);
void header_clear(struct header *header);
/* The value that a key must have, in words; NULL where only the contract says it. */
const char *header_wanted(const char *key);

/* Appends the header's map to an empty writer, with the keys that C programs send. Returns 0 or
 * ERR_MEMORY. */
int header_encode(const struct header *header, struct mpk_writer *writer);

/* Whether it only says that its process is there. */
static inline bool header_is_beat(const struct header *header)
{
    return header->type == MESSAGE_EVENT && header->event == EVENT_HELLO && header->alive;
}

/* Whether workers compute something of it. */
static inline bool header_is_measured(const struct header *header)
{
    return header->type != MESSAGE_EVENT && header->type != MESSAGE_SKETCH;
}

/* Whether it brings the maps that it has, if any: none are made of it. */
static inline bool header_brings_maps(const struct header *header)
{
    return header->type == MESSAGE_ROWS;
}

/* The heads that maps of the message are of, from head_offset on; 0 = it has none. */
static inline uint32_t header_map_heads(const struct header *header)
{
    return header_brings_maps(header) ? header->maps.heads : header->heads;
}

/* The number in its batch of a sample of the message, counted from 0. */
static inline uint64_t header_sample_number(const struct header *header, uint32_t sample)
{
    uint64_t stride = header->sample_stride ? header->sample_stride : 1;
    return header->maps.sample + sample * stride;
}

/* Where the last query of type `attention` or `qk` stands; no factor is above 2^32. */
static inline uint64_t header_last_position(const struct header *header)
{
    return header->q_offset + (header->queries - UINT64_C(1)) * header->q_stride;
}

/* About how many rows the `rows` of a message of type attention, qk or rows were sampled from: each
 * row stands for `q_stride` rows, or for its share of the call's queries. At most 2^40. */
static inline uint64_t header_rows_of(const struct header *header, uint64_t rows)
{
    const uint64_t most = UINT64_C(1) << 40;
    if (header->call_queries > 0) {
        double of = (double)rows * header->call_queries / header->queries;
        return of < (double)most ? (uint64_t)of : most;
    }
    uint64_t each = header->q_stride > 1 ? header->q_stride : 1;
    return rows > most / each ? most : rows * each;
}

/* Checks the `frames` sizes of the frames after the header, frame_bytes[0] being frame 2's. Returns
 * 0, ERR_FRAMES_MISSING, ERR_FRAMES_EXTRA or ERR_SIZE_MISMATCH. */
int header_check_frames(const struct header *header, const size_t *frame_bytes, size_t frames);

/* The role of a projection's tensor: both enumerations have the matrices in one order. */
static inline enum tensor_role header_role_of(enum projection projection)
{
    _Static_assert(TENSOR_WK - TENSOR_WQ == (int)PROJECTION_K &&
                       TENSOR_WV - TENSOR_WQ == (int)PROJECTION_V &&
                       TENSOR_WO - TENSOR_WQ == (int)PROJECTION_O,
                   "in one order");
    return (enum tensor_role)((unsigned)TENSOR_WQ + projection);
}

/* The frame index (2..) of a tensor, or 0 when the message has none of that role. */
uint32_t header_frame_of(const struct header *header, enum tensor_role role);

/* Whether `name` is 1..128 of [A-Za-z0-9._-]. */
bool job_name_valid(const char *name, size_t len);
/* Whether `path` is 1..256 bytes of UTF-8 without control characters. */
bool module_path_valid(const char *path, size_t len);

/* "tensor/<job>/<stack>/<layer>/<site>/" with another first word for results ("live", "summary").
 * ret_topic has TOPIC_MAX bytes; returns the length without the NUL. */
size_t topic_layer(const char *word, const char *job, struct layer_id id, char *ret_topic);
/* "<word>/<job>/". */
size_t topic_job(const char *word, const char *job, char *ret_topic);
/* Whether the topic frame is the one this header belongs to.
 * Returns 0, ERR_TOPIC (no such form) or ERR_TOPIC_MISMATCH. */
int topic_check(const struct header *header, const void *topic, size_t len);

const char *message_type_name(enum message_type type);
const char *event_name(enum event_type event);
/* The words of messages, by their number. */
extern const char *const stack_names[2], *const site_names[2];
const char *stack_name(enum stack stack);
const char *site_name(enum site site);
/* Writes and returns "decoder.3.self", by which plans and rules name layers. */
#define LAYER_NAME_MAX 32
const char *layer_name(struct layer_id layer, char ret_name[LAYER_NAME_MAX]);

#endif
