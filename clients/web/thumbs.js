// SPDX-License-Identifier: MIT
// The maps of all heads of a model as thumbnails, layers by heads. Only what is in view is asked for and drawn, tile by
// tile, each in a task of its own: scrolling stays smooth with a hundred layers of a hundred heads.
import { COLOR_MAPS, table } from "./colors.js";
import { h, headName, hideTooltip, layerName, number, say, showTooltip } from "./dom.js";
import { settings } from "./settings.js";
import { topPairs } from "./pairs.js";
import { paint, scaleOfThumbs } from "./thumb_paint.js";

/** Px between thumbnails; a tile is so many px wide at most, where tiles go on in the next line fewer. */
const GAP = 3,
    TILE = 1000,
    WRAPPED_TILE = 270;
/** Px of a side: what is chosen for all heads to fit lies between. */
const SIDES = [28, 132];
/** Bytes of maps that are kept for when one scrolls back. */
const KEPT_BYTES = 48e6;
const LEFT = 92,
    BAR = 20, // of scrolling
    SMALL = 46; // beside smaller ones a name has two lines
/** Layers that are asked for at the same time. */
const AT_ONCE = 2;

/** Cells of a side that a thumbnail of so many px can show, fewer where a layer has very many heads. */
export const cellsOf = (side, heads) => (heads > 512 ? 16 : side < 40 ? 24 : side < 72 ? 40 : 64);

const TITLES = { self: "self-attention", cross: "cross attention" };
const titleOf = (layer) => `${layer.stack} ${TITLES[layer.site]}`;

const rounded = (x) => number(Number(x.toPrecision(2)));

/** The scale of a layer: its colours from left to right over its ends; an arrow where weights are above them. */
function smallBar([low, high, most]) {
    const colors = COLOR_MAPS[settings.colorMap],
        bar = h("div", { class: "thumb-colors" }),
        stops = Array.from({ length: 9 }, (_, i) => colors(i / 8));
    bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const ends = `${rounded(low)} – ${rounded(high)}${most > high ? " ▸" : ""}`;
    return [bar, h("span", { class: "soft", title: `the largest weight is ${rounded(most)}` }, ends)];
}

/** Runs tasks one after the other, and lets the browser work in between; those that nobody wants any more are left out. */
class Tasks {
    constructor() {
        this.waiting = [];
        this.channel = new MessageChannel();
        this.channel.port1.onmessage = () => this.run();
    }

    add(task) {
        this.waiting.push(task);
        if (this.waiting.length === 1) this.channel.port2.postMessage(null);
    }

    run() {
        const task = this.waiting[0];
        task?.();
        this.waiting.shift();
        if (this.waiting.length) this.channel.port2.postMessage(null);
    }

    stop() {
        this.waiting = [];
        this.channel.port1.close();
    }
}

/** One layer: its name with the scale of its maps, and a tile of thumbnails for every few heads. */
class Row {
    constructor(layer, thumbs) {
        Object.assign(this, { layer, thumbs, found: null, scale: null, tiles: [], isAsked: false, isStale: false });
        this.bar = h("div", { class: "thumb-bar" });
        this.link = h("a", { href: thumbs.hrefOf(layer), title: layer.module ?? null }, `L${layer.layer}`);
        this.name = h("div", { class: "thumb-name" }, this.link, this.bar);
        this.box = h("div", { class: "thumb-tiles" });
        this.element = h("div", { class: "thumb-row" }, this.name, this.box);
        this.layOut();
    }

    /** Places for tiles, which are empty until they are in view. */
    layOut() {
        const { side, isWrapped } = this.thumbs,
            count = this.found?.heads ? this.found.heads.length : this.found ? 1 : this.layer.heads,
            each = Math.max(1, Math.floor((isWrapped ? WRAPPED_TILE : TILE) / (side + GAP)));
        this.tiles.forEach((tile) => this.thumbs.unwatch(tile));
        this.tiles = [];
        for (let first = 0; first < count; first += each) {
            const tile = { row: this, first, count: Math.min(each, count - first), inView: false, canvas: null };
            tile.place = h("div", { class: "thumb-tile" });
            tile.place.style.width = `${tile.count * (side + GAP)}px`;
            tile.place.style.height = `${side}px`;
            this.tiles.push(tile);
        }
        this.count = count;
        this.box.replaceChildren(...this.tiles.map((tile) => tile.place));
        this.tiles.forEach((tile) => this.thumbs.watch(tile));
    }

    isInView() {
        return this.tiles.some((tile) => tile.inView);
    }

