// SPDX-License-Identifier: MIT
// Marks and outlines of the cells of a layer on the overview: its alerts, heads in trouble.
import { layerName, number } from "./dom.js";
import { troubleText } from "./rules.js";
import { outlineOf } from "./trouble.js";

const isOf = (layer) => (alert) => layerName(alert) === layerName(layer);

const alertMark = (alert) => ({
    head: alert.head,
    kind: alert.severity === "info" ? "info" : "alert",
    text: `● ${alert.rule} since epoch ${alert.since.epoch}, step ${alert.since.step}`,
});

/** A head of a past window has a score alone. */
const troubleMark = (head, rules) => ({
    head: head.head,
    kind: head.state,
    text: `${head.score >= 1 ? "■" : "□"} ${head.value === undefined ? `trouble ${number(head.score)}` : troubleText(head, rules)}`,
});

/**
 * [{head (null: the layer), kind, text}]. `held`: alerts that fire; `heads`: those of the layer in trouble; `rules` in
 * force.
 */
export const marksOf = (layer, { held, heads, rules }) => [
    ...held.filter(isOf(layer)).map(alertMark),
    ...heads.map((head) => troubleMark(head, rules)),
];

/** "firing", "beyond", "near" or null of a head, by its score or by an alert of its own. */
export function outlinesOf(layer, held, scores) {
    const firing = new Set(held.filter(isOf(layer)).map((alert) => alert.head));
    return (head) => (firing.has(head) ? "firing" : outlineOf(scores?.[head]));
}
