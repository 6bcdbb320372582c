/* SPDX-License-Identifier: MIT */
/* top: the runs of attnd on the whole terminal, those in trouble first, and one of them opened: its
 * verdict, its time line, its layers and heads. Answers of attnd (asker) are read into the model
 * (read), keys change it (keys), the view draws it on a screen in memory, and the terminal shows
 * that. */
#ifndef CLIENTS_CLI_TOP_INTERNAL_H
#define CLIENTS_CLI_TOP_INTERNAL_H

#include "clients/cli/base/field.h"
#include "clients/cli/base/rpc.h"
#include "proto/utf8.h"
#include "proto/header.h"

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
    STYLE_BANNER, /* attnd does not answer */
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

/* Makes it blank and of this size. */
void screen_resize(struct screen *screen, int width, int height);
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

/* bars: numbers as small bars on a screen, as high as each stands in a range. Where there are no
 * block characters, ASCII characters of growing weight stand for them. Pure. */

#define BARS_LEVELS 8
/* Numbers of a line over a run, and bars of one. */
#define LINE_MAX_POINTS 120

struct range {
    double least, greatest; /* least > greatest: there are no numbers */
};

extern const struct range range_none;
/* Widens a range; NaN and infinities change nothing. */
void range_add(struct range *range, double value);

/* Numbers over a run: each holds for the steps after the one before, up to its own. */
struct line {
    uint32_t count;
    uint64_t step[LINE_MAX_POINTS];
    double value[LINE_MAX_POINTS]; /* NaN = none */
};

/* Draws one bar for each of `width` equal parts of the steps from `from` to `to`: the mean of the
 * numbers there. The bars from step `sick` on (UINT64_MAX: none) are drawn as bad ones. */
void bars_line(struct screen *screen, int row, int column, int width, const struct line *line,
               uint64_t from, uint64_t to, struct range range, uint64_t sick);

/* model: the data that top knows and shows. Answers of attnd go in (read.c), keys go in (keys.c),
 * pictures come out (view.c). Pure: the caller passes the time, in milliseconds that never go back.
 * One thread. */

/* Limits of what is shown; the rest is counted. */
#define TOP_RUNS_MAX   500
#define TOP_ALERTS_MAX 200
#define TOP_ROW_ALERTS 50 /* alerts that are counted in the list of runs */
#define TOP_LAYERS_MAX 4096
#define TOP_HEADS_MAX  65536 /* of a layer */
#define TOP_TEXT_MAX   512
#define TOP_FILTER_MAX 48

enum severity { SEVERITY_NONE, SEVERITY_INFO, SEVERITY_WARNING, SEVERITY_CRITICAL };

/* The subject of an alert: the run (stack ""), a layer (head -1), or a head. */
struct top_place {
    char stack[16], site[16];
    uint32_t layer;
    int64_t head;
};

struct alert {
    enum severity severity;
    struct top_place place;
    char rule[80], message[TOP_TEXT_MAX], advice[TOP_TEXT_MAX];
    char since[FIELD_SINCE_MAX]; /* FIELD_SINCE */
    uint64_t since_step;         /* the first that failed */
};

/* A row of the list: a job, and the run that its name means. */
struct run_row {
    char job[JOB_NAME_MAX + 1], run[2 * RUN_BYTES + 1], state[16];
    bool over; /* it has ended, or failed */
    uint64_t epoch, step, world, received;
    uint64_t runs, firing;  /* runs of the job; alerts that fire in any of them */
    enum severity severity; /* of the worst of these */
    bool known;             /* the answer of `verdict` has come: */
    struct alert worst;     /* severity NONE: no alert */
    uint32_t alert_count;
    uint64_t checks;     /* rules that have judged the run; 0 = not known */
    uint64_t unmeasured; /* layers that no numbers come of */
    struct line loss;    /* as far as the history has it */
    int64_t asked_ms;    /* 0 = never */
    uint64_t asked_step, asked_firing;
};

struct layer {
    struct top_place place;
    char module[MODULE_MAX + 1]; /* path of the module that attends; "" = not known */
    uint32_t heads;
    double *now;  /* [heads], of the newest message; owned */
    double *past; /* [heads][model.windows]; owned, NULL = none */
};

/* The run that is opened; layers in the model's order. */
struct opened {
    char job[JOB_NAME_MAX + 1]; /* "" = none */
    const char *run; /* digits of the run of it that is shown; NULL = by the job's name */
    bool gone;       /* attnd has forgotten that one */
    bool known;      /* attnd has it, and `row` is its newest state */
    struct run_row row;
    struct alert alerts[TOP_ALERTS_MAX]; /* what fires, worst first */
    uint32_t alert_count;
    bool more, judged; /* there are more; a window has been judged, the newest of this step */
    uint64_t judged_step, checks;
    uint32_t unjudged, unmeasured; /* rules, layers */
    struct line loss;
    struct layer *layers;
    uint32_t layer_count;
    uint32_t windows; /* of the past */
    uint64_t window_step[LINE_MAX_POINTS];
};

enum page { PAGE_RUNS, PAGE_LAYERS, PAGE_HEADS, PAGE_ALERTS };
enum typing { TYPING_NOTHING, TYPING_FILTER, TYPING_METRIC };

struct list {
    uint32_t at, top; /* the chosen row and the first one shown */
};

/* How attnd is. */
struct health {
    bool known;
    double rate; /* messages per second since the last look; NaN at the first */
    uint64_t received, lost, dropped, summaries, alerts;
    char reason[48]; /* the most frequent one of `dropped`; "" = none */
    double uptime_s;
    int64_t at_ms;
};

