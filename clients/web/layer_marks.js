// SPDX-License-Identifier: MIT
// Marks and outlines of the cells of a layer: the alerts that fire about it and its heads.
import { layerName } from "./dom.js";

const isOf = (layer) => (alert) => layerName(alert) === layerName(layer);

/** [{head (null: the layer), kind, text}]. `held`: alerts that fire. */
export const marksOf = (layer, held) =>
    held.filter(isOf(layer)).map((alert) => ({
        head: alert.head,
        kind: alert.severity === "info" ? "info" : "alert",
        text: `● ${alert.rule} since epoch ${alert.since.epoch}, step ${alert.since.step}`,
    }));

/** Whether a warning or worse fires about a head; null: about the layer. */
export function outlinesOf(layer, held) {
    const own = held.filter(isOf(layer)).filter(({ severity }) => severity !== "info"),
        firing = new Set(own.map(({ head }) => head));
    return (head) => firing.has(head);
}
