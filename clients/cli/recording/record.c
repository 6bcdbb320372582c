/* SPDX-License-Identifier: MIT */
/* record: a job's messages as they come, from attnd's tap to a file.
 *
 * Each message comes with a number that tells of gaps: attnd drops what we are too slow for, and
 * says how many; a number that fits neither means that the connection broke in between. An end that
 * comes at some time, like Ctrl-C, first takes what is on its way. The file is made when attnd has
 * said that it hears us, so that a failure leaves none. */
#include "clients/c/src/drain.h"

#include "clients/cli/base/field.h"
#include "clients/cli/base/system.h"
#include "clients/cli/base/out.h"
#include "proto/header.h"
#include "proto/ranks.h"
#include "clients/cli/recording/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Straight from ZeroMQ's frames to the page cache. A thread of its own for
 * writing was decided against: ZeroMQ's thread reads on while this one writes, and behind it the
 * daemon keeps up to a quarter of publish.budget. */

static int fail_system(const char *path, char *reterr)
{
    int error = errno;
    const char *advice = error == EEXIST   ? "; choose another name, or replace it with --force"
                         : error == ENOENT ? "; create the directory first"
                         : error == ENOSPC || error == EDQUOT
                             ? "; what was written before can be used"
                             : "";
    snprintf(reterr, RECORDER_ERROR_MAX, "%.300s: %s%s", path, strerror(error), advice);
    return -1;
}

static int recorder_write_all(int fd, const void *data, size_t size)
{
    for (const char *at = data, *end = at + size; at < end;) {
        ssize_t written = write(fd, at, (size_t)(end - at));
        if (written < 0 && errno != EINTR) {
            return -1;
        }
        at += written > 0 ? written : 0;
    }
    return 0;
}

int recorder_open(const char *path, bool replace, uint64_t now_ns, struct recorder *ret_recorder,
                  char *reterr)
{
    uint8_t header[RECORDING_HEADER_BYTES];
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (replace ? O_TRUNC : O_EXCL);
    int fd = open(path, flags, 0600);
    if (fd < 0) {
        return fail_system(path, reterr);
    }
    /* It tells what was trained on: not for others, nor in a file that was theirs to read. */
    struct stat file;
    bool open = fstat(fd, &file) == 0 && S_ISREG(file.st_mode) && file.st_mode & 077;
    recording_encode_header(now_ns, header);
    if ((open && fchmod(fd, file.st_mode & 0700) != 0) ||
        recorder_write_all(fd, header, sizeof header) != 0) {
        fail_system(path, reterr);
        close(fd);
        return -1;
    }
    *ret_recorder = (struct recorder){.path = path, .fd = fd, .bytes = sizeof header};
    return 0;
}

int recorder_write(struct recorder *recorder, uint64_t received_ns,
                   const struct recording_frame *frames, uint32_t count, char *reterr)
{
    uint8_t head[RECORDING_HEAD_MAX];
    struct recording_frame packed = {0};
    if (recorder->pack && recording_pack(frames, count, &packed) != 0) {
        memory_short();
    }
    size_t size =
        recording_encode_record(received_ns, frames, count, packed.data ? &packed : NULL, head);
    const struct recording_frame *stored = packed.data ? &packed : frames;
    uint32_t stored_count = packed.data ? 1 : count;
    int rc = recorder_write_all(recorder->fd, head, size);
    for (uint32_t i = 0; i < stored_count && rc == 0; i++) {
        rc = recorder_write_all(recorder->fd, stored[i].data, stored[i].size);
        size += stored[i].size;
    }
    if (rc != 0) {
        fail_system(recorder->path, reterr);
        (void)!ftruncate(recorder->fd, (off_t)recorder->bytes); /* else a reader finds it cut */
    } else {
        recorder->bytes += size;
        recorder->messages++;
    }
    for (uint32_t i = 0; i < count && rc == 0; i++) {
        recorder->payload += frames[i].size;
    }
    free((void *)(uintptr_t)packed.data);
    return rc;
}

