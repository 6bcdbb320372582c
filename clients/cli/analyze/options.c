/* SPDX-License-Identifier: MIT */
/* options: one table drives getopt, the checks and all that is said of them. Most options are a
 * flag, a whole number or a real number with bounds, stored where the table says; the others have a
 * setter. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/system.h"
#include "clients/cli/analyze/options.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define THREADS_MAX 256
/* The grain; as the daemon's default. */
#define BLOCK_ENTRIES 1048576

/* Lists --------------------------------------------------------------------------------------- */

static void clear_list(struct number_list *list)
{
    free(list->reals);
    free(list->lengths);
    *list = (struct number_list){0};
}

/* The finite numbers between commas; with `whole` lengths. Returns whether all are valid. */
static bool parse_list(const char *text, bool whole, struct number_list *list)
{
    uint32_t count = 1;
    for (const char *at = text; *at; at++) {
        count += *at == ',';
    }
    clear_list(list);
    list->reals = memory_new(count, sizeof *list->reals);
    list->lengths = memory_new(count, sizeof *list->lengths);
    for (list->count = 0; list->count < count; list->count++, text++) {
        char *end;
        double number = strtod(text, &end);
        bool length = strspn(text, "0123456789") == (size_t)(end - text) && number <= INT32_MAX;
        if (end == text || *text == ' ' || (*end != ',' && *end != '\0') || !isfinite(number) ||
            (whole && !length)) {
            return false;
        }
        list->reals[list->count] = number;
        list->lengths[list->count] = length ? (int32_t)number : 0;
        text = end;
    }
    return true;
}

static const char *set_lengths(void *to, const char *text)
{
    return parse_list(text, true, to) ? NULL : "valid: numbers such as 12,9,16, one per sample";
}

static const char *set_head_weights(void *to, const char *text)
{
    return parse_list(text, false, to) ? NULL
                                       : "valid: numbers such as 0.5,0.25,0.25, one per head";
}

/* Words --------------------------------------------------------------------------------------- */

static const char *const group_name[METRIC_GROUP_COUNT] = {
    [METRIC_GROUP_CORE] = "core",         [METRIC_GROUP_IMPORTANCE] = "importance",
    [METRIC_GROUP_PAIRS] = "pairs",       [METRIC_GROUP_SIMILARITY] = "similarity",
    [METRIC_GROUP_SPECTRUM] = "spectrum",
};

static const char *set_groups(void *to, const char *text)
{
    return option_list(text, group_name, METRIC_GROUP_COUNT, true, to)
               ? NULL
               : "valid: core, importance, pairs, similarity, spectrum, all, none, with commas";
}

static const char *const efforts[] = {[SPECTRUM_NORM] = "norm",
                                      [SPECTRUM_LEADING] = "leading",
                                      [SPECTRUM_FULL] = "full",
                                      [SPECTRUM_EIGENVALUES] = "eigenvalues"};

static const char *options_set_isa(void *to, const char *text)
{
    static char wrong[96];
    if (isa_parse(text, strlen(text), to) == 0) {
        return NULL;
    }
    size_t used = (size_t)snprintf(wrong, sizeof wrong, "valid: auto");
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (isa_available((enum isa)isa)) {
            used += (size_t)snprintf(wrong + used, sizeof wrong - used, ", %s", isa_name[isa]);
        }
    }
    return wrong;
}

/* The table ----------------------------------------------------------------------------------- */

/* clang-format off */
#define TITLE(name) {.text = {name, NULL, NULL, NULL}}
#define PLAIN(name, argument, form, member, min, max, help) \
    {.text = {name, argument, help, NULL}, .field = OPTION_FIELD(form, struct options, member, min, max)}
#define FLAG(name, member, help) PLAIN(name, NULL, OPTION_FLAG, member, 0, 0, help)
#define COUNT(name, member, min, max, help) PLAIN(name, "N", OPTION_COUNT, member, min, max, help)
#define REAL(name, member, min, max, help) PLAIN(name, "X", OPTION_REAL, member, min, max, help)
#define SET(name, argument, member, setter, values, help) \
    {.text = {name, argument, help, values}, .field = {.offset = offsetof(struct options, member)}, .set = setter}
/* An option of every other command: taken, so that "attnctl --endpoint ..." may be an alias. */
#define UNUSED(name, argument) {.text = {name, argument, "", NULL}}

