#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""make_http: writes the corpus of fuzz_http: requests of every path, and broken ones.

usage: make_http.py FOLDER
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOST = "Host: localhost\r\n"
QUERIES = ["", "job=a&layer=3&head=0&packed=1", "job=a&kinds=live,summary&last_event_id=12345678-1", "limit=10&or_null=1",
           "statistics=mean,max&from=1&to=2", "job=%00&x=%zz", "layer=-1", "job=a&job=b"]
CHANGE = "POST /api/v1/run/set HTTP/1.1\r\n" + HOST + "X-Attnd: 1\r\nContent-Type: application/json\r\nContent-Length: "
STRANGE = [CHANGE + '47\r\n\r\n{"job": "a", "run": "00", "tags": ["b"], "x": 1}', CHANGE + "2\r\n\r\n[]", CHANGE + "9\r\n\r\n{",
           "POST / HTTP/1.1\r\n" + HOST + "Content-Length: 3\r\n\r\nabc", "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
           "GET /api/v1/jobs HTTP/1.1\r\n" + HOST + "Origin: http://localhost\r\nAuthorization: Bearer x\r\n\r\n",
           "GET /api/v1/events HTTP/1.1\r\n" + HOST + "Last-Event-ID: 12345678-9\r\n\r\n",
           "GET /assets/d3.min.js HTTP/1.1\r\n" + HOST + "Accept-Encoding: gzip\r\nIf-None-Match: *\r\n\r\n",
           "GET /metrics HTTP/1.1\r\n" + HOST + "Accept: application/openmetrics-text\r\n\r\nGET /healthz HTTP/1.1\r\n" + HOST + "\r\n",
           "GET / HTTP/1.0\r\n\r\n", "GET /" + "a" * 3000 + " HTTP/1.1\r\n" + HOST + "\r\n", "HEAD / HTTP/1.1\r\n" + HOST + "\r\n",
           "GET / HTTP/1.1\r\n" + HOST + "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", "\r\n\r\n", "GET",
           "127.0.0.1:80", "[::1]:80", "http://localhost", "Bearer 0123456789abcdef", "12345678-42",
           "GET /api/v1/jobs HTTP/1.1\r\n" + HOST + "Authorization: Bearer 0123456789abcdef\r\nX-Forwarded-For: x\r\n\r\n",
           "GET /api/v1/events HTTP/1.1\r\n" + HOST + "X-Forwarded-User: ann@example.org\r\n\r\n",
           "GET /api/v1/summary?job=b HTTP/1.1\r\n" + HOST + "X-Forwarded-User: ann\r\n\r\n",
           "GET /metrics HTTP/1.1\r\n" + HOST + "X-Forwarded-User: ann\r\nX-Forwarded-User: bob\r\n\r\n"]


def main(folder):
    tables = (ROOT / "proto/method.def").read_text() + (ROOT / "daemon/http/route.c").read_text()
    paths = re.findall(r'"(/[^"]*)"', tables)
    texts = [f"GET {path.replace('*', 'main.js')}{'?' + query if query else ''} HTTP/1.1\r\n{HOST}\r\n" for path in paths for query in QUERIES[:2]]
    texts += [f"GET /api/v1/history?{query} HTTP/1.1\r\n{HOST}\r\n" for query in QUERIES] + QUERIES + STRANGE
    for number, text in enumerate(texts):
        (pathlib.Path(folder) / f"{number:03}").write_bytes(text.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
