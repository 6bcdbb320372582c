// SPDX-License-Identifier: MIT
// A moment of a run as it stands in the address: "epoch12", "step340". Windows are counted anew as a run grows (a grid
// has at most so many of them); the unit with which one ends stays.
/* global d3 */

const FORM = /^(epoch|step|second)(\d{1,15})$/;

/** Of the window of a grid. */
export const momentOf = (grid, window) => `${grid.unit}${grid.windows.last[window]}`;

/** The window that a moment is in; null when the text is no moment of the run, or there is no grid. */
export function windowAt(grid, text) {
    const [, unit, digits] = FORM.exec(text ?? "") ?? [],
        ends = grid && (unit === grid.unit ? grid.windows.last : grid.windows[unit]);
    if (!ends) return null;
    const window = d3.bisectLeft(ends, Number(digits));
    return window < grid.count ? window : null;
}