int recorder_close(struct recorder *recorder, char *reterr)
{
    int rc = close(recorder->fd);
    recorder->fd = -1;
    return rc == 0 ? 0 : fail_system(recorder->path, reterr);
}

/* How often a wait looks at the clock. */
#define LOOK_MS 100
/* Bytes that wait for the disk, beside what attnd keeps for us (a quarter of publish.budget). */
#define WAITING_BYTES_MAX (UINT64_C(256) << 20)
/* Topic and map. */
#define LEADING    2
#define FRAMES_MAX (LEADING + RECORDING_FRAMES_MAX)

struct live_recording {
    struct cli *cli;
    const char *job;
    struct link link;
    struct drain drain; /* reads the link's socket */
    char endpoint[ADDRESS_MAX], topic[TOPIC_MAX];
    struct recorder recorder;
    struct ranks ranks;
    bool numbered; /* the next number is known */
    uint64_t next, dropped;
    uint64_t drained; /* dropped by our drain, of what is counted as lost */
    uint64_t lost;    /* dropped by attnd or here */
    uint64_t breaks;  /* connections that broke; what was lost then is not known */
    bool tokens;      /* a message has token numbers */
    char error[RECORDER_ERROR_MAX];
};

/* One message of the tap. */
struct tapped {
    zmq_msg_t frames[FRAMES_MAX];
    uint32_t count;
    uint64_t n, dropped, received_ns;
};

/* Receiving ----------------------------------------------------------------------------------- */

static void clear_tapped(struct tapped *tapped)
{
    for (uint32_t i = 0; i < tapped->count; i++) {
        zmq_msg_close(&tapped->frames[i]);
    }
    tapped->count = 0;
}

/* Waits up to LOOK_MS for one; clear_tapped is the caller's in any case. */
static bool record_receive(struct live_recording *recording, struct tapped *tapped)
{
    zmq_pollitem_t item = {.socket = recording->drain.socket, .events = ZMQ_POLLIN};
    struct mpk_doc doc;
    uint32_t count = zmq_poll(&item, 1, LOOK_MS) > 0
                         ? drain_receive(&recording->drain, tapped->frames, FRAMES_MAX)
                         : 0;
    tapped->count = count < FRAMES_MAX ? count : FRAMES_MAX;
    if (count < LEADING || count > FRAMES_MAX ||
        mpk_parse(zmq_msg_data(&tapped->frames[1]), zmq_msg_size(&tapped->frames[1]),
                  &mpk_header_limits, &doc) != 0) {
        return false;
    }
    bool sound = mpk_find(doc.root, "n") && mpk_find(doc.root, "received_ns");
    tapped->n = mpk_find_u64(doc.root, "n");
    tapped->dropped = mpk_find_u64(doc.root, "dropped");
    tapped->received_ns = mpk_find_u64(doc.root, "received_ns");
    mpk_doc_clear(&doc);
    return sound;
}

/* Numbers ------------------------------------------------------------------------------------- */

/* Compares a message's number with the one that was due. */
static void note_number(struct live_recording *recording, const struct tapped *tapped)
{
    bool gap = recording->numbered && tapped->n != recording->next;
    uint64_t missing = tapped->n - recording->next, dropped = tapped->dropped - recording->dropped;
    uint64_t here = atomic_load(&recording->drain.dropped) - recording->drained;
    if (gap && tapped->n > recording->next && missing >= dropped && missing - dropped <= here) {
        recording->lost += missing;
        recording->drained += missing - dropped;
    } else {
        recording->breaks += gap;
    }
    recording->numbered = true;
    recording->next = tapped->n + (tapped->count > LEADING);
    recording->dropped = tapped->dropped;
}

static int fail_file(struct live_recording *recording)
{
    return cli_fail(recording->cli, CLI_FINDING, "%s", recording->error);
}

