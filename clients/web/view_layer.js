// SPDX-License-Identifier: MIT
// One layer: the maps of all heads, what they are together, how alike they are, how much each matters.
/* global d3 */
import { find, floats } from "./api.js";
import { extent } from "./colors.js";
import { errorNote, h, headName, layerName, note, number, select } from "./dom.js";
import { figure, svg as newSvg } from "./figure.js";
import { drawMap } from "./map_view.js";
import { chosenLayer, headCount, layerPicker } from "./pickers.js";
import { go, link } from "./router.js";
import { set, settings } from "./settings.js";

const AGGREGATES = [
    ["mean", "mean over heads"],
    ["sum", "sum over heads"],
    ["max", "largest over heads"],
    ["importance", "weighted by importance"],
];
const REFRESH_MS = 1000;
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

function drawTable(frame, live, sort, onSort) {
    const columns = COLUMNS.filter((name) => live.heads?.[name] || live.spectrum?.[name]),
        of = (name) => live.heads?.[name] ?? live.spectrum?.[name];
    const heads = d3.range(headCount(live));
    if (sort.by) heads.sort((a, b) => sort.down * ((of(sort.by)?.[a] ?? -Infinity) - (of(sort.by)?.[b] ?? -Infinity)));
    const th = (name) =>
        h(
            "th",
            { "aria-sort": sort.by === name ? (sort.down > 0 ? "ascending" : "descending") : null },
            h("button", { type: "button", onclick: () => onSort(name) }, name),
        );
    frame.body.replaceChildren(
        h(
            "div",
            { class: "scroll" },
            h(
                "table",
                {},
                h(
                    "thead",
                    {},
                    h(
                        "tr",
                        {},
                        h("th", { class: "text" }, "head"),
                        h("th", { class: "text" }, "pattern"),
                        columns.map(th),
                    ),
                ),
                h(
                    "tbody",
                    {},
                    heads.map((head) =>
                        h(
                            "tr",
                            {},
                            h(
                                "td",
                                {},
                                h(
                                    "a",
                                    {
                                        href: link("head", {
                                            job: live.job,
                                            stack: live.stack,
                                            layer: live.layer,
                                            site: live.site,
                                            head,
                                        }),
                                    },
                                    head,
                                ),
                            ),
                            h("td", { class: "text" }, live.heads?.pattern?.[head] ?? "–"),
                            columns.map((name) => h("td", {}, number(of(name)?.[head]))),
                        ),
                    ),
                ),
            ),
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

export async function show(root, params, { store, isCurrent }) {
    const map = chosenLayer(store, params);
    if (!map) return void root.append(note(`${params.job} has no layer that was measured yet.`));
    const where = { stack: map.stack, layer: map.layer, site: map.site },
        openHead = (head) => go("head", { ...params, ...where, head });
    const gridBox = h("div", { class: "grid small" }),
        frames = new Map();
    const together = AGGREGATES.map(([kind, title]) => [kind, figure(title)]),
        similarity = figure("How different the heads are", "Jensen-Shannon divergence of their rows, nats");
    const importance = figure("Importance of the heads"),
        table = figure("Newest numbers", "", "wide").plain(),
        heads = figure("Heads", "", "wide").plain();
    const sort = { by: null, down: -1 };
    heads.body.append(gridBox);
    root.append(
        h(
            "div",
            { class: "controls" },
            layerPicker(store, map),
            select(
                "range",
                [
                    ["auto", "range of each map"],
                    ["fixed", "one range for all heads"],
                ],
                settings.range,
                (value) => {
                    set("range", value);
                    drawMaps();
                },
            ),
        ),
        h(
            "div",
            { class: "stack" },
            heads,
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
    let timer = null;

    function drawHeads(found) {
        const values = floats(found.values),
            cells = found.rows * found.columns,
            shared = settings.range === "fixed" ? extent(values) : null;
        found.heads.forEach((head, i) => {
            if (!frames.has(head)) {
                const frame = figure(`h${head}`);
                frame
                    .querySelector("h2")
                    .replaceChildren(h("a", { href: link("head", { ...params, ...where, head }) }, `head ${head}`));
                frames.set(head, frame);
                gridBox.append(frame);
            }
            const pattern = store.live.get(layerName(map))?.heads?.pattern?.[head] ?? "";
            frames.get(head).querySelector(".sub").textContent = pattern;
            drawMap(
                frames.get(head).body,
                { ...found, values: values.subarray(i * cells, (i + 1) * cells) },
                {
                    size: 190,
                    bar: false,
                    axes: false,
                    range: shared,
                    name: `map of ${headName(map, head)}`,
                    onPick: () => openHead(head),
                },
            );
        });
        heads.setTitle(
            `${layerName(map)}: ${found.heads.length} heads`,
            `step ${found.step}, sample ${found.sample}, ${found.queries} queries × ${found.keys} keys${found.rows < found.queries ? `, pooled to ${found.rows} × ${found.columns}` : ""}${found.causal ? ", causal" : ""}`,
        );
    }
    async function drawAggregate(kind, frame) {
        const found = await find("maps", { job: params.job, run: params.run, ...where, kind, packed: 1 }).catch(
            (error) => ({ error }),
        );
        if (!isCurrent()) return;
        if (!found || found.error)
            frame.body.replaceChildren(
                found?.error
                    ? errorNote(found.error)
                    : note("Not there: the group importance is off, or no map has come."),
            );
        else
            drawMap(
                frame.body,
                { ...found, values: floats(found.values) },
                { size: 330, name: `${kind} over the heads of ${layerName(map)}` },
            );
    }
    async function drawMaps() {
        const found = await find("maps", { job: params.job, run: params.run, ...where, packed: 1 }).catch((error) => ({
            error,
        }));
        if (!isCurrent()) return;
        if (found?.error) return heads.body.replaceChildren(errorNote(found.error));
        if (!found) {
            heads.setTitle(layerName(map));
            return gridBox.replaceChildren(
                note(
                    "There is no map of this layer: none came since attnd was started, heads are split over ranks, or queries and keys are longer than metrics.qk_maps_max_size.",
                ),
            );
        }
        drawHeads(found);
        await Promise.all(together.map(([kind, frame]) => drawAggregate(kind, frame)));
    }
    function drawNumbers() {
        const live = store.live.get(layerName(map));
        if (!live) return;
        if (live.heads?.importance) drawImportance(importance, live.heads.importance, openHead);
        else
            importance.body.replaceChildren(
                note("Not measured: metrics.importance is off, or heads are split over ranks."),
            );
        drawTable(table, live, sort, (by) => {
            sort.down = sort.by === by ? -sort.down : -1;
            sort.by = by;
            drawNumbers();
        });
        table.setTitle("Newest numbers", `step ${live.step ?? "–"}`);
        drawSimilarity(similarity, live);
    }
    drawNumbers();
    await drawMaps();
    performance.mark("data");
    const end = store.on("live", (live) => {
        if (layerName(live) !== layerName(map)) return;
        timer ??= setTimeout(() => {
            timer = null;
            drawNumbers();
            drawMaps();
        }, REFRESH_MS);
    });
    return () => {
        clearTimeout(timer);
        end();
    };
}
