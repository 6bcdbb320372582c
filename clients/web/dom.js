// SPDX-License-Identifier: MIT
// Elements, numbers as text, and the tooltip. Texts from jobs go in as text, never as markup.

/** An element: attributes by name (`on…` are listeners, `class` a string), then children or texts. */
export function h(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
        if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
        else if (value === true) element.setAttribute(name, "");
        else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
}

/** A <select> of [value, text] pairs, or of groups {label, options}. */
export function select(label, options, value, onchange) {
    const option = ([v, text]) => h("option", { value: v, selected: v === value }, text);
    const box = h(
        "select",
        { "aria-label": label, onchange: (event) => onchange(event.target.value) },
        options.map((entry) =>
            Array.isArray(entry) ? option(entry) : h("optgroup", { label: entry.label }, entry.options.map(option)),
        ),
    );
    return h("label", { class: "pick" }, label, box);
}

export const number = (x) =>
    x === null || x === undefined || Number.isNaN(x)
        ? "–"
        : x === 0
          ? "0"
          : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3
            ? x.toExponential(2).replace(/\.?0+e/, "e")
            : String(Number(x.toPrecision(4)));

export const percent = (x) => (x === null || Number.isNaN(x) ? "–" : `${(100 * x).toFixed(x < 0.1 ? 1 : 0)} %`);

/** decoder.3.self */
export const layerName = (where) => `${where.stack}.${where.layer}.${where.site}`;
/** The path of the module that attends in a layer, where it is known, before a text. */
export const withModule = (where, text) => [where.module && visible(where.module), text].filter(Boolean).join(" · ");
export const headName = (where, head) => `${layerName(where)}.h${head}`;
/** In the model's order: encoder, decoder; layer; self, cross. */
export const byLayer = (a, b) =>
    (a.stack === b.stack ? 0 : a.stack === "encoder" ? -1 : 1) ||
    a.layer - b.layer ||
    (a.site === b.site ? 0 : a.site === "self" ? -1 : 1);

/** Shows by a name each character that cannot be seen or turns the line round. */
export function visible(text) {
    if (text === "") return "∅";
    return text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, (c) =>
        c === "\n" ? "↵" : c === "\t" ? "⇥" : "·",
    );
}

/** A text that runs from right to left leaves the line around it as it is. */
export const isolated = (text) => `\u2068${text}\u2069`;

const nameOf = (element) => element.getAttribute("href") ?? element.getAttribute("aria-label") ?? element.textContent;

/** Puts nodes in place of what is there. The focus goes from what had it to what is called the same. */
export function refill(container, ...nodes) {
    const had = container.contains(document.activeElement) ? document.activeElement : null;
    container.replaceChildren(...nodes);
    if (!had) return;
    if (container.contains(had)) return had.focus({ preventScroll: true });
    const like = [...container.querySelectorAll("a, button, summary, [tabindex]")].find(
        (one) => one.tagName === had.tagName && nameOf(one) === nameOf(had),
    );
    like?.focus({ preventScroll: true });
}

const tooltip = document.getElementById("tooltip");
export function showTooltip(text, x, y) {
    tooltip.textContent = text;
    tooltip.hidden = false;
    const box = tooltip.getBoundingClientRect();
    tooltip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 6))}px`;
    tooltip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 8 : y + 18}px`;
}
export function hideTooltip() {
    tooltip.hidden = true;
}

/** Read out by screen readers. */
export function say(text) {
    document.getElementById("readout").textContent = text;
}

export function note(text, ...more) {
    return h("p", { class: "note" }, text, ...more);
}
export function errorNote(error) {
    return h("p", { class: "note error", role: "alert" }, error.message || String(error));
}