static int write_tapped(struct live_recording *recording, struct tapped *tapped)
{
    struct recording_frame frames[RECORDING_FRAMES_MAX];
    uint32_t count = tapped->count - LEADING;
    for (uint32_t i = 0; i < count; i++) {
        zmq_msg_t *frame = &tapped->frames[LEADING + i];
        frames[i] = (struct recording_frame){zmq_msg_data(frame), zmq_msg_size(frame)};
    }
    if (recorder_write(&recording->recorder, tapped->received_ns, frames, count,
                       recording->error) != 0) {
        return fail_file(recording);
    }
    struct header header;
    const char *key;
    if (!recording->tokens && count > 2 &&
        header_decode(frames[1].data, frames[1].size, &header, &key) == 0) {
        recording->tokens = header_frame_of(&header, TENSOR_TOKENS) != 0;
        header_clear(&header);
    }
    if (recording->cli->args->given & ARGS_UNTIL_END &&
        ranks_note(&recording->ranks, frames, count) != 0) {
        memory_short();
    }
    return CLI_OK;
}

/* Start --------------------------------------------------------------------------------------- */

static int connect_tap(struct live_recording *recording, struct link *ret_link)
{
    topic_job("tap", recording->job, recording->topic);
    return cli_subscribe(recording->cli, ADDRESS_TAP, recording->endpoint, recording->topic,
                         RECORDING_MESSAGE_MAX, ret_link);
}

/* Waits for the first message, which says that we are heard, and opens the file. */
static int record_begin(struct live_recording *recording)
{
    const struct args *args = recording->cli->args;
    uint64_t deadline = now_ns() + (uint64_t)args->timeout_ms * 1000000;
    struct tapped tapped;
    bool heard = false;
    for (; !heard && !interrupt_came() && now_ns() < deadline; clear_tapped(&tapped)) {
        heard = record_receive(recording, &tapped);
        if (heard) {
            note_number(recording, &tapped);
        }
    }
    if (!heard) {
        if (interrupt_came()) {
            return cli_fail(recording->cli, CLI_FINDING, "interrupted");
        }
        return cli_fail(recording->cli, CLI_UNREACHABLE,
                        "attnd does not answer at %s, its tap.endpoint, within %g s",
                        recording->endpoint, recording->cli->args->timeout_ms / 1000.0);
    }
    if (recorder_open(args->words[2], args->given & ARGS_FORCE, now_wall_ns(), &recording->recorder,
                      recording->error) != 0) {
        fail_file(recording);
        return CLI_USAGE;
    }
    recording->recorder.pack = args->given & ARGS_COMPRESS;
    return CLI_OK;
}

/* Until the end -------------------------------------------------------------------------------- */

/* Takes one message, if one comes; with `ret_greeting` tells whether it was a greeting. */
static int record_take(struct live_recording *recording, bool *ret_came, bool *ret_greeting)
{
    struct tapped tapped;
    int code = CLI_OK;
    *ret_came = record_receive(recording, &tapped);
    *ret_greeting = *ret_came && tapped.count == LEADING;
    if (*ret_came) {
        note_number(recording, &tapped);
        code = *ret_greeting ? CLI_OK : write_tapped(recording, &tapped);
    }
    clear_tapped(&tapped);
    return code;
}

/* Whether the end has come with a message, and not at some time. */
static bool is_complete(const struct live_recording *recording)
{
    const struct args *args = recording->cli->args;
    return ((args->given & ARGS_COUNT) && recording->recorder.messages >= args->count) ||
           ((args->given & ARGS_UNTIL_END) && ranks_all_bye(&recording->ranks));
}

