// SPDX-License-Identifier: MIT
// One query: where its weight goes, as bars and as text coloured by weight; the strongest pairs of the map.
/* global d3 */
import { hiddenCells, lastQuery, strongestPairs } from "./cells.js";
import { COLOR_MAPS } from "./colors.js";
import { h, headName, isolated, layerName, note, number, percent, say, visible } from "./dom.js";
import { figure, put, svg as newSvg } from "./figure.js";
import { overHeads, someHeads } from "./load_maps.js";
import { headPicker, layerPicker, openLayer, paddingPicker } from "./pickers.js";
import { keep } from "./router.js";
import { mapStep, NOT_KEPT } from "./run.js";
import { settings } from "./settings.js";
import { kept } from "./view_state.js";

const BARS = 64;
const PAIRS = 15;
const REFRESH_MS = 1500;

/** Names rows or columns of cells: the token of each, or its positions. */
function names(map, count, total, offset) {
    return d3.range(count).map((i) => {
        const from = Math.floor((i * total) / count) + offset,
            to = Math.floor(((i + 1) * total) / count) + offset - 1;
        if (count < total) return `${from}–${to}`;
        return map.labels?.[from] !== undefined ? `${from} “${isolated(visible(map.labels[from]))}”` : String(from);
    });
}

function drawBars(frame, weights, keyNames) {
    const order = d3.range(weights.length).filter((i) => Number.isFinite(weights[i]));
    const shown =
        order.length <= BARS
            ? order
            : order
                  .sort((a, b) => weights[b] - weights[a])
                  .slice(0, BARS)
                  .sort((a, b) => a - b);
    const rest = 1 - d3.sum(shown, (i) => weights[i]),
        step = 17,
        width = Math.max(300, Math.min(620, frame.body.clientWidth || 620)),
        left = width < 450 ? 100 : 130,
        height = shown.length * step + (shown.length < order.length ? 40 : 22);
    const x = d3.scaleLinear([0, d3.max(shown, (i) => weights[i]) || 1], [left, width - 60]),
        root = newSvg(width, height, "weights of the query over the keys");
    const fit = Math.floor(left / 6.5);
    shown.forEach((i, row) => {
        const y = row * step;
        put(root, "text", { x: left - 6, y: y + 13, "text-anchor": "end" },
            [...keyNames[i]].length > fit ? [...keyNames[i]].slice(0, fit - 1).join("") + "…" : keyNames[i]);
        put(root, "rect", { class: "bar", "data-key": i, x: left, y: y + 3, height: step - 5, width: Math.max(0.5, x(weights[i]) - left) });
        put(root, "text", { class: "soft", x: x(weights[i]) + 5, y: y + 13 }, percent(weights[i]));
    });
    if (shown.length < order.length)
        put(root, "text", { class: "soft", x: left, y: height - 20 }, `${order.length - shown.length} other keys: ${percent(rest)}`);
    put(root, "text", { class: "soft", x: left, y: height - 4 }, "weight of the key");
    frame.body.replaceChildren(root.node());
}

function drawStrip(frame, map, weights, query, onPick) {
    const most = d3.max(weights.filter(Number.isFinite)) || 1,
        colors = COLOR_MAPS[settings.colorMap];
    const tokens = names(map, map.columns, map.keys, 0).map((name, i) => {
        const text = map.labels && map.columns === map.keys ? visible(map.labels[i]) : name,
            weight = weights[i];
        const item = h(
            "button",
            {
                type: "button",
                class: `token${i === query ? " query" : ""}`,
                title: `${name}: ${percent(weight)}`,
                "aria-label": `${name}: ${percent(weight)}`,
                onclick: () => onPick(i),
            },
            text,
        );
        if (Number.isFinite(weight)) {
            item.style.backgroundColor = colors(weight / most);
            item.style.color = d3.lab(item.style.backgroundColor).l > 49.5 ? "#000" : "#fff"; // of the two the one that stands out more
        }
        return item;
    });
    frame.body.replaceChildren(h("div", { class: "strip" }, tokens));
}

function drawPairs(frame, map, rowNames, keyNames, onPick) {
    const row = ({ row, column, weight, times }) =>
        h(
            "tr",
            {},
            h("td", {}, h("button", { type: "button", onclick: () => onPick(row) }, rowNames[row])),
            h("td", { class: "text" }, keyNames[column]),
            h("td", {}, percent(weight)),
            h("td", {}, `${number(Number(times.toPrecision(2)))} ×`),
        );
    const names = [
        h("th", { class: "text" }, "query"),
        h("th", { class: "text" }, "key"),
        h("th", {}, "weight"),
        h("th", { title: "the weight divided by that of a uniform spread over the visible keys" }, "over even"),
    ];
    frame.body.replaceChildren(
        h("table", {}, h("thead", {}, h("tr", {}, names)), h("tbody", {}, strongestPairs(map, PAIRS).map(row))),
    );
}

