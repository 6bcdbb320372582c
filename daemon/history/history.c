/* SPDX-License-Identifier: MIT */
/* A question's life: history_ask puts it into `asked` and wakes the reader thread, which answers
 * one after the other and puts them into `done`; uv_async_send wakes the loop, which calls
 * `answered` and frees them. At most HISTORY_WAITING_MAX exist at once, whichever list they are in.
 *
 * Askers take turns: `asked` is in the order of rounds, and a round has one question of each asker.
 *
 * The connection can read only. It is opened with the first question, and again when the file
 * behind the path is another one (the store sets a corrupt database aside) or SQLite finds the one
 * that is open unreadable. Each question sees one state of the database, in a transaction that ends
 * with it: a reader that stayed in one would keep the write-ahead log from being reset.
 *
 * A change of a run is handed to the store, and the thread waits until it is written (change.c).
 *
 * SQLite asks every PROGRESS_STEPS instructions whether to go on (query_check), and the methods ask
 * between rows; so a question ends soon after history.query_time, and soon after history_close. */
#include "daemon/history/history.h"

#include "config/rules.h"
#include "daemon/base/clock.h"
#include "daemon/history/internal.h"
#include "daemon/store/db.h"
#include "daemon/store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define PROGRESS_STEPS 10000
/* How long the writer may keep the reader waiting; in write-ahead mode it hardly ever does. */
#define BUSY_MS 1000

static const struct method {
    const char *name;
    history_method *run; /* NULL: of the present */
    const char *takes;
} methods[] = {
#define PRESENT(function)                                         NULL
#define BOTH(function)                                            history_##function
#define PAST(function)                                            history_##function
#define OWN(function)                                             history_##function
#define METHOD(name, function, when, role, of_all, takes, result) {name, when(function), takes},
#include "proto/method.def"
};
enum { METHOD_COUNT = sizeof methods / sizeof methods[0] };

struct history_question {
    struct history_question *next, *previous;
    const struct method *method;
    uint64_t asker, round;
    void *params;
    size_t size;
    history_answered *answered;
    void *data;
    int code;
    char detail[HISTORY_DETAIL_MAX];
    struct mpk_writer result;
};

struct history {
    const struct config *config;
    struct store *store;
    uv_async_t wake;
    uv_thread_t thread;
    uv_mutex_t lock; /* of the lists */
    uv_cond_t asked_more;
    struct history_question *asked, *done;
    uint64_t round; /* of the question that was taken last */
    int waiting;    /* loop thread: asked and not answered */
    atomic_bool closing;
    /* Used by the reader thread only. */
    char path[CONFIG_TEXT_MAX];
    sqlite3 *db; /* NULL = not open */
    uint64_t deadline_ns;
};

static struct history_question *list_take(struct history_question **list)
{
    struct history_question *first = *list;
    if (first) {
        DL_DELETE2(*list, first, previous, next);
    }
    return first;
}

/* In the round after that of its asker's last one, behind all others of that round. Returns whether
 * the asker may have one more. */
static bool history_put_in_turn(struct history *history, struct history_question *question)
{
    struct history_question *later = history->asked;
    uint32_t count = 0;
    question->round = history->round;
    for (const struct history_question *other = later; other; other = other->next) {
        if (other->asker == question->asker) {
            question->round = other->round + 1;
            count++;
        }
    }
    if (question->asker != HISTORY_OWN && count == HISTORY_WAITING_EACH) {
        return false;
    }
    while (later && later->round <= question->round) {
        later = later->next;
    }
    DL_PREPEND_ELEM2(history->asked, later, question, previous, next);
    return true;
}

static const struct method *find_method(const char *name)
{
    for (int i = 0; i < METHOD_COUNT; i++) {
        if (methods[i].run && strcmp(methods[i].name, name) == 0) {
            return &methods[i];
        }
    }
    return NULL;
}

/* Questions */

static void history_question_free(struct history_question *question)
{
    mpk_writer_clear(&question->result);
    free(question->params);
    free(question);
}

static struct history_question *history_question_new(const struct method *method,
                                                     const void *params, size_t size)
{
    struct history_question *question = calloc(1, sizeof *question);
    if (!question) {
        return NULL;
    }
    question->params = malloc(size + !size);
    if (!question->params) {
        free(question);
        return NULL;
    }
    memcpy(question->params, params, size);
    question->size = size;
    question->method = method;
    mpk_writer_init(&question->result);
    return question;
}

