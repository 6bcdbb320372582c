// SPDX-License-Identifier: MIT
// A framed picture with a title, which can be saved as SVG and PNG. A saved picture has its own colours and fonts:
// the computed style of each element is written into it.
/* global d3 */
import { h } from "./dom.js";

const STYLES = [
    "fill",
    "fill-opacity",
    "stroke",
    "stroke-width",
    "stroke-dasharray",
    "opacity",
    "font-size",
    "font-weight",
    "text-anchor",
    "paint-order",
];
const SCALE = 2;

function styled(svg) {
    const copy = svg.cloneNode(true);
    const from = [svg, ...svg.querySelectorAll("*")],
        to = [copy, ...copy.querySelectorAll("*")];
    from.forEach((element, i) => {
        const style = getComputedStyle(element);
        for (const name of STYLES) to[i].setAttribute(name, style.getPropertyValue(name));
        to[i].removeAttribute("class");
        to[i].removeAttribute("tabindex");
        if (to[i].tagName === "text") to[i].setAttribute("font-family", "sans-serif");
    });
    for (const cursor of copy.querySelectorAll("[data-transient]")) cursor.remove();
    return copy;
}

const NS = "http://www.w3.org/2000/svg";
const LINE = 17;
/** About how wide a letter is, of texts of 12 px. */
const LETTER = 6.7;
/** Px that a saved picture has at least, for what stands over it. */
const SAVED_WIDTH = 400;

function element(name, attributes, text = "") {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.textContent = text;
    return node;
}

const textAt = (x, y, fill, text, size = 12) =>
    element("text", { x, y, fill, "font-family": "sans-serif", "font-size": size }, text);

/** A text in lines of at most `width` px, cut between words. */
function wrapped(text, width) {
    const lines = [""],
        most = Math.floor((width - 16) / LETTER);
    for (const word of text.split(/\s+/)) {
        if (lines[0] && `${lines[lines.length - 1]} ${word}`.length > most) lines.push("");
        lines[lines.length - 1] = `${lines[lines.length - 1]} ${word}`.trim();
    }
    return lines;
}

/** A legend's parts, as [{svg (its own or null), text, width, height}]. */
function legendParts(legends) {
    return [...legends]
        .flatMap((legend) => [...legend.children])
        .map((part) => {
            const svg = part.matches("svg") ? part : part.querySelector("svg"),
                box = svg?.viewBox.baseVal ?? { width: 0, height: LINE - 6 },
                text = part.matches("svg") ? "" : part.textContent;
            return { svg, text, width: box.width + text.length * LETTER + 22, height: Math.max(LINE, box.height + 7) };
        });
}

/** The legend as nodes below one another where they do not fit beside one another: {nodes, height}. */
function laidOut(parts, { x: left, y, width }, ink) {
    const nodes = [];
    let x = left + 8,
        top = y,
        tall = 0;
    for (const part of parts) {
        if (x > left + 8 && x + part.width > left + width) [x, top, tall] = [left + 8, top + tall, 0];
        tall = Math.max(tall, part.height);
        const own = part.svg ? styled(part.svg) : null,
            beside = part.svg ? part.svg.viewBox.baseVal.width + 5 : 0;
        own?.setAttribute("x", x);
        own?.setAttribute("y", top);
        if (own) nodes.push(own);
        if (part.text) nodes.push(textAt(x + beside, top + 10, ink, part.text, 11));
        x += part.width;
    }
    return { nodes, height: parts.length ? top - y + tall + 4 : 0 };
}

/** The picture as the text of a file of its own, on the paper it stands on: under lines of text, above its legends. */
export function svgText(svg, titles, legends = []) {
    const copy = styled(svg),
        box = svg.viewBox.baseVal,
        paper = getComputedStyle(svg.closest(".figure") ?? document.body);
    const width = Math.max(box.width, SAVED_WIDTH),
        lines = titles.flatMap((title) => wrapped(title, width)),
        head = lines.length * LINE + 5,
        parts = legendParts(legends);
    const legend = laidOut(parts, { x: box.x, y: box.y + box.height + 6, width }, paper.color),
        height = box.height + head + legend.height + (parts.length ? 6 : 0);
    const whole = { x: box.x, y: box.y - head, width, height };
    copy.setAttribute("xmlns", NS);
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    copy.setAttribute("viewBox", `${whole.x} ${whole.y} ${width} ${height}`);
    copy.prepend(
        element("rect", { ...whole, fill: paper.backgroundColor }),
        ...lines.map((line, i) => textAt(box.x + 6, whole.y + LINE * (i + 1) - 3, paper.color, line)),
    );
    copy.append(...legend.nodes);
    return new XMLSerializer().serializeToString(copy);
}

