// SPDX-License-Identifier: MIT
// A picture of a model's attention as a document of its own, for a cell of a notebook: layers by heads, the maps of all
// heads, and one head with its lines. Everything that is shown is in the document; nothing is asked for.
//
// clients/python/attnd/notebook/cell.py makes the document: the modules that this one imports, D3, the page's style, and
// in #data what is described at `start`.
/* global d3 */
import { asShown, looksCausal, showPadding, showsPadding, strongestPairs, withPadded } from "./cells.js";
import { COLOR_MAPS, scaled } from "./colors.js";
import { h, headName, layerName, note, number, select, withModule } from "./dom.js";
import { figure } from "./figure.js";
import { headChooser, headColor, HeadLines } from "./head_lines.js";
import { HeatMap } from "./heat_map.js";
import { lyingBar, scalePicker } from "./map_scale.js";
import { drawMap } from "./map_view.js";
import { pairText } from "./pairs.js";
import { applyTheme, onChange, readSettings, set, settings } from "./settings.js";
import { Thumbs } from "./thumbs.js";

/** Px of a side of the map of a head. */
const SIDE = 400;
const PAIRS = 8;
/** Larger maps have no lines. */
const LINES_MAX = 200;

/** Numbers of 32 bits, little-endian, in base64. */
function floatsOf(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)),
        view = new DataView(bytes.buffer);
    return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

/** Maps of at most `size` cells a side: means of the finite cells, as attnd pools them. */
function pooled(found, size) {
    const { rows, columns, heads, values } = found,
        down = Math.min(rows, size),
        across = Math.min(columns, size);
    if (down === rows && across === columns) return found;
    const small = new Float32Array(heads.length * down * across),
        sums = new Float64Array(across),
        counts = new Uint32Array(across);
    for (let head = 0; head < heads.length; head++)
        for (let r = 0; r < down; r++) {
            sums.fill(0);
            counts.fill(0);
            for (let i = Math.floor((r * rows) / down); i < Math.floor(((r + 1) * rows) / down); i++)
                for (let j = 0; j < columns; j++) {
                    const x = values[(head * rows + i) * columns + j],
                        c = Math.floor(((j + 1) * across - 1) / columns);
                    if (!Number.isFinite(x)) continue;
                    sums[c] += x;
                    counts[c]++;
                }
            for (let c = 0; c < across; c++) small[(head * down + r) * across + c] = sums[c] / counts[c];
        }
    return { ...found, rows: down, columns: across, values: small };
}

/** One of the maps of an answer. */
function mapOf(found, head) {
    const cells = found.rows * found.columns;
    return { ...found, values: found.values.subarray(head * cells, (head + 1) * cells) };
}

/** A layer of the data as Run.map would give it. */
function mapsOf(layer, values) {
    const cells = layer.rows * layer.columns,
        found = {
            ...layer,
            heads: d3.range(layer.heads),
            values: values.subarray(layer.first, layer.first + layer.heads * cells),
        };
    const causal = layer.causal ?? found.heads.every((head) => looksCausal(mapOf(found, head)));
    return withPadded({ ...found, causal });
}

class NotebookView {
    constructor({ title, layers, metrics, values, note: remark }) {
        Object.assign(this, { title, remark, layers, metrics, metric: metrics[0] ?? null });
        this.found = new Map(layers.map((layer) => [layerName(layer), mapsOf(layer, values)]));
        this.at = { layer: layers[0], head: 0 };
        this.chosen = [0];
    }

    build(root) {
        this.overview = figure("Overview", "", "wide");
        this.legend = h("div", { class: "legend" });
        this.maps = figure("Maps of all heads", "a map opens below", "wide").plain();
        this.picture = figure("Map", "", "picture");
        this.linesFrame = figure("Lines between tokens", "", "lines");
        this.pairs = h("ol", { class: "pairs" });
        this.chooser = h("div", {});
        this.linesBox = h("div", {});
        this.heat = new HeatMap(this.overview, this.legend, (layer, head) => this.open(layer, head));
        this.heat.onOpen = (layer, head) => this.open(layer, head);
        this.heat.describe = (layer, head) => this.describe(layer, head);
        this.lines = new HeadLines(this.linesBox, (head) => `head ${head}`);
        this.thumbs = new Thumbs({
            load: async (layer, cells) => withPadded(pooled(asShown(this.found.get(layerName(layer))), cells)),
            hrefOf: () => "#head",
            onOpen: (layer, head) => this.open(layer, head ?? 0),
            isCurrent: () => true,
        });
        this.maps.body.append(this.thumbs.element);
        this.picture.append(h("h3", {}, "Positions that stand out"), this.pairs);
        this.linesFrame.body.append(this.chooser, this.linesBox);
        this.where = h("div", { class: "controls", id: "head" });
        root.replaceChildren(
            h("h1", {}, this.title),
            ...(this.remark ? [note(this.remark)] : []),
            this.controls(),
            h("div", { class: "stack" }, ...(this.metric ? [this.overview] : []), this.maps),
            this.where,
            h("div", { class: "grid" }, this.picture, this.linesFrame),
        );
        this.overview.append(this.legend);
        this.draw();
    }