/* The reader's connection */

static void close_db(struct history *history)
{
    sqlite3_close(history->db);
    history->db = NULL;
}

static int on_progress(void *data)
{
    struct history *history = data;
    return atomic_load_explicit(&history->closing, memory_order_relaxed) ||
           clock_monotonic_ns() > history->deadline_ns;
}

/* jobs_match(JOBS, JOB) in SQL: access_jobs_match, and "" for all. */
static void on_jobs_match(sqlite3_context *context, int count, sqlite3_value **values)
{
    const char *jobs = (const char *)sqlite3_value_text(values[0]);
    const char *job = (const char *)sqlite3_value_text(values[1]);
    (void)count;
    sqlite3_result_int(context, jobs && (!*jobs || access_jobs_match(jobs, job)));
}

/* rule_place(RULE) in SQL: its place among the rules in force; behind them those that are not. */
static void on_rule_place(sqlite3_context *context, int count, sqlite3_value **values)
{
    const struct history *history = sqlite3_user_data(context);
    const char *name = (const char *)sqlite3_value_text(values[0]);
    uint32_t i = 0, rules = config_rule_count(history->config);
    (void)count;
    while (i < rules && !(name && strcmp(config_rule(history->config, i)->name, name) == 0)) {
        i++;
    }
    sqlite3_result_int(context, (int)i);
}

