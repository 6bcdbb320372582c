/* SPDX-License-Identifier: MIT */
/* yaml: a config file as libyaml's events, read by descent: file -> sections -> keys, and in the
 * sections `jobs` -> patterns -> keys, `rules` -> rules -> keys.
 *
 * Events instead of libyaml's document tree: each event has its line, nothing is built from input
 * that is about to be refused, and an alias is seen before it is expanded. Accepts only the part of
 * YAML that such a file needs: mappings and scalars, lists of numbers, one document; no anchors,
 * aliases or tags. Values go into a copy of the configuration, which replaces the caller's when the
 * whole file was read. --set is here as well: after either, the patterns of jobs are settled. */
#include "config/jobs.h"
#include "config/rules_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

/* Largest accepted file; the full commented file has 10 KiB. */
#define FILE_BYTES_MAX 1048576

/* Longest accepted name or value. */
#define SCALAR_MAX 1100

enum node_kind { NODE_SCALAR, NODE_MAP, NODE_LIST, NODE_LIST_END, NODE_END, NODE_OTHER };

/* One event, copied out of libyaml. */
struct node {
    enum node_kind kind;
    struct origin origin;
    char text[SCALAR_MAX];
    bool empty; /* a scalar of which nothing is written: "key:" */
};

struct reader {
    yaml_parser_t parser;
    const char *path;
    const char *input;
    size_t size;
    struct config staged;           /* its jobs and rules, if any, are of this file */
    size_t section_line[KEY_COUNT]; /* by the section's first key; 0 = not seen */
    size_t jobs_line, rules_line;
    char *reterr;
};

/* Events */

static size_t line_of_offset(const struct reader *reader, size_t offset)
{
    size_t line = 1;
    for (size_t i = 0; i < offset && i < reader->size; i++) {
        line += reader->input[i] == '\n';
    }
    return line;
}

static enum node_kind node_kind(yaml_event_type_t type)
{
    switch (type) {
    case YAML_SCALAR_EVENT:
        return NODE_SCALAR;
    case YAML_MAPPING_START_EVENT:
        return NODE_MAP;
    case YAML_SEQUENCE_START_EVENT:
        return NODE_LIST;
    case YAML_SEQUENCE_END_EVENT:
        return NODE_LIST_END;
    case YAML_MAPPING_END_EVENT:
    case YAML_STREAM_END_EVENT:
        return NODE_END;
    default:
        return NODE_OTHER;
    }
}

static int yaml_convert(struct reader *reader, const yaml_event_t *event, struct node *ret_node)
{
    ret_node->kind = node_kind(event->type);
    ret_node->origin = (struct origin){reader->path, event->start_mark.line + 1};
    if (event->type == YAML_ALIAS_EVENT ||
        (event->type == YAML_SCALAR_EVENT && event->data.scalar.anchor) ||
        (event->type == YAML_MAPPING_START_EVENT && event->data.mapping_start.anchor) ||
        (event->type == YAML_SEQUENCE_START_EVENT && event->data.sequence_start.anchor)) {
        return config_error(
            reader->reterr, ret_node->origin,
            "anchors and aliases are not accepted: write the value out%s",
            event->type == YAML_ALIAS_EVENT ? ", and a text that begins with * in quotes" : "");
    }
    if ((event->type == YAML_SCALAR_EVENT && event->data.scalar.tag) ||
        (event->type == YAML_MAPPING_START_EVENT && event->data.mapping_start.tag) ||
        (event->type == YAML_SEQUENCE_START_EVENT && event->data.sequence_start.tag)) {
        return config_error(reader->reterr, ret_node->origin,
                            "tags are not accepted: write the plain value");
    }
    if (event->type != YAML_SCALAR_EVENT) {
        return 0;
    }
    const char *value = (const char *)event->data.scalar.value;
    size_t length = event->data.scalar.length;
    if (length >= SCALAR_MAX) {
        return config_error(reader->reterr, ret_node->origin,
                            "a text of %zu bytes is too long (valid: at most %d)", length,
                            SCALAR_MAX - 1);
    }
    if (memchr(value, '\0', length)) {
        return config_error(reader->reterr, ret_node->origin, "a text holds a NUL byte");
    }
    memcpy(ret_node->text, value, length + 1);
    ret_node->empty = length == 0 && event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    return 0;
}

