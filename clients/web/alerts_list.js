// SPDX-License-Identifier: MIT
// What fires now, since when, and what was resolved before.
import { h, headName, layerName, number } from "./dom.js";
import { link } from "./router.js";

const RANK = { critical: 0, warning: 1, info: 2 };
const SHOWN = 50, RESOLVED = 20;

export function where(alert) {
  if (alert.stack === null) return "the run";
  return alert.head === null ? layerName(alert) : headName(alert, alert.head);
}

/** "since epoch 2, step 130", or from when to when. */
export function since(alert) {
  const { epoch, step } = alert.since;
  return alert.state === "firing" ? `since epoch ${epoch}, step ${step}` : `from epoch ${epoch}, step ${step} to step ${alert.step}`;
}

function entry(alert) {
  const place = { job: alert.job, stack: alert.stack, layer: alert.layer, site: alert.site, head: alert.head ?? 0 };
  const target = alert.stack === null ? null : alert.head === null ? link("layer", place) : link("head", { ...place, metric: alert.metric });
  const fires = alert.state === "firing";
  return h("li", { class: alert.state },
    h("span", { class: `badge ${fires ? alert.severity : ""}`.trim() }, fires ? alert.severity : "resolved"), " ", h("b", {}, alert.rule), " ",
    target ? h("a", { href: target }, where(alert)) : where(alert),
    h("div", { class: "soft" }, alert.value === null ? since(alert) : `${since(alert)} · ${alert.metric} ${number(alert.value)}, bound ${number(alert.bound)}`),
    h("div", { class: "soft" }, alert.message));
}

/** Alert maps as a list: those that fire, the worst first; then those that were resolved, newest first. */
export function alertsList(firing, log = []) {
  const sorted = [...firing].sort((a, b) => RANK[a.severity] - RANK[b.severity] || b.step - a.step);
  const resolved = log.filter((alert) => alert.state === "resolved");
  const more = (list, most) => list.length > most ? h("li", {}, `and ${list.length - most} more`) : null;
  return h("div", {},
    sorted.length ? h("ul", { class: "list" }, sorted.slice(0, SHOWN).map(entry), more(sorted, SHOWN)) : h("p", { class: "soft" }, "Nothing fires."),
    resolved.length ? [h("h3", {}, "Resolved"), h("ul", { class: "list" }, resolved.slice(0, RESOLVED).map(entry), more(resolved, RESOLVED))] : null);
}
