// SPDX-License-Identifier: MIT
// The maps of the heads of a layer beside one another: on one scale with one bar, or each on its own; below each the
// positions that stand out.
import { h, headName, layerName, note, withModule } from "./dom.js";
import { figure } from "./figure.js";
import { colorRange, lyingBar, rangeOfLayer, scaleOf } from "./map_scale.js";
import { drawMap } from "./map_view.js";
import { topPairs } from "./pairs.js";
import { mapStep, NOT_KEPT } from "./run.js";
import { scaleOfThumbs } from "./thumb_paint.js";
import { cellsOf, Thumbs } from "./thumbs.js";

/** With more heads thumbnails are shown, which are drawn as one scrolls; px of their sides. */
const FRAMES = 64,
    SIDE = 64;

/** "step 9, sample 0, 48 queries × 48 keys, causal" */
function mapsText(found, live) {
    const one = found.ofWindow || found.tier === "rows" ? "" : " (attnd keeps one of each batch: maps.sample)";
    return `${mapStep(found, live)}${one}, ${found.queries} queries × ${found.keys} keys${found.causal ? ", causal" : ""}`;
}

/** Cells of a side of the maps that are shown of so many heads; null: those that there are. */
export const cellsShown = (heads) => (heads > FRAMES ? cellsOf(SIDE, heads) : null);

/** Whose the scale is, where it is not that of the layer. */
function scaleText(isOfThumbs) {
    if (colorRange() === "row" && scaleOf() !== "limits" && !isOfThumbs) return "each row has its own scale";
    return scaleOf() === "map" ? "each map has its own scale" : "";
}

export class LayerHeads {
    /** `toHead(head)`: the address of a head; `openHead(head)` goes there; `isCurrent()`. */
    constructor(map, { toHead, openHead, isCurrent }) {
        Object.assign(this, { roles: new Map(), map, toHead, openHead, isCurrent, frames: new Map(), shown: null, thumbs: null });
        this.frame = figure(layerName(map), withModule(map, ""), "wide").plain();
        this.box = h("div", { class: "grid small" });
        this.legend = h("div", {});
    }

    frameOf(head) {
        if (!this.frames.has(head)) {
            const frame = figure(`head ${head}`);
            frame.link = h("a", {}, `head ${head}`);
            frame.querySelector("h2").replaceChildren(frame.link);
            frame.pairs = h("ol", { class: "pairs top" });
            frame.append(frame.pairs);
            this.frames.set(head, frame);
            this.box.append(frame);
        }
        return this.frames.get(head);
    }

    /** The numbers beside the maps that are shown: of the same moment, or on their way there. */
    tell(live) {
        const { map, shown } = this;
        if (!shown) return;
        this.frame.setTitle(
            shown.heads ? `${layerName(map)}: ${shown.heads.length} heads` : layerName(map),
            withModule(map, mapsText(shown, live)),
        );
        for (const [head, frame] of this.frames)
            frame.querySelector(".sub").textContent = this.roles.get(head)?.role ?? "";
    }

    draw(found, live) {
        this.shown = found;
        this.tell(live);
        if (!found.heads) return this.frame.body.replaceChildren(note(NOT_KEPT));
        const isOfThumbs = found.heads.length > FRAMES,
            range = isOfThumbs ? scaleOfThumbs(found) : rangeOfLayer(found, found.heads.length);
        this.legend.replaceChildren(lyingBar(range, scaleText(isOfThumbs)));
        if (isOfThumbs) return this.drawThumbs(found);
        this.frame.body.replaceChildren(this.legend, this.box);
        found.heads.forEach((_, i) => this.drawHead(found, i, range));
        this.tell(live);
    }

    drawHead(found, i, range) {
        const cells = found.rows * found.columns,
            head = found.heads[i],
            frame = this.frameOf(head),
            values = found.values.subarray(i * cells, (i + 1) * cells),
            name = `map of ${headName(this.map, head)}`;
        frame.link.href = this.toHead(head); // at the moment that is shown
        frame.about(headName(this.map, head), "map", mapStep(found, null));
        drawMap(
            frame.body,
            { ...found, values },
            { size: 190, bar: false, axes: false, range, name, onPick: () => this.openHead(head) },
        );
        frame.pairs.replaceChildren(...topPairs(found, i).map(({ text, short }) => h("li", { title: text }, short)));
    }

    drawThumbs(found) {
        this.thumbs ??= new Thumbs({
            load: async () => this.found,
            hrefOf: () => "",
            onOpen: (layer, head) => this.openHead(head),
            isCurrent: this.isCurrent,
            isWrapped: true,
        });
        this.found = found;
        if (!this.thumbs.element.isConnected) {
            this.frame.body.replaceChildren(this.legend, this.thumbs.element);
            const { stack, layer, site, module } = this.map;
            this.thumbs.show([{ stack, layer, site, module, heads: found.heads.length }], 0, SIDE);
        }
        this.thumbs.reload();
    }

    stop() {
        this.thumbs?.stop();
    }
}
