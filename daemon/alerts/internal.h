/* SPDX-License-Identifier: MIT */
/* alerts/internal: the state that alerts keep (cell.c), and the numbers and
 * sentences of one judgement. Private to alerts. */
#ifndef DAEMON_ALERTS_INTERNAL_H
#define DAEMON_ALERTS_INTERNAL_H

#include "daemon/alerts/alerts.h"
#include "daemon/alerts/loss.h"
#include "daemon/base/hash.h"
#include "proto/header.h"
#include "config/rules.h"

/* The state of a rule for one head, layer or run. */
struct alert_cell {
    double value;  /* what was compared last */
    uint64_t well; /* the last step up to which all was well, or ALERT_FROM_START: that of the last
                      capture that passed, or of the end of the window before one that passed */
    uint64_t passed, failed; /* of the streak: what `well` was; the first capture that failed, or
                                the end of the window */
    uint32_t held;           /* captures, or windows, since it was clear */
    bool firing, told;       /* as it is; as the sink knows it */
    bool at_end;             /* was told so: the run ended while it fired */
    bool held_back;          /* counted as beyond alerts.per_window */
    bool armed;              /* has been clear */
    bool doubtful;           /* of the newest value: alert_is_doubtful */
    uint8_t past_count, past_next; /* of its ring */
    int32_t worst;                 /* of a layer's heads, or ranks, the one farthest out; -1 =
                                      not known */
};

/* The state of a rule for one layer (or for the run), head by head or as a whole. */
struct alert_cells {
    bool applies;
    uint32_t judged, newest; /* captures, or windows, in which it could be judged; the last one of
                                them, by the clock of the rule (alerts_clock) */
    uint32_t count;          /* 0 = nothing yet */
    struct alert_cell *cell; /* [count], owned */
    double *past;            /* [count][rule.within], owned; values before, NULL unless a rate */
};

/* A head keeps from capture to capture: of 1 - entropy_normalized the largest that its running mean
 * had and that mean, the spread of its logits before it turned sharp, the weight of the first token
 * before that took all; and of windows the largest norm of its W_v W_o. */
struct alert_past {
    float kept, running, spread, written, first;
};

struct alert_head_numbers {
    struct alert_past past;
    double saturated_entropy, saturated_alone, lost_focus, written_share, twin;
    bool is_saturated; /* by size or jump of its logits, whether told or not */
};

/* Shares of invalid rows of a layer's heads; head: the one with most, -1 = several have. */
struct alert_invalid {
    uint32_t heads; /* up to the last one that was counted; 0 = nothing is known */
    double most, least;
    int32_t head;
};

/* The mask of a layer: whether it hides the next token from any of its rows. */
enum alert_mask { ALERT_MASK_UNKNOWN, ALERT_MASK_NONE, ALERT_MASK_HIDES };

/* How many layers of a capture have such masks. */
struct alert_masks {
    uint32_t none, hides;
};

/* The numbers of a layer's newest capture that no metric has (quantity.c); NaN where there is none.
 */
struct alert_numbers {
    double focus; /* the largest 1 - entropy_normalized of its heads */
    double focus_share, later_keys;
    enum alert_mask mask; /* of a decoder's self-attention */
    enum alert_mask mask_before;
    uint32_t hid;  /* captures, from the first one on in which it hid the next token */
    uint32_t open; /* on end in which it did not, until now */
    bool opened;   /* in some it did not */
    struct alert_invalid invalid;
    uint32_t heads;
    struct alert_head_numbers head[]; /* [heads] */
};

struct alert_layer {
    uint32_t key; /* packed layer_id */
    struct layer_id id;
    struct alert_numbers *numbers; /* owned; NULL = no capture or window yet */
    uint32_t measured;             /* the last capture that had it, by alerts.captures */
    UT_hash_handle hh;
    struct alert_cells cells[]; /* [rule_count] */
};

/* For a rule about the run: the values of the layers of this capture, or window. */
struct alert_gathered {
    double sum, min, max;
    uint32_t lowest, highest; /* heads */
    uint64_t count;
};

/* Where rows became invalid; head -1: in several heads of the layer. */
struct alert_origin {
    struct layer_id layer;
    int32_t head;
    double share;    /* of its rows; 0 = none are */
    bool everywhere; /* in all of them alike: no capture saw where it began */
};

/* The newest capture that was judged, or window where there are no captures. */
struct alert_judged {
    bool any;
    uint64_t epoch, step;
};

/* A layer of a capture with what rules judge of it, as a window would have it (view.c). Borrows
 * from the capture. */
struct alert_view {
    bool wants[METRIC_MATRIX_FIRST]; /* the metrics that rules look at; */
    uint32_t metrics;                /* how many these are */
    struct summary_result summary;
    struct result_stat sink_rate, *stat; /* stat: owned */
    double *invalid_share;               /* owned */
    uint32_t heads;                      /* that there is room for */
};

