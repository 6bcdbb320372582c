// SPDX-License-Identifier: MIT
// A run on one axis of steps: its loss, below it each head and layer that alerts are about, the first to break first, and
// a band of all other heads.
/* global d3 */
import { where } from "./alerts_list.js";
import { ofAllHeads } from "./alerts_past.js";
import { piecesOf } from "./chart.js";
import { lossOf } from "./context.js";
import { byLayer, hideTooltip, layerName, number, refill, say, showTooltip, visible } from "./dom.js";
import { figure, svg as newSvg } from "./figure.js";
import { loadGrid, seriesOf } from "./grid.js";
import { boundText, comparedText, isOnAxis, shownBy } from "./rules.js";

/** Heads and layers that have a row. */
const ROWS = 8;
/** Windows of a row, and heads of which the band is made. */
const POINTS = 120,
    HEADS = 512;
/** Px of the rows, of the room for names and numbers, and from which width on these stand beside the rows. */
const TALL = { loss: 56, row: 40, band: 48 },
    GAP = 8,
    AXIS = 34,
    TITLE = 15,
    LEFT = 210,
    RIGHT = 120,
    WIDE = 640;

/** Alerts by what they are about, [{alerts, since}]: worst first, whose onset counts; the first to break first. */
const brokenOf = (alerts) =>
    [...d3.group(alerts.filter(({ stack }) => stack !== null), where).values()]
        .map((list) => ({ alerts: list, since: list[0].since[1] }))
        .sort((a, b) => a.since - b.since);

const lineOf = (xs, ys, row, isDrawn = () => true) => {
    const line = d3
        .line()
        .defined((i) => Number.isFinite(row.values[i] ?? NaN) && isDrawn(row.steps[i]))
        .x((i) => xs(row.steps[i]))
        .y((i) => ys(row.values[i]));
    return piecesOf(row.steps).map((piece) => line(piece) ?? "").join("");
};

const areaOf = (xs, ys, { steps, low, high }) =>
    d3
        .area()
        .defined((i) => Number.isFinite(low[i]) && Number.isFinite(high[i]))
        .x((i) => xs(steps[i]))
        .y0((i) => ys(low[i]))
        .y1((i) => ys(high[i]))(d3.range(steps.length));

/** Quantiles over heads in each window: {low, middle, high}. */
function spreadOf(series, count, [low, high]) {
    const columns = d3.range(count).map((window) => Float64Array.from(series.map((values) => values[window])).filter(Number.isFinite).sort()),
        at = (share) => columns.map((column) => d3.quantileSorted(column, share) ?? NaN);
    return { low: at(low), middle: at(0.5), high: at(high) };
}

/** The value of a row at a step: of the first window that ends there or later. */
function valueAt({ steps, values, isLogged }, step) {
    const at = isLogged ? d3.bisectRight(steps, step) - 1 : Math.min(d3.bisectLeft(steps, step), steps.length - 1);
    return values[at];
}

/** "Loss 3.35; best before step 143: 2.31": `log` at a step, null: the newest; `since`: what it is about began. "" without one. */
export function lossText(log, since, step) {
    const [loss] = lossOf(log ?? []),
        end = loss ? (step === null ? loss.step.length : d3.bisectRight(loss.step, step)) - 1 : -1;
    if (end < 0) return "";
    const best = bestBefore(loss.step, loss.value, since),
        first = loss.value.indexOf(null);
    if (loss.value[end] === null) return `Loss NaN, first at step ${loss.step[first]}.`;
    const [now, before] = [loss.value[end], best].map((value) => value !== undefined && number(value));
    return `Loss ${now}${before && before !== now ? `; best before step ${since}: ${before}` : ""}.`;
}

/** The lowest value that was logged before a step; undefined without any. */
const bestBefore = (steps, values, step) => d3.min(values.slice(0, d3.bisectLeft(steps, step)).filter(Number.isFinite));

/** A number that was logged may be none; a head without one was not measured. */
const textOf = ({ isLogged }, value) => (isLogged && Number.isNaN(value) ? "NaN" : number(value));

