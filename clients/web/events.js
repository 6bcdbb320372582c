// SPDX-License-Identifier: MIT
// The event stream. It heals by itself: EventSource connects again and says what it heard last; what was missed
// meanwhile comes after it, or `resync`, upon which everything is asked for again.
import { allowed, token } from "./api.js";

const KINDS = ["live", "summary", "alert", "job", "log", "resync"];
const RETRY_MS = 2000;
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
        const query = new URLSearchParams(token() ? { access_token: token() } : {});
        if (this.lastId) query.set("last_event_id", this.lastId);
        const source = (this.source = new EventSource(`/api/v1/events?${query}`));
        const heard = (kind, event) => {
            this.lastId = event.lastEventId;
            this.tell(kind, JSON.parse(event.data));
        };
        source.addEventListener("hello", (event) => {
            this.lastId ||= event.lastEventId;
            this.setState("live");
        });
        for (const kind of KINDS) source.addEventListener(kind, (event) => heard(kind, event));
        source.onerror = () => {
            this.isRefused = source.readyState === EventSource.CLOSED;
            if (this.state !== "token") this.setState("lost");
            if (!this.isRefused) return; // it connects again by itself
            this.close();
            setTimeout(() => allowed().then(() => this.connect()), RETRY_MS);
        };
    }

    close() {
        this.source?.close();
        this.source = null;
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