struct model {
    struct health health;
    int64_t silent_since_ms; /* attnd has not answered since; -1 = it answers */
    char refused[256];       /* why attnd does not answer `monitor`; "" = it does */
    char fleet[256];         /* of a hub: who is late; "" = nobody */
    struct run_row *rows;    /* [row_count], worst first; owned */
    uint32_t row_count, left_out;
    uint32_t shown[TOP_RUNS_MAX], shown_count; /* rows that pass the filter */
    struct opened opened;
    uint64_t generation; /* one more when what is opened, or its metric, changes */
    char metric[FIELD_NAME_MAX];

    enum page page;
    struct list lists[PAGE_ALERTS + 1];
    uint32_t list_rows; /* rows that the list on the screen has room for */
    uint32_t layer_at;  /* whose heads are shown */
    enum typing typing;
    char typed[TOP_FILTER_MAX], filter[TOP_FILTER_MAX];
    bool help, paused, quit;

    /* When to ask again: the step moved; a window closed, until when its answers may change. */
    bool moved;
    int64_t fresh_until_ms;
};

struct model *model_new(void);
void model_free(struct model **model);

/* Opens a run of a job, NULL: the one that its name means; what was known of another one is
 * forgotten. */
void model_open(struct model *model, const char *job, const char *run);
/* Back to the list of runs. */
void model_close_run(struct model *model);
/* Shows another metric. */
void model_choose_metric(struct model *model, const char *metric);
/* The severity of the worst alert of a row's run, as far as it is known. */
enum severity model_row_severity(const struct run_row *row);
/* The row of a job; NULL = it is not there. */
struct run_row *model_row(struct model *model, const char *job);
/* The job of the chosen row, "" when that is the first one, which stays the first. */
void model_chosen(const struct model *model, char ret_job[JOB_NAME_MAX + 1]);
/* Sorts the rows, finds those that pass the filter, and chooses that of a job, "": stays where it
 * is. */
void model_arrange(struct model *model, const char *chosen);
/* The layer of a result, added in its place when it is new and has heads; NULL: there is none. */
struct layer *model_layer(struct model *model, const struct top_place *place, uint32_t heads);
/* The worst alert about a layer or, with a head that is not negative, about that head; NULL = none.
 */
const struct alert *model_alert_about(const struct model *model, const struct layer *layer,
                                      int64_t head);
/* Rows of the list that is on the screen. */
uint32_t model_list_count(const struct model *model);
/* Moves a list's choice so that it is in 0..count, and what is shown so that the choice is. */
void list_settle(struct list *list, uint32_t count, uint32_t rows);

/* "decoder.3.self", "decoder.3.self.h2", "the run". */
#define PLACE_TEXT_MAX 64
const char *top_place_text(const struct top_place *place, char ret_text[PLACE_TEXT_MAX]);
/* The same in memory that is good as long as the block that the macro stands in. */
#define TOP_PLACE(place) top_place_text(place, (char[PLACE_TEXT_MAX]){""})
bool top_place_is_same(const struct top_place *a, const struct top_place *b);

/* read: reads answers of attnd into the model. A field that is missing, or has another type, counts
 * as missing: answers may come from a newer attnd. Each takes the `result` of the method of its
 * name. Pure; one thread. */

void read_monitor(struct model *model, const msgpack_object *result, int64_t now_ms);
void read_verdict(struct opened *opened, const msgpack_object *result);
void read_row_verdict(struct run_row *row, const msgpack_object *result);
/* The first series whose name says loss, else the first one. */
void read_log(struct line *line, const msgpack_object *result);
void read_live(struct model *model, const msgpack_object *result);
void read_grid(struct model *model, const msgpack_object *result); /* packed */

/* keys: the effect of each key. Pure: a key is a number, the model changes. */

/* Characters are their ASCII code, Enter is '\n', Tab '\t'; other keys as in curses.h. Keys without
 * a meaning where the user is do nothing. */
enum { KEY_OF_ESCAPE = 27, KEY_OF_ERASE = 127 };
void keys_press(struct model *model, int key);
/* The first metric whose name begins so; NULL: there is none, or nothing was typed. */
const char *keys_metric(const char *typed);

/* asker: asks attnd what the model needs, and gives it the answers. Several questions are on their
 * way at once, at most one of each kind, and nothing here waits. One that goes unanswered is given
 * up; when attnd says nothing at all the connection is made anew, until it does. One thread. */

enum asker_kind {
    ASKER_MONITOR,
    ASKER_ROW_VERDICT,
    ASKER_ROW_LOG,
    ASKER_VERDICT,
    ASKER_LOG,
    ASKER_LIVE,
    ASKER_GRID,
    ASKER_KINDS,
};

struct asker {
    struct rpc *rpc; /* borrowed; its socket is replaced when attnd is silent, and may be NULL */
    struct {
        uint64_t id; /* 0 = none is on its way */
        uint64_t generation;
        int64_t sent_ms;
    } asked[ASKER_KINDS];
    int64_t heard_ms, past_ms; /* an answer came; the past of the opened run was asked for */
    uint64_t generation;       /* that the past was asked for in */
    bool owes_past[ASKER_KINDS];
    char row_job[JOB_NAME_MAX + 1], row_run[2 * RUN_BYTES + 1]; /* of the questions about a row */
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

/* view: draws the model on a screen. Pure except for the lists of the model, which are scrolled so
 * that the choice is visible. One thread. */

/* Less than this is too small for anything. */
#define VIEW_WIDTH_MIN  60
#define VIEW_HEIGHT_MIN 10

/* `now_ms` is of the model's clock, `clock` what the user's says ("14:02:31"). */
void view_draw(struct model *model, struct screen *screen, int64_t now_ms, const char *clock);

#endif