/* The next event. Returns 0, or -1 with a message. */
static int yaml_next(struct reader *reader, struct node *ret_node)
{
    yaml_event_t event;
    if (!yaml_parser_parse(&reader->parser, &event)) {
        /* libyaml's complaint; its reader (encoding errors) knows an offset instead of a line. */
        const yaml_parser_t *parser = &reader->parser;
        size_t line = parser->error == YAML_READER_ERROR
                          ? line_of_offset(reader, parser->problem_offset)
                          : parser->problem_mark.line + 1;
        if (parser->error == YAML_MEMORY_ERROR) {
            return config_error(reader->reterr, (struct origin){reader->path, 0}, "out of memory");
        }
        const char *context = parser->context ? parser->context : "";
        return config_error(reader->reterr, (struct origin){reader->path, line},
                            "not valid YAML: %s%s%s", parser->problem, *context ? ", " : "",
                            context);
    }
    int result = yaml_convert(reader, &event, ret_node);
    yaml_event_delete(&event);
    return result;
}

/* Descent */

/* The keys of one mapping: whose they are, where they go, and which were there already. */
struct body {
    const char *section; /* of keys.def */
    const char *label;   /* what messages call it */
    struct config *config;
    bool takes_plan; /* keys of plan as well */
};

/* The word for the kind of a node, in messages. */
static const char *kind_name(const struct node *node)
{
    return node->kind == NODE_MAP ? "mapping" : node->kind == NODE_LIST ? "list" : "value";
}

static bool is_list(int key)
{
    return config_keys[key].rule.type == VALUE_NUMBERS ||
           config_keys[key].rule.type == VALUE_WINDOWS;
}

/* A list's elements as one text, "[1,0.5]"; the opening event has been read. */
static int join_list(struct reader *reader, const char *label, const struct node *name,
                     char ret_text[VALUE_TEXT_MAX])
{
    size_t used = 0;
    ret_text[used++] = '[';
    for (;;) {
        struct node item;
        if (yaml_next(reader, &item) != 0) {
            return -1;
        }
        if (item.kind == NODE_LIST_END) {
            break;
        }
        if (item.kind != NODE_SCALAR) {
            return config_error(reader->reterr, item.origin,
                                "%s.%s: expected one value, found a %s", label, name->text,
                                kind_name(&item));
        }
        if (used + strlen(item.text) + 3 > VALUE_TEXT_MAX) {
            return config_error(reader->reterr, item.origin, "%s.%s: the list is too long", label,
                                name->text);
        }
        used += (size_t)sprintf(ret_text + used, "%s%s", used > 1 ? "," : "", item.text);
    }
    strcpy(ret_text + used, "]");
    return 0;
}

static int read_plain_key(struct reader *reader, const struct body *body, const struct node *name)
{
    const char *instead = config_retired(body->section, name->text);
    int key = -1;
    if (!instead) {
        key = config_find_key(body->section, body->label, name->text, name->origin, reader->reterr);
        if (key < 0) {
            return -1;
        }
        if (body->config->line[key]) {
            return config_error(reader->reterr, name->origin,
                                "%s%s%s: given twice (first on line %" PRIu32 ")", body->label,
                                *body->label ? "." : "", name->text, body->config->line[key]);
        }
    }
    char list[VALUE_TEXT_MAX];
    const char *text = list;
    struct node value;
    if (yaml_next(reader, &value) != 0) {
        return -1;
    }
    if (value.kind == NODE_LIST && (instead || is_list(key))) {
        if (join_list(reader, body->label, name, list) != 0) {
            return -1;
        }
    } else if (value.kind == NODE_SCALAR) {
        text = value.text;
    } else {
        return config_error(reader->reterr, name->origin, "%s%s%s: expected one value, found a %s",
                            body->label, *body->label ? "." : "", name->text, kind_name(&value));
    }
    if (instead) {
        config_warn_retired(&reader->staged, body->label, name->text, text, instead, name->origin);
        return 0;
    }
    return config_assign(body->config, key, body->label, text, name->origin, reader->reterr);
}

/* In a pattern of jobs a key of plan is written plan.every. */
static int yaml_read_key(struct reader *reader, void *data, struct node *name)
{
    const struct body *body = data;
    static const char prefix[] = "plan.";
    size_t length = strlen(prefix);
    if (body->takes_plan && config_key_index("plan", name->text) >= 0 &&
        config_key_index(body->section, name->text) < 0) {
        return config_error(reader->reterr, name->origin,
                            "%s.%s: unknown key (did you mean plan.%s?)", body->label, name->text,
                            name->text);
    }
    if (!body->takes_plan || strncmp(name->text, prefix, length) != 0) {
        return read_plain_key(reader, body, name);
    }
    char label[JOB_LABEL_MAX + sizeof prefix];
    snprintf(label, sizeof label, "%s.plan", body->label);
    struct body plan = {"plan", label, body->config, false};
    memmove(name->text, name->text + length, strlen(name->text) + 1 - length);
    return read_plain_key(reader, &plan, name);
}

/* Reads a name's mapping, or more of it. */
typedef int name_reader(struct reader *reader, void *data, struct node *name);

