// SPDX-License-Identifier: MIT
// Choosing a metric, a statistic, a layer, a head, and whether padding is shown: the same in all views.
import { showPadding, showsPadding } from "./cells.js";
import { h, layerName, note, number, select, withModule } from "./dom.js";
import { go, here, keep, link } from "./router.js";
import { openRun } from "./run.js";
import { isOfMatrices } from "./store.js";

export const STATISTICS = ["mean", "std", "min", "max", "p10", "p50", "p90", "p99", "last"];

/** Metrics that the layers have, and the one that is shown, in groups. */
export function metricPicker(store, value, onchange) {
    const has = new Set(
        store.layers().flatMap((map) => [...Object.keys(map.heads ?? {}), ...Object.keys(map.spectrum ?? {})]),
    );
    const group = (label, isIn) => ({
        label,
        options: store.metrics
            .filter((metric) => isIn(metric) && (has.size === 0 || has.has(metric.name) || metric.name === value))
            .map((metric) => [metric.name, metric.name]),
    });
    const groups = [
        group("of heads", (metric) => metric.group === "heads" && !isOfMatrices(metric.name)),
        group("spectrum", (metric) => metric.group === "spectrum"),
        group("of matrices", (metric) => isOfMatrices(metric.name)),
    ];
    const box = select("metric", groups, value, onchange);
    box.title = store.metric(value).description;
    return box;
}

export function statisticPicker(value, onchange) {
    return select(
        "statistic",
        STATISTICS.map((name) => [name, name]),
        value,
        onchange,
    );
}

/** The layer that is meant by the address: the first one when it does not say. */
function chosenLayer(store, params) {
    const layers = store.layers();
    return (
        layers.find(
            (map) => map.stack === params.stack && String(map.layer) === params.layer && map.site === params.site,
        ) ??
        layers.find((map) => String(map.layer) === params.layer) ??
        layers[0] ??
        null
    );
}

const place = (map) => ({ stack: map.stack, layer: map.layer, site: map.site });

export function layerPicker(store, map) {
    return select(
        "layer",
        store.layers().map((one) => [layerName(one), [layerName(one), withModule(one, "")].filter(Boolean).join(" · ")]),
        layerName(map),
        (name) => {
            const now = here();
            go(now.view, { ...now.params, ...place(store.live.get(name)), head: undefined, query: undefined });
        },
    );
}

export const headCount = (map) => Math.max(0, ...Object.values(map.heads ?? {}).map((list) => list?.length ?? 0));

export function headPicker(map, head, more = []) {
    const options = [...more, ...Array.from({ length: headCount(map) }, (_, i) => [String(i), `head ${i}`])];
    return select("head", options, String(head), (value) => {
        const now = here();
        go(now.view, { ...now.params, ...place(map), head: value });
    });
}

/** So many layers are offered in a sentence; the picker has all. */
const OFFERED = 20;

/**
 * Says that the run has not the layer or the head that the address names; `map` is the layer that is shown instead.
 * Takes the wrong names out of `params`.
 */
function mendPlace(store, params, map) {
    const said = [],
        asked = Object.keys(place(map)).filter((name) => params[name] !== undefined),
        heads = headCount(map);
    if (asked.some((name) => params[name] !== String(map[name]))) {
        const layers = store.layers(),
            { head, ...others } = params,
            to = (one) => [h("a", { href: link(here().view, { ...others, ...place(one) }) }, layerName(one)), " "];
        said.push(
            note(
                `This run has no layer ${asked.map((name) => params[name]).join(".")}. This is ${layerName(map)}. There are: `,
                ...layers.slice(0, OFFERED).flatMap(to),
                layers.length > OFFERED ? `and ${layers.length - OFFERED} more.` : "",
            ),
        );
        Object.assign(params, place(map));
    }
    const isHead = /^\d+$/.test(params.head) && Number(params.head) < heads;
    if (heads && params.head !== undefined && params.head !== "mean" && !isHead) {
        said.push(note(`${layerName(map)} has no head ${params.head}. Valid: 0${heads > 1 ? ` to ${heads - 1}` : ""}.`));
        delete params.head;
    }
    return said;
}

/**
 * The run and the layer that the address means, { run, map }; null when there is none, and when the view was left meanwhile.
 * `root` says what the address names and the run has not.
 */
export async function openLayer(root, params, { store, isCurrent }) {
    const run = await openRun(store, params),
        map = chosenLayer(run, params);
    if (!isCurrent()) return null;
    if (!map) return void root.append(note(`${params.job} has no layer that was measured yet.`));
    root.append(...mendPlace(run, params, map));
    return { run, map };
}

/** Whether padding is shown, as the address has it in "padding"; `params` of the view, whose links keep it. */
export function paddingPicker(params, onchange) {
    const box = h("input", {
        type: "checkbox",
        checked: showsPadding(),
        onchange: () => {
            showPadding(box.checked);
            params.padding = box.checked ? "shown" : undefined;
            keep({ padding: params.padding });
            onchange();
        },
    });
    return h("label", { class: "pick", title: "queries and keys of padding, which maps leave out" }, box, "padding");
}

/** Names a metric on an axis, with its unit. */
export const unitOf = (metric) => (metric.unit === "1" ? metric.name : `${metric.name} (${metric.unit})`);
export const facts = (entries) =>
    h(
        "dl",
        { class: "facts" },
        entries
            .filter(([, value]) => value !== undefined && value !== null)
            .flatMap(([name, value]) => [
                h("dt", {}, name),
                h("dd", {}, typeof value === "number" ? number(value) : value),
            ]),
    );
