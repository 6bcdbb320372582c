// SPDX-License-Identifier: MIT
// One layer: the maps of all heads, what they are together, how alike they are, how much each matters.
/* global d3 */
import { hiddenCells, rangeOf } from "./cells.js";
import { h, headName, layerName, note, number, select } from "./dom.js";
import { figure, svg as newSvg } from "./figure.js";
import { colorRange, drawMap, rangePicker } from "./map_view.js";
import { chosenLayer, headCount, layerPicker } from "./pickers.js";
import { go, link } from "./router.js";
import { mapStep, NOT_KEPT, openRun } from "./run.js";
import { set, settings } from "./settings.js";
import { kept, paced } from "./view_state.js";

const AGGREGATES = [
    ["mean", "mean over heads"],
    ["sum", "sum over heads"],
    ["max", "largest over heads"],
    ["importance", "weighted by importance"],
];
const COLUMNS = [
    "entropy_normalized",
    "first_token",
    "previous_token",
    "local_mass",
    "confidence",
    "max_logit",
    "importance",
];

function drawImportance(frame, values, onPick) {
    const order = d3
        .range(values.length)
        .filter((i) => Number.isFinite(values[i]))
        .sort((a, b) => values[b] - values[a]);
    const width = 420,
        step = Math.max(13, Math.min(24, 300 / order.length)),
        height = order.length * step + 30,
        left = 54;
    const root = newSvg(width, height, "importance of the heads"),
        x = d3.scaleLinear([0, d3.max(values) || 1], [left, width - 62]);
    order.forEach((head, i) => {
        const row = root
            .append("g")
            .attr("transform", `translate(0,${i * step})`)
            .on("click", () => onPick(head));
        row.append("text")
            .attr("x", left - 6)
            .attr("y", step / 2 + 4)
            .attr("text-anchor", "end")
            .text(`head ${head}`);
        row.append("rect")
            .attr("class", "bar")
            .attr("x", left)
            .attr("y", 2)
            .attr("height", step - 4)
            .attr("width", Math.max(1, x(values[head]) - left));
        row.append("text")
            .attr("class", "soft")
            .attr("x", x(values[head]) + 5)
            .attr("y", step / 2 + 4)
            .text(number(values[head]));
    });
    root.append("text")
        .attr("class", "soft")
        .attr("x", left)
        .attr("y", height - 6)
        .text("importance: variance and entropy score, sums to 1");
    frame.body.replaceChildren(root.node());
}

function drawTable(frame, live, { sort, onSort, toHead }) {
    const of = (name) => live.heads?.[name] ?? live.spectrum?.[name],
        columns = COLUMNS.filter((name) => of(name));
    const heads = d3.range(headCount(live));
    if (sort.by) heads.sort((a, b) => sort.down * ((of(sort.by)?.[a] ?? -Infinity) - (of(sort.by)?.[b] ?? -Infinity)));
    const th = (name) =>
        h(
            "th",
            { "aria-sort": sort.by === name ? (sort.down > 0 ? "ascending" : "descending") : null },
            h("button", { type: "button", onclick: () => onSort(name) }, name),
        );
    const row = (head) =>
        h(
            "tr",
            {},
            h("td", {}, h("a", { href: toHead(head) }, head)),
            h("td", { class: "text" }, live.heads?.pattern?.[head] ?? "–"),
            columns.map((name) => h("td", {}, number(of(name)?.[head]))),
        );
    const names = [h("th", { class: "text" }, "head"), h("th", { class: "text" }, "pattern"), columns.map(th)];
    frame.body.replaceChildren(
        h(
            "div",
            { class: "scroll" },
            h("table", {}, h("thead", {}, h("tr", {}, names.flat())), h("tbody", {}, heads.map(row))),
        ),
    );
}

function drawSimilarity(frame, live) {
    const matrix = live?.similarity?.head_js;
    if (!matrix)
        return frame.body.replaceChildren(
            note(
                "Not measured. ",
                h("code", {}, "attnd --set metrics.similarity=true"),
                " compares each two heads of a layer; a pass of its own over the weights.",
            ),
        );
    const H = matrix.length;
    drawMap(
        frame.body,
        { rows: H, columns: H, values: matrix.flat(), queries: H, keys: H, labels: null },
        {
            size: 300,
            xName: "head",
            yName: "head",
            range: [0, Math.LN2],
            name: "how different heads are",
            describe: (r, c, x) =>
                `heads ${r} and ${c}: Jensen-Shannon divergence ${number(x)} nats, cosine ${number(live.similarity.head_similarity?.[r]?.[c])}`,
        },
    );
}

/** One range for the maps of all heads: they are laid below one another. */
function sharedRange(found) {
    const all = { ...found, rows: found.rows * found.heads.length };
    const hidden = new Uint8Array(found.values.length),
        cells = found.rows * found.columns;
    found.heads.forEach((_, i) =>
        hidden.set(hiddenCells({ ...found, values: found.values.subarray(i * cells, (i + 1) * cells) }), i * cells),
    );
    const { low, high, most } = rangeOf(all, hidden, colorRange());
    return [low, high, most];
}

/** "step 9, sample 0, 48 queries × 48 keys, causal" */
function mapsText(found, live) {
    const pooled = found.rows < found.queries ? `, pooled to ${found.rows} × ${found.columns}` : "";
    return `${mapStep(found, live)}, ${found.queries} queries × ${found.keys} keys${pooled}${found.causal ? ", causal" : ""}`;
}

const NO_MAPS =
    "There is no map of this layer: none has come yet, heads are split over ranks, or queries and keys are longer than metrics.qk_maps_max_size.";

