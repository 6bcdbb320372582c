// SPDX-License-Identifier: MIT
// A small line of one head over the run, with a bound, the onset of an alert, and the window that is shown.
/* global d3 */
import { extent } from "./colors.js";
import { svg as newSvg } from "./figure.js";

/**
 * An <svg>, or null when there is nothing over time. `at`: the window that has a dot, or null; `bound`: a number on the
 * axis, or null; `onset`: the window from which the line is that of trouble, or null.
 */
export function sparkline(values, { at = null, bound = null, onset = null, width = 300, height = 46 } = {}) {
    const root = newSvg(width, height, "over the run"),
        ok = values.filter(Number.isFinite);
    if (ok.length < 2) return null;
    const x = d3.scaleLinear([0, values.length - 1], [2, width - 4]),
        y = d3.scaleLinear(extent(bound === null ? ok : [...ok, bound]), [height - 4, 4]);
    const line = d3
        .line()
        .defined(Number.isFinite)
        .x((_, i) => x(i))
        .y((v) => y(v));
    if (bound !== null)
        root.append("line")
            .attr("class", "threshold")
            .attr("x1", 2)
            .attr("x2", width - 4)
            .attr("y1", y(bound))
            .attr("y2", y(bound));
    root.append("path").attr("class", "line").attr("d", line(values));
    const since = (v, i) => (i >= onset ? v : NaN);
    if (onset !== null) root.append("path").attr("class", "line bad").attr("d", line(values.map(since)));
    if (at !== null && Number.isFinite(values[at]))
        root.append("circle").attr("class", "dot").attr("r", 3.5).attr("cx", x(at)).attr("cy", y(values[at]));
    return root.node();
}
