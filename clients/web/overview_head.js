// SPDX-License-Identifier: MIT
// The head that is chosen on the overview: its number, its line over the run, what fires there, and links.
import { sparkline } from "./chart.js";
import { h, headName, number, refill } from "./dom.js";
import { facts } from "./pickers.js";
import { link } from "./router.js";

/** Numbers of the newest message. */
const factsOf = (live, head) =>
    facts([
        ["step", live?.step],
        ["entropy_normalized", live?.heads?.entropy_normalized?.[head]],
        ["first_token", live?.heads?.first_token?.[head]],
        ["max_logit", live?.heads?.max_logit?.[head]],
        ["importance", live?.heads?.importance?.[head]],
        ["effective_rank", live?.spectrum?.effective_rank?.[head]],
    ]);

function marksList(marks) {
    if (marks.length === 0) return "";
    const entry = (mark) => h("li", { class: mark.kind === "alert" ? "firing" : null }, mark.text);
    return h("ul", { class: "list" }, marks.map(entry));
}

export function drawNoHead(frame) {
    frame.setTitle("Head", "");
    frame.body.replaceChildren(
        h("p", { class: "soft" }, "Choose a cell: by a click, or with the arrow keys. Enter opens the head."),
    );
}

/**
 * Draws into a frame. `value` of `metric`; `series` over the run with the window `at`; `live`: its layer's newest message,
 * or null; `bound` of a rule, or null; `onset`: the window in which the alerts about it began, or null; `marks`: [{kind, text}]; `place`: parameters of its view.
 */
export function drawHead(frame, { layer, head, metric, value, series, at, bound, onset, live, marks, place }) {
    frame.setTitle(headName(layer, head), metric.description);
    refill(
        frame.body,
        h("p", { class: "big" }, number(value)),
        sparkline(series, { at, bound, onset }) ?? "",
        live ? factsOf(live, head) : "",
        marksList(marks),
        h(
            "p",
            { class: "links" },
            h("a", { href: link("head", place) }, "open this head"),
            " · ",
            h("a", { href: link("layer", { ...place, head: undefined }) }, "its layer"),
        ),
    );
}
