/* SPDX-License-Identifier: MIT */
/* The daemon and its parts on the loop thread: daemon.c starts and stops it, ticks.c is what
 * comes to it, messages.c the way of messages through it, rounds.c saves. */
#ifndef DAEMON_INTERNAL_H
#define DAEMON_INTERNAL_H

#include "daemon/alerts/notify.h"
#include "daemon/control/control.h"
#include "daemon/daemon.h"
#include "daemon/fleet/fleet.h"
#include "daemon/history/history.h"
#include "daemon/http/http.h"
#include "daemon/idle.h"
#include "daemon/ingest/ingest.h"
#include "daemon/ingest/tap.h"
#include "daemon/keeper.h"
#include "daemon/publish/publisher.h"
#include "daemon/reload.h"
#include "daemon/run/registry.h"
#include "daemon/service.h"
#include "daemon/state/maps.h"
#include "daemon/store/store.h"

#define DAEMON_SIGNALS 3 /* SIGTERM, SIGINT, SIGHUP */

struct daemon {
    struct config config;
    struct machine machine;
    uv_loop_t loop;
    uv_signal_t signals[DAEMON_SIGNALS];
    uv_idle_t turns;     /* runs while runs are ready */
    uv_timer_t tick;     /* runs while a job is active */
    uv_timer_t saver;    /* runs while there may be something to save */
    uv_timer_t deadline; /* runs while stopping */
    void *zmq;
    struct keyring *keys; /* NULL: none are configured */
    struct stats stats;
    struct inbox inbox;
    struct pool *pool;
    struct plans *plans;
    struct reload reload;
    struct ingest *ingest;
    struct lane *lane; /* until ingest has it */
    struct publisher *publisher;
    struct control *control;
    struct control_view view; /* of control */
    struct keeper *keeper;
    struct http *http; /* NULL: switched off */
    struct history *history;
    uint64_t put_off;      /* news of the hub's runs that could not be taken at once */
    uint64_t unpinned;     /* layers that drift.baseline had nothing for */
    bool cost_unbounded;   /* it was said that some job's cost is not */
    struct notify *notify; /* NULL: nobody to tell */
    struct tap *tap;
    struct registry *registry;
    struct store *store;
    struct service *service; /* NULL: no service manager */
    struct idle *idle;       /* NULL: shutdown.idle is 0 */
    struct fleet *fleet;     /* NULL: fleet.role is off */
    struct result_sink sink;
    struct map_shelf maps;
    struct {
        uint64_t began_ns;   /* the last round of checkpoints */
        uint64_t packing_ns; /* processor time of the loop for it */
        uint64_t saving_ns;  /* store_saving_ns when it began */
        uint64_t promised;   /* bytes of messages since then that are to be acknowledged */
        bool goes_on;
        bool last; /* nobody was training any more when it began */
    } round;
    struct run *ready, **ready_last; /* have messages to take, in the order of their turns */
    uint64_t turn_ends_ns;           /* of the run that has it; 0: none has */
    uint32_t in_flight;              /* messages with work, waiting or in the pool */
    uint64_t ticks;
    uint64_t started_ns;
    bool loop_ready;
    bool stopping, ingest_stopped, finished, drained;
};

/* A daemon apart: without sockets, history, HTTP and service manager. Returns as daemon_new. */
int daemon_new_apart(const struct config *config, struct daemon **ret_daemon, char *reterr);

/* A message that has come, and one whose work has ended. */
void messages_on_arrived(struct daemon *daemon, struct message *message);
void messages_on_done(struct daemon *daemon, struct message *message);
/* Stops the loop when ingest has stopped and no message is in flight. */
void messages_stop_if_drained(struct daemon *daemon);
/* The stop: takes the messages of all runs that are computed, also behind others that are not, and
 * shows all open windows as partial, until the deadline. */
void messages_finish(struct daemon *daemon, uint64_t deadline_ns);
/* pause of the sink of all runs. */
bool messages_pause(void *data, struct run *run);
/* Accounts for the parts of matrices that runs have given up, and goes on with messages that have
 * waited for others long enough. */
void messages_give_up(struct daemon *daemon);
/* Answers promises that nobody keeps any more. */
void messages_settle_promises(void *data, struct promises *promises);
/* The sink of all runs: HTTP, subscribers, and receivers of alerts. */
void messages_put_result(void *data, const struct run *run, const char *topic, uint32_t track,
                         struct mpk_writer *writer, enum result_kind kind);
/* Its last values from before a restart. */
bool messages_recall(void *data, const struct run *run, const char *topic, uint32_t track,
                     struct mpk_writer *writer);

/* News of a run from the hub: takes them over, and gives them back to it (fleet_merged). */
void merging_take(struct daemon *daemon, struct merged *merged);
/* merged of the sink of all runs. */
void merging_end(void *data, struct run *run, struct merged *merged, int code);

/* The reader of the inbox; `data` is the daemon. */
void ticks_on_note(void *data, struct note *note);
/* Ticks and checkpoints begin, if they do not go on already. */
void ticks_start(struct daemon *daemon);
/* Lengthens default plans that cost more than plan.cost_max, and tells trainers when that changes
 * something. */
void ticks_limit_costs(struct daemon *daemon);
/* Tells trainers of their plans. `data` is the daemon. Returns 0 or ERR_MEMORY. */
int ticks_announce_plans(void *data);

/* Checkpoints begin, if they do not go on already. */
void rounds_start(struct daemon *daemon);
/* These bytes wait to be acknowledged, when what they changed is saved. */
void rounds_promise(struct daemon *daemon, uint64_t bytes);
/* Whether the next round is due: `since_ns` after the one before, which took `cost_ns` of processor
 * time; rounds have this period when nothing is promised. */
bool rounds_is_due(uint64_t since_ns, uint64_t cost_ns, uint64_t promised, uint64_t period_ns);
/* Saves everything, waiting for the disk until the deadline at most. */
void rounds_save_all(struct daemon *daemon, uint64_t deadline_ns);

#endif