/* Names up to the end of their mapping, each by `read`. `what` says what they are the names of. */
static int read_names(struct reader *reader, const char *label, const char *what, name_reader *read,
                      void *data)
{
    for (;;) {
        struct node name;
        if (yaml_next(reader, &name) != 0) {
            return -1;
        }
        if (name.kind == NODE_END) {
            return 0;
        }
        if (name.kind != NODE_SCALAR) {
            return config_error(reader->reterr, name.origin, "%s%sexpected %s, found a %s", label,
                                *label ? ": " : "", what, kind_name(&name));
        }
        if (read(reader, data, &name) != 0) {
            return -1;
        }
    }
}

/* The mapping that belongs to a name; an empty value counts as an empty mapping. */
static int read_body(struct reader *reader, const struct node *name, const char *label,
                     const char *what, name_reader *read, void *data)
{
    struct node node;
    if (yaml_next(reader, &node) != 0) {
        return -1;
    }
    if (node.kind == NODE_SCALAR && node.empty) {
        return 0;
    }
    if (node.kind != NODE_MAP) {
        return config_error(reader->reterr, name->origin,
                            "%s: expected lines of `key: value`, found a %s", label,
                            kind_name(&node));
    }
    return read_names(reader, label, what, read, data);
}

/* The section `jobs`: patterns of names, each with keys of `metrics` and `plan`. */
static int yaml_read_job(struct reader *reader, void *data, struct node *name)
{
    struct job_rule *rule;
    (void)data;
    if (jobs_add(&reader->staged.jobs, name->text, name->origin, reader->reterr, &rule) != 0) {
        return -1;
    }
    struct body body = {"metrics", rule->label, &rule->values, true};
    return read_body(reader, name, rule->label, "the name of a key", yaml_read_key, &body);
}

/* The section `rules`: names of rules, each with keys of a rule. */
static int read_rule_key(struct reader *reader, void *data, struct node *name)
{
    struct rule_draft *draft = data;
    enum rule_key key;
    struct node value;
    if (rules_find_key(draft, name->text, name->origin, reader->reterr, &key) != 0 ||
        yaml_next(reader, &value) != 0) {
        return -1;
    }
    if (value.kind != NODE_SCALAR) {
        return config_error(reader->reterr, name->origin, "%s.%s: expected one value, found a %s",
                            draft->label, name->text, kind_name(&value));
    }
    return rules_put(draft, key, value.text, name->origin, reader->reterr);
}

static int read_rule(struct reader *reader, void *data, struct node *name)
{
    struct rule_draft draft;
    (void)data;
    if (rules_begin(reader->staged.rules, name->text, name->origin, reader->reterr, &draft) != 0 ||
        read_body(reader, name, draft.label, "the name of a key", read_rule_key, &draft) != 0) {
        return -1;
    }
    return rules_end(reader->staged.rules, &draft, reader->reterr);
}

/* Refuses a section that is there already. */
static int begin_section(struct reader *reader, const struct node *section, size_t *line)
{
    if (*line) {
        return config_error(reader->reterr, section->origin,
                            "%s: section given twice (first on line %zu)", section->text, *line);
    }
    *line = section->origin.line;
    return 0;
}

/* A section whose keys are all left out or commented is nothing wrong. */
static int read_section(struct reader *reader, void *data, struct node *name)
{
    struct body top = {"", "", &reader->staged, false};
    (void)data;
    if (strcmp(name->text, "jobs") == 0) {
        return begin_section(reader, name, &reader->jobs_line) != 0
                   ? -1
                   : read_body(reader, name, "jobs", "a pattern of job names", yaml_read_job, NULL);
    }
    if (strcmp(name->text, "rules") == 0) {
        if (!reader->staged.rules && !(reader->staged.rules = rules_new())) {
            return config_error(reader->reterr, name->origin, "out of memory");
        }
        return begin_section(reader, name, &reader->rules_line) != 0
                   ? -1
                   : read_body(reader, name, "rules", "the name of a rule", read_rule, NULL);
    }
    if (config_key_index("", name->text) >= 0) {
        return read_plain_key(reader, &top, name);
    }
    int first = config_find_section(name->text, name->origin, reader->reterr);
    if (first < 0 || begin_section(reader, name, &reader->section_line[first]) != 0) {
        return -1;
    }
    struct body body = {name->text, name->text, &reader->staged, false};
    return read_body(reader, name, name->text, "the name of a key", yaml_read_key, &body);
}

static int read_document(struct reader *reader)
{
    struct node node;
    if (yaml_next(reader, &node) != 0) {
        return -1;
    }
    if (node.kind == NODE_SCALAR && node.empty) {
        return 0;
    }
    if (node.kind != NODE_MAP) {
        return config_error(reader->reterr, node.origin,
                            "expected sections such as `ingest:`, found a %s", kind_name(&node));
    }
    return read_names(reader, "", "the name of a section", read_section, NULL);
}

