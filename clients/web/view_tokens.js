// SPDX-License-Identifier: MIT
// One query: where its weight goes, as bars and as text coloured by weight; the strongest pairs of the map.
/* global d3 */
import { find, floats } from "./api.js";
import { COLOR_MAPS } from "./colors.js";
import { errorNote, h, headName, isolated, layerName, note, percent, say, visible } from "./dom.js";
import { figure, svg as newSvg } from "./figure.js";
import { chosenLayer, headPicker, layerPicker } from "./pickers.js";
import { keep } from "./router.js";
import { settings } from "./settings.js";

const BARS = 64;
const PAIRS = 15;
const REFRESH_MS = 1500;

/** What a row or column of cells is called: its token, or its positions. */
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
        root.append("text")
            .attr("x", left - 6)
            .attr("y", y + 13)
            .attr("text-anchor", "end")
            .text([...keyNames[i]].length > fit ? [...keyNames[i]].slice(0, fit - 1).join("") + "…" : keyNames[i]);
        root.append("rect")
            .attr("class", "bar")
            .attr("data-key", i)
            .attr("x", left)
            .attr("y", y + 3)
            .attr("height", step - 5)
            .attr("width", Math.max(0.5, x(weights[i]) - left));
        root.append("text")
            .attr("class", "soft")
            .attr("x", x(weights[i]) + 5)
            .attr("y", y + 13)
            .text(percent(weights[i]));
    });
    if (shown.length < order.length)
        root.append("text")
            .attr("class", "soft")
            .attr("x", left)
            .attr("y", height - 20)
            .text(`${order.length - shown.length} other keys: ${percent(rest)}`);
    root.append("text")
        .attr("class", "soft")
        .attr("x", left)
        .attr("y", height - 4)
        .text("weight of the key");
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
            const color = d3.rgb(colors(weight / most));
            item.style.backgroundColor = color;
            item.style.color = 0.299 * color.r + 0.587 * color.g + 0.114 * color.b > 140 ? "#111" : "#fff";
        }
        return item;
    });
    frame.body.replaceChildren(h("div", { class: "strip" }, tokens));
}

function drawPairs(frame, map, values, rowNames, keyNames, onPick) {
    const cells = d3
        .range(values.length)
        .filter((i) => Number.isFinite(values[i]))
        .sort((a, b) => values[b] - values[a])
        .slice(0, PAIRS);
    frame.body.replaceChildren(
        h(
            "table",
            {},
            h(
                "thead",
                {},
                h(
                    "tr",
                    {},
                    h("th", { class: "text" }, "query"),
                    h("th", { class: "text" }, "key"),
                    h("th", {}, "weight"),
                ),
            ),
            h(
                "tbody",
                {},
                cells.map((i) => {
                    const r = Math.floor(i / map.columns);
                    return h(
                        "tr",
                        {},
                        h("td", {}, h("button", { type: "button", onclick: () => onPick(r) }, rowNames[r])),
                        h("td", { class: "text" }, keyNames[i % map.columns]),
                        h("td", {}, percent(values[i])),
                    );
                }),
            ),
        ),
    );
}

export async function show(root, params, { store, isCurrent }) {
    const map = chosenLayer(store, params);
    if (!map) return void root.append(note(`${params.job} has no layer that was measured yet.`));
    const head = params.head ?? "mean",
        where = { stack: map.stack, layer: map.layer, site: map.site };
    const bars = figure("Where the query looks"),
        strip = figure("The keys, coloured by weight", "", "wide").plain(),
        pairs = figure("Strongest pairs of the map").plain();
    const slider = h("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "query" }),
        chosen = h("b", {});
    root.append(
        h(
            "div",
            { class: "controls" },
            layerPicker(store, map),
            headPicker(map, head, [["mean", "mean of heads"]]),
            h("div", { class: "time" }, "query", slider, chosen),
        ),
        h("div", { class: "stack" }, strip, h("div", { class: "grid" }, bars, pairs)),
    );
    let found = null,
        values = null,
        row = null,
        timer = null;

    function draw() {
        const offset = found.q_offset ?? 0,
            rowNames = names(
                where.site === "cross" ? { ...found, labels: null } : found,
                found.rows,
                found.queries,
                offset,
            ),
            keyNames = names(found, found.columns, found.keys, 0);
        const weights = Array.from(values.subarray(row * found.columns, (row + 1) * found.columns)),
            scale = found.columns < found.keys ? found.keys / found.columns : 1;
        const shares = weights.map((weight) => weight * scale);
        chosen.textContent = rowNames[row];
        slider.value = row;
        const title = head === "mean" ? layerName(map) : headName(map, head);
        bars.setTitle(`Query ${rowNames[row]}`, `${title}, step ${found.step}`);
        drawBars(bars, shares, keyNames);
        drawStrip(
            strip,
            found,
            shares,
            where.site === "self" ? row + (found.rows === found.queries ? offset : 0) : -1,
            (key) => {
                if (where.site === "self" && key - offset >= 0 && key - offset < found.rows) pick(key - offset);
            },
        );
        strip.setTitle(
            "The keys, coloured by weight",
            found.labels ? "" : "the job sends no token texts: positions (attnd.watch(..., labels=...))",
        );
        drawPairs(pairs, found, values, rowNames, keyNames, pick);
    }
    function pick(next) {
        row = Math.max(0, Math.min(found.rows - 1, next));
        keep({ query: row });
        draw();
        say(bars.querySelector("h2").textContent);
    }
    async function load() {
        const answer = await find("maps", {
            job: params.job,
            run: params.run,
            ...where,
            packed: 1,
            ...(head === "mean" ? { kind: "mean" } : { head }),
        }).catch((error) => ({ error }));
        if (!isCurrent()) return;
        if (!answer || answer.error) {
            root.replaceChildren(
                root.firstChild,
                answer?.error ? errorNote(answer.error) : note("There is no map of this layer yet."),
            );
            return;
        }
        found = answer;
        values = floats(found.values);
        slider.max = found.rows - 1;
        row ??= Math.max(0, Math.min(found.rows - 1, Number(params.query ?? found.rows - 1) || 0));
        row = Math.min(row, found.rows - 1);
        draw();
    }
    slider.addEventListener("input", () => pick(Number(slider.value)));
    await load();
    performance.mark("data");
    const end = store.on("live", (live) => {
        if (layerName(live) === layerName(map))
            timer ??= setTimeout(() => {
                timer = null;
                load();
            }, REFRESH_MS);
    });
    return () => {
        clearTimeout(timer);
        end();
    };
}
