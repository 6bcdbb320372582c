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

/** The rules of the warnings and worse that fire about a layer: by head, and about the layer itself by null. */
export const firingOf = (layer, held) =>
    new Map(held.filter((one) => isOf(layer)(one) && one.severity !== "info").map(({ head, rule }) => [head, rule]));
