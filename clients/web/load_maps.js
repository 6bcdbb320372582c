// SPDX-License-Identifier: MIT
// Maps of many heads as one answer, asked for in parts that take the page little time each; as they are shown.
import { asShown, withPadded } from "./cells.js";

/** Cells that are asked for at once. */
const CELLS = 1 << 16;
/** While a part came that is of a newer step than those before it, all are asked for again, so many times. */
const TRIES = 3;

/** There is none, or one map of all heads. */
const isWhole = (found) => !found || found.error || !found.heads;

/** The parts of an answer one after the other, as one. */
function joined(parts) {
    const values = new Float32Array(parts.reduce((sum, part) => sum + part.values.length, 0));
    let at = 0;
    for (const part of parts) {
        values.set(part.values, at);
        at += part.values.length;
    }
    return { ...parts[0], heads: parts.flatMap((part) => part.heads), values };
}

/** As answers are shown; null and errors stay what they are. */
const shown = (found, mean) => (isWhole(found) ? found : asShown(withPadded(found, mean)));

const sameMoment = (parts) =>
    parts.every(({ step, rows, columns }) => step === parts[0].step && rows === parts[0].rows && columns === parts[0].columns);

/** Asks for parts one after the other; those of one step are joined. A part that is whole, or why there is none, is all. */
async function partByPart(ask, asks) {
    let parts = [];
    for (let i = 0; i < TRIES; i++) {
        parts = [];
        for (const what of asks) {
            const part = await ask(what);
            if (isWhole(part)) return part;
            parts.push(part);
        }
        if (sameMoment(parts)) return joined(parts);
    }
    return joined(parts.filter((part) => part.step === parts[0].step && part.rows === parts[0].rows));
}

/** The maps of all heads of a layer in at most `size` cells a side, null for those that there are; as Run.map gives them. */
export async function allHeads(run, layer, size, last = null) {
    if (last !== null || size === null) return shown(await run.map(layer, { last }));
    const each = Math.max(1, Math.floor(CELLS / (size * size))),
        asks = [];
    for (let head = 0; head < layer.heads; head += each) asks.push({ head, heads: each, size, last });
    return shown(await partByPart((what) => run.map(layer, what), asks));
}

/** The maps of some heads of a layer, in the order of their numbers. */
export async function someHeads(run, where, heads, last = null) {
    const asks = heads.map((head) => ({ head, last })),
        [found, mean] = await Promise.all([
            partByPart((what) => run.map(where, what), asks),
            run.map(where, { kind: "mean", last }).catch(() => null),
        ]);
    return shown(found, mean);
}

/** One map over the heads of a layer: "mean" or "max". */
export async function overHeads(run, where, kind, last = null) {
    return asShown(await run.map(where, { kind, last }));
}
