/* SPDX-License-Identifier: MIT */
/* top: a job on the whole terminal. Answers of attnd (asker) are read into the model (read), keys
 * change it (keys), the view draws it on a screen in memory, and the terminal shows that. */
#ifndef CLIENTS_CLI_TOP_INTERNAL_H
#define CLIENTS_CLI_TOP_INTERNAL_H

#include "clients/cli/base/field.h"
#include "clients/cli/base/rpc.h"
#include "proto/utf8.h"
#include "proto/header.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* screen: a rectangle of characters with styles, in memory. Drawing outside of it is cut off. Text
 * may come from anywhere: what could move a terminal's cursor, or is not one column wide, is
 * replaced by '?'. Pure; one thread. */

/* Colour is never the only sign: each of these also has a word, a mark or a place of its own. */
enum style {
    STYLE_PLAIN,
    STYLE_FAINT,
    STYLE_STRONG,
    STYLE_TITLE, /* the first line */
    STYLE_INFO,
    STYLE_WARNING,
    STYLE_CRITICAL,
    STYLE_BANNER,  /* attnd does not answer */
    STYLE_LEVEL_0, /* the least of a range, and so on up to its greatest */
    STYLE_LEVEL_7 = STYLE_LEVEL_0 + 7,
    STYLE_COUNT,
};

struct cell {
    char text[UTF8_MAX + 1]; /* one character, as UTF-8 with a NUL */
    uint8_t style;
    bool chosen; /* shown in reverse */
};

struct screen {
    int width, height;
    struct cell *cells; /* [height][width]; owned */
    bool unicode;       /* otherwise every character is ASCII */
};

/* Makes it blank and of this size. Returns 0, or -1 when out of memory: then it is 0 x 0. */
int screen_resize(struct screen *screen, int width, int height);
void screen_free(struct screen *screen);
void screen_clear(struct screen *screen);

/* Writes into row `row` from column `column` on, at most `width` columns; a longer text ends in an
 * ellipsis. Returns the columns that were written. */
int screen_put(struct screen *screen, int row, int column, int width, enum style style,
               const char *text);
int screen_print(struct screen *screen, int row, int column, int width, enum style style,
                 const char *format, ...) __attribute__((format(printf, 6, 7)));
/* The same, at the right end of the `width` columns. */
int screen_put_right(struct screen *screen, int row, int column, int width, enum style style,
                     const char *text);

/* The columns that a text takes. */
int screen_columns(const struct screen *screen, const char *text);

/* Shows a row as the chosen one: also by a '>' in its first column. */
void screen_choose_row(struct screen *screen, int row);
/* Blanks a rectangle for something on top of what is there. */
void screen_blank(struct screen *screen, int row, int column, int width, int height);

/* bars: numbers as small bars on a screen: a line of them, or a chart of several rows. Where there
 * are no block characters, ASCII characters of growing weight stand for them. Pure. */

#define BARS_LEVELS 8

struct range {
    double least, greatest; /* least > greatest: there are no numbers */
};

extern const struct range range_none;
/* Widens a range; NaN and infinities change nothing. */
void range_add(struct range *range, double value);
struct range range_of(const double *values, uint32_t count);

/* Returns the level of a value, of the BARS_LEVELS levels of the range; -1 for a value that is no
 * number. */
int bars_level(double value, struct range range);

/* How a line is coloured: by where the values are in `range`; without one it is plain. */
struct bars_color {
    bool any;
    struct range range;
};

/* One bar per value, as high as the value stands in `range`. With more values than `width` each bar
 * is the mean of some that follow one another. Returns the columns drawn. */
int bars_line(struct screen *screen, int row, int column, int width, const double *values,
              uint32_t count, struct range range, struct bars_color color);

/* The same over `height` rows, `row` being the topmost, wide enough to fill `width` as far as whole
 * columns per value can. Returns the columns drawn. */
int bars_chart(struct screen *screen, int row, int column, int width, int height,
               const double *values, uint32_t count, struct range range);

/* The column of a chart in which value `index` of `count` begins. */
int bars_column(uint32_t count, int width, uint32_t index);

