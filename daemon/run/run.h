/* SPDX-License-Identifier: MIT */
/* run: one start of a training job: its ranks, its attention layers (streams), and their windows.
 * queue.h adds messages to it, tick.h the passing of time, closing.h lets its windows go out. Loop
 * thread only. */
#ifndef DAEMON_RUN_RUN_H
#define DAEMON_RUN_RUN_H

#include "daemon/alerts/alerts.h"
#include "proto/err.h"
#include "daemon/ingest/message.h"
#include "proto/result.h"
#include "daemon/ingest/sequence.h"
#include "daemon/ingest/work.h"
#include "daemon/state/capture.h"
#include "daemon/base/stats.h"
#include "daemon/run/cost.h"
#include "daemon/run/sink.h"
#include "daemon/run/track.h"
#include "daemon/store/store.h"

/* One run may use this part of limits.state_memory, so that it cannot take it all. */
#define RUN_SHARE 4

/* A window on its way out, layer by layer (closing.h); or the alerts of a run, without a window. */
struct closing {
    struct run *run;
    struct track *track; /* NULL: there is none */
    struct result_window window;
    const struct window_part *part; /* the last one of it; NULL: it is merged */
    struct merged *merged;          /* owned; the window of a fleet; NULL: that of the track */
    bool due;                       /* it has summaries; else its last part only closes */
    bool closed;                    /* for good; else it is shown while it is open */
    bool again;                     /* it was judged before */
    bool saves;                     /* the second pass over the layers; else the first */
    bool through;
    struct stream *next;       /* the layer whose turn it is */
    uint32_t published;        /* summaries */
    uint32_t events;           /* of alerts */
    int code;                  /* what there was no memory for is not in the batch */
    struct store_batch *batch; /* what goes to the history; NULL: nothing is kept */
    uint64_t now_ns;           /* when it closed; 0: it is only shown */
};

struct run {
    uint8_t id[RUN_BYTES];
    char job[JOB_NAME_MAX + 1];
    const struct config *config;
    const struct config *job_config; /* what to measure: with the overrides for this job */
    const struct result_sink *sink;
    struct work_queue *work;          /* the job's; outlives the run */
    struct state_budget budget;       /* a quarter of all there is, or its share */
    struct state_budget drift_budget; /* half of that: baselines give way to windows */
    enum job_state state;             /* of the first three; shown as run_shown says */
    struct failure failure;           /* of the first rank that said one; type "" = none did */
    bool no_news;  /* not a sign of life for limits.no_news, and it has not ended */
    bool deleting; /* by the history: nothing of it is saved meanwhile */
    bool dirty;    /* the job map should be published again */
    bool unsaved;  /* something has changed since the last round of checkpoints began */
    bool alerts_unsaved;
    struct track tracks[TRACKS_MAX];
    uint32_t track_count;
    struct config_cut cut;  /* as far as is known when the run begins */
    uint32_t own_every;     /* that the job's code asks for, by its newest hello; 0 = none */
    struct stream *streams; /* by key, in order of appearance */
    struct sequences events;
    struct sequences reliable_events; /* of the reliable lane */
    uint64_t sequence_count;          /* ranks of all sequences together, those of layers as well */
    uint64_t kept_bytes;              /* run_kept_bytes, as charged to the budget */
    struct promises promises;         /* of messages of no layer, for the batch with `about` */
    bool reliable; /* a message of the reliable lane has come: what it keeps must not be lost */
    bool keeps_tensors; /* so have tensors */
    bool merged;        /* by a hub, of what nodes send: no trainer speaks for it here */
    bool came_back;     /* it was forgotten: what is saved of it takes the mark of that away */
    struct drop_totals drop_totals;
    struct capture_costs costs;
    bool judge_losses;     /* no tensors came between two events: no window judges what is lost */
    struct alerts *alerts; /* NULL: none */
    struct captures *captures; /* that they judge; NULL: none, as of what a hub merges */
    bool told_unjudged;        /* which rules have had nothing to judge */
    /* It was restored, and layers of it have windows that are not in the config any more. */
    bool has_other_windows;
    uint64_t last_ns;              /* when it was last heard of */
    uint64_t alive_ns;             /* when a sign of life came last: also a `hello` with `alive` */
    uint64_t epoch, step, time_ns; /* newest seen */
    uint64_t maps_epoch,
        maps_step; /* the step whose messages are asked for the maps of their heads */
    uint64_t queued_epoch, queued_step; /* of the last message with tensors that was queued */
    uint64_t maps_ns;                   /* when that step began; 0 = there was none yet */
    struct counts counts; /* of what is no layer's: events, what ingest refused; see run_counts */
    struct counts judged; /* run_counts when the alerts were last asked about the run */
    uint64_t found;       /* messages that were lost, and came after all */
    uint64_t taken;       /* messages: their order for a flush */
    uint64_t ends;        /* how often it has ended, since attnd knows it */
    struct message *queue, **queue_last; /* received and not taken, oldest first */
    uint32_t queued;
    struct hold *holds;        /* received, and not queued: hold.h */
    uint32_t hold_count, held; /* of them; messages in them */
    uint64_t held_ns;          /* when the oldest of these was received; 0 = there is none */
    uint32_t detached;         /* taken, and still computed: tier weights */
    uint32_t waiting;          /* taken: parts of matrices whose others are not there, assembly.h */
    struct message *lost;      /* of those, given up; by queued_next */
    bool flushing;             /* show the windows once all up to flush_arrival are taken, */
    uint64_t flush_arrival;    /* and joined if they were taken unfinished */
    uint32_t flush_detached;   /* how many of those are still computed */
    struct closing closing;    /* see run_closes */
    struct message *closer;    /* taken: the windows that it closed are on their way; or NULL */
    bool shows;                /* all open windows, */
    uint32_t show_track;       /* from here on, */
    uint64_t show_from;        /* and from this part on; */
    int show_code;             /* why one of them is not in the history */
    bool goes_idle;            /* when they are out */
    /* the round of checkpoints that is going on, see checkpoint.h */
    struct store_batch *saving; /* what the steps have collected */
    uint64_t store_losses;      /* of the store, when a round last began */
    uint64_t saving_bytes;
    int saving_code; /* why it cannot be submitted */
    bool in_round, round_goes_on;
    struct stream *round_next; /* where the next step begins */
    struct run *next;          /* the job's list */
    bool ready;                /* it waits for its turn to take messages (messages.c), */
    struct run *ready_next;    /* and this one comes after it */
};