    take(found) {
        this.isStale = false;
        const before = this.count;
        this.found = found && !found.error ? found : null;
        if (!this.found) return this.say(found?.error?.message ?? "no map");
        const count = found.heads ? found.heads.length : 1;
        this.scale = scaleOfThumbs(found, count);
        if (count !== before) this.layOut();
        this.name.title = `${layerName(this.layer)}${found.heads ? "" : ": mean over the heads"}`;
        this.bar.replaceChildren(...(this.scale ? smallBar(this.scale) : [h("span", { class: "soft" }, "own scales")]));
        for (const tile of this.tiles) if (tile.inView) this.thumbs.draw(tile);
    }

    /** Why there is nothing. */
    say(text) {
        this.bar.replaceChildren(h("span", { class: "soft", title: text }, "no map"));
        for (const tile of this.tiles) tile.canvas?.remove();
    }

    forget() {
        this.found = null;
        this.isAsked = false;
    }
}

export class Thumbs {
    /**
     * `load(layer, cells)`: a map of each head in at most so many cells a side, as Run.map gives it, or null;
     * `hrefOf(layer)`: the layer's view; `onOpen(layer, head)`: a head was chosen; `isCurrent()`; `isWrapped`: layers
     * go on in the next line.
     */
    constructor({ load, hrefOf, onOpen, isCurrent, isWrapped = false }) {
        Object.assign(this, { load, hrefOf, onOpen, isCurrent, isWrapped });
        Object.assign(this, { rows: [], side: 64, asked: 0, turn: 0, at: null });
        this.onTake = () => {}; // a layer has come
        this.isFiring = () => false; // see mark()
        this.tasks = new Tasks();
        this.byPlace = new Map();
        this.cursor = h("div", { class: "thumb-cursor", hidden: true });
        this.element = h("div", {
            class: isWrapped ? "thumbs wrapped" : "thumbs",
            tabindex: 0,
            role: "group",
            "aria-label": "maps of all heads: arrow keys go from head to head, Enter opens one",
            onpointermove: (event) => this.point(event),
            onpointerleave: hideTooltip,
            onclick: (event) => this.click(event),
            onkeydown: (event) => this.key(event),
            onblur: hideTooltip,
        });
        this.watcher = new IntersectionObserver((entries) => this.see(entries), {
            root: this.element,
            rootMargin: "120px",
        });
    }

    watch(tile) {
        this.byPlace.set(tile.place, tile);
        this.watcher.observe(tile.place);
    }

    unwatch(tile) {
        this.watcher.unobserve(tile.place);
        this.byPlace.delete(tile.place);
    }

    /** Thumbnails of these layers, {…, heads}, with a side that fits, or of `side` px. */
    show(layers, width, side = 0) {
        const most = Math.max(1, ...layers.map((layer) => layer.heads)),
            fits = Math.floor((width - LEFT - BAR) / most) - GAP;
        this.side = side || Math.max(SIDES[0], Math.min(SIDES[1], fits));
        this.rows.forEach((row) => row.tiles.forEach((tile) => this.unwatch(tile)));
        this.rows = layers.map((layer) => new Row(layer, this));
        this.at = null;
        this.cursor.hidden = true;
        const blocks = new Map();
        for (const row of this.rows) {
            const title = titleOf(row.layer);
            if (!blocks.has(title)) blocks.set(title, [h("h3", { class: "thumb-kind" }, title)]);
            blocks.get(title).push(row.element);
        }
        const nodes = [...blocks.values()].map((block) => h("div", { class: "thumb-block" }, block));
        this.element.classList.toggle("small", this.side < SMALL);
        this.element.style.setProperty("--thumb", `${this.side}px`);
        this.element.replaceChildren(...nodes, this.cursor);
    }

    /** Cells of a side that a thumbnail of this many px can show. */
    cells() {
        return cellsOf(this.side, Math.max(1, ...this.rows.map((row) => row.layer.heads)));
    }

    /** Asks again for everything in view: the maps that are there are of another moment. */
    reload() {
        this.turn++;
        this.asked = 0;
        for (const row of this.rows) {
            Object.assign(row, { isAsked: false, isStale: row.found !== null });
            row.link.href = this.hrefOf(row.layer);
        }
        this.askNext();
    }

    /** Whether of some layer that is shown there is only the mean over its heads. */
    isOfMeans() {
        return this.rows.some((row) => row.found && !row.found.heads);
    }

    /** Another scale, or other colours, of what is there. */
    repaint() {
        for (const row of this.rows) if (row.found) this.tasks.add(() => row.found && row.take(row.found));
    }

    see(entries) {
        for (const entry of entries) {
            const tile = this.byPlace.get(entry.target);
            if (!tile) continue;
            tile.inView = entry.isIntersecting;
            if (tile.inView && tile.row.found) this.draw(tile);
            else if (!tile.inView && tile.canvas) tile.canvas = void tile.canvas.remove();
        }
        this.askNext();
    }

    /** Asks for the layers that are in view, a few at a time. */
    askNext() {
        for (const row of this.rows) {
            if (this.asked >= AT_ONCE) return;
            if (!row.isAsked && (!row.found || row.isStale) && row.isInView()) this.ask(row);
        }
    }