/* model: the data that attnctl top knows and shows: the jobs, one job's layers and heads, its
 * alerts, the state of attnd; and the position of the user. Answers of attnd go in (read.c), keys
 * go in (keys.c), pictures come out (view.c), and what should be asked next (`needs`). Pure: the
 * caller passes the time, in milliseconds that never go back. One thread. */

/* Limits of the lists shown; the rest is counted and mentioned. */
#define MODEL_JOBS_MAX     500
#define MODEL_LAYERS_MAX   4096
#define MODEL_HEADS_MAX    65536 /* of the whole job */
#define MODEL_ALERTS_MAX   400
#define MODEL_ALERTS_ASKED 200 /* of those that are over */
#define MODEL_VERDICT_MAX  200
#define MODEL_METRICS_MAX  96
#define MODEL_PAST_MAX     120 /* windows of a trend: what a wide terminal has columns for */
#define MODEL_SEEN_MAX     60  /* moments that top has seen itself */
#define MODEL_FILTER_MAX   48
#define MODEL_RULE_MAX     80
#define MODEL_MESSAGE_MAX  512
#define MODEL_PATTERN_MAX  24

/* Where a layer is, and what belongs to it. */
struct layer_place {
    char stack[16], site[16];
    uint32_t layer;
};

/* Jobs */

struct job_entry {
    char job[JOB_NAME_MAX + 1], run[2 * RUN_BYTES + 1], state[16];
    uint64_t epoch, step, ranks, world, layers, received, lost, dropped, firing;
};

/* attnd */

struct health {
    bool known;
    double rate, bytes_rate; /* per second since the last look; NaN at the first */
    uint64_t received, bytes, lost, dropped, source_dropped;
    uint64_t new_losses; /* what came to lost, dropped and source_dropped since the last look */
    char reason[48];     /* the most frequent one of `dropped`; "" = none */
    uint64_t in_flight_bytes, budget_bytes; /* budget 0 = not known */
    uint64_t threads, queued;
    double uptime_s;
    int64_t at_ms; /* when it was looked at */
    uint64_t summaries, alerts;
};

/* Alerts */

enum severity { SEVERITY_NONE, SEVERITY_INFO, SEVERITY_WARNING, SEVERITY_CRITICAL };

struct alert {
    enum severity severity;
    bool firing, at_end; /* at_end: when the run ended; it counts as firing */
    bool has_layer;      /* else it is about the run */
    struct layer_place place;
    int64_t head; /* -1: the layer as a whole */
    char rule[MODEL_RULE_MAX], metric[FIELD_NAME_MAX], message[MODEL_MESSAGE_MAX];
    char why[MODEL_MESSAGE_MAX];    /* why that matters; "" = not known */
    char advice[MODEL_MESSAGE_MAX]; /* what people do about it; "" = not known */
    double value, bound;
    uint64_t since_epoch, since_step;
};

/* Heads */

struct head {
    double value;  /* of the metric, of the newest message */
    double by;     /* of the metric that is sorted by */
    double mean;   /* of the metric over the newest window */
    double shift;  /* against the baseline; NaN = none */
    uint64_t rank; /* whose message `value` is from */
    char pattern[MODEL_PATTERN_MAX];
    enum severity severity;    /* of the worst alert about it, or about its layer */
    char rule[MODEL_RULE_MAX]; /* the rule of that; "" = none */
    uint64_t since_step;
};

struct layer {
    struct layer_place place;
    char module[MODULE_MAX + 1]; /* path of the module that attends; "" = not known */
    uint32_t head_count;
    uint64_t step;
    struct head *heads;     /* [head_count]; owned */
    double *past;           /* [head_count][model.past.count]; owned; NULL = none */
    double *seen;           /* [head_count][MODEL_SEEN_MAX]; owned */
    enum severity severity; /* of the worst alert about it, or about one of its heads */
    uint32_t firing;        /* such alerts */
    char rule[MODEL_RULE_MAX];
};

/* The windows that trends are over. */
struct past {
    uint32_t count;
    char unit[16];
    uint64_t last[MODEL_PAST_MAX], step[MODEL_PAST_MAX];
};

