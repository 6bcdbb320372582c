// SPDX-License-Identifier: MIT
// Trouble of heads, as attnd ranks it: the score of each head, and what fires by rule and layer, the worst first.
import { find } from "./api.js";
import { layerName } from "./dom.js";

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
 * What fires, by rule, the worst first: [{rule, severity, why, advice, heads, rows}]. A row is {heads}, of one layer, the
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
