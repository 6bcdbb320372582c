#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes dashboards/*.json, which are generated files: panels are described here, in a line or two each.

    python3 deploy/grafana/make.py
"""
from __future__ import annotations

import json
import pathlib
from typing import Any, Dict, Iterator, List, Sequence, Tuple

HERE = pathlib.Path(__file__).resolve().parent
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24  # of Grafana's grid
# (expression, legend)
Query = Tuple[str, str]


def variable(name: str, label: str, query: str) -> Dict[str, Any]:
    """One value of a label, as the user chooses."""
    return {"name": name, "label": label, "type": "query", "datasource": DATASOURCE, "definition": query,
            "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "multi": False, "includeAll": False}


def datasource_variable() -> Dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1,
            "current": {"text": "Prometheus (attnd)", "value": "attnd-prometheus"}, "multi": False, "includeAll": False}


def targets(queries: Sequence[Query], instant: bool = False) -> List[Dict[str, Any]]:
    return [{"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend,
             "instant": instant, "range": not instant} for i, (expr, legend) in enumerate(queries)]


def panel(kind: str, title: str, description: str, unit: str, queries: Sequence[Query], **more: Any) -> Dict[str, Any]:
    defaults: Dict[str, Any] = {"unit": unit}
    for key in ("min", "max", "decimals"):
        if key in more:
            defaults[key] = more.pop(key)
    return {"type": kind, "title": title, "description": description, "datasource": DATASOURCE,
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "targets": targets(queries, instant=kind in ("stat", "table")), **more}


def series(title: str, description: str, unit: str, *queries: Query, **more: Any) -> Dict[str, Any]:
    """Lines over time."""
    made = panel("timeseries", title, description, unit, queries, **more)
    made["fieldConfig"]["defaults"]["custom"] = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 0,
                                                 "showPoints": "never", "spanNulls": False}
    made["options"] = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                       "tooltip": {"mode": "multi", "sort": "desc"}}
    return made


def stat(title: str, description: str, unit: str, *queries: Query, **more: Any) -> Dict[str, Any]:
    """One number, now."""
    made = panel("stat", title, description, unit, queries, **more)
    made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "none",
                       "graphMode": "none", "textMode": "auto"}
    return made


def named(made: Dict[str, Any]) -> Dict[str, Any]:
    """Shows the legend instead of the number."""
    made["options"]["textMode"] = "name"
    return made


def table(title: str, description: str, *queries: Query) -> Dict[str, Any]:
    made = panel("table", title, description, "short", queries)
    made["targets"][0]["format"] = "table"
    made["transformations"] = [{"id": "organize", "options": {"excludeByName": {
        "Time": True, "__name__": True, "instance": True, "job": True}}}]
    return made


def place(rows: Sequence[Tuple[str, int, Sequence[Dict[str, Any]]]]) -> Iterator[Dict[str, Any]]:
    """Rows of panels of the same height, which share the width."""
    y = number = 0
    for title, height, panels in rows:
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}}
        y += 1
        per_line = min(len(panels), 6 if height <= 4 else 3)
        for i, one in enumerate(panels):
            number += 1
            width = WIDTH // per_line
            one.update(id=number, gridPos={"x": i % per_line * width, "y": y + i // per_line * height, "w": width,
                                           "h": height})
            yield one
        y += (len(panels) + per_line - 1) // per_line * height


def dashboard(uid: str, title: str, description: str, variables: Sequence[Dict[str, Any]],
              rows: Sequence[Tuple[str, int, Sequence[Dict[str, Any]]]], other: Tuple[str, str]) -> Dict[str, Any]:
    return {"id": None, "uid": uid, "title": title, "description": description, "tags": ["attnd"], "editable": False,
            "schemaVersion": 37, "version": 1, "refresh": "15s", "timezone": "browser", "graphTooltip": 1,
            "time": {"from": "now-1h", "to": "now"}, "annotations": {"list": []},
            "links": [{"type": "link", "title": other[1], "url": f"/d/{other[0]}", "icon": "dashboard",
                       "keepTime": True, "targetBlank": False}],
            "templating": {"list": [datasource_variable(), *variables]}, "panels": list(place(rows))}


# The pipeline

HERE_ONLY = '{instance="$instance"}'


WITHOUT_REPEATED = '{instance="$instance", reason!="repeated"}'  # on the reliable lane, and so no loss


def rate(name: str, labels: str = HERE_ONLY) -> str:
    return f"rate({name}{labels}[$__rate_interval])"


def received(of: str, labels: str = HERE_ONLY) -> str:
    """Messages per second, without what came again on the reliable lane, which is dropped as `repeated`."""
    every, again = (f"attnd_{of}_{what}_total" for what in ("received", "dropped"))
    repeated = labels.replace("}", ', reason="repeated"}')
    return f"{rate(every, labels)} - (sum without (reason) ({rate(again, repeated)}) or 0 * {rate(every, labels)})"


def quantile(q: float, name: str) -> str:
    return f"histogram_quantile({q}, sum by (le) ({rate(name + '_bucket')}))"


def quantiles(title: str, description: str, name: str) -> Dict[str, Any]:
    return series(title, description, "s", *((quantile(q, name), f"p{round(100 * q)}") for q in (0.5, 0.9, 0.99)), min=0)


def pipeline() -> Dict[str, Any]:
    return dashboard(
        "attnd-pipeline", "attnd: pipeline", "Whether attnd keeps up: what comes in, what is dropped, how long it takes.",
        [variable("instance", "attnd", "label_values(attnd_build_info, instance)")],
        [("Now", 4, [
            stat("Jobs", "Jobs that attnd knows.", "short", (f"attnd_jobs{HERE_ONLY}", "")),
            stat("Messages", "Messages received per second.", "short", (received("messages"), ""),
                 decimals=1),
            stat("Dropped", "Share of the messages received that were not used.", "percentunit",
                 (f"sum({rate('attnd_messages_dropped_total', WITHOUT_REPEATED)}) / sum({received('messages')})", ""),
                 decimals=2),
            stat("Processing, p99", "From reception until the numbers are in their windows.", "s",
                 (quantile(0.99, "attnd_message_processing_seconds"), "")),
            stat("Memory", "Resident memory of the process.", "bytes",
                 (f"process_resident_memory_bytes{HERE_ONLY}", "")),
            stat("Up for", "Since the process began.", "s", (f"time() - process_start_time_seconds{HERE_ONLY}", ""),
                 decimals=0),
        ]),
         ("Messages", 8, [
             series("Messages", "Per second. Lost ones never arrived; publishers drop when attnd is slower than they are.",
                    "short", (received("messages"), "received"),
                    (rate("attnd_messages_processed_total"), "processed"), (rate("attnd_messages_lost_total"), "lost"),
                    (rate("attnd_messages_dropped_by_publishers_total"), "dropped by publishers"), min=0),
             series("Dropped, by reason", "Messages per second that were received and not used.", "short",
                    (f"sum by (reason) ({rate('attnd_messages_dropped_total', WITHOUT_REPEATED)}) > 0", "{{reason}}"), min=0),
             series("Received", "Payload and headers.", "Bps", (rate("attnd_received_bytes_total"), "received"), min=0),
             quantiles("Processing", "From reception until the numbers are in their windows.",
                       "attnd_message_processing_seconds"),
             quantiles("Waiting for a worker", "Part of processing: high when the workers are too few.",
                       "attnd_message_waiting_seconds"),
             quantiles("Computing", "Part of processing: high for large messages and many metrics.",
                       "attnd_message_computing_seconds"),
             series("In flight", "Bytes of messages and of what computing them takes. At the limit messages are dropped.",
                    "bytes", (f"attnd_in_flight_bytes{HERE_ONLY}", "in flight"),
                    (f"attnd_in_flight_limit_bytes{HERE_ONLY}", "limit"), min=0),
             series("Workers' queue", "Parts of messages that wait for a worker.", "short",
                    (f"attnd_worker_queue_length{HERE_ONLY}", "waiting"),
                    (f"attnd_worker_queue_limit{HERE_ONLY}", "room"), min=0),
         ]),
         ("Results and history", 8, [
             series("Results", "Per second: what went out to readers.", "short",
                    (rate("attnd_results_published_total"), "published"), (rate("attnd_summaries_total"), "summaries"),
                    (rate("attnd_results_failed_total"), "failed"), min=0),
             series("History", "Records per second.", "short", (rate("attnd_history_records_total"), "committed"),
                    (rate("attnd_history_records_dropped_total"), "dropped"), min=0),
             series("Waiting for the disk", "At the limit records are dropped.", "bytes",
                    (f"attnd_history_waiting_bytes{HERE_ONLY}", "waiting"),
                    (f"attnd_history_waiting_limit_bytes{HERE_ONLY}", "limit"), min=0),
             series("History on disk", "The database and its log.", "bytes",
                    (f"attnd_history_size_bytes{HERE_ONLY}", "size"), min=0),
             series("Alerts", "Events per second: rules that began to hold or ceased to, and who was told.", "short",
                    (rate("attnd_alert_events_total"), "events"), (rate("attnd_notifications_total"), "told"),
                    (rate("attnd_notifications_failed_total"), "not told"), min=0),
             series("Layers", "Layers of active jobs, and those of them that are on /metrics.", "short",
                    (f"attnd_layers{HERE_ONLY}", "layers"), (f"attnd_layers_exposed{HERE_ONLY}", "exposed"), min=0),
         ]),
         ("Fleet, with fleet.role", 8, [
             series("Fleet: nodes", "That a hub has heard of, by state.", "short", (f"attnd_fleet_nodes{HERE_ONLY}", "{{state}}"), min=0),
             series("Fleet: nodes behind", "Windows behind the first node, of those that are behind.", "short",
                    (f"attnd_fleet_node_behind_windows{HERE_ONLY} > 0", "{{name}}"), min=0),
             series("Fleet: odd ranks", "Ranks that differ from the others of their run: attnctl ranks says how.", "short",
                    (f"attnd_fleet_odd_ranks{HERE_ONLY}", "{{job}} {{run}}"), min=0),
             series("Fleet: windows", "That a hub merged, per second; re-merged, as parts came late.", "short",
                    (rate("attnd_fleet_merged_windows_total"), "merged"),
                    (rate("attnd_fleet_corrected_windows_total"), "corrected"), min=0),
             series("Fleet: waiting", "Rows that no server has taken, of a node and of each node of a hub; messages that the hub"
                    " has not taken.", "short", (f"attnd_fleet_unsent_rows{HERE_ONLY}", "unsent"),
                    (f"attnd_fleet_node_unsent_rows{HERE_ONLY} > 0", "unsent, {{name}}"),
                    (f"attnd_fleet_waiting_messages{HERE_ONLY}", "in the stream"), min=0),
             series("Fleet: lost", "Per second: rows that fell out of the outbox unsent, messages that cannot be read, rows that"
                    " never came.", "short", (rate("attnd_fleet_lost_rows_total"), "fell out of the outbox"),
                    (rate("attnd_fleet_poisoned_messages_total"), "cannot be read"),
                    (rate("attnd_fleet_gone_rows_total"), "never came"), min=0),
         ]),
         ("HTTP and process", 8, [
             series("HTTP", "Connections, and clients of the event stream.", "short",
                    (f"attnd_http_connections{HERE_ONLY}", "connections"),
                    (f"attnd_http_event_clients{HERE_ONLY}", "event clients"), min=0),
             series("HTTP requests", "Per second. Resyncs: clients that missed events and were told to ask again.", "short",
                    (rate("attnd_http_requests_total"), "requests"), (rate("attnd_http_requests_refused_total"), "refused"),
                    (rate("attnd_http_resyncs_total"), "resyncs"), (rate("attnd_http_results_dropped_total"), "dropped"),
                    min=0),
             quantiles("HTTP requests take", "Event streams excepted.", "attnd_http_request_duration_seconds"),
             series("Processor", "Cores in use.", "short", (rate("process_cpu_seconds_total"), "cores"), min=0),
             series("Memory", "Resident memory.", "bytes", (f"process_resident_memory_bytes{HERE_ONLY}", "resident"), min=0),
             series("Descriptors", "Open files and connections.", "short", (f"process_open_fds{HERE_ONLY}", "open"),
                    (f"process_max_fds{HERE_ONLY}", "limit"), min=0),
         ])], ("attnd-job", "One job"))


# A job

OF_JOB = '{job="$job"}'
LAYER = "{{stack}}.{{layer}}.{{site}}"


def of_layers(title: str, description: str, unit: str, name: str, **more: Any) -> Dict[str, Any]:
    return series(title, description, unit, (f"attnd_attention_{name}{OF_JOB}", LAYER), **more)


def job() -> Dict[str, Any]:
    return dashboard(
        "attnd-job", "attnd: a job", "The attention of one training job, layer by layer, newest run.",
        [variable("job", "Job", "label_values(attnd_training_info, job)")],
        [("Now", 4, [
            named(stat("State", "State of the newest run.", "short", (f"attnd_training_state{OF_JOB} == 1", "{{state}}"))),
            stat("Epoch", "Epoch of the newest message.", "short", (f"attnd_training_epoch{OF_JOB}", ""), decimals=0),
            stat("Step", "Step of the newest message.", "short", (f"attnd_training_step{OF_JOB}", ""), decimals=0),
            stat("Ranks", "That have been heard of.", "short", (f"attnd_training_ranks{OF_JOB}", ""), decimals=0),
            stat("Last message", "How long ago attnd heard of the run.", "s",
                 (f"time() - attnd_training_last_message_timestamp_seconds{OF_JOB}", ""), decimals=0),
            stat("Alerts", "Places where a rule of attnd holds now.", "short",
                 (f"sum(attnd_alerts_firing{OF_JOB}) or vector(0)", ""), decimals=0),
        ]),
         ("Entropy", 9, [
             of_layers("Entropy, mean over heads", "1: spread evenly over all keys. 0: all weight on one.", "percentunit",
                       "entropy_ratio", min=0, max=1),
             of_layers("Entropy, least of any head", "A head near 0 looks at one key per query.", "percentunit",
                       "entropy_min_ratio", min=0, max=1),
             of_layers("Entropy, largest of any head", "A head near 1 attends to everything alike.", "percentunit",
                       "entropy_max_ratio", min=0, max=1),
         ]),
         ("Where heads look", 8, [
             of_layers("First key, largest of any head", "Weight on the first key: attention sinks.", "percentunit",
                       "first_token_max_ratio", min=0, max=1),
             of_layers("Sinks", "Share of the heads that put more than 0.3 of their weight on the first key.",
                       "percentunit", "sink_ratio", min=0, max=1),
             of_layers("Previous key, largest of any head", "Previous-token heads are near 1.", "percentunit",
                       "previous_token_max_ratio", min=0, max=1),
             of_layers("Induction, largest of any head", "Weight on what followed an earlier copy of the token.",
                       "percentunit", "induction_max_ratio", min=0, max=1),
             of_layers("Distance", "From queries to the keys they attend to, in tokens.", "short", "distance_tokens",
                       min=0),
             of_layers("Effective keys", "That a row attends to.", "short", "effective_keys", min=0),
         ]),
         ("Signs of trouble", 8, [
             of_layers("Largest logit of any head", "Averaged over rows. Growth beyond 100 comes before a collapse.", "short",
                       "max_logit_max"),
             of_layers("Effective rank, mean over heads", "Rank of the attention maps: heads of rank 1 do the same for every query.",
                       "short", "effective_rank", min=0),
             series("Unsound rows", "Rows per second that were not finite or no distribution.", "short",
                    (rate("attnd_attention_invalid_rows_total", OF_JOB), LAYER), min=0),
             of_layers("Drift", "Largest of any metric and head against the baseline, as shift: 6 is far.", "short",
                       "drift_shift_max", min=0),
             of_layers("Drift, divergence", "Largest Jensen-Shannon divergence from the baseline, in nats: at most 0.69.",
                       "short", "drift_divergence_max_nats", min=0, max=0.7),
             of_layers("Row sums", "Largest distance of the sum of a row from 1, newest message.", "short", "row_sum_error",
                       min=0),
         ]),
         ("Alerts and messages", 8, [
             table("Alerts that fire", "Rules of attnd that hold now, and in how many places. attnctl alerts says where.",
                   (f"attnd_alerts_firing{OF_JOB}", "")),
             series("Messages", "Messages of the newest run, per second.", "short",
                    (received("training_messages", OF_JOB), "received"),
                    (rate("attnd_training_messages_processed_total", OF_JOB), "processed"),
                    (rate("attnd_training_messages_lost_total", OF_JOB), "lost"), min=0),
             series("Dropped, by reason", "Messages per second; source: by the publisher itself.", "short",
                    (rate("attnd_training_messages_dropped_total", '{job="$job", reason!="repeated"}'), "{{reason}}"), min=0),
         ])], ("attnd-pipeline", "Pipeline"))


def dashboards() -> Dict[str, str]:
    """File name to content."""
    return {made["uid"] + ".json": json.dumps(made, indent=1) + "\n" for made in (pipeline(), job())}


if __name__ == "__main__":
    for name, content in dashboards().items():
        (HERE / "dashboards" / name).write_text(content)