struct list_row {
    uint32_t layer, head; /* indices */
};

/* One head, looked at closely */

struct detail_metric {
    char name[FIELD_NAME_MAX];
    double now, mean, shift, js;
    struct past windows;
    double past[MODEL_PAST_MAX];
};

struct head_detail {
    struct layer_place place;
    uint32_t head;
    uint64_t epoch, step, rows, invalid_rows;
    char pattern[MODEL_PATTERN_MAX];
    uint32_t count;
    struct detail_metric metrics[MODEL_METRICS_MAX];
};

/* The choices of the user */

enum page { PAGE_JOBS, PAGE_HEADS, PAGE_LAYERS, PAGE_HEAD, PAGE_VERDICT };
enum overlay { OVERLAY_NONE, OVERLAY_HELP, OVERLAY_METRIC, OVERLAY_SORT };
enum sort { SORT_URGENCY, SORT_DRIFT, SORT_VALUE, SORT_PLACE, SORT_METRIC };

struct list {
    uint32_t at, top; /* the chosen row and the first one shown */
};

struct ui {
    enum page page, before; /* where Escape leads back to from a head */
    enum overlay overlay;
    struct list jobs, heads, layers, metrics, verdict, picker;
    uint32_t list_rows; /* rows that the list on the screen has room for */
    bool typing;        /* the filter */
    bool stays;         /* in the list of jobs, though there is only one */
    bool paused, quit;
    bool trend_seen; /* trends are what top has seen, not windows */
    char filter[MODEL_FILTER_MAX];
};

/* The questions to ask as soon as possible. */
struct needs {
    bool config, live, grid, alerts, verdict, detail, detail_window, series;
    uint32_t summary_next; /* layers before it have been asked; layer_count = all */
    uint32_t series_next;  /* of the series of a detail */
    bool windows;          /* there are new ones: grid, summaries and series, not all at once */
    int64_t grid_ms, series_ms, verdict_ms; /* when they were last asked for */
    int64_t
        again_ms; /* then once more: a window is in the history a little later; -1 = soon, 0 = no */
};

struct model {
    struct health health;
    int64_t silent_since_ms; /* attnd has not answered since; -1 = it answers */
    struct job_entry jobs[MODEL_JOBS_MAX];
    uint32_t job_count, jobs_left_out;

    char job[JOB_NAME_MAX + 1]; /* "" = none is chosen */
    const char *run;            /* digits of the run of it that is shown; NULL = the newest */
    const char *gone;           /* those of the run that was shown until attnd forgot it */
    char refused[256];          /* why attnd does not answer `monitor`; "" = it does */
    bool hub;                   /* it merges what nodes send */
    char fleet[256];            /* of a hub: the rank that is odd, or who is late; "" = nobody */
    bool job_known;             /* attnd has it now */
    struct job_entry entry;     /* of the job, as far as it is known */
    uint64_t generation; /* one more with each choice of a job: older answers are of another */

    struct layer *layers; /* in the model's order; owned */
    uint32_t layer_count, layer_room, head_total;
    bool cut; /* there are more layers or heads than fit */
    struct past past;
    uint32_t seen_count;
    uint64_t seen_step;
    int64_t grid_took_ms; /* how long attnd took for the last trends */
    char refusal[256];    /* why there are no trends; "" = no reason */

    struct alert alerts[MODEL_ALERTS_MAX]; /* those that fire first */
    uint32_t alert_count, firing_count;

    struct alert verdict[MODEL_VERDICT_MAX]; /* what fires, worst first */
    uint32_t verdict_count;
    bool verdict_cut, judged; /* there is more; a window has been judged, the newest of this step */
    uint64_t judged_step;
    uint64_t checks;     /* rules that have judged the run; 0 = not known */
    uint32_t unmeasured; /* rules that have not */

    char metrics[MODEL_METRICS_MAX][FIELD_NAME_MAX];
    uint32_t metric_count;
    char metric[FIELD_NAME_MAX]; /* "" = not chosen yet */
    enum sort sort;
    char sort_metric[FIELD_NAME_MAX];
    bool reversed;