export class Timeline {
    /**
     * `run`: {job, run}; `metricOf(name)`: a metric, undefined where there is none; `hrefOf(alert)`: the page of what it is
     * about; `onPick(step)`: a moment was chosen; `isCurrent()`.
     */
    constructor({ run, metricOf, hrefOf, onPick, isCurrent }) {
        Object.assign(this, { run, metricOf, hrefOf, onPick, isCurrent, grids: new Map(), step: null, turn: 0 });
        this.frame = figure("Timeline", "", "timeline");
        this.frame.hidden = true;
        this.resize = new ResizeObserver(() => this.root && this.frame.body.clientWidth !== this.width && this.paint());
        this.resize.observe(this.frame.body);
    }

    /** Done when it is drawn. `grid` of `metric` with the log; `alerts` of the verdict, `rules`; `step` of the moment or null. */
    async draw({ grid, metric, alerts, rules, step }) {
        const broken = brokenOf(alerts),
            ofAll = ofAllHeads(alerts),
            key = JSON.stringify([metric.name, rules.length, ...[...broken, ...ofAll].map((one) => [where(one.alerts?.[0] ?? one), one.since])]);
        const mine = ++this.turn; // no drawing that waits is wanted any more
        if (grid === this.grid && key === this.key) return void this.mark(step);
        this.isWhole = true; // unless something does not come
        const newest = grid?.windows.step.at(-1),
            [ofRun, ...shown] = await Promise.all([this.rowOfAll(ofAll[0], newest), ...broken.slice(0, ROWS).map((one) => this.rowOf(one, rules, newest))]);
        if (mine !== this.turn || !this.isCurrent()) return;
        const names = new Set(broken.map((one) => where(one.alerts[0]))),
            first = d3.min([...broken, ...ofAll.map((one) => ({ since: one.since[1] }))], (one) => one.since),
            rows = grid ? [this.lossRow(grid, first), ofRun, ...shown, this.bandRow(grid, metric, names)].filter(Boolean) : [];
        this.frame.hidden = rows.length === 0;
        if (this.frame.hidden) return;
        const rest = broken.length - ROWS;
        this.frame.setTitle("Timeline", rest > 0 ? `the ${ROWS} that broke first; ${rest} more stand above` : "");
        Object.assign(this, { rows, grid, step, key: this.isWhole ? key : "" });
        this.paint();
    }

    /** `onset`: of what broke first. */
    lossRow(grid, onset) {
        const [loss] = lossOf(grid.log);
        if (!loss || loss.step.length < 2) return null;
        const values = loss.value.map((x) => x ?? NaN),
            row = { name: visible(loss.name), steps: loss.step, values, tall: TALL.loss, range: d3.extent(values.filter(Number.isFinite)), isLogged: true },
            best = onset === undefined ? undefined : bestBefore(loss.step, values, onset);
        return { ...row, says: best === undefined ? "" : `best before: ${number(Number(best.toPrecision(3)))}` };
    }

    /** All heads by the metric that shows an alert about all of them. */
    async rowOfAll(alert, newest) {
        const metric = alert && this.metricOf(shownBy(alert.metric)),
            grid = metric && (await this.gridOf({}, metric.name, "mean", newest)),
            row = grid && this.bandRow(grid, metric, new Set(), alert.since[1]);
        return row ? { ...row, about: alert.rule } : null;
    }

    /** A head or a layer by the metric that shows its worst alert, among the other heads of its layer. */
    async rowOf({ alerts, since }, rules, newest) {
        const [alert] = alerts,
            rule = rules.find(({ name }) => name === alert.rule),
            known = this.metricOf(shownBy(alert.metric)),
            metric = known ?? this.metricOf("entropy_normalized");
        if (!metric) return null;
        const isOn = Boolean(known && rule && isOnAxis(rule)),
            statistic = isOn ? rule.statistic : "mean",
            grid = await this.gridOf(alert, metric.name, statistic, newest);
        const pooled = { max: d3.max, min: d3.min }[statistic],
            values = seriesOf(grid, alert, alert.head, pooled);
        if (!values.some(Number.isFinite)) return null;
        const layer = grid.layers.get(layerName(alert)),
            mates = d3.range(layer.heads).filter((head) => head !== alert.head).map((head) => seriesOf(grid, alert, head)),
            spread = alert.head === null || mates.length === 0 ? null : spreadOf(mates, grid.count, [0, 1]),
            bound = isOn ? alert.bound : null;
        const all = [...values, ...(spread ? [...spread.low, ...spread.high] : []), ...(bound === null ? [] : [bound])];
        return {
            name: where(alert),
            href: this.hrefOf(alert),
            about: `${[...new Set(alerts.map((one) => one.rule))].join(", ")}`,
            says: isOn ? (value, step) => boundText(rule, bound, value, step < since) : metric.name,
            metric: isOn ? comparedText(rule) : metric.name,
            steps: grid.windows.step,
            values,
            spread: spread && { ...spread, steps: grid.windows.step },
            bound,
            since,
            tall: TALL.row,
            range: metric.domain ?? d3.extent(all.filter(Number.isFinite)),
        };
    }