/* Also when the file there is not the one that is open. */
static int open_db(struct history *history, char *reterr_detail)
{
    if (history->db && !db_is_gone(history->db)) {
        return 0;
    }
    close_db(history);
    int rc = sqlite3_open_v2(history->path, &history->db,
                             SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
    rc = rc ? rc : sqlite3_exec(history->db, "PRAGMA query_only = 1", NULL, NULL, NULL);
    if (rc == SQLITE_OK) {
        rc = sqlite3_create_function(history->db, "jobs_match", 2,
                                     SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL, on_jobs_match, NULL,
                                     NULL);
    }
    if (rc == SQLITE_OK) {
        rc = sqlite3_create_function(history->db, "rule_place", 1, SQLITE_UTF8, history,
                                     on_rule_place, NULL, NULL);
    }
    if (rc != SQLITE_OK) {
        snprintf(reterr_detail, HISTORY_DETAIL_MAX, "the history cannot be opened: %s",
                 sqlite3_errstr(rc));
        close_db(history);
        return rc == SQLITE_NOMEM ? ERR_MEMORY : ERR_HISTORY_OFF;
    }
    sqlite3_busy_timeout(history->db, BUSY_MS);
    sqlite3_progress_handler(history->db, PROGRESS_STEPS, on_progress, history);
    return 0;
}

static int history_run_method(struct history *history, struct history_question *question)
{
    struct query query = {.db = history->db,
                          .config = history->config,
                          .store = history->store,
                          .result = &question->result,
                          .detail = question->detail,
                          .deadline_ns = history->deadline_ns,
                          .closing = &history->closing};
    struct mpk_doc doc;
    int code = mpk_parse(question->params, question->size, &mpk_header_limits, &doc);
    if (code) {
        return code == ERR_MEMORY ? code : ERR_ARGUMENT;
    }
    code = history_params_read(doc.root, question->method->takes, &query.params, question->detail,
                               HISTORY_DETAIL_MAX);
    mpk_doc_clear(&doc);
    code = code ? code : question->method->run(&query);
    /* Damage of a file that was repaired meanwhile is none of the one in its place. */
    if ((query.damaged || code == ERR_STORE_FORMAT) && !db_is_gone(history->db)) {
        store_note_damage(history->store);
    }
    return !code && !mpk_writer_ok(&question->result) ? ERR_MEMORY : code;
}

static void run_reader(void *data)
{
    struct history *history = data;
    uv_mutex_lock(&history->lock);
    while (!atomic_load(&history->closing)) {
        struct history_question *question = list_take(&history->asked);
        if (!question) {
            uv_cond_wait(&history->asked_more, &history->lock);
            continue;
        }
        history->round = question->round;
        uv_mutex_unlock(&history->lock);
        history->deadline_ns = clock_monotonic_ns() + history->config->history_query_time;
        question->code = open_db(history, question->detail);
        if (!question->code) {
            int rc = sqlite3_exec(history->db, "BEGIN", NULL, NULL, NULL);
            if (rc == SQLITE_OK) {
                question->code = history_run_method(history, question);
                sqlite3_exec(history->db, "ROLLBACK", NULL, NULL, NULL);
            } else {
                question->code = ERR_HISTORY_OFF;
            }
            if (question->code == ERR_HISTORY_OFF) {
                close_db(history);
            }
        }
        uv_mutex_lock(&history->lock);
        DL_APPEND2(history->done, question, previous, next);
        uv_async_send(&history->wake);
    }
    uv_mutex_unlock(&history->lock);
    close_db(history);
}

/* The loop's side */

static void history_deliver(struct history *history, struct history_question *question)
{
    history->waiting--;
    question->answered(question->data, question->code, question->detail, &question->result);
    history_question_free(question);
}

static struct history_question *take_locked(struct history *history, struct history_question **list)
{
    uv_mutex_lock(&history->lock);
    struct history_question *question = list_take(list);
    uv_mutex_unlock(&history->lock);
    return question;
}

static void history_on_wake(uv_async_t *wake)
{
    struct history *history = wake->data;
    struct history_question *question;
    while ((question = take_locked(history, &history->done))) {
        history_deliver(history, question);
    }
}

static void history_on_closed(uv_handle_t *handle)
{
    struct history *history = handle->data;
    uv_cond_destroy(&history->asked_more);
    uv_mutex_destroy(&history->lock);
    free(history);
}

int history_new(uv_loop_t *loop, const struct config *config, struct store *store,
                struct history **ret_history, char *reterr)
{
    const char *reason, *path = store_path(store, &reason);
    struct history *history = calloc(1, sizeof *history);
    int rc = history ? uv_async_init(loop, &history->wake, history_on_wake) : UV_ENOMEM;
    if (rc != 0) {
        free(history);
        snprintf(reterr, CONFIG_ERROR_MAX, "cannot start the history: %s", uv_strerror(rc));
        return -1;
    }
    history->wake.data = history;
    history->config = config;
    history->store = store;
    snprintf(history->path, sizeof history->path, "%s", path ? path : "");
    uv_mutex_init(&history->lock); /* these cannot fail for default attributes on Linux */
    uv_cond_init(&history->asked_more);
    rc = path ? uv_thread_create(&history->thread, run_reader, history) : 0;
    if (rc != 0) {
        uv_close((uv_handle_t *)&history->wake, history_on_closed);
        snprintf(reterr, CONFIG_ERROR_MAX, "cannot start the history: %s", uv_strerror(rc));
        return -1;
    }
    *ret_history = history;
    return 0;
}

int history_ask(struct history *history, uint64_t asker, const char *method, const void *params,
                size_t size, history_answered *answered, void *data)
{
    const struct method *found = find_method(method);
    if (!found) {
        return ERR_METHOD_UNKNOWN;
    }
    if (!*history->path) {
        return ERR_HISTORY_OFF;
    }
    if (history->waiting == HISTORY_WAITING_MAX) {
        return ERR_AGAIN;
    }
    struct history_question *question = history_question_new(found, params, size);
    if (!question) {
        return ERR_MEMORY;
    }
    question->asker = asker;
    question->answered = answered;
    question->data = data;
    uv_mutex_lock(&history->lock);
    bool taken = history_put_in_turn(history, question);
    uv_cond_signal(&history->asked_more);
    uv_mutex_unlock(&history->lock);
    history->waiting += taken;
    if (!taken) {
        history_question_free(question);
    }
    return taken ? 0 : ERR_AGAIN;
}

void history_close(struct history **history_p)
{
    struct history *history = *history_p;
    if (!history) {
        return;
    }
    *history_p = NULL;
    if (*history->path) {
        uv_mutex_lock(&history->lock);
        atomic_store(&history->closing, true);
        uv_cond_signal(&history->asked_more);
        uv_mutex_unlock(&history->lock);
        uv_thread_join(&history->thread);
        /* Results found so far are still sent; the remaining questions learn that they will not be
         * answered. */
        struct history_question *question;
        while ((question = list_take(&history->done))) {
            history_deliver(history, question);
        }
        while ((question = list_take(&history->asked))) {
            question->code = ERR_CLOSED;
            history_deliver(history, question);
        }
    }
    uv_close((uv_handle_t *)&history->wake, history_on_closed);
}
