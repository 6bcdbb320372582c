// SPDX-License-Identifier: MIT
// The event stream. It heals by itself: it connects again and says what it heard last; what was missed meanwhile comes
// after it, or `resync`, upon which everything is asked for again. An EventSource would do the same, but could send the
// token only in the address, which proxies write into their logs.
import { address, allowed, ask, token } from "./api.js";

const LOST_MS = 1000;
const REFUSED_MS = 2000;
const HIDDEN_MS = 10000;

export class Events {
    constructor() {
        this.listeners = new Map();
        this.state = "connecting";
        this.since = Date.now();
        this.isRefused = false; // the last connection: attnd answered, and did not want it
        this.source = null;
        this.lastId = "";
    }

    /** Calls back with the data of each event of a kind: live, summary, alert, job, log, resync, state. Returns how to stop. */
    on(kind, callback) {
        if (!this.listeners.has(kind)) this.listeners.set(kind, new Set());
        this.listeners.get(kind).add(callback);
        return () => this.listeners.get(kind).delete(callback);
    }

    tell(kind, data) {
        for (const callback of [...(this.listeners.get(kind) ?? [])]) callback(data);
    }

    /** A token is needed, or there is one now. */
    waitForToken(isNeeded) {
        this.setState(isNeeded ? "token" : "connecting");
        if (!isNeeded) this.connect();
    }

    setState(state) {
        if (this.state === state) return;
        this.state = state;
        this.since = Date.now();
        this.tell("state", state);
    }

    connect() {
        if (this.source) return;
        const source = (this.source = new AbortController());
        this.read(source)
            .catch(() => {}) // it is lost, or closed
            .then(() => {
                if (this.source !== source) return;
                this.source = null;
                if (this.state !== "token") this.setState("lost");
                setTimeout(() => allowed().then(() => this.connect()), this.isRefused ? REFUSED_MS : LOST_MS);
            });
    }

    /** Until the stream ends. */
    async read(source) {
        this.isRefused = false;
        const response = await ask(address("events", { last_event_id: this.lastId }), token(), { signal: source.signal });
        this.isRefused = !response.ok;
        if (this.isRefused) return;
        const reader = response.body.getReader();
        const decoder = new TextDecoder();
        this.rest = "";
        // Nothing here holds on to what was read while it waits for more: that may be megabytes, and the wait hours.
        while (await reader.read().then(({ done, value }) => !done && this.source === source && this.take(decoder.decode(value, { stream: true }))));
    }

    /** Some of the stream's text. True. */
    take(text) {
        const events = (this.rest + text).split("\n\n");
        this.rest = events.pop();
        for (const event of events) this.hear(event);
        return true;
    }

    /** One event: lines of `name: value`; or a comment. */
    hear(text) {
        const fields = {};
        for (const line of text.split("\n")) {
            const colon = line.indexOf(": ");
            if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2);
        }
        if (!fields.event) return;
        if (fields.event === "hello") {
            this.lastId ||= fields.id;
            this.setState("live");
            return;
        }
        this.lastId = [...fields.id].join(""); // a part of a string would hold on to all that was read with it
        this.tell(fields.event, JSON.parse(fields.data));
    }

    close() {
        const source = this.source;
        this.source = null;
        source?.abort();
    }

    /** A browser has six connections to one host, for all its tabs: one that nobody looks at gives its own back. */
    watchVisibility() {
        let timer = null;
        document.addEventListener("visibilitychange", () => {
            clearTimeout(timer);
            if (document.hidden)
                timer = setTimeout(() => {
                    this.close();
                    this.setState("connecting");
                }, HIDDEN_MS);
            else this.connect();
        });
        addEventListener("pagehide", () => this.close());
        addEventListener("pageshow", () => this.connect());
    }
}
