// SPDX-License-Identifier: MIT
// The alerts that fire now, and since when.
import { h, headName, layerName } from "./dom.js";
import { link } from "./router.js";

const RANK = { critical: 0, warning: 1, info: 2 };

export function where(alert) {
    if (alert.stack === null) return "the run";
    return alert.head === null ? layerName(alert) : headName(alert, alert.head);
}

function untilOf(alert) {
    if (Number.isFinite(alert.to)) return ` until step ${alert.to}`;
    return alert.byTheEnd ? " to the end of the run" : "";
}

function entry(alert) {
    const place = { job: alert.job, stack: alert.stack, layer: alert.layer, site: alert.site, head: alert.head ?? 0 };
    const target =
        alert.stack === null
            ? null
            : alert.head === null
              ? link("layer", place)
              : link("head", { ...place, metric: alert.metric });
    return h(
        "li",
        { class: alert.state },
        h("span", { class: `badge ${alert.severity}` }, alert.severity),
        " ",
        h("b", {}, alert.rule),
        " ",
        target ? h("a", { href: target }, where(alert)) : where(alert),
        h("div", { class: "soft" }, `since epoch ${alert.since.epoch}, step ${alert.since.step}${untilOf(alert)}`),
        h("div", { class: "soft" }, alert.message),
    );
}

/** A list of alert maps, the worst first; a sentence when there is none. */
export function alertsList(alerts) {
    if (alerts.length === 0) return h("p", {}, "Nothing.");
    const sorted = [...alerts].sort((a, b) => RANK[a.severity] - RANK[b.severity] || b.step - a.step);
    return h(
        "ul",
        { class: "list" },
        sorted.slice(0, 50).map(entry),
        sorted.length > 50 ? h("li", {}, `and ${sorted.length - 50} more`) : null,
    );
}