async function pngBlob(text) {
    const image = new Image();
    image.src = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
    await image.decode();
    const canvas = h("canvas");
    canvas.width = SCALE * image.width;
    canvas.height = SCALE * image.height;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    URL.revokeObjectURL(image.src);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function save(blob, name) {
    const link = h("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** Which job and run the page shows: its header says so. */
function subject() {
    const of = (id) => document.getElementById(id)?.value ?? "";
    return { job: of("job"), run: of("run").slice(0, 8) };
}

/** attnd-JOB-RUN-WHERE-WHAT.png; what is not known is left out. */
function fileName({ place, what }, ending) {
    const { job, run } = subject(),
        clean = (text) => text.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^-|-$/g, "");
    return `${["attnd", job, run, place, what].map(clean).filter(Boolean).join("-")}.${ending}`;
}

/** The lines over a saved picture: what it shows, then its own title. */
function titleLines({ place, moment }, title) {
    const { job, run } = subject();
    return [[job, run && `run ${run}`, place].filter(Boolean).join(" · "), title, moment].filter(Boolean);
}

/** The text of what a frame shows; a small picture is drawn whole for it, out of sight. */
function savedText(frame) {
    const shown = frame.body.querySelector("svg");
    const box = h("div", { class: "unseen" });
    frame.append(box);
    try {
        const lines = titleLines(frame.subject, frame.fullTitle());
        return svgText(shown.whole?.(box) ?? shown, lines, frame.querySelectorAll(".legend"));
    } finally {
        box.remove();
    }
}

async function savePicture(frame, ending) {
    if (!frame.body.querySelector("svg")) return;
    const text = savedText(frame),
        subject = { ...frame.subject, what: frame.subject.what || frame.fullTitle() };
    const blob = ending === "png" ? await pngBlob(text) : new Blob([text], { type: "image/svg+xml" });
    save(blob, fileName(subject, ending));
}

/**
 * A figure: `title`, `sub` (a text or node), `class`. Draw into `.body`; call `.setTitle(title, sub)` when it changes, and
 * `.about(place, what, moment)` to say what its file is named after: a layer or head, and what is shown of it; `moment`
 * stands over what is saved, where the title does not say of when it is.
 */
export function figure(title, sub = "", className = "") {
    const heading = h("h2", {}, title),
        under = h("span", { class: "sub" }, sub),
        body = h("div", { class: "body" });
    const button = (text) =>
        h(
            "button",
            {
                type: "button",
                title: `save as ${text}`,
                "aria-label": `save ${title} as ${text}`,
                onclick: () => savePicture(frame, text.toLowerCase()),
            },
            text,
        );
    const tools = h("span", { class: "tools" }, button("SVG"), button("PNG"));
    const frame = h("section", { class: `figure ${className}`.trim() }, h("header", {}, heading, under, tools), body);
    frame.body = body;
    frame.subject = { place: "", what: "", moment: "" };
    frame.fullTitle = () =>
        [heading, under]
            .map((part) => part.textContent)
            .filter(Boolean)
            .join(" · ");
    frame.setTitle = (text, more = "") => {
        heading.textContent = text;
        under.replaceChildren(more);
    };
    frame.about = (place, what, moment = "") => {
        frame.subject = { place, what, moment };
        return frame;
    };
    frame.plain = () => {
        tools.remove();
        return frame;
    };
    return frame;
}

/** A part of a picture, with its text if it has one: appended to a selection of D3, and the selection of it. */
export function put(parent, tag, attributes, text) {
    const node = parent.append(tag);
    for (const [name, value] of Object.entries(attributes)) node.attr(name, value);
    return text === undefined ? node : node.text(text);
}

/** An <svg> of this size in its own units, which shrinks with the page. */
export function svg(width, height, label) {
    return d3
        .create("svg")
        .attr("viewBox", `0 0 ${width} ${height}`)
        .attr("width", width)
        .attr("height", height)
        .attr("role", "img")
        .attr("aria-label", label);
}