    struct list_row *rows; /* heads that pass the filter, sorted; [head_total]; owned */
    uint32_t row_count, row_room;
    uint32_t *layer_rows; /* the same of layers; [layer_room]; owned */
    uint32_t layer_row_count;

    struct head_detail detail;
    struct ui ui;
    struct needs needs;
    bool out_of_memory; /* something could not be kept */
};

extern const struct needs model_needs_all;
/* NULL when out of memory. */
struct model *model_new(void);
void model_free(struct model **model);

/* The chosen job among the jobs; NULL = it is not there. */
const struct job_entry *model_find_job(const struct model *model);
/* Looks at another job: all that is known of the one before is forgotten. "" = none. */
void model_choose_job(struct model *model, const char *job);
/* Forgets layers and heads: of another run the numbers are others. */
void model_forget(struct model *model);

/* Whether numbers of that name have come. */
bool model_has_metric(const struct model *model, const char *name);
/* Shows another metric: its values are asked anew. */
void model_choose_metric(struct model *model, const char *metric);
/* "urgency", "head", "value", "drift" or a metric; with a '-' before it the other way round. */
void model_choose_sort(struct model *model, const char *name);
/* The order in words, for people: "greatest max_logit first". */
#define MODEL_SORT_TEXT_MAX (FIELD_NAME_MAX + 32)
void model_sort_text(const struct model *model, char ret_text[MODEL_SORT_TEXT_MAX]);

/* Opens the page of a head. */
void model_open_head(struct model *model, uint32_t layer, uint32_t head);

/* The layer of a result, added in its place when it is new; NULL when there is no room for it. */
struct layer *model_layer(struct model *model, const struct layer_place *place, uint32_t heads);
/* The index of one that is known, or -1. */
int64_t model_find_layer(const struct model *model, const struct layer_place *place);
/* Encoder before decoder, by layer, self before cross. */
int model_compare_places(const struct layer_place *a, const struct layer_place *b);

/* Remembers the values of this moment, if the job has moved on since the last one. */
void model_see(struct model *model);

/* Forgets the windows of the trends, or makes room for others. Returns false when out of memory. */
bool model_make_past(struct model *model, uint32_t windows);

/* Filters and sorts: `rows` and `layer_rows`. The selection below the first row stays. */
void model_arrange(struct model *model);

/* The trend of a head as it is to be shown: its length, and the numbers through ret_values. */
uint32_t model_trend(const struct model *model, uint32_t layer, uint32_t head,
                     const double **ret_values);
/* The same of a layer, as the mean over its heads; `values`: MODEL_PAST_MAX numbers. */
uint32_t model_layer_trend(const struct model *model, uint32_t layer, double *values);
/* Whether trends are what top has seen itself. */
bool model_trend_is_seen(const struct model *model);

/* The values of the layer's heads, NaN without any, and the mean of what is sorted by. */
struct layer_spread {
    double mean, least, greatest, by;
};
struct layer_spread model_spread(const struct layer *layer);
/* The largest |shift| in the layer, with its sign; NaN without any. */
double model_layer_shift(const struct layer *layer);

/* "decoder.3.self" or, with a head that is not negative, "decoder.3.self.h2"; "the run" when no
 * stack is named. */
#define MODEL_PLACE_MAX 64
void model_place(const struct layer_place *place, int64_t head, char ret_place[MODEL_PLACE_MAX]);

/* Moves a list's choice so that it is in 0..count, and what is shown so that the choice is. */
void list_settle(struct list *list, uint32_t count, uint32_t rows);

/* read: reads answers of attnd into the model. A field that is missing in an answer, or of another
 * type, stays as it was or counts as missing: answers may come from a newer attnd. Pure; one
 * thread. */

/* Each takes the `result` of the method of its name. */

/* Says through model->needs what else has changed since the last one. */
void read_monitor(struct model *model, const msgpack_object *result, int64_t now_ms);
void read_config(struct model *model, const msgpack_object *result);
void read_live(struct model *model, const msgpack_object *result);
void read_summary(struct model *model, const msgpack_object *result);
/* Packed, of all layers. */
void read_grid(struct model *model, const msgpack_object *result);
void read_alerts(struct model *model, const msgpack_object *result);
void read_verdict(struct model *model, const msgpack_object *result);

