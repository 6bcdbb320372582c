/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "tests/unit/daemon/run/fake_store.h"

#include "daemon/run/checkpoint.h"
#include "daemon/run/restore.h"

#include "proto/err.h"

enum kind { WINDOW, KEEP, FORGET, ALERT, SKETCH, OUT };

struct step {
    enum kind kind;
    struct fake_kept kept; /* FORGET: the key is a prefix */
    struct fake_window window;
};

struct store_batch {
    struct step steps[FAKE_ROWS_MAX];
    int count;
    struct promises promises;
};

static void *fake_store_copy(const void *from, size_t size)
{
    void *to = malloc(size ? size : 1);
    assert_non_null(to);
    if (size) {
        memcpy(to, from, size);
    }
    return to;
}

struct store *fake_store_new(void)
{
    struct store *store = calloc(1, sizeof *store);
    assert_non_null(store);
    return store;
}

void fake_store_free(struct store **store)
{
    for (int i = 0; i < (*store)->kept_count; i++) {
        free((*store)->kept[i].value);
    }
    for (int i = 0; i < (*store)->window_count; i++) {
        free((*store)->windows[i].state);
    }
    for (int i = 0; i < (*store)->out_count; i++) {
        free((*store)->out[i].value);
    }
    promises_free(&(*store)->kept_promises);
    free(*store);
    *store = NULL;
}

const struct fake_kept *fake_store_find(const struct store *store, const char *key)
{
    for (int i = 0; i < store->kept_count; i++) {
        if (strcmp(store->kept[i].key, key) == 0) {
            return &store->kept[i];
        }
    }
    return NULL;
}

int fake_store_count(const struct store *store, const char *prefix)
{
    int count = 0;
    for (int i = 0; i < store->kept_count; i++) {
        count += strncmp(store->kept[i].key, prefix, strlen(prefix)) == 0;
    }
    return count;
}

/* Batches */

struct store_batch *batch_new(const struct store_run *run)
{
    assert_non_null(run->job);
    return calloc(1, sizeof(struct store_batch));
}

static struct step *fake_store_add(struct store_batch *batch, enum kind kind)
{
    assert_true(batch->count < FAKE_ROWS_MAX);
    batch->steps[batch->count].kind = kind;
    return &batch->steps[batch->count++];
}

int batch_window(struct store_batch *batch, const struct store_window *window)
{
    void *state = malloc(window->state_size);
    if (!state) {
        return ERR_MEMORY;
    }
    fake_store_add(batch, WINDOW)->window = (struct fake_window){
        .layer = window->layer.layer,
        .window = window->window,
        .final = window->final,
        .messages = window->messages,
        .lost = window->lost,
        .state = memcpy(state, window->state, window->state_size),
        .size = window->state_size,
    };
    return 0;
}

int batch_map(struct store_batch *batch, const struct store_map *map)
{
    (void)batch, (void)map;
    return 0;
}

int batch_alert(struct store_batch *batch, const struct alert_result *alert)
{
    assert_non_null(alert->rule);
    fake_store_add(batch, ALERT);
    return 0;
}

int batch_point(struct store_batch *batch, const struct store_point *point)
{
    (void)batch;
    assert_non_null(point->name);
    return 0;
}

int batch_sketch(struct store_batch *batch, const struct store_sketch *sketch)
{
    assert_true(sketch->numbers_size > 0);
    fake_store_add(batch, SKETCH);
    return 0;
}

int batch_settings(struct store_batch *batch, const void *settings, size_t size)
{
    (void)batch, (void)settings, (void)size;
    return 0;
}

int batch_failure(struct store_batch *batch, const void *failure, size_t size)
{
    (void)batch, (void)failure;
    assert_true(size > 0);
    return 0;
}

int batch_keep(struct store_batch *batch, const char *key, const void *value, size_t size)
{
    void *copy = malloc(size ? size : 1);
    if (!copy) {
        return ERR_MEMORY;
    }
    struct step *step = fake_store_add(batch, KEEP);
    assert_true(strlen(key) < sizeof step->kept.key);
    strcpy(step->kept.key, key);
    step->kept.value = memcpy(copy, value, size);
    step->kept.size = size;
    return 0;
}