static const struct option_row option_info[] = {
    UNUSED("address", "ADDRESS"),
    UNUSED("endpoint", "ENDPOINT"),
    UNUSED("timeout", "SECONDS"),
    TITLE("output"),
    FLAG("json", json, "everything, as JSON (attnd.analysis/1)"),
    FLAG("statistics", statistics, "mean, std, min, max of each map's entries, as JSON"),
    TITLE("roles of arrays"),
    SET("name", "PAT=TARGET", naming, naming_add_rule, NULL, "arrays named PAT are TARGET; may be given again"),
    SET("ignore", "PAT", naming, naming_add_ignored, NULL, "leave arrays named PAT out; may be given again"),
    SET("stack", "STACK", naming, naming_set_stack, "encoder|decoder",
        "stack of names without one (decoder)"),
    TITLE("visible keys"),
    FLAG("causal", causal, "key j only for queries i >= j (self-attention; where there are layers of both stacks, "
         "the decoder's)"),
    COUNT("window", window, 1, INT32_MAX, "only keys j > i - N; for the same layers"),
    SET("lengths", "A,B,..", lengths, set_lengths, NULL, "valid queries and keys per sample (right padding)"),
    SET("q-lengths", "A,B,..", q_lengths, set_lengths, NULL, "valid queries; before --lengths"),
    SET("k-lengths", "A,B,..", k_lengths, set_lengths, NULL, "valid keys; before --lengths"),
    COUNT("q-offset", q_offset, 0, INT32_MAX, "position of query 0 among the keys (self-attention; default: the queries are the last ones)"),
    FLAG("dropout", dropout, "weights are after dropout: sums are not checked"),
    FLAG("learned-sink", learned_sink, "rows may sum to less than 1"),
    TITLE("queries and keys; projections"),
    REAL("scale", scale, -1e30, 1e30, "scale of the logits (default 1/sqrt(d))"),
    REAL("softcap", softcap, 0, 1e30, "logits are X tanh(logit / X); 0 = none"),
    COUNT("heads", heads, 1, HEADS_MOST, "heads of the projections wq, wk, wv, wo"),
    COUNT("kv-heads", kv_heads, 1, HEADS_MOST, "their key and value heads (by their shapes)"),
    COUNT("head-dim", head_dim, 1, 65536, "rows per head (by their shapes)"),
    TITLE("computation"),
    SET("groups", "LIST", plan.group, set_groups, "core|importance|pairs|similarity|spectrum|all|none,",
        "any of core, importance, pairs, similarity, spectrum; all (default) or none"),
    COUNT("top-pairs", plan.top_pairs, 1, TOP_PAIRS_MAX, "number of top pairs (10)"),
    FLAG("head-pairs", plan.head_pairs, "top pairs of each head as well"),
    COUNT("local-window", plan.local_window, 0, INT32_MAX, "positions on either side for local_mass (8)"),
    SET("head-weights", "A,B,..", head_weights, set_head_weights, NULL, "weights of the map aggregate.weighted, one per head"),
    REAL("redundant-js", plan.redundant_js, 0, 1, "heads nearer than this, in nats, are redundant (0.05)"),
    {.text = {"spectrum", "EFFORT", "full (default), eigenvalues (also eigenvalue_2 of every map: 10 to 30 times as long), leading, norm", "full|eigenvalues|leading|norm"},
     .field = {.offset = offsetof(struct options, plan.spectrum_effort)}, OPTION_WORDS(efforts), .valid = "valid: full, eigenvalues, leading, norm"},
    COUNT("spectrum-max", plan.spectrum_max_size, 1, 65536, "no spectrum for larger maps (1024)"),
    COUNT("sample", plan.spectrum_sample, 0, INT32_MAX, "sample whose spectrum is computed (0; the last one, if there are fewer)"),
    COUNT("qk-maps", plan.qk_maps_max_size, 0, 65536, "largest map made and measured from q and k (0: maps are never made)"),
    TITLE("execution"),
    SET("isa", "NAME", plan.isa, options_set_isa, "auto|scalar|portable|avx2|avx512", "auto, scalar, portable, avx2 or avx512"),
    COUNT("threads", threads, 1, THREADS_MAX, "(number of cores)"),
};
/* clang-format on */
const struct option_table analyze_options = {OPTION_ROWS(option_info),
                                             .command = "attnctl analyze"};

int options_parse(int argc, char **argv, struct options *ret_options, char *reterr)
{
    cpu_set_t set;
    int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    struct options options = {
        .naming = {.stack = STACK_DECODER},
        .scale = NAN,
        .q_offset = OPTIONS_LAST,
        .plan = {.whole = true,
                 .top_pairs = 10,
                 .local_window = 8,
                 .redundant_js = 0.05,
                 .spectrum_max_size = 1024,
                 .spectrum_effort = SPECTRUM_FULL,
                 .block_entries = BLOCK_ENTRIES,
                 .isa = isa_best()},
        .threads = cores < 1             ? 1
                   : cores > THREADS_MAX ? THREADS_MAX
                                         : (uint32_t)cores,
    };
    option_list("all", group_name, METRIC_GROUP_COUNT, true, options.plan.group);
    struct option_rest rest;
    int rc = option_parse(&analyze_options, argc, argv, option_take, &options, &rest, reterr,
                          OPTIONS_ERROR_MAX);
    if (rc != 0) {
        options_clear(&options);
        return rc;
    }
    options.plan.head_weights = options.head_weights.reals;
    options.plan.head_weight_count = options.head_weights.count;
    options.files = rest.words;
    options.file_count = rest.word_count;
    *ret_options = options;
    return 0;
}

