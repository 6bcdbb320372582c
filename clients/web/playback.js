// SPDX-License-Identifier: MIT
// The time of a view: a slider over the windows of a run, whose last stop is live, and a button that plays them.
import { h } from "./dom.js";

const PLAY_MS = 120;

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