int batch_forget(struct store_batch *batch, const char *prefix)
{
    strcpy(fake_store_add(batch, FORGET)->kept.key, prefix);
    return 0;
}

int batch_out(struct store_batch *batch, const void *body, size_t size)
{
    void *copy = malloc(size);
    if (!copy) {
        return ERR_MEMORY;
    }
    struct step *step = fake_store_add(batch, OUT);
    step->kept.value = memcpy(copy, body, size);
    step->kept.size = size;
    return 0;
}

void batch_hold(struct store_batch *batch, bool last)
{
    (void)last;
    assert_non_null(batch);
}

struct promises *batch_promises(struct store_batch *batch)
{
    return &batch->promises;
}

void batch_free(struct store_batch **batch)
{
    if (!*batch) {
        return;
    }
    promises_free(&(*batch)->promises);
    for (int i = 0; i < (*batch)->count; i++) {
        free((*batch)->steps[i].kept.value);
        free((*batch)->steps[i].window.state);
    }
    free(*batch);
    *batch = NULL;
}

/* The store */

static bool same_window(const struct fake_window *a, const struct fake_window *b)
{
    return a->layer == b->layer && a->window.unit == b->window.unit &&
           a->window.length == b->window.length && a->window.every == b->window.every &&
           a->window.last == b->window.last;
}

static void fake_store_put_window(struct store *store, struct fake_window *window)
{
    int i = 0;
    while (i < store->window_count && !same_window(&store->windows[i], window)) {
        i++;
    }
    assert_true(i < FAKE_ROWS_MAX);
    if (i == store->window_count) {
        store->window_count++;
    }
    store->replaced_final += store->windows[i].final;
    free(store->windows[i].state);
    store->windows[i] = *window;
    window->state = NULL;
}

static void fake_store_forget(struct store *store, const char *prefix)
{
    int left = 0;
    for (int i = 0; i < store->kept_count; i++) {
        if (strncmp(store->kept[i].key, prefix, strlen(prefix)) == 0) {
            free(store->kept[i].value);
        } else {
            store->kept[left++] = store->kept[i];
        }
    }
    memset(&store->kept[left], 0, (size_t)(store->kept_count - left) * sizeof store->kept[0]);
    store->kept_count = left;
}

static void fake_store_put_kept(struct store *store, struct fake_kept *kept)
{
    struct fake_kept *old = (struct fake_kept *)(uintptr_t)fake_store_find(store, kept->key);
    if (!old) {
        assert_true(store->kept_count < FAKE_ROWS_MAX);
        old = &store->kept[store->kept_count++];
    }
    free(old->value);
    *old = *kept;
    kept->value = NULL;
}

bool store_submit(struct store *store, struct store_batch **batch)
{
    for (int i = 0; !store->full && i < (*batch)->count; i++) {
        struct step *step = &(*batch)->steps[i];
        if (step->kind == WINDOW) {
            fake_store_put_window(store, &step->window);
        } else if (step->kind == KEEP) {
            fake_store_put_kept(store, &step->kept);
        } else if (step->kind == FORGET) {
            fake_store_forget(store, step->kept.key);
        } else if (step->kind == SKETCH) {
            store->sketches++;
        } else if (step->kind == OUT) {
            assert_true(store->out_count < FAKE_ROWS_MAX);
            store->out[store->out_count++] = step->kept;
            step->kept.value = NULL;
        } else {
            store->alerts++;
        }
    }
    store->batches++;
    if (!store->full) {
        promises_move(&store->kept_promises, &(*batch)->promises);
    }
    if (!store->full || !(*batch)->promises.first) {
        batch_free(batch);
    }
    return !store->full;
}

void store_count_lost(struct store *store, const struct store_batch *batch)
{
    (void)store, (void)batch;
}

const char *store_path(const struct store *store, const char **ret_reason)
{
    (void)ret_reason;
    return store ? "history" : NULL;
}