    async ask(row) {
        const mine = this.turn;
        row.isAsked = true;
        this.asked++;
        const found = await this.load(row.layer, this.cells()).catch((error) => ({ error }));
        if (mine !== this.turn || !this.isCurrent()) return;
        this.asked--;
        this.tasks.add(() => {
            row.take(found);
            this.onTake();
        });
        this.forgetSome(row);
        this.askNext();
    }

    /** Forgets rows that are out of view, beyond so many bytes. */
    forgetSome(newest) {
        let bytes = 0;
        for (const row of this.rows) bytes += row.found?.values.byteLength ?? 0;
        for (const row of this.rows) {
            if (bytes < KEPT_BYTES) return;
            if (row === newest || !row.found || row.isInView()) continue;
            bytes -= row.found.values.byteLength;
            row.forget();
        }
    }

    draw(tile) {
        this.tasks.add(() => {
            const { row } = tile;
            if (!tile.inView || !row.found || !row.tiles.includes(tile)) return;
            tile.canvas ??= h("canvas", { "aria-hidden": "true" });
            paint(tile.canvas, row.found, tile, {
                side: this.side,
                gap: GAP,
                scale: row.scale,
                colors: table(COLOR_MAPS[settings.colorMap]),
            });
            tile.place.replaceChildren(tile.canvas, ...this.marksOf(tile));
        });
    }

    /** Frames the heads of which `isFiring(layer, head)`. */
    mark(isFiring) {
        this.isFiring = isFiring;
        for (const tile of this.byPlace.values())
            if (tile.canvas?.isConnected) tile.place.replaceChildren(tile.canvas, ...this.marksOf(tile));
    }

    marksOf({ row, first, count }) {
        return Array.from({ length: count }, (_, i) => {
            const head = this.headOf({ row, index: first + i }),
                mark = head !== null && this.isFiring(row.layer, head) && h("div", { class: "thumb-mark" });
            if (mark) mark.style.left = `${i * (this.side + GAP)}px`;
            return mark;
        }).filter(Boolean);
    }

    /* Pointer and keys */

    /** {row, index}: the thumbnail under the pointer. */
    pointed(event) {
        const tile = this.byPlace.get(event.target.closest?.(".thumb-tile")),
            box = tile?.place.getBoundingClientRect(),
            i = box ? Math.floor((event.clientX - box.left) / (this.side + GAP)) : -1;
        return i >= 0 && i < tile.count ? { row: tile.row, index: tile.first + i } : null;
    }

    headOf({ row, index }) {
        return row.found?.heads ? row.found.heads[index] : row.found ? null : index;
    }

    /** "decoder.1.self.h3", and where its weight is. */
    describe(place) {
        const { row } = place,
            head = this.headOf(place),
            name = head === null ? `${layerName(row.layer)}, mean over the heads` : headName(row.layer, head);
        if (!row.found) return name;
        const alert = head !== null && this.isFiring(row.layer, head) ? ["■ a warning or worse fires"] : [];
        return [name, ...topPairs(row.found, place.index).map((pair) => pair.text), ...alert].join("\n");
    }

    point(event) {
        const place = this.pointed(event);
        if (place) showTooltip(this.describe(place), event.clientX, event.clientY);
        else hideTooltip();
    }

    click(event) {
        const place = this.pointed(event);
        if (place) this.open(place);
    }

    open(place) {
        this.onOpen(place.row.layer, this.headOf(place));
    }

    key(event) {
        const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
        if (event.key === "Enter" && this.at && event.target === this.element) this.open(this.at);
        if (!step || event.target !== this.element || this.rows.length === 0) return;
        event.preventDefault();
        const from = this.at ?? { row: this.rows[0], index: -1 },
            r = Math.max(0, Math.min(this.rows.length - 1, this.rows.indexOf(from.row) + (this.at ? step[0] : 0))),
            row = this.rows[r];
        this.moveTo({ row, index: Math.max(0, Math.min(row.count - 1, from.index + step[1])) });
    }

    moveTo(place) {
        const { row, index } = (this.at = place),
            tile = row.tiles.find((one) => index >= one.first && index < one.first + one.count);
        if (!tile) return;
        const left = tile.place.offsetLeft + (index - tile.first) * (this.side + GAP),
            top = tile.place.offsetTop;
        this.cursor.hidden = false;
        this.cursor.style.transform = `translate(${left}px, ${top}px)`;
        this.cursor.scrollIntoView({ block: "nearest", inline: "nearest" });
        const text = this.describe(place),
            box = this.cursor.getBoundingClientRect();
        showTooltip(text, box.right - 12, box.bottom - 16);
        say(text);
    }

    stop() {
        this.turn++;
        this.watcher.disconnect();
        this.tasks.stop();
    }
}