/* `live` or `summary` of the layer of the head that is looked at. */
void read_detail_live(struct model *model, const msgpack_object *result);
void read_detail_summary(struct model *model, const msgpack_object *result);
/* `grid`, packed, of its layer and one metric. */
void read_detail_grid(struct model *model, const msgpack_object *result);

/* "512MiB" in bytes; 0 for what is no size. */
uint64_t read_size(const char *text);

/* read_internal: shared by the parts of read. */

/* False: it names no layer. */
bool read_place(const msgpack_object *map, struct layer_place *ret_place);

/* Whether a result is of the run that is looked at. */
bool read_is_run(const struct model *model, const msgpack_object *map);

/* keys: the effect of each key. Pure: a key is a number, the model changes. */

/* Keys that are no characters; others are their ASCII code. */
enum special_key {
    KEY_OF_TAB = '\t',
    KEY_OF_ENTER = '\n',
    KEY_OF_ESCAPE = 27,
    KEY_OF_ERASE = 127,
    KEY_OF_UP = 256,
    KEY_OF_DOWN,
    KEY_OF_LEFT,
    KEY_OF_RIGHT,
    KEY_OF_PAGE_UP,
    KEY_OF_PAGE_DOWN,
    KEY_OF_HOME,
    KEY_OF_END,
};

/* Keys without a meaning where the user is do nothing. */
void keys_press(struct model *model, int key);

/* The rows of the list that is on top, and that list; NULL: there is none. */
struct list *keys_list(struct model *model, uint32_t *ret_count);

/* The lines that `?` shows, a pair each: keys and their effect. */
struct key_help {
    const char *keys, *text;
};
extern const struct key_help key_help[];
extern const int key_help_count;

/* The list of metrics to sort by begins with these: names of `enum sort`. */
#define KEYS_SORTS SORT_METRIC
extern const char *const model_sorts[KEYS_SORTS];

/* asker: asks attnd what the model needs, and gives it the answers. Several questions are on their
 * way at once, at most one of each kind, and nothing here waits. One that goes unanswered is given
 * up; when attnd says nothing at all the connection is made anew, until it does. One thread. */

enum asker_kind {
    ASKER_MONITOR,
    ASKER_CONFIG,
    ASKER_LIVE,
    ASKER_SUMMARY,
    ASKER_GRID,
    ASKER_ALERTS,
    ASKER_VERDICT,
    ASKER_DETAIL_LIVE,
    ASKER_DETAIL_SUMMARY,
    ASKER_DETAIL_GRID,
    ASKER_KINDS,
};

struct asker {
    struct rpc *rpc; /* borrowed; its socket is replaced when attnd is silent, and may be NULL */
    struct {
        uint64_t id; /* 0 = none is on its way */
        uint64_t generation;
        int64_t sent_ms;
    } asked[ASKER_KINDS];
    int64_t heard_ms;
    size_t taken; /* bytes of summaries since the last tick */
};

/* attnd has just answered. */
void asker_init(struct asker *asker, struct rpc *rpc, int64_t now_ms);

/* The work of every interval: asks for attnd's state, and notices that it does not answer. */
void asker_tick(struct asker *asker, struct model *model, int64_t now_ms);

/* The moment from which the answer about how attnd is counts as missing, and asker_tick should be
 * called though the interval is not over; INT64_MAX: none is waited for. */
int64_t asker_late_ms(const struct asker *asker);

/* Takes what has come and asks what the model needs now. Returns whether anything came. */
bool asker_turn(struct asker *asker, struct model *model, int64_t now_ms);

/* view: draws the model on a screen. Pure except for the lists in model->ui, which are scrolled so
 * that the selection is visible. One thread. */

/* Less than this is too small for anything. */
#define VIEW_WIDTH_MIN  60
#define VIEW_HEIGHT_MIN 10

/* `now_ms` is of the model's clock, `clock` what the user's says ("14:02:31"). */
void view_draw(struct model *model, struct screen *screen, int64_t now_ms, const char *clock);

