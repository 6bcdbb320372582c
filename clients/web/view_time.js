// SPDX-License-Identifier: MIT
// The moment that a view shows: live, or a window of the run, chosen by a slider.
import { h, note } from "./dom.js";
import { loadLoggedGrid, momentOf, momentText, valuesAt, windowAt } from "./grid.js";
import { keep } from "./router.js";
import { pacedUntilStored } from "./view_state.js";

/** New windows are asked for at most so often. */
const GRID_MS = 2000;
const PLAY_MS = 120;

/** A slider over the windows of a run, whose last stop is live, and a button that plays them. */
export class Playback {
    /** `onTime(at)`: the window that was chosen, null for live. */
    constructor(onTime) {
        Object.assign(this, { onTime, count: 0, at: null, timer: null });
        this.when = h("span", { class: "soft" });
        this.play = h(
            "button",
            { type: "button", "aria-label": "play the run", onclick: () => this.playOrStop() },
            "▶ play",
        );
        this.slider = h("input", {
            type: "range",
            min: 0,
            "aria-label": "time: window of the run, the last stop is live",
            oninput: () => this.goTo(Number(this.slider.value)),
        });
        this.element = h("div", { class: "time" }, this.play, this.slider, this.when);
    }

    /** Other windows, or another moment of them: `at` is a window, null is live. */
    place(count, at) {
        Object.assign(this, { count, at });
        this.slider.max = count;
        this.slider.value = at ?? count;
    }

    /** Where in the run that is, in words. */
    name(text) {
        this.when.textContent = text;
        this.slider.setAttribute("aria-valuetext", text);
    }

    /** A window that somebody has chosen: nothing is played any more. */
    goTo(value) {
        this.stop();
        this.tell(value);
    }

    tell(value) {
        this.place(this.count, value >= this.count ? null : Math.max(0, value));
        this.onTime(this.at);
    }

    stop() {
        clearInterval(this.timer);
        this.timer = null;
        this.play.textContent = "▶ play";
    }

    playOrStop() {
        if (this.timer) return this.stop();
        if (this.count < 2) return;
        if (this.at === null) this.tell(0);
        this.play.textContent = "❚❚ stop";
        this.timer = setInterval(() => {
            this.tell((this.at ?? this.count) + 1);
            if (this.at === null) this.stop();
        }, PLAY_MS);
    }
}

/** The moment of a view of a layer, a head or the model. */
export class ViewTime {
    /**
     * `metric`: whose windows they are; `where`: the layer, {} for all; `params` of the view, whose `at` is the moment also
     * when another is chosen: links are made of them; `onTime()`: another moment is shown.
     */
    constructor({ run, metric, where, params, isCurrent, onTime }) {
        Object.assign(this, { run, metric, where, params, moment: params.at, isCurrent, onTime, grid: null, at: null });
        this.playback = new Playback((window) => this.setTime(window));
        this.element = this.playback.element;
        this.reloadSoon = pacedUntilStored(() => this.reload(), GRID_MS);
    }

    async load() {
        const { job, run } = this.run;
        const what = { job, run, ...this.where, metric: this.metric.name, statistic: "mean" };
        [this.grid] = await loadLoggedGrid(what).catch(() => [null]);
        this.place();
    }

    /** More windows, the same moment. */
    async reload() {
        await this.load();
        if (this.isCurrent()) this.onTime();
    }

    place() {
        this.at = windowAt(this.grid, this.moment);
        this.playback.place(this.grid?.count ?? 0, this.at);
        this.playback.name(this.text());
        this.element.hidden = !this.grid;
    }

    setTime(at) {
        this.moment = at === null ? undefined : momentOf(this.grid, at);
        this.params.at = this.moment;
        keep({ at: this.moment });
        this.place();
        this.onTime();
    }

    /** The window that ends there. */
    goTo(last) {
        const at = this.grid?.windows.last.indexOf(last) ?? -1;
        if (at >= 0) this.playback.goTo(at);
    }

    /** With which unit the window ends; null: the newest is shown. */
    get last() {
        return this.at === null ? null : this.grid.windows.last[this.at];
    }

    /** The step with which it ends; null likewise. */
    get step() {
        return this.at === null ? null : this.grid.windows.step[this.at];
    }

    /** "step 55", "epoch 3 · step 120", "live", "end of the run". */
    text() {
        if (this.at === null) return this.run.isOver() ? "end of the run" : "live";
        return momentText(this.grid, this.at);
    }

    /** The metric of a layer's heads at the moment, of a window; null when the newest is shown, or there is none. */
    values(layer) {
        return this.at === null ? null : valuesAt(this.grid, layer, this.at);
    }

    stop() {
        this.playback.stop();
        this.reloadSoon.stop();
    }
}

/** Said where `at` of the address names no window. */
export const wrongMoment = (time) =>
    time.moment !== undefined && time.at === null
        ? note(
              `at=${time.moment} names no window of this run. A window is named by its end, as in at=epoch3 or at=step120. This is the newest.`,
          )
        : null;