void options_clear(struct options *options)
{
    clear_list(&options->lengths);
    clear_list(&options->q_lengths);
    clear_list(&options->k_lengths);
    clear_list(&options->head_weights);
}

/* The help ------------------------------------------------------------------------------------ */

static const char names[] =
    "\nBy the same engine as the daemon.\n\n"
    "Files: .npy, .npz (np.savez, np.savez_compressed), .safetensors; any number of\n"
    "them; - is standard input. Maps in f32, f16, bf16 or f64; masks in bool or any\n"
    "integer, tokens and documents in any integer. An array is placed by its name, a\n"
    ".npy file's by the file's name:\n"
    "  <stack>.<layer>.<site>  weights [B,H,Tq,Tk], [H,Tq,Tk] or [Tq,Tk]; encoder or\n"
    "                          decoder, a number, self or cross: decoder.0.self\n"
    "    .q .k                 instead of the weights, or besides them: a result of\n"
    "                          their own. [B,H,T,d] or [H,T,d], after the position\n"
    "                          encoding; k may have fewer heads\n"
    "    .v                    values beside either: numbers of the output, A V\n"
    "    .dout                 the loss's gradient by A V [B,H,Tq,d]; needs .q .k .v\n"
    "    .wo_r .x_norm         [H,r,d]: R of the QR of each head's columns of W_o;\n"
    "                          [B,Tq]: norms of the layer's input. With .v\n"
    "    .mask                 1 = may attend: [B,Tq,Tk], [B,1,Tq,Tk] or [Tq,Tk]; or\n"
    "                          of padding: [B,Tk], 1 = a token. Its keys are left\n"
    "                          out, in self-attention its queries too. Where B = Tq,\n"
    "                          [Tq,Tk] is meant, unless the array is called\n"
    "                          attention_mask\n"
    "    .attention_mask       the same as .mask\n"
    "    .tokens .documents    [B,Tk], or [Tk] of a single sample\n"
    "    .input_ids            the same as .tokens\n"
    "    .grad                 the loss's gradient by the weights, shaped like them\n"
    "    .wq .wk .wv .wo       projections [out,in]; need --heads\n"
    "  weights.<layer>.wq      the same as STACK.<layer>.self.wq (.wk .wv .wo)\n"
    "  attentions.<layer>, arr_<layer>   STACK.<layer>.self; also attentions_3\n"
    "  encoder_attentions.<layer>  encoder.<layer>.self\n"
    "  decoder_attentions.<layer>  decoder.<layer>.self\n"
    "  cross_attentions.<layer>    decoder.<layer>.cross\n"
    "  mask, tokens, documents, attention_mask, input_ids\n"
    "                          of every self-attention that has none of its own\n"
    "A map that is alone, in a .npy file of any name, is STACK.0.self. Where a map of\n"
    "self-attention has fewer queries than keys, as of generate() with a cache, they\n"
    "are the last ones, unless --q-offset says where they begin; in cross-attention,\n"
    "which its name says, queries have no place among the keys.\n";

static const char notes[] =
    "\nPAT matches a whole name: {layer} is a number, * any text. --name goes before\n"
    "--ignore, and --ignore before the names above. A PAT without any array is an\n"
    "error.\n"
    "\nmore examples:\n"
    "  np.savez('maps.npz', *out.attentions)      # in Python, Hugging Face; or\n"
    "  np.savez('maps.npz', *out.attentions, attention_mask=mask, input_ids=ids)\n"
    "  attnctl analyze qk.safetensors --causal \\\n"
    "      --name 'h.{layer}.q=decoder.{layer}.self.q' \\\n"
    "      --name 'h.{layer}.k=decoder.{layer}.self.k'\n"
    "  attnctl analyze model.safetensors --heads 12 --ignore '*' \\\n"
    "      --name '*.{layer}.self_attn.q_proj.weight=weights.{layer}.wq'\n"
    "  attnctl analyze maps.npz --statistics\n";

void options_print_names(FILE *out)
{
    fputs(names, out);
}

void options_print_columns(FILE *out)
{
    fputs("\ncolumns of the table (a column without numbers is left out):\n", out);
    show_print_legend(out);
    fputs(notes, out);
}