/* view_internal: shared by the parts of view. A page draws `rows` rows, from `top` on, and its
 * caption above them. */

struct view_frame {
    struct model *model;
    struct screen *screen;
    int top, rows;
};

void page_jobs(struct view_frame *frame);
void page_heads(struct view_frame *frame);
void page_layers(struct view_frame *frame);
void page_head(struct view_frame *frame);
void page_verdict(struct view_frame *frame);

/* The worst of what needs attention, on top of a page, which then has fewer rows. */
void view_attention(struct view_frame *frame);

/* On top of a page. */
void view_help(struct view_frame *frame);
void view_picker(struct view_frame *frame);

/* A number in at most eight columns: four decimals where they say something; "-" for none. */
#define VIEW_NUMBER_MAX 16
void view_number(double number, char ret_text[VIEW_NUMBER_MAX]);
/* Standard deviations, with their sign; "*" before those that are marked. */
void view_shift(double shift, char ret_text[VIEW_NUMBER_MAX]);

/* The mark of an alert: "!!", "!", "i"; and its style. */
const char *view_mark(enum severity severity);
enum style view_severity_style(enum severity severity);

/* The heading of trends: "EPOCHS 1-12". */
#define VIEW_SPAN_MAX 64
void view_span(const struct past *past, char ret_text[VIEW_SPAN_MAX]);
void view_trend_heading(const struct model *model, char ret_text[VIEW_SPAN_MAX]);

/* Settles a list that has `rows` rows and remembers how many that are. */
void view_settle(struct view_frame *frame, struct list *list, uint32_t count, int rows);

/* A column of a table: where it begins and how wide it is; 0 = it is not shown. */
struct column {
    int at, width;
    bool right; /* what is in it stands at its right end */
    const char *title;
};
/* The columns of a table, from left to right; `at` is where the next one begins. */
struct columns {
    struct column list[10];
    int count, at;
};
void view_column(struct columns *columns, int width, bool right, const char *title);
void view_headings(struct view_frame *frame, int row, const struct columns *columns);
/* Writes into a column; nothing when it is not shown. Returns the columns that were written. */
int view_cell(struct view_frame *frame, int row, const struct column *column, enum style style,
              const char *format, ...) __attribute__((format(printf, 5, 6)));
void view_cell_number(struct view_frame *frame, int row, const struct column *column,
                      double number);
void view_cell_shift(struct view_frame *frame, int row, const struct column *column, double shift);
/* A trend, on its own scale; coloured on `range`. */
void view_cell_trend(struct view_frame *frame, int row, const struct column *column,
                     const double *values, uint32_t count, struct range range);
/* The row behind the last one of a settled list that is shown; marks the chosen one when the first
 * stands in row `first` of the screen. */
uint32_t view_list_end(const struct view_frame *frame, const struct list *list, uint32_t count);
void view_choose(struct view_frame *frame, const struct list *list, uint32_t count, int first);
/* Puts the module of a layer (NULL: none) at the end of the caption, of which so many columns are
 * used: as much of both its ends as there is room for. */
void view_put_module(struct view_frame *frame, int used, const struct layer *layer);

/* terminal: the user's terminal, by ncurses, which knows one per process. After terminal_close the
 * terminal is as it was before terminal_open, whatever happens between them: also after a fatal
 * signal. One thread. */

/* Whether standard input and output are both terminals. */
bool terminal_is_there(void);

/* Whether the environment says that the terminal takes UTF-8, and this machine can write it. Sets
 * the locale's characters. */
bool terminal_is_unicode(void);

#define TERMINAL_ERROR_MAX 256

/* Takes the whole terminal. Returns 0, or -1 with a sentence (TERMINAL_ERROR_MAX bytes). */
int terminal_open(char *reterr);
/* Gives it back; harmless when it is not open. */
void terminal_close(void);

/* The next key that was pressed (keys.c), or -1. Does not wait. */
int terminal_key(void);

/* How large it is now; it is drawn anew in that size. */
void terminal_measure(int *ret_width, int *ret_height);

void terminal_show(const struct screen *screen);

#endif
