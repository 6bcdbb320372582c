// SPDX-License-Identifier: MIT
// Trouble of heads, as attnd ranks it: the score of each head, what fires by rule and layer, the worst first, and the
// trouble of one head in words.
import { find } from "./api.js";
import { h, layerName } from "./dom.js";
import { troubleText, whyNode } from "./rules.js";

/** Heads that are asked for, the worst of a run. */
const HEADS = 1000;

/** The answer of attnd, with heads that are on their way to a bound; null when it knows nothing of the run. */
export const loadTrouble = (job, run) => find("trouble", { job, run, state: "approaching", limit: HEADS });

/** How a head with a score is outlined: it fires, it is beyond a bound or near it, or not at all (null). */
export function outlineOf(score) {
    if (!(score >= 0.1)) return null;
    return score >= 1 ? "firing" : score >= 0.5 ? "beyond" : "near";
}

/** Since when a head is in trouble, or an alert fires; "" where that is not known. */
export const sinceText = ({ since, windows }) =>
    since ? `since step ${since.step}${since.epoch ? `, epoch ${since.epoch}` : ""}${windows > 1 ? ` (${windows} windows)` : ""}` : "";

/** Heads of the answer by the name of their layer, those with the worst first. */
export function headsByLayer(heads) {
    const layers = new Map();
    for (const head of heads) {
        const name = layerName(head);
        if (!layers.has(name)) layers.set(name, []);
        layers.get(name).push(head);
    }
    return layers;
}

/** The rows of a rule: of each layer its heads that fire, and alerts. */
const rowsOf = (heads, alerts) => [
    ...[...headsByLayer(heads).values()].map((list) => ({ heads: list })),
    ...alerts.map((alert) => ({ alert })),
];

const RANK = { critical: 3, warning: 2, info: 1 };

/**
 * Groups what fires by rule, the worst first: [{rule, severity, why, advice, heads, rows}]. A row is {heads}, of one layer, the
 * worst first, or {alert} of a layer or run for which no head stands. `rules`: those in force.
 */
export function groupsOf({ heads, others }, rules) {
    const firing = heads.filter((head) => head.score >= 1),
        names = new Set([...firing, ...others].map((one) => one.rule));
    const groups = [...names].map((rule) => {
        const own = firing.filter((head) => head.rule === rule),
            alerts = others.filter((alert) => alert.rule === rule),
            { severity } = own[0] ?? alerts[0],
            { why, advice } = rules.find((one) => one.name === rule) ?? {};
        return {
            rule,
            severity,
            why: why ?? "",
            advice: advice ?? "",
            worst: own[0]?.score ?? RANK[severity] ?? 0,
            heads: own,
            rows: rowsOf(own, alerts),
        };
    });
    return groups.sort((a, b) => b.worst - a.worst);
}

const section = ({ severity, since, windows }, text, rule) =>
    h(
        "section",
        { class: `trouble ${severity}`, "aria-label": "trouble" },
        h("header", {}, severity ? h("span", { class: `badge ${severity}` }, severity) : "", " ", text),
        h("p", { class: "soft" }, sinceText({ since, windows })),
        rule ? whyNode(rule) : "",
    );

/**
 * Nodes for a head of `layer` and for alerts about the layer that no head stands for. `trouble`: a RunTrouble at the moment
 * that is shown; `rules` in force; `valueOf(rule)`: what the rule compares of the head, where the trouble does not say.
 */
export function headTrouble(trouble, layer, head, rules, valueOf) {
    const ruleOf = ({ rule }) => rules.find((one) => one.name === rule),
        own = trouble.headsOf(layer).find((one) => one.head === head),
        others = (trouble.isKnown ? (trouble.found?.others ?? []) : []).filter(
            (alert) => alert.stack !== null && layerName(alert) === layerName(layer),
        );
    const nodes = others.map((alert) => section(alert, `${alert.rule}: ${alert.message}`, ruleOf(alert)));
    if (!own?.rule) return nodes;
    const rule = ruleOf(own),
        told = { ...own, value: own.value ?? (rule && valueOf(rule)) };
    return [section(own.score >= 1 ? own : { ...own, severity: "" }, troubleText(told, rules), own.score >= 0.5 ? rule : null), ...nodes];
}
