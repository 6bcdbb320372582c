/* SPDX-License-Identifier: MIT */
/* The metrics that a reader can choose from, with what they mean in one line. */
#include "daemon/http/internal.h"

#include "proto/metric.h"

#include <jansson.h>
#include <string.h>

/* The range of a head's number; equal bounds when there is no such range. */
struct meaning {
    const char *text;
    double low, high;
};

static const struct meaning meanings[METRIC_COUNT] = {
    [METRIC_ENTROPY] = {"entropy of a query's weights", 0, 0},
    [METRIC_ENTROPY_NORMALIZED] = {"entropy over what it could be: 0 one key, 1 spread evenly", 0,
                                   1},
    [METRIC_EFFECTIVE_KEYS] = {"keys that a query attends to: exp(entropy)", 0, 0},
    [METRIC_CONFIDENCE] = {"largest weight of a query", 0, 1},
    [METRIC_DIAGONAL] = {"weight on the query's own position", 0, 1},
    [METRIC_LOCAL_MASS] = {"weight near the query's position", 0, 1},
    [METRIC_MEAN_DISTANCE] = {"mean distance between query and key", 0, 0},
    [METRIC_MEAN_DISTANCE_NORMALIZED] = {"mean distance over the largest possible", 0, 1},
    [METRIC_PREVIOUS_TOKEN] = {"weight on the token before", 0, 1},
    [METRIC_NEXT_TOKEN] = {"weight on the token after", 0, 1},
    [METRIC_FIRST_TOKEN] = {"weight on the first token: attention sink", 0, 1},
    [METRIC_ENTROPY_SANS_FIRST] = {"normalized entropy without the first key", 0, 1},
    [METRIC_TAIL_MASS] = {"weight outside a query's 8 largest", 0, 1},
    [METRIC_INDUCTION] = {"weight on tokens that followed the same token before", 0, 1},
    [METRIC_DUPLICATE_TOKEN] = {"weight on earlier occurrences of the same token", 0, 1},
    [METRIC_SINK_DEFICIT] = {"weight that a learned sink took", 0, 1},
    [METRIC_MAX_LOGIT] = {"largest logit of a query", 0, 0},
    [METRIC_MEAN] = {"mean weight", 0, 1},
    [METRIC_MIN] = {"smallest weight", 0, 1},
    [METRIC_MAX] = {"largest weight", 0, 1},
    [METRIC_STD] = {"standard deviation of the weights", 0, 0},
    [METRIC_VARIANCE] = {"variance of the weights", 0, 0},
    [METRIC_LOCALITY] = {"weight on both neighbours", 0, 1},
    [METRIC_MAX_ABS_LOGIT] = {"largest logit by magnitude", 0, 0},
    [METRIC_MEAN_LOGIT] = {"mean logit", 0, 0},
    [METRIC_STD_LOGIT] = {"standard deviation of the logits", 0, 0},
    [METRIC_QK_COSINE] = {"mean cosine of query and key vectors", -1, 1},
    [METRIC_QK_COSINE_MAX] = {"largest cosine of query and key vectors", -1, 1},
    [METRIC_Q_NORM] = {"mean norm of the query vectors", 0, 0},
    [METRIC_K_NORM] = {"mean norm of the key vectors", 0, 0},
    [METRIC_OUTPUT_NORM] = {"mean norm of the head's output", 0, 0},
    [METRIC_NORM_WEIGHTED_ENTROPY] = {"entropy of the weights times the norms of the values", 0, 0},
    [METRIC_IMPORTANCE] = {"variance and entropy score, over the heads of a layer", 0, 1},
    [METRIC_IMPORTANCE_GRADIENT] = {"weight times gradient, over the heads of a layer", 0, 1},
    [METRIC_SPECTRAL_NORM] = {"largest singular value of the map", 0, 0},
    [METRIC_CONDITION_NUMBER] = {"largest over smallest singular value", 0, 0},
    [METRIC_RANK] = {"numeric rank of the map", 0, 0},
    [METRIC_EFFECTIVE_RANK] = {"singular values above 1 % of the largest", 0, 0},
    [METRIC_EFFECTIVE_RANK_ENTROPY] = {"exp of the entropy of the singular values", 0, 0},
    [METRIC_STABLE_RANK] = {"squared Frobenius norm over squared spectral norm", 0, 0},
    [METRIC_NUCLEAR_NORM] = {"sum of the singular values", 0, 0},
    [METRIC_EIGENVALUE_2] = {"second largest eigenvalue by modulus", 0, 0},
    [METRIC_QK_SPECTRAL_NORM] = {"largest singular value of Q K^T", 0, 0},
    [METRIC_QK_CONDITION_NUMBER] = {"largest over smallest singular value of Q K^T", 0, 0},
    [METRIC_QK_RANK] = {"numeric rank of Q K^T", 0, 0},
    [METRIC_QK_EFFECTIVE_RANK] = {"singular values of Q K^T above 1 % of the largest", 0, 0},
    [METRIC_QK_EFFECTIVE_RANK_ENTROPY] = {"exp of the entropy of the singular values of Q K^T", 0,
                                          0},
    [METRIC_QK_STABLE_RANK] = {"stable rank of Q K^T", 0, 0},
    [METRIC_QK_NUCLEAR_NORM] = {"sum of the singular values of Q K^T", 0, 0},
};

static json_t *metric_list_describe(int i)
{
    const struct metric_info *info = &metric_info[i];
    const struct meaning *meaning = &meanings[i];
    json_t *domain = meaning->low < meaning->high ? json_pack("[f, f]", meaning->low, meaning->high)
                                                  : json_null();
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:s}", "name", info->name, "unit", info->unit,
                     "per", info->kind == METRIC_KIND_ROW ? "row" : "message", "group",
                     info->group == METRIC_GROUP_SPECTRUM ? "spectrum" : "heads", "domain", domain,
                     "description", meaning->text);
}

void handle_metric_list(struct request *request)
{
    json_t *list = json_array();
    for (int i = 0; i < METRIC_COUNT; i++) {
        json_array_append_new(list, metric_list_describe(i));
    }
    char *text = list ? json_dumps(list, JSON_COMPACT) : NULL;
    json_decref(list);
    if (text) {
        reply_owned(request, MHD_HTTP_OK, "application/json", text, strlen(text));
    } else {
        reply_code(request, ERR_MEMORY, NULL);
    }
}
