// SPDX-License-Identifier: MIT
// The numbers of the heads of a layer as a table that any of them sorts. Rows are made as one scrolls to them: with
// thousands, laying them all out takes seconds.
import { h } from "./dom.js";
import { headCount } from "./pickers.js";
import { newestText } from "./run_text.js";

/** The metrics that have a column, in layers that have their numbers. */
export const COLUMNS = [
    "entropy_normalized",
    "first_token",
    "previous_token",
    "local_mass",
    "confidence",
    "max_logit",
    "importance",
    "importance_gradient",
    "output_norm",
    "write_norm",
    "residual_share",
    "induction",
];
/** Rows that are added at once, and px before the last row at which they are. */
const ROWS = 64,
    NEAR = 600;

const valuesOf = (live, name) => live.heads?.[name] ?? live.spectrum?.[name];

export class HeadsTable {
    /** Draws into the body of `frame`; `toHead(head)`: the address of a head; `metricOf(name)`. */
    constructor(frame, toHead, metricOf) {
        Object.assign(this, { frame, toHead, metricOf, live: null, summary: null, columns: null, by: null, down: -1, order: [], rows: [] });
        this.roles = new Map(); // as rolesAt() gives them
        this.head = h("tr", {});
        this.body = h("tbody", {});
        this.table = h("table", {}, h("thead", {}, this.head), this.body);
        this.box = h("div", { class: "scroll", onscroll: () => this.addNear() }, this.table);
    }

    /** The numbers as withWindow() gives them, and the last window, if it is known; rows, their place and the focus stay. */
    draw(live, summary) {
        this.live = live;
        this.summary = summary;
        const columns = COLUMNS.filter((name) => this.hasColumn(name));
        if (String(columns) !== String(this.columns)) this.begin(columns);
        const count = headCount(live);
        this.table.setAttribute("aria-rowcount", count + 1);
        this.order = this.sorted(count);
        for (const row of this.rows.splice(count)) row.element.remove();
        this.rows.forEach((row, i) => this.fill(row, this.order[i]));
        this.add(Math.min(ROWS, count) - this.rows.length);
    }

    /** As rolesAt() gives them. */
    drawRoles(roles) {
        this.roles = roles;
        if (this.live) this.draw(this.live, this.summary);
    }

    /** The role of a head, and since when. */
    roleText(head) {
        const { role, since } = this.roles.get(head) ?? { role: "–", since: "" };
        return `${role} ${since}`.trim();
    }

    /** A metric whose numbers come now and then, as those of probes, keeps its column. */
    hasColumn(name) {
        const values = valuesOf(this.live, name);
        return Boolean(values && (this.columns?.includes(name) || values.some(Number.isFinite)));
    }

    sorted(count) {
        const values = this.by && valuesOf(this.live, this.by),
            of = (head) => values?.[head] ?? -Infinity;
        const heads = Array.from({ length: count }, (_, head) => head);
        return values ? heads.sort((a, b) => this.down * (of(a) - of(b) || 0)) : heads;
    }

    /** Other columns: no row stays. */
    begin(columns) {
        this.columns = columns;
        this.rows = [];
        this.body.replaceChildren();
        this.buttons = columns.map((name) => h("button", { type: "button", onclick: () => this.sortBy(name) }, name));
        this.head.replaceChildren(
            h("th", { class: "text" }, "head"),
            h("th", { class: "text" }, "role"),
            ...this.buttons.map((button) => h("th", {}, button)),
        );
        this.frame.body.replaceChildren(this.box);
    }

    sortBy(name) {
        this.down = this.by === name ? -this.down : -1;
        this.by = name;
        this.columns.forEach((column, i) => {
            const th = this.buttons[i].parentElement;
            if (column === name) th.setAttribute("aria-sort", this.down > 0 ? "ascending" : "descending");
            else th.removeAttribute("aria-sort");
        });
        for (const row of this.rows.splice(ROWS)) row.element.remove();
        this.box.scrollTop = 0;
        this.draw(this.live, this.summary);
    }

    fill({ link, texts }, head) {
        const { live, summary, columns } = this,
            shown = columns.map((name) => newestText(live, summary, this.metricOf(name), head));
        link.textContent = head;
        link.href = this.toHead(head);
        [{ text: this.roleText(head), title: "" }, ...shown].forEach(({ text, title }, i) => {
            texts[i].textContent = text;
            texts[i].title = title;
        });
    }

    add(count) {
        const before = this.rows.length;
        for (const [i, head] of this.order.slice(before, before + Math.max(0, count)).entries()) {
            const link = h("a", {}),
                texts = [h("td", { class: "text" }), ...this.columns.map(() => h("td", {}))],
                element = h("tr", { "aria-rowindex": before + i + 2 }, h("td", {}, link), texts);
            this.rows.push({ element, link, texts });
            this.fill(this.rows.at(-1), head);
            this.body.append(element);
        }
    }

    addNear() {
        const { scrollTop, clientHeight, scrollHeight } = this.box;
        if (scrollTop + clientHeight > scrollHeight - NEAR) this.add(ROWS);
    }
}