/* `config`, `sink` and `budget` (of all runs) outlive the run. Returns NULL when out of memory. */
struct run *run_new(const char *job, const uint8_t *id, const struct config_cut *cut,
                    const struct config *config, const struct result_sink *sink,
                    struct state_budget *budget, uint64_t now_ns);
/* With window.unit `auto`, where the run asks for no windows of its own, before the first one has
 * begun: cuts it into windows of 16 captures, one in each `capture_every` steps. */
void run_cut(struct run *run, uint64_t capture_every);
/* The windows that it asks for itself, if any. */
struct own_window run_own_window(const struct run *run);
/* The track with this rule; NULL: there is none. */
struct track *run_find_track(struct run *run, const struct config_window *window);
/* Whether a window is on its way out: until it is through nothing else happens to the run. */
static inline bool run_closes(const struct run *run)
{
    return run->closing.track;
}
/* How the run is shown and stored:
 *
 *   state            no_news     shown
 *   active, idle     no          as it is
 *   active, idle     yes         no_news; failed with a failure: its other ranks were killed
 *   idle             any         failed with a failure
 *   ended            no          ended; failed with a failure
 */
enum job_state run_shown(const struct run *run);
/* A sign of life, of the training itself or only of its process (`alive`). */
void run_heard(struct run *run, bool alive, uint64_t now_ns);
/* Looks whether there has been news for limits.no_news; else the run is shown so. A run that a hub
 * merges is heard of window by window, and never without news. */
void run_look_for_news(struct run *run, uint64_t now_ns);
/* Whether it waits for messages to be computed, or for its turn. */
bool run_busy(const struct run *run);
/* It may not be busy. */
void run_free(struct run **run);

/* When a tick happens to its windows: not later than the oldest message that is not taken was
 * received, for no window may close over that. */
uint64_t run_time_ns(const struct run *run, uint64_t now_ns);

/* The layer, made when there is none. Returns 0, ERR_STREAM_LIMIT, ERR_STATE_LIMIT or ERR_MEMORY.
 */
int run_stream(struct run *run, struct layer_id id, uint32_t heads, uint64_t now_ns,
               struct stream **ret_stream);
/* As run_stream, for a layer that this attnd or a node took in before: it is never refused for
 * memory, and the budget may exceed its limit. */
int run_put_stream(struct run *run, struct layer_id id, uint32_t heads, uint64_t now_ns,
                   struct stream **ret_stream);
/* Bytes of the layers, the ranks, the sequences of each of them, and the captures, which the budget
 * counts as long as the run lasts. */
uint64_t run_kept_bytes(const struct run *run);
/* Charges the budget for them as they are now, whether they fit or not. */
void run_charge_kept(struct run *run);
/* Whether the budget has room for one more rank. */
bool run_fits_rank(const struct run *run);
/* sequences_next, for a message whose rank is known. Returns as that, or ERR_STATE_LIMIT. */
int run_next_in_sequence(struct run *run, struct message *message);
/* After sequences were taken over from elsewhere: counts them. */
void run_count_sequences(struct run *run);
/* The sequences that a message's number is in; NULL: its layer is not known yet. */
struct sequences *run_sequences(struct run *run, const struct header *header);
struct drift_rule run_drift_rule(const struct config *config);
/* A layer's drift has grown: charges the budget of windows. */
void run_charge_drift(struct run *run, struct layer_track *layer);
/* Frees a layer's baseline. */
void run_free_drift(struct run *run, struct layer_track *layer);
/* One of its layer's messages that was refused, with those it stands for: counts them to the layer
 * and, unless a window has counted it as lost, to the window of the layer's next message. */
void run_count_dropped(struct run *run, struct stream *stream, const struct message *message,
                       int code);
/* From now on a hub merges it: no messages make captures. */
void run_be_merged(struct run *run);
/* Frees the states of all parts, every baseline, sketch and capture: the run has ended. */
void run_free_state(struct run *run);
/* The totals of all layers, and of messages that belong to none. */
struct counts run_counts(const struct run *run);

/* An event of its alerts, which do not know modules, with the module of its layer. */
struct alert_result run_with_module(const struct run *run, const struct alert_result *event);

/* The beginning of all its results. */
struct result_common run_common(const struct run *run);
/* Appends `state` and, of a run that is shown so, `silent_s` or `failure`: as many keys of a map as
 * run_state_keys says. */
uint32_t run_state_keys(const struct run *run);
void run_put_state(const struct run *run, struct mpk_writer *writer);
/* Appends the job map. */
void run_encode(const struct run *run, struct mpk_writer *writer);
void run_publish_job(struct run *run);
void run_publish_log(struct run *run, const struct log_result *log);
/* Publishes what is encoded on WORD/JOB/, and clears the writer. */
void run_put(struct run *run, const char *word, struct mpk_writer *writer, enum result_kind kind);

#endif