    /** The windows of a layer, or of all, asked for once until there are newer ones. */
    gridOf({ stack, layer, site }, metric, statistic, newest) {
        const key = `${newest} ${metric} ${statistic} ${stack ? layerName({ stack, layer, site }) : "all"}`;
        for (const old of this.grids.keys()) if (!old.startsWith(`${newest} `)) this.grids.delete(old);
        if (!this.grids.has(key))
            this.grids.set(
                key,
                loadGrid({ ...this.run, stack, layer, site, metric, statistic, points: POINTS }).catch(() => {
                    this.grids.delete(key);
                    this.isWhole = false;
                    return null;
                }),
            );
        return this.grids.get(key);
    }

    /** All heads that no alert is about: their median, and p10 to p90. Many are sampled evenly. `since`: of an alert about all. */
    bandRow(grid, metric, broken, since) {
        if (grid.count < 2) return null;
        const heads = [...grid.layers.values()]
            .sort(byLayer)
            .filter((layer) => !broken.has(layerName(layer)))
            .flatMap((layer) => d3.range(layer.heads).map((head) => ({ layer, head })))
            .filter(({ layer, head }) => !broken.has(where({ ...layer, head })));
        const every = Math.ceil(heads.length / HEADS),
            windows = d3.range(Math.min(grid.count, POINTS)).map((i) => Math.round((i * (grid.count - 1)) / (Math.min(grid.count, POINTS) - 1))),
            series = heads.filter((_, i) => i % every === 0).map(({ layer, head }) => windows.map((window) => layer.values[head * grid.count + window]));
        if (series.length === 0) return null;
        const steps = windows.map((window) => grid.windows.step[window]),
            spread = spreadOf(series, windows.length, [0.1, 0.9]);
        return {
            name: `${broken.size ? "all other" : "all"} heads: ${heads.length}`,
            about: "median, p10 to p90",
            says: metric.name,
            metric: metric.name,
            steps,
            values: spread.middle,
            spread: { ...spread, steps },
            since,
            tall: TALL.band,
            range: metric.domain ?? d3.extent([...spread.low, ...spread.high].filter(Number.isFinite)),
        };
    }

    /* Drawing */

    paint() {
        this.width = this.frame.body.clientWidth;
        const { rows } = this,
            width = Math.max(320, this.width || 900),
            isWide = width >= WIDE,
            title = isWide ? 0 : TITLE,
            height = d3.sum(rows, ({ tall }) => tall + title + GAP) + AXIS;
        const steps = d3.extent(rows.flatMap((row) => [row.steps[0], row.steps.at(-1)])),
            ends = steps[0] < steps[1] ? steps : [steps[0] - 1, steps[1] + 1],
            xs = d3.scaleLinear(ends, isWide ? [LEFT, width - RIGHT] : [10, width - 10]),
            root = newSvg(width, height, "timeline of the run: arrow keys go from window to window").attr("role", "group"); // it has links
        let y = 0;
        for (const row of rows) {
            this.paintRow(root.append("g").attr("transform", `translate(0,${y})`), row, xs, { title, width, isWide });
            row.top = y + title;
            y += row.tall + title + GAP;
        }
        const ticks = xs.ticks(Math.floor(width / 90)).filter(Number.isInteger);
        root.append("g").attr("transform", `translate(0,${y})`).call(d3.axisBottom(xs).tickValues(ticks).tickFormat(String));
        root.append("text").attr("class", "soft").attr("x", d3.mean(xs.range())).attr("y", height - 2).attr("text-anchor", "middle").text("step");
        this.paintOnsets(root, xs);
        this.cursor = root.append("line").attr("class", "rule").attr("data-transient", "").attr("y2", y);
        Object.assign(this, { xs, root });
        this.listen();
        refill(this.frame.body, root.node());
        this.mark(this.step);
    }