static int record_finish(struct live_recording *recording)
{
    struct cli *cli = recording->cli;
    const struct recorder *recorder = &recording->recorder;
    if (recorder_close(&recording->recorder, recording->error) != 0) {
        return fail_file(recording);
    }
    if (cli->args->given & ARGS_JSON) {
        fprintf(cli->out,
                "{\"messages\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"file_bytes\": %" PRIu64
                ", \"lost\": %" PRIu64 ", \"breaks\": %" PRIu64 ", \"tokens\": %s}\n",
                recorder->messages, recorder->payload, recorder->bytes, recording->lost,
                recording->breaks, recording->tokens ? "true" : "false");
    } else {
        fprintf(cli->out, "%s: %" PRIu64 " message%s of %s, %s in %s, %" PRIu64 " lost\n",
                recorder->path, recorder->messages, out_plural(recorder->messages), recording->job,
                OUT_SIZE(recorder->payload), OUT_SIZE(recorder->bytes), recording->lost);
        if (recording->tokens) {
            fputs("token numbers of the training's data are in it\n", cli->out);
        }
        if (recording->breaks > 0) {
            fprintf(cli->out,
                    "the connection broke %" PRIu64
                    " time%s: what came meanwhile is not in the file\n",
                    recording->breaks, out_plural(recording->breaks));
        }
    }
    if (recorder->messages == 0) {
        fprintf(cli->err, "attnctl: no message of %s arrived: is it running? (see attnctl jobs)\n",
                recording->job);
    }
    return recording->lost > 0 || recording->breaks > 0 ? CLI_FINDING : CLI_OK;
}

static int clients_record_record(struct live_recording *recording)
{
    int code = reach_endpoint(recording->cli, ADDRESS_TAP, recording->endpoint);
    interrupt_catch();
    if (code == CLI_OK) {
        code = connect_tap(recording, &recording->link);
    }
    if (code == CLI_OK && drain_start(&recording->drain, recording->cli->rpc->context,
                                      &recording->link, 0, WAITING_BYTES_MAX) != 0) {
        code = cli_fail(recording->cli, CLI_FINDING, "cannot start a thread");
    }
    if (code == CLI_OK) {
        code = record_begin(recording);
    }
    if (code != CLI_OK) {
        return code;
    }
    fprintf(recording->cli->err, "attnctl: recording %s to %s; Ctrl-C ends\n", recording->job,
            recording->recorder.path);
    uint64_t since_ns = now_ns();
    int failure = CLI_OK;
    bool came, greeting;
    const struct args *args = recording->cli->args;
    while (
        failure == CLI_OK && !is_complete(recording) && !interrupt_came() &&
        !((args->given & ARGS_SECONDS) && (double)(now_ns() - since_ns) >= args->seconds * 1e9)) {
        failure = record_take(recording, &came, &greeting);
    }
    if (failure == CLI_OK && !is_complete(recording)) {
        /* Messages that attnd dropped since the last message show in no number any more. Another
         * subscription makes it greet us once more, behind all that is on its way. */
        struct link another = {.socket = NULL};
        uint64_t patience_ns = (uint64_t)recording->cli->args->timeout_ms * 1000000;
        uint64_t deadline = now_ns() + patience_ns;
        bool greeted = false;
        int again = connect_tap(recording, &another);
        while (again == CLI_OK && !greeted && now_ns() < deadline) {
            again = record_take(recording, &came, &greeted);
            if (came) {
                deadline = now_ns() + patience_ns;
            }
        }
        link_close(&another);
        recording->breaks += !greeted;
    }
    code = record_finish(recording);
    return failure != CLI_OK ? failure : code;
}

int cmd_record(struct cli *cli)
{
    struct live_recording recording = {.cli = cli, .job = cli->args->words[1]};
    if (!job_name_valid(recording.job, strlen(recording.job))) {
        return cli_usage(cli, "'%.80s' is no name of a job (valid: 1 to 128 of A-Z a-z 0-9 . _ -)",
                         recording.job);
    }
    int code = clients_record_record(&recording);
    drain_stop(&recording.drain);
    link_close(&recording.link);
    ranks_clear(&recording.ranks);
    return code;
}
