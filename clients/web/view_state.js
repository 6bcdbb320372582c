// SPDX-License-Identifier: MIT
// A part of a view that is asked for, drawn, and asked for again as more comes. It heals by itself: a note or an error
// stands there only until there is something to draw.
import { errorNote, note } from "./dom.js";

const PAUSE_MS = 1000;
/** A window is told of before it is in the history, up to history.commit later, a minute at most, and the disk takes its time. */
const STORED_MS = [5000, 65000];

/**
 * Keeps `body` in step with attnd. `load()` gives what is to be drawn, or null; `draw(found)` draws it; `nothing()` says
 * why there is none. An answer that came after a later question was put, or when the view has gone, is not drawn.
 *
 * Returns {now, soon, stop}: `now()` asks at once, and is done when it is drawn; `soon()` asks after `pause` ms, once,
 * however often it is called meanwhile; `stop()` when the view goes.
 */
export function kept({ body, load, draw, nothing, isCurrent, pause = PAUSE_MS }) {
    let timer = null,
        asked = 0;
    async function now() {
        const mine = ++asked;
        const found = await load().catch((error) => ({ error }));
        if (!isCurrent() || mine !== asked) return;
        if (found?.error?.code === "unreachable") return; // said over all views
        if (found?.error) body.replaceChildren(errorNote(found.error));
        else if (!found) body.replaceChildren(note(nothing()));
        else draw(found);
    }
    function soon() {
        timer ??= setTimeout(() => {
            timer = null;
            now();
        }, pause);
    }
    return { now, soon, stop: () => clearTimeout(timer) };
}

/** Calls `callback` at most once per `pause` ms, the last time after the last call. `.stop()` when the view goes. */
export function paced(callback, pause = PAUSE_MS) {
    let timer = null;
    const call = () => {
        timer ??= setTimeout(() => {
            timer = null;
            callback();
        }, pause);
    };
    call.stop = () => clearTimeout(timer);
    return call;
}

/** As paced(), of what the history is asked for after it was told of: and again when it has what the last call was about. */
export function pacedUntilStored(callback, pause = PAUSE_MS) {
    const soon = paced(callback, pause);
    let later = [];
    const call = () => {
        soon();
        later.forEach((timer) => clearTimeout(timer));
        later = STORED_MS.map((ms) => setTimeout(callback, pause + ms));
    };
    call.stop = () => {
        soon.stop();
        later.forEach((timer) => clearTimeout(timer));
    };
    return call;
}