    controls() {
        const { metrics } = this,
            names = metrics.map(({ name }) => [name, name]);
        return h(
            "div",
            { class: "controls" },
            metrics.length > 1
                ? select("metric", names, this.metric.name, (name) => {
                      this.metric = metrics.find((one) => one.name === name);
                      this.drawOverview();
                  })
                : null,
            scalePicker(() => this.redraw()),
            this.paddingBox(),
            select("colours", Object.keys(COLOR_MAPS).map((name) => [name, name]), settings.colorMap, (name) =>
                set("colorMap", name),
            ),
        );
    }

    paddingBox() {
        const onchange = (event) => {
            showPadding(event.target.checked);
            this.thumbs.reload();
            this.redraw();
        };
        return h("label", { class: "pick" }, h("input", { type: "checkbox", checked: showsPadding(), onchange }), "padding");
    }

    draw() {
        const width = this.maps.body.clientWidth || 900;
        this.drawOverview();
        this.thumbs.show(this.layers, width);
        this.drawHead();
    }

    /** Other colours, or another scale. */
    redraw() {
        this.drawOverview();
        this.thumbs.repaint();
        this.drawHead();
    }

    drawOverview() {
        const { metric, heat, layers } = this;
        if (!metric) return;
        const all = metric.values.flat().filter((x) => x !== null),
            range = [Math.min(0, ...all), metric.most ?? d3.max(all) ?? 1];
        this.overview.setTitle(metric.name, metric.description);
        heat.draw(layers, this.overview.body.clientWidth || 900);
        layers.forEach((layer, i) => heat.color(layer, metric.values[i], scaled(COLOR_MAPS[settings.colorMap], range)));
        this.legend.replaceChildren(lyingBar(range, metric.unit));
    }

    describe(layer, head) {
        const value = this.metric.values[this.layers.indexOf(layer)]?.[head];
        return `${headName(layer, head)}: ${number(value)} ${this.metric.unit}`;
    }

    open(layer, head) {
        const own = this.layers.find((one) => layerName(one) === layerName(layer));
        if (own !== this.at.layer) this.chosen = [head];
        this.at = { layer: own, head };
        if (!this.chosen.includes(head)) this.chosen = [head];
        this.drawHead();
        this.where.scrollIntoView({ block: "nearest" });
    }

    drawHead() {
        const { layer, head } = this.at,
            found = asShown(this.found.get(layerName(layer))),
            map = mapOf(found, head),
            size = `${found.queries} queries × ${found.keys} keys`,
            isPooled = found.rows < found.queries || found.columns < found.keys;
        const heads = d3.range(layer.heads),
            names = this.layers.map((one) => [layerName(one), layerName(one)]);
        this.where.replaceChildren(
            select("layer", names, layerName(layer), (name) =>
                this.open(
                    this.layers.find((one) => layerName(one) === name),
                    0,
                ),
            ),
            select("head", heads.map((one) => [String(one), `head ${one}`]), String(head), (one) =>
                this.open(layer, Number(one)),
            ),
        );
        this.picture.setTitle(
            headName(layer, head),
            withModule(layer, `${size}${isPooled ? `, pooled to ${found.rows} × ${found.columns}` : ""}`),
        );
        this.picture.about(headName(layer, head), "map");
        drawMap(this.picture.body, map, { size: SIDE, name: headName(layer, head) });
        this.pairs.replaceChildren(...strongestPairs(map, PAIRS).map((pair) => h("li", {}, pairText(map, pair))));
        this.drawLines(found);
    }

    drawLines(found) {
        const { layer } = this.at;
        this.chooser.replaceChildren(
            headChooser(d3.range(layer.heads), this.chosen, (chosen) => {
                this.chosen = chosen;
                this.drawLines(found);
            }),
        );
        if (Math.max(found.rows, found.columns) > LINES_MAX)
            return this.linesBox.replaceChildren(note(`Lines are drawn of maps of up to ${LINES_MAX} tokens.`));
        this.lines.draw(
            found,
            this.chosen.map((head, i) => ({ head, color: headColor(i) })),
        );
    }
}

/**
 * Shows what is in #data, as JSON:
 *
 *     title    text; note: a text below it, or null
 *     layers   [{stack, layer, site, module, heads, rows, columns, queries, keys, q_offset, causal, labels, q_labels,
 *              queries_sent, keys_sent, first_query, first_key, first}]: as answers of maps have them; `first`: where its numbers begin in `values`
 *     metrics  [{name, unit, description, most, values}]: of the overview; values: per layer a list of its heads' or null
 *     values   f32, little-endian, in base64: [heads, rows, columns] of one layer after the other
 */
function start() {
    readSettings();
    applyTheme();
    const data = JSON.parse(document.getElementById("data").textContent),
        view = new NotebookView({ ...data, values: floatsOf(data.values) });
    onChange((name) => name === "colorMap" && view.redraw());
    view.build(document.getElementById("view"));
    let width = innerWidth;
    addEventListener("resize", () => {
        if (innerWidth !== width) view.draw();
        width = innerWidth;
    });
    document.documentElement.dataset.drawn = "";
}

start();
