/* SPDX-License-Identifier: MIT */
/* Sentences about the reliable lane, for people. */
#include "clients/c/src/reliable.h"

#include <stdio.h>
#include <string.h>

void reliable_tell_left(struct reliable *lane, const struct kept *refused, const char *reason)
{
    char job[JOB_NAME_MAX + 1], why[KEY_LENGTH + 96], public[KEY_LENGTH + 1];

    kept_job(refused, job);
    snprintf(why, sizeof why, "%s", reason);
    if (strcmp(reason, "key") == 0 && zmq_curve_public(public, lane->keys->secret) == 0) {
        snprintf(why, sizeof why,
                 "its access list (keys.access) does not let the key %s publish that job", public);
    }
    warner_say_of(lane->warner, WARNING_SPOOL_REFUSED, job,
                  "attnd refuses messages of job %s, which another process left in %s: %s. They "
                  "stay there, for a process of that job",
                  job, lane->directory, why);
}

const char *reliable_setting(const char *reason)
{
    return strcmp(reason, "job_limit") == 0   ? "limits.jobs"
           : strcmp(reason, "run_limit") == 0 ? "limits.runs"
                                              : NULL;
}

void reliable_tell_refused(struct reliable *lane, const char *reason)
{
    const char *setting = reliable_setting(reason);

    if (setting) {
        warner_say(lane->warner, WARNING_NO_ROOM,
                   "attnd has no room for this job (%s; see %s in its config): messages are kept, "
                   "and sent again until it has; beyond reliable_bytes they are dropped and "
                   "counted. Remedy: end what need not run, or a larger %s",
                   reason, setting, setting);
    } else if (strcmp(reason, "key") == 0) {
        lane->events.denied(lane->events.sender);
    } else {
        warner_say(lane->warner, WARNING_REFUSED,
                   "attnd refuses a message (reason: %s%s), which is not sent again. Further ones "
                   "are only counted, as refused",
                   reason, strcmp(reason, "late") == 0 ? ": its window was closed already" : "");
    }
}

void reliable_tell_repeated(struct reliable *lane)
{
    warner_say(lane->warner, WARNING_REPEATED,
               "attnd has a message of another process with the same run and rank in the place of "
               "one of ours, which it does not take. Further ones are only counted, as refused. "
               "Remedy: a new run for each launch: another one in the options, or none");
}

void reliable_tell_waits(struct reliable *lane, const msgpack_object *acknowledged,
                         const msgpack_object *why)
{
    if (acknowledged) {
        warner_end(lane->warner, WARNING_WAITS,
                   "attnd writes its history again: the messages that waited are acknowledged");
    } else if (why && why->type == MSGPACK_OBJECT_STR) {
        warner_say(lane->warner, WARNING_WAITS,
                   "attnd cannot write its history (%.*s): it acknowledges nothing, and messages "
                   "wait here until it can; training goes on",
                   why->via.str.size < 128 ? (int)why->via.str.size : 128, why->via.str.ptr);
    }
}

void reliable_tell_end(struct reliable *lane, bool away, uint32_t linger_ms)
{
    unsigned long long late = 0, had = 0, kept = 0;

    for (const struct kept *at = lane->own.first; at; at = at->next) {
        const bool is_late = at->counted && !at->spooled && !(away && at->payload == 0);

        kept += at->counted && at->spooled;
        late += is_late;
        had += is_late && (at->sent || at->went);
    }
    if (late > 0) {
        warner_say(lane->warner, WARNING_LATE,
                   "attnd did not acknowledge %llu messages within %.3g s of the end (linger): "
                   "they count as dropped, though it has been sent %llu of them and may have them",
                   late, linger_ms / 1000.0, had);
    }
    if (kept > 0) {
        warner_say(lane->warner, WARNING_KEPT,
                   "%llu messages that attnd has not acknowledged are kept in %s: the next process "
                   "with this spool sends them",
                   kept, lane->directory);
    }
    if (lane->left.first || (lane->spool && spool_has_left(lane->spool))) {
        warner_say(lane->warner, WARNING_LEFT,
                   "messages that other processes left in %s are still there: the next process "
                   "with this spool sends them",
                   lane->directory);
    }
}