/** The bars, the strip and the pairs of one map, of which one query is chosen. */
class Tokens {
    constructor(map, head) {
        Object.assign(this, { layer: map, head, found: null, row: null });
        this.place = head === "mean" ? layerName(map) : headName(map, head);
        this.bars = figure("Where the query looks").about(this.place, "query");
        this.strip = figure("The keys, coloured by weight", "", "wide").plain();
        this.pairs = figure(
            "Pairs that stand out",
            "by weight divided by that of a uniform spread over the visible keys",
        ).plain();
        this.pick = this.pick.bind(this);
        this.slider = h("input", {
            type: "range",
            min: 0,
            max: 0,
            value: 0,
            "aria-label": "query",
            oninput: () => this.pick(Number(this.slider.value)),
        });
        this.chosen = h("b", {});
        this.reason = h("div", {});
        this.content = h(
            "div",
            { class: "stack" },
            this.reason,
            this.strip,
            h("div", { class: "grid" }, this.bars, this.pairs),
        );
    }

    /** Another map; `query`: what the address asks for. */
    take(found, query) {
        this.found = found;
        this.hidden = hiddenCells(found);
        this.slider.max = found.rows - 1;
        const asked = Number(query ?? NaN);
        this.row ??= Number.isFinite(asked) ? Math.max(0, asked) : lastQuery(found);
        this.row = Math.min(Math.floor(this.row), found.rows - 1);
        this.reason.replaceChildren(...(this.isOfAnother() ? [note(NOT_KEPT)] : []));
        this.draw();
    }

    pick(next) {
        this.row = Math.max(0, Math.min(this.found.rows - 1, next));
        keep({ query: this.row });
        this.draw();
        say(this.bars.querySelector("h2").textContent);
    }

    /** The share of each column in a row: all weights of the keys that it stands for; NaN where the query sees none. */
    shares() {
        const { columns, keys, values } = this.found,
            from = this.row * columns;
        return Array.from(values.subarray(from, from + columns), (x, i) =>
            this.hidden[from + i] ? NaN : (x * keys) / columns,
        );
    }

    draw() {
        const { found, layer, row } = this,
            offset = found.q_offset ?? 0,
            isSelf = layer.site === "self";
        const rowNames = names(isSelf ? found : { ...found, labels: null }, found.rows, found.queries, offset),
            keyNames = names(found, found.columns, found.keys, 0),
            shares = this.shares();
        this.chosen.textContent = rowNames[row];
        this.slider.value = row;
        const of = this.isOfAnother() ? layerName(layer) : this.place;
        this.bars.setTitle(`Query ${rowNames[row]}`, `${of}, ${mapStep(found, null)}`);
        drawBars(this.bars, shares, keyNames);
        const own = isSelf ? row + (found.rows === found.queries ? offset : 0) : -1;
        drawStrip(this.strip, found, shares, own, (key) => {
            if (isSelf && key - offset >= 0 && key - offset < found.rows) this.pick(key - offset);
        });
        this.strip.setTitle("The keys, coloured by weight", this.whyPositions());
        drawPairs(this.pairs, found, rowNames, keyNames, this.pick);
    }

    /** Whether it is the mean over the heads that is shown for a head. */
    isOfAnother() {
        return this.head !== "mean" && this.found.ofWindow && !this.found.heads;
    }

    whyPositions() {
        if (this.found.labels) return "";
        return this.found.ofWindow
            ? "positions: token texts are not kept over a restart"
            : "the job sends no token texts: positions (attnd.watch(..., labels=...))";
    }
}

export async function show(root, params, { store, isCurrent }) {
    const opened = await openLayer(root, params, { store, isCurrent });
    if (!opened) return null;
    const { run, map } = opened,
        head = params.head ?? "mean",
        where = { stack: map.stack, layer: map.layer, site: map.site };
    const tokens = new Tokens(map, head),
        box = h("div", {});
    root.append(
        h(
            "div",
            { class: "controls" },
            layerPicker(run, map),
            headPicker(map, head, [["mean", "mean of heads"]]),
            paddingPicker(params, () => content.now()),
            h("div", { class: "time" }, "query", tokens.slider, tokens.chosen),
        ),
        box,
    );
    const content = kept({
        body: box,
        isCurrent,
        pause: REFRESH_MS,
        load: () => (head === "mean" ? overHeads(run, where, "mean") : someHeads(run, where, [Number(head)])),
        draw(found) {
            if (!tokens.content.isConnected) box.replaceChildren(tokens.content);
            tokens.take(found, params.query);
        },
        nothing: () => "There is no map of this layer yet; those of a fleet are at its nodes.",
    });
    await content.now();
    performance.mark("data");
    const end = store.on("live", (live) => {
        if (layerName(live) === layerName(map) && live.run === run.run) content.soon();
    });
    return () => {
        content.stop();
        end();
    };
}
