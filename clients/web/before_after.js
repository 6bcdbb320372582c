// SPDX-License-Identifier: MIT
// The maps of what broke first, a head or a layer: of the last window before, and of the one after.
import { where } from "./alerts_list.js";
import { windowOfStep } from "./chart_marks.js";
import { h } from "./dom.js";
import { figure } from "./figure.js";
import { drawMap } from "./map_view.js";
import { openRun } from "./run.js";

const SIDE = 160;

export class BeforeAfter {
    /** `store`, `params` and `isCurrent` as the view has them. */
    constructor({ store, params, isCurrent }) {
        Object.assign(this, { store, params, isCurrent, key: "" });
        this.frame = figure("", "", "before-after").plain();
        this.frame.hidden = true;
    }

    /** The first of these alerts to begin decides, those about heads before those about layers; `windows` of a grid. */
    async draw(alerts, windows) {
        const [first] = alerts.filter(({ stack }) => stack !== null).sort((a, b) => (a.head === null) - (b.head === null) || a.since[1] - b.since[1]),
            at = first && windows ? windowOfStep(windows.step, first.since[1]) : 0,
            key = first ? `${where(first)} ${first.since[1]} ${Math.min(windows?.step.length ?? 0, at + 2)}` : "";
        if (key === this.key) return;
        this.key = key;
        const places = at > 0 ? [at - 1, Math.min(at + 1, windows.step.length - 1)] : [],
            maps = await this.load(first, places.map((window) => windows.last[window])).catch(() => null);
        if (key !== this.key || !this.isCurrent()) return;
        if (!maps) return void (this.key = ""); // attnd did not answer: to be asked again
        this.frame.hidden = maps.length < 2 || maps.some((map) => !map);
        if (this.frame.hidden) return;
        this.frame.setTitle(`${where(first)}${first.head === null ? ", mean of its heads," : ""} before and after`, `it broke about step ${first.since[1]}`);
        this.frame.body.replaceChildren(...maps.map((map, i) => this.pictureOf(map, `${i ? "after" : "before"}: step ${map.step}`)));
    }

    async load(alert, lasts) {
        if (lasts.length === 0) return [];
        const run = await openRun(this.store, this.params),
            what = alert.head === null ? { kind: "mean" } : { kind: "heads", head: alert.head },
            maps = await Promise.all(lasts.map((last) => run.map(alert, { ...what, last })));
        return maps.map((map) => (map?.heads || alert.head === null ? map : null));
    }

    pictureOf(map, text) {
        const box = h("div", {});
        drawMap(box, map, { size: SIDE, axes: false, bar: false, name: text });
        return h("figure", {}, box, h("figcaption", { class: "soft" }, text));
    }
}
