// SPDX-License-Identifier: MIT
// The alert rules in force, as attnd has them: what each compares, in words, and its bounds on a chart.
import { find } from "./api.js";
import { h, layerName, number } from "./dom.js";

/** Rules that apply to a job; [] when attnd cannot say. */
export const loadRules = (job) => find("rules", { job }).then((rules) => rules ?? [], () => []);

/** The metric that shows a number of a head which only rules have. */
const SHOWN_BY = {
    saturated_entropy: "entropy_sans_first",
    saturated_alone: "entropy_sans_first",
    lost_focus: "entropy_normalized",
    written_share: "wv_wo.spectral_norm",
    twin_correlation: "wq.correlation_max",
    sink_share: "first_token",
};

/** The metric that shows what a rule judges. */
export const shownBy = (metric) => SHOWN_BY[metric] ?? metric;

/** Statistics of a window that stand on the axis of the metric itself. */
const OF_VALUES = new Set(["mean", "min", "max", "p10", "p50", "p90", "p99", "last"]);

/** Numbers that no metric has, and that have another unit than the metric that shows them. */
const OF_THEIR_OWN = new Set(["lost_focus", "written_share", "twin_correlation", "sink_share"]);

/**
 * Whether the bound of a rule is a place on the axis of the metric that shows it: those of rates, shares of the keys and
 * drift are not.
 */
export const isOnAxis = ({ condition, statistic, per_key: isPerKey, metric }) =>
    ["below", "above"].includes(condition) && OF_VALUES.has(statistic) && !isPerKey && !OF_THEIR_OWN.has(metric);

/** Names the number that a rule compares: "entropy_normalized", "max of max_logit". */
export const comparedText = ({ metric, statistic }) => (statistic === "mean" ? metric : `${statistic} of ${metric}`);

/** The condition of a rule on the axis beside a number: "below 0.1", or that this one is not beyond the bound, any more or yet. */
export function boundText({ condition }, bound, value, isBefore) {
    const isWithin = condition === "below" ? value >= bound : value <= bound,
        within = `${condition === "below" ? "above" : "below"} ${number(bound)}`;
    return isWithin ? (isBefore ? within : `back ${within}`) : `${condition} ${number(bound)}`;
}

/** Some rules judge a head only after it was clear of their bound: heads that begin there are none. */
const beforeText = ({ after_clear: isAfter, condition, clear }) =>
    isAfter ? ` after it was ${condition === "above" ? "below" : "above"} ${number(clear)}` : "";

/** Why a rule matters and what people do about it; empty for rules that are not attnd's own. */
export const whyNode = ({ why, advice }) =>
    h("p", { class: "why" }, why ?? "", advice ? h("span", {}, " ", h("b", {}, "Advice: "), advice) : "");

/** A pattern of the config, as fnmatch reads it. */
function patternOf(text) {
    const source = text.replace(/\[!|[.+^${}()|\\*?]/g, (c) => ({ "[!": "[^", "*": ".*", "?": "." })[c] ?? `\\${c}`);
    try {
        return new RegExp(`^${source}$`, "s");
    } catch {
        return /(?!)/; // no pattern: nothing is meant
    }
}

/**
 * Bounds of rules on the axis of a metric: [{rule, value, side, name}]; `side` is "below" or "above". With a `layer`
 * they are the bounds of rules that judge it.
 */
export function boundsOf(rules, metric, layer = null) {
    return rules
        .filter(
            (rule) =>
                shownBy(rule.metric) === metric.name &&
                isOnAxis(rule) &&
                (!layer || patternOf(rule.layer).test(layerName(layer))),
        )
        .map((rule) => ({
            rule: rule.name,
            value: rule.bound,
            side: rule.condition,
            name: `${rule.name}: ${rule.each === "head" ? "" : `${rule.statistic} of a ${rule.each} `}${rule.condition} ${number(rule.bound)}${beforeText(rule)}`,
        }));
}
