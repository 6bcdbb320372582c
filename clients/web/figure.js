// SPDX-License-Identifier: MIT
// A framed picture with a title, which can be saved as SVG and PNG. What is saved has its own colours and fonts: the
// computed style of each element is written into it.
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

/** The picture as the text of a file of its own, on the paper it stands on. */
export function svgText(svg, title) {
    const copy = styled(svg),
        box = svg.viewBox.baseVal;
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("width", box.width);
    copy.setAttribute("height", box.height + 22);
    copy.setAttribute("viewBox", `${box.x} ${box.y - 22} ${box.width} ${box.height + 22}`);
    const paper = getComputedStyle(svg.closest(".figure") ?? document.body);
    const ns = "http://www.w3.org/2000/svg";
    const ground = document.createElementNS(ns, "rect");
    for (const [name, value] of [
        ["x", box.x],
        ["y", box.y - 22],
        ["width", "100%"],
        ["height", "100%"],
        ["fill", paper.backgroundColor],
    ]) {
        ground.setAttribute(name, value);
    }
    const heading = document.createElementNS(ns, "text");
    for (const [name, value] of [
        ["x", box.x + 6],
        ["y", box.y - 7],
        ["fill", paper.color],
        ["font-family", "sans-serif"],
        ["font-size", "13"],
    ]) {
        heading.setAttribute(name, value);
    }
    heading.textContent = title;
    copy.prepend(ground, heading);
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

const fileName = (title, ending) => `attnd-${title.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^-|-$/g, "")}.${ending}`;

/** A figure: `title`, `sub` (a text or node), `class`. Draw into `.body`; call `.setTitle(title, sub)` when it changes. */
export function figure(title, sub = "", className = "") {
    const heading = h("h2", {}, title),
        under = h("span", { class: "sub" }, sub),
        body = h("div", { class: "body" });
    const picture = () => body.querySelector("svg");
    const button = (text, make) =>
        h(
            "button",
            { type: "button", title: `save as ${text}`, "aria-label": `save ${title} as ${text}`, onclick: make },
            text,
        );
    const full = () => `${heading.textContent} ${under.textContent}`.trim();
    const tools = h(
        "span",
        { class: "tools" },
        button(
            "SVG",
            () =>
                picture() &&
                save(new Blob([svgText(picture(), full())], { type: "image/svg+xml" }), fileName(full(), "svg")),
        ),
        button(
            "PNG",
            async () => picture() && save(await pngBlob(svgText(picture(), full())), fileName(full(), "png")),
        ),
    );
    const frame = h("section", { class: `figure ${className}`.trim() }, h("header", {}, heading, under, tools), body);
    frame.body = body;
    frame.setTitle = (text, more = "") => {
        heading.textContent = text;
        under.replaceChildren(more);
    };
    frame.plain = () => {
        tools.remove();
        return frame;
    };
    return frame;
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