struct alerts {
    char job[JOB_NAME_MAX + 1];
    uint8_t run[RUN_BYTES];
    struct result_common newest; /* job and run point into this struct */
    uint32_t rule_count;
    const struct rule *rules[RULES_MAX];
    struct alert_layer *layers;
    struct alert_layer *whole; /* the cells of the run; its id means nothing */
    struct alert_gathered gathered[RULES_MAX];
    double focus, focus_now; /* the model's largest 1 - entropy_normalized of heads that are not
                                saturated: the last capture, or window; this one so far */
    uint32_t sinks,
        sinkable; /* heads of this capture with nearly all on the first token; with a number */
    struct alert_masks masks, masks_now; /* the last window; this capture, or window, so far */
    struct alert_origin origin;          /* of what first_invalid told */
    bool taken;                          /* layers of this window */
    uint32_t captures, windows;          /* that were judged */
    uint32_t weight;                     /* captures behind what is judged now: 1, or a window's */
    struct alert_judged judged;
    uint64_t after; /* a value that passes now says that all was well up to this step */
    /* Windows that do not overlap: the newest one of these ended with that unit, and step. */
    struct {
        bool any;
        uint64_t last, epoch, step, after; /* after: where the one before it ended */
    } windows_to;
    uint64_t begun; /* step of the first capture that was judged; ALERT_FROM_START */
    struct alert_view view;
    struct loss loss;
    uint32_t per_window, told, held_back; /* in this window */
    bool other_heads; /* most of the messages that were last lost are of layers whose heads are
                         others */
};

/* With its cells. */
size_t alert_layer_size(const struct alerts *alerts);
/* The layer, made on first use; NULL when out of memory. */
struct alert_layer *alert_layer_get(struct alerts *alerts, struct layer_id id);
/* Makes cells for `count` heads; cells of another number are forgotten. Returns 0 or ERR_MEMORY. */
int alert_cells_get(struct alert_cells *cells, const struct rule *rule, uint32_t count);
void alerts_forget(struct alerts *alerts);
void alert_cells_free(struct alert_cells *cells);
/* One more capture or window of a cell, by the value of its metric; NaN changes nothing. */
void alert_cells_judge(const struct alerts *alerts, const struct rule *rule,
                       struct alert_cells *cells, uint32_t index, double value);

/* The captures, or windows, that a rule counts. */
uint32_t alerts_clock(const struct alerts *alerts, const struct rule *rule);
/* Whether a rule could have fired by one of its newest numbers; kept in `whole` over restarts. */
bool alerts_has_judged(const struct alerts *alerts, uint32_t index);

/* Numbers: NaN when there is none */

/* Makes room for the numbers of a layer with `heads` heads, and forgets those of a layer with
 * another count. Returns 0 or ERR_MEMORY. */
int alert_numbers_reserve(struct alert_layer *layer, uint32_t heads);
/* Takes a layer of a capture or window in, by what it has: OF_ALL, both. Returns 0 or ERR_MEMORY.
 */
int alert_numbers_take(struct alerts *alerts, struct alert_layer *layer,
                       const struct summary_result *summary, enum alert_by by);
/* All layers of a capture were taken: compares one with the others. */
void alert_numbers_compare(const struct alerts *alerts, struct alert_layer *layer,
                           const struct summary_result *summary);
/* A capture begins, or a window of ALERTS_OF_ALL: nothing is known of its layers. */
void alert_numbers_begin(struct alerts *alerts);
/* All layers of a window have been taken, if there were any. */
void alert_numbers_end(struct alerts *alerts, enum alert_by by);
/* The share of sinks among the heads of the layers that were taken; NaN without any. */
double alert_sink_share(const struct alerts *alerts);
/* Takes a head's share of invalid rows in. */
void alert_invalid_add(struct alert_invalid *invalid, uint32_t head, double share);
/* The share of the origin in this capture, or window; remembers where it is until none is invalid.
 * NaN without a layer. */
double alert_origin_value(struct alerts *alerts);

/* Whether the window has what the rule judges. */
bool alert_has(const struct summary_result *summary, const struct rule *rule);
/* The value of one head, for metrics of heads and invalid_share, or of the layer, for the others.
 * `layer` has taken the window in. */
double alert_head_value(const struct alert_layer *layer, const struct summary_result *summary,
                        const struct rule *rule, uint32_t head);
double alert_layer_value(const struct alert_layer *layer, const struct summary_result *summary,
                         const struct rule *rule);
/* Whether heads that do induction would look the same: token numbers, which tell, are unknown. Such
 * an alert is a warning at most. */
bool alert_is_doubtful(const struct summary_result *summary, const struct rule *rule);
/* `head` counts where the values are of the heads of one layer. */
void alert_gather(struct alert_gathered *gathered, uint32_t head, double value);
double alert_gathered_value(const struct alert_gathered *gathered, const struct rule *rule);
/* The head with the value farthest out on the side of the bound; -1: none differs. */
int32_t alert_gathered_worst(const struct alert_gathered *gathered, const struct rule *rule);

/* Layers of captures */

/* It will have what these rules look at. */
void alert_view_init(struct alert_view *view, const struct rule *const *rules, uint32_t count);
/* Returns 0 or ERR_MEMORY. */
int alert_view_fill(struct alert_view *view, const struct result_common *common,
                    const struct capture_layer *layer);
void alert_view_clear(struct alert_view *view);

/* Sentences */

/* Where a cell is: layer and head, or less. */
struct alert_place {
    bool has_layer;
    struct layer_id layer;
    int32_t head; /* -1 = all of it */
};

#define ALERT_MESSAGE_MAX 512

/* The sentence about a cell at this place, in this state. */
void alert_sentence(const struct alerts *alerts, const struct rule *rule,
                    const struct alert_cells *cells, uint32_t index,
                    const struct alert_place *place, enum alert_state state,
                    char ret_text[ALERT_MESSAGE_MAX]);
/* The sentence of a rule about the loss. */
void loss_message(const struct loss *loss, const struct rule *rule, const struct alert_cell *cell,
                  enum alert_state state, char ret_text[ALERT_MESSAGE_MAX]);

#endif
