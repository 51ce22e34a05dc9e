#!/usr/bin/env python3
"""Receives webhooks, and verifies them with the library of Standard Webhooks.

	webhook_receiver.py PORT SECRET...

POST /hook takes them.  What the test asks of it lies under /_fake:
	POST /_fake/fault {"status": S, "times": N, "retry_after": R, "seconds": T,
	                   "match": text in the body, "after": bool}
	GET  /_fake/log     [{id, body, ok, at, status, headers}]
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook

lock = threading.Lock()
log = []
faults = []
now = 0
most = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body, headers=None):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        with lock:
            self.answer(200, {"log": log, "most": most})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/_fake/fault":
            with lock:
                faults.append({"times": 1, **json.loads(body)})
            return self.answer(200, {})
        self.hook(body)

    def find_fault(self, body):
        for fault in faults:
            if fault["times"] > 0 and fault.get("match", "").encode() in body:
                fault["times"] -= 1
                return fault
        return None

    def hook(self, body):
        global now, most
        try:
            for secret in sys.argv[2:]:
                Webhook(secret).verify(body, dict(self.headers))
            ok = True
        except Exception as e:
            ok = "%s: %s" % (type(e).__name__, e)
        with lock:
            now += 1
            most = max(most, now)
            fault = self.find_fault(body)
        if fault and "seconds" in fault:
            time.sleep(fault["seconds"])
        status = fault.get("status", 200) if fault else 200
        with lock:
            now -= 1
            log.append({"id": self.headers.get("webhook-id"), "body": body.decode(), "ok": ok,
                        "at": time.time(), "status": status, "headers": dict(self.headers)})
        if status == 0:
            self.close_connection = True
            self.connection.close()
            return
        headers = {}
        if fault and "retry_after" in fault:
            headers["Retry-After"] = fault["retry_after"]
        if fault and "location" in fault:
            headers["Location"] = fault["location"]
        self.answer(status, {"told": status}, headers)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
