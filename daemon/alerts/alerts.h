/* SPDX-License-Identifier: MIT */
/* alerts: judges the captures of one run by the rules of the config (rules.h) and says what begins
 * to fire and what is resolved. Rules about what only windows have (rule_is_of_windows) judge
 * those, rules about the loss (rule_is_of_loss) what the training logs.
 *
 * A rule is judged per head, per layer or for the run, as it says. It fires when its condition held
 * in `for` captures, none of which was back at `clear`, and is resolved when one is. When the run
 * ends, all that fires stays as it is: FIRING_AT_END, unless the run goes on after all. Partial
 * windows that will come again are not given to it. Pure; time comes in as an argument; one owner.
 *
 * Memory: about 48 bytes per head for each rule that judges heads one by one, and 8 bytes per
 * capture of `within` where it compares with earlier ones. */
#ifndef DAEMON_ALERTS_ALERTS_H
#define DAEMON_ALERTS_ALERTS_H

#include "config/config.h"
#include "config/rules.h"
#include "daemon/state/capture.h"
#include "daemon/state/sketch_judge.h"
#include "proto/mpk.h"
#include "proto/result.h"

struct alerts;

/* Called for each event, from inside the calls below; `event` is borrowed. */
struct alert_sink {
    void (*event)(void *data, const struct alert_result *event);
    /* The changes of this window beyond alerts.per_window are held back. They are reported
     * with a later window if they still hold then. */
    void (*overflow)(void *data, uint32_t events);
    void *data;
};

/* The rules that apply to this job; none with alerts.enabled off. `config` outlives it. NULL when
 * out of memory. */
struct alerts *alerts_new(const struct config *config, const char *job);
void alerts_free(struct alerts **alerts);

/* These captures keep the smallest and the largest value of what rules judge so. Before the first
 * message. */
void alerts_want_extremes(const struct alerts *alerts, struct captures *captures);

/* A capture: once, after all before it. Returns 0 or ERR_MEMORY: some rules have not judged it. */
int alerts_capture(struct alerts *alerts, const struct result_common *common,
                   const struct capture *capture, const struct alert_sink *sink);

/* The sketch of a layer in a capture. Returns 0 or ERR_MEMORY: some rules have not judged it. */
int alerts_sketch(struct alerts *alerts, const struct result_common *common, struct layer_id id,
                  const struct sketch_judged *sketch, const struct alert_sink *sink);

/* The numbers that are judged, and the rules that do. */
enum alert_by {
    ALERTS_OF_ALL,     /* a window, by all: there are no captures, as on a hub; it counts as so many
                          captures as messages came from each rank */
    ALERTS_OF_WINDOWS, /* a window, by what only windows have */
    ALERTS_OF_CAPTURES, /* a capture, by the others */
};

/* A window of one layer, with its drift. Returns 0 or ERR_MEMORY: some rules have not judged it. */
int alerts_layer(struct alerts *alerts, const struct summary_result *summary, enum alert_by by,
                 const struct alert_sink *sink);

/* The numbers of a window about the run. Call after its layers: it ends the window. */
struct alert_run {
    struct result_common common;
    enum alert_by by;
    uint64_t processed, lost,
        dropped;          /* messages since the last call; dropped: by attnd or the source */
    uint64_t other_heads; /* of those dropped: of layers that had another number of heads */
};
int alerts_run(struct alerts *alerts, const struct alert_run *run, const struct alert_sink *sink);

/* Numbers that a rank of the run has logged together, at the position of `common`: judges the loss,
 * if it is one of them and has not come before (loss.h). Returns 0 or ERR_MEMORY; *ret_taken:
 * whether it was. */
int alerts_log(struct alerts *alerts, const struct log_result *log, uint32_t rank,
               const struct alert_sink *sink, bool *ret_taken);

/* Nothing has been heard of the run for so long; 0 when something came again. */
int alerts_silence(struct alerts *alerts, const struct result_common *common, double silent_s,
                   const struct alert_sink *sink);

/* The run has ended, or has gone idle (`ended` is false: it may go on): tells what fires as
 * FIRING_AT_END, once, with value and onset as they are. Silence is no state of a run that has
 * ended, and goes on being one of an idle run. A window that is judged afterwards tells what still
 * fires anew. */
void alerts_end(struct alerts *alerts, const struct result_common *common, bool ended,
                const struct alert_sink *sink);

/* Calls the sink's `event` for everything that fires, with state FIRING or FIRING_AT_END; the worst
 * first: by severity, then in the order of the rules, then by how far it is beyond the bound, then
 * in the order of layers and heads. Returns 0, or ERR_MEMORY without a call. */
int alerts_each(struct alerts *alerts, const struct alert_sink *sink);

/* Where the newest capture that was judged is, or the end of the newest window where there are no
 * captures; false: none has been. */
bool alerts_judged_to(const struct alerts *alerts, uint64_t *ret_epoch, uint64_t *ret_step);

/* Calls `visit` for each rule that has had no number to judge yet, of those that apply to the run.
 * Returns how many have. */
uint32_t alerts_unjudged(const struct alerts *alerts,
                         void (*visit)(void *data, const struct rule *rule), void *data);

/* Whether the layer was in one of the newest captures; else checks that pass say nothing of it. One
 * that has not come yet may do so in the first of them, unless the run has ended. */
bool alerts_measured(const struct alerts *alerts, struct layer_id id, bool ended);

/* For checkpoints: one MessagePack map. Returns 0 or ERR_MEMORY. */
int alerts_pack(const struct alerts *alerts, struct mpk_writer *writer);
/* Into new alerts, in place of what they know. States saved under rules that have changed meanwhile
 * are left out. Returns 0, ERR_MEMORY, or ERR_STORE_FORMAT for what is no such map; after an error
 * they know nothing. */
int alerts_unpack(struct alerts *alerts, const void *data, size_t size);

#endif