/** The maps of the heads beside one another. */
class Heads {
    constructor(map, { toHead, openHead }) {
        Object.assign(this, { map, toHead, openHead, frames: new Map() });
        this.frame = figure(layerName(map), "", "wide").plain();
        this.box = h("div", { class: "grid small" });
    }

    frameOf(head) {
        if (!this.frames.has(head)) {
            const frame = figure(`head ${head}`);
            frame.querySelector("h2").replaceChildren(h("a", { href: this.toHead(head) }, `head ${head}`));
            this.frames.set(head, frame);
            this.box.append(frame);
        }
        return this.frames.get(head);
    }

    draw(found, live) {
        if (found.ofWindow) return this.drawWindow(found);
        if (!this.box.isConnected) this.frame.body.replaceChildren(this.box);
        const cells = found.rows * found.columns,
            range = settings.range === "fixed" ? sharedRange(found) : null;
        found.heads.forEach((head, i) => {
            const frame = this.frameOf(head),
                values = found.values.subarray(i * cells, (i + 1) * cells);
            frame.about(headName(this.map, head), "map", mapStep(found, null));
            frame.querySelector(".sub").textContent = live?.heads?.pattern?.[head] ?? "";
            drawMap(
                frame.body,
                { ...found, values },
                {
                    size: 190,
                    bar: false,
                    axes: false,
                    range,
                    name: `map of ${headName(this.map, head)}`,
                    onPick: () => this.openHead(head),
                },
            );
        });
        this.frame.setTitle(`${layerName(this.map)}: ${found.heads.length} heads`, mapsText(found, live));
    }

    /** Nothing of single heads is left. */
    drawWindow(found) {
        this.frame.setTitle(layerName(this.map), mapsText(found));
        this.frame.body.replaceChildren(note(NOT_KEPT));
    }
}

/** Whether the maps of the heads have one range of colours. */
function sharedPicker(onchange) {
    const options = [
        ["auto", "range of each map"],
        ["fixed", "one range for all heads"],
    ];
    return select("range", options, settings.range, (value) => {
        set("range", value);
        onchange();
    });
}

/** Keeps a map over all heads in its frame; the frame is there while there is such a map. */
function keepAggregate(run, map, [kind, frame], isCurrent) {
    frame.about(layerName(map), `${kind}-map`).hidden = true;
    const title = frame.querySelector("h2").textContent;
    return kept({
        body: frame.body,
        isCurrent,
        load: async () => {
            const found = await run.map(map, { kind });
            frame.hidden = !found;
            return found;
        },
        draw(found) {
            frame.setTitle(title, mapStep(found, null));
            drawMap(frame.body, found, { size: 330, name: `${kind} over the heads of ${layerName(map)}` });
        },
        nothing: () => "",
    });
}

export async function show(root, params, { store, isCurrent }) {
    const run = await openRun(store, params),
        map = chosenLayer(run, params);
    if (!isCurrent()) return null;
    if (!map) return void root.append(note(`${params.job} has no layer that was measured yet.`));
    const where = { stack: map.stack, layer: map.layer, site: map.site },
        toHead = (head) => link("head", { ...params, ...where, head }),
        openHead = (head) => go("head", { ...params, ...where, head }),
        name = layerName(map);
    const heads = new Heads(map, { toHead, openHead }),
        together = AGGREGATES.map(([kind, title]) => [kind, figure(title)]),
        similarity = figure("How different the heads are", "Jensen-Shannon divergence of their rows, nats").about(
            name,
            "similarity",
        );
    const importance = figure("Importance of the heads").about(name, "importance"),
        table = figure("", "", "wide").plain();
    const sort = { by: null, down: -1 };
    root.append(
        h(
            "div",
            { class: "controls" },
            layerPicker(run, map),
            sharedPicker(() => maps.now()),
            rangePicker(() => everyMap("now")),
        ),
        h(
            "div",
            { class: "stack" },
            heads.frame,
            h(
                "div",
                { class: "grid" },
                together.map(([, frame]) => frame),
                similarity,
                importance,
            ),
            table,
        ),
    );
    const maps = kept({
        body: heads.frame.body,
        isCurrent,
        load: () => run.map(where),
        draw: (found) => heads.draw(found, run.newest(map)),
        nothing: () => NO_MAPS,
    });
    const all = [maps, ...together.map((one) => keepAggregate(run, map, one, isCurrent))],
        everyMap = (what) => Promise.all(all.map((one) => one[what]()));

    function drawNumbers() {
        const live = run.newest(map);
        if (!live) return;
        importance.hidden = !live.heads?.importance?.some(Number.isFinite);
        if (!importance.hidden) drawImportance(importance, live.heads.importance, openHead);
        const onSort = (by) => {
            sort.down = sort.by === by ? -sort.down : -1;
            sort.by = by;
            drawNumbers();
        };
        drawTable(table, live, { sort, onSort, toHead });
        table.setTitle(
            live.past ? "Numbers of the last window" : "Newest numbers",
            live.past ? live.when : run.when(live),
        );
        similarity.hidden = Boolean(live.past);
        if (!live.past) drawSimilarity(similarity, live);
    }
    drawNumbers();
    const numbersOfPast = run.load(COLUMNS, where).then(() => isCurrent() && drawNumbers());
    await Promise.all([everyMap("now"), numbersOfPast]);
    performance.mark("data");
    const numbersSoon = paced(drawNumbers);
    const end = store.on("live", (live) => {
        if (layerName(live) !== name || live.run !== run.run) return;
        numbersSoon();
        everyMap("soon");
    });
    return () => {
        numbersSoon.stop();
        everyMap("stop");
        end();
    };
}