/* stream start, then nothing or one document (start, node, end), then stream end */
static int yaml_read_stream(struct reader *reader)
{
    struct node node;
    if (yaml_next(reader, &node) != 0 || yaml_next(reader, &node) != 0) {
        return -1;
    }
    if (node.kind == NODE_END) {
        return 0;
    }
    if (read_document(reader) != 0 || yaml_next(reader, &node) != 0 ||
        yaml_next(reader, &node) != 0) {
        return -1;
    }
    if (node.kind == NODE_END) {
        return 0;
    }
    return config_error(reader->reterr, node.origin,
                        "a second document begins here (valid: one per file)");
}

/* Files */

/* Fills buf with at most FILE_BYTES_MAX + 1 bytes of the file; returns their number or -1 (errno).
 */
static ssize_t slurp(const char *path, char *buf)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    size_t used = 0;
    ssize_t got;
    do {
        got = read(fd, buf + used, FILE_BYTES_MAX + 1 - used);
        used += got > 0 ? (size_t)got : 0;
    } while (got > 0 || (got < 0 && errno == EINTR));
    int error = errno;
    close(fd);
    errno = error;
    return got < 0 ? -1 : (ssize_t)used;
}

static int yaml_load_text(struct config *config, const char *path, const char *input, size_t size,
                          char *reterr)
{
    struct reader reader = {
        .path = path, .input = input, .size = size, .staged = *config, .reterr = reterr};
    reader.staged.jobs = NULL;
    reader.staged.rules = NULL;
    reader.staged.path = path;
    memset(reader.staged.line, 0, sizeof reader.staged.line);
    if (!yaml_parser_initialize(&reader.parser)) {
        return config_error(reterr, (struct origin){path, 0}, "out of memory");
    }
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)input, size);
    int result = yaml_read_stream(&reader);
    yaml_parser_delete(&reader.parser);
    if (result != 0) {
        config_clear(&reader.staged);
        return result;
    }
    /* Moves the settings that were read into *config. Overrides and rules of a file before stay
     * when this one has no such section. */
    struct config old = *config;
    *config = reader.staged;
    if (reader.jobs_line == 0) {
        config->jobs = old.jobs;
        old.jobs = NULL;
    }
    if (reader.rules_line == 0) {
        config->rules = old.rules;
        old.rules = NULL;
    }
    config_clear(&old);
    jobs_settle(config);
    return 0;
}

int config_load(struct config *config, const char *path, char *reterr)
{
    struct origin origin = {path, 0};
    char *input = malloc(FILE_BYTES_MAX + 1);
    if (!input) {
        return config_error(reterr, origin, "out of memory");
    }
    int result;
    ssize_t size = slurp(path, input);
    if (size < 0) {
        result = config_error(reterr, origin, "cannot read it: %s", strerror(errno));
    } else if (size > FILE_BYTES_MAX) {
        result = config_error(reterr, origin, "larger than 1 MiB, so not a config file");
    } else {
        result = yaml_load_text(config, path, input, (size_t)size, reterr);
    }
    free(input);
    return result;
}

static int set_key(struct config *config, const char *assignment, char *reterr)
{
    struct origin origin = {"--set", 0};
    char section[64], name[64], quoted[QUOTE_MAX + 4];
    int value_at = -1, key = -1;
    if (strncmp(assignment, "jobs.", 5) == 0) {
        return config_error(reterr, origin, "'%s': settings of some jobs belong into a file",
                            config_quotable(assignment, quoted));
    }
    if (strncmp(assignment, "rules.", 6) == 0) {
        return config_error(reterr, origin, "'%s': rules belong into a file",
                            config_quotable(assignment, quoted));
    }
    if (sscanf(assignment, "%63[^.=]=%n", name, &value_at) == 1 && value_at >= 0) {
        key = config_key_index("", name);
    }
    if (key >= 0) {
        return config_assign(config, key, "", assignment + value_at, origin, reterr);
    }
    value_at = -1;
    if (sscanf(assignment, "%63[^.=].%63[^.=]=%n", section, name, &value_at) != 2 || value_at < 0) {
        return config_error(reterr, origin, "'%s': not of the form section.key=value",
                            config_quotable(assignment, quoted));
    }
    if (config_find_section(section, origin, reterr) < 0) {
        return -1;
    }
    const char *instead = config_retired(section, name);
    if (instead) {
        config_warn_retired(config, section, name, assignment + value_at, instead, origin);
        return 0;
    }
    key = config_find_key(section, section, name, origin, reterr);
    return key < 0 ? -1
                   : config_assign(config, key, section, assignment + value_at, origin, reterr);
}

int config_set(struct config *config, const char *assignment, char *reterr)
{
    int result = set_key(config, assignment, reterr);
    jobs_settle(config);
    return result;
}