static int fake_store_by_key(const void *a, const void *b)
{
    return strcmp(((const struct fake_kept *)a)->key, ((const struct fake_kept *)b)->key);
}

void store_each_kept(struct store *store,
                     void (*visit)(void *data, const char *job, const uint8_t *run, const char *key,
                                   const void *value, size_t size),
                     void *data)
{
    static const uint8_t id[RUN_BYTES] = {1};
    qsort(store->kept, (size_t)store->kept_count, sizeof store->kept[0], fake_store_by_key);
    for (int i = 0; i < store->kept_count; i++) {
        visit(data, "job", id, store->kept[i].key, store->kept[i].value, store->kept[i].size);
    }
}

static void fake_store_give(const void *data, size_t size, struct store_bytes *ret)
{
    *ret = (struct store_bytes){fake_store_copy(data, size), size};
}

int store_find_newest(struct store *store, const struct store_run *run, struct layer_id layer,
                      struct result_window *window, struct store_bytes *ret_state)
{
    const struct fake_window *newest = NULL;
    assert_non_null(run->job);
    for (int i = 0; i < store->window_count; i++) {
        const struct fake_window *w = &store->windows[i];
        if (w->layer == layer.layer && w->window.unit == window->unit &&
            w->window.length == window->length && w->window.every == window->every &&
            (!newest || w->window.last > newest->window.last)) {
            newest = w;
        }
    }
    if (!newest) {
        return ERR_NO_HISTORY;
    }
    *window = newest->window;
    fake_store_give(newest->state, newest->size, ret_state);
    return 0;
}

int store_find_kept(struct store *store, const struct store_run *run, const char *key,
                    struct store_bytes *ret_value)
{
    const struct fake_kept *kept = fake_store_find(store, key);
    assert_non_null(run->job);
    if (!kept) {
        return ERR_NO_HISTORY;
    }
    fake_store_give(kept->value, kept->size, ret_value);
    return 0;
}

bool store_has_room(struct store *store, size_t bytes)
{
    (void)bytes;
    return !store->full;
}

int store_each_kept_of(struct store *store, const struct store_run *run,
                       void (*visit)(void *data, const char *job, const uint8_t *run,
                                     const char *key, const void *value, size_t size),
                       void *data)
{
    int count = store->kept_count;
    store->asked++;
    bool there = strcmp(run->job, "job") == 0 && run->run[0] == 1;
    if (there && store->unreadable) {
        qsort(store->kept, (size_t)count, sizeof store->kept[0], fake_store_by_key);
        store->kept_count = 1;
    }
    if (there) {
        store_each_kept(store, visit, data);
    }
    store->kept_count = count;
    return store->unreadable ? ERR_HISTORY_UNREAD : 0;
}

void stored_start(struct run_fixture *f, const char *also)
{
    fixture_start(f, also);
    f->sink.store = fake_store_new();
}

void stored_stop(struct run_fixture *f)
{
    struct store *store = f->sink.store;
    fixture_stop(f);
    fake_store_free(&store);
}

void stored_save(struct run_fixture *f)
{
    while (checkpoint_step(f->run)) {
    }
    checkpoint_submit(f->run, f->now);
}

static bool stored_adopt(void *data, struct run *run)
{
    struct run_fixture *f = data;
    assert_null(f->run);
    f->run = run;
    return true;
}

struct restore stored_restore(struct run_fixture *f)
{
    return (struct restore){.config = &f->config,
                            .sink = &f->sink,
                            .budget = &f->budget,
                            .adopt = stored_adopt,
                            .data = f,
                            .now_ns = f->now};
}

uint32_t stored_come_back(struct run_fixture *f, bool forgotten)
{
    struct restore restore = stored_restore(f);
    restore.of_forgotten = forgotten;
    store_each_kept(f->sink.store, restore_value, &restore);
    restore_finish(&restore);
    return restore.runs;
}

void stored_begin(struct run_fixture *f)
{
    stored_start(f, "[]");
}