    paintRow(group, row, xs, { title, width, isWide }) {
        const [low, high] = row.range,
            ys = d3.scaleLinear(low < high ? [low, high] : [low - 1, high + 1], [title + row.tall - 2, title + 2]).clamp(true),
            [from, to] = xs.range();
        group.append("rect").attr("class", "lane").attr("x", from).attr("width", to - from).attr("y", title).attr("height", row.tall);
        if (row.spread) group.append("path").attr("class", "band").attr("d", areaOf(xs, ys, row.spread));
        if (row.bound !== null && row.bound !== undefined)
            group.append("line").attr("class", "threshold").attr("x1", from).attr("x2", to).attr("y1", ys(row.bound)).attr("y2", ys(row.bound));
        group.append("path").attr("class", "line").attr("d", lineOf(xs, ys, row));
        if (row.since !== undefined) group.append("path").attr("class", "line bad").attr("d", lineOf(xs, ys, row, (step) => step >= row.since));
        const name = row.href ? group.append("a").attr("href", row.href) : group,
            anchor = isWide ? { x: from - 10, end: "end" } : { x: from, end: "start" };
        name.append("text").attr("class", "name").attr("x", anchor.x).attr("y", isWide ? row.tall / 2 - 2 : 11).attr("text-anchor", anchor.end).text(row.name);
        if (isWide) {
            const about = row.about ?? "";
            group.append("text").attr("class", "soft").attr("x", anchor.x).attr("y", row.tall / 2 + 12).attr("text-anchor", "end").text(about.length > 32 ? `${about.slice(0, 31)}…` : about).append("title").text(about);
        }
        row.label = group
            .append("text")
            .attr("class", `name ${row.since === undefined ? "" : "sick"}`)
            .attr("x", isWide ? to + 10 : width - 10)
            .attr("y", isWide ? row.tall / 2 - 2 : 11)
            .attr("text-anchor", isWide ? "start" : "end");
        row.label.append("title").text(row.metric ?? row.name);
        row.number = row.label.append("tspan");
        row.said = (isWide ? group.append("text").attr("x", to + 10).attr("y", row.tall / 2 + 12) : row.label.append("tspan").attr("dx", 4)).attr("class", "soft");
    }

    /** From the loss down to what broke, not through the titles that stand above rows where there is no room beside them. */
    paintOnsets(root, xs) {
        this.rows.forEach(({ since }, last) => {
            const through = this.rows.slice(0, last + 1).map(({ top, tall }) => `M${xs(since)},${top}v${tall}`);
            if (since !== undefined) root.append("path").attr("class", "began").attr("d", through.join(""));
        });
    }

    /** Shows a moment, null for the newest: a line through all rows, and the numbers there. */
    mark(step) {
        this.step = step;
        if (!this.root) return;
        this.cursor.attr("visibility", step === null ? "hidden" : "visible").attr("x1", this.xs(step ?? 0)).attr("x2", this.xs(step ?? 0));
        for (const row of this.rows) {
            const value = step === null ? row.values.at(-1) : valueAt(row, step),
                says = typeof row.says === "function" ? row.says(value, step ?? Infinity) : row.says;
            row.number.text(textOf(row, value));
            row.said.text(says);
        }
    }

    listen() {
        const stepAt = ({ clientX }) => {
            const box = this.root.node().getBoundingClientRect();
            return Math.max(this.xs.domain()[0], Math.min(this.xs.domain()[1], this.xs.invert(clientX - box.left)));
        };
        const { step: steps } = this.grid.windows,
            windowAt = (event) => Math.min(d3.bisectLeft(steps, stepAt(event)), steps.length - 1);
        this.root
            .attr("tabindex", 0)
            .on("pointermove", () => showTooltip(this.describe(steps[windowAt(d3.event)]), d3.event.clientX, d3.event.clientY))
            .on("pointerleave", hideTooltip)
            .on("click", () => d3.event.target.closest("a") || this.onPick(steps[windowAt(d3.event)]))
            .on("keydown", () => {
                const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[d3.event.key];
                if (!by) return;
                d3.event.preventDefault();
                const now = this.step === null ? steps.length : d3.bisectLeft(steps, this.step),
                    at = Math.max(0, Math.min(steps.length - 1, now + by));
                this.onPick(steps[at]);
                say(this.describe(steps[at]));
            });
    }

    describe(step) {
        const said = this.rows.map((row) => `${row.name}${row.metric ? ` ${row.metric}` : ""} ${textOf(row, valueAt(row, step))}`);
        return [`step ${step}`, ...said].join("\n");
    }
}
