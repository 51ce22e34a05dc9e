#!/usr/bin/env python3
"""A strict double of BigQuery, for faults: its REST interface, and with --grpc
the Storage Write API (bigquery_fake_storage.py).

It keeps to what Google documents: a request is all or nothing, the rows that
are not to blame come back as "stopped", sizes and counts are limited, values
are checked against the column's type, schemas only grow, tokens are checked
down to the RS256 signature.  And it fails as it is told to.

	bigquery_fake.py PORT [--grpc PORT [--tls CERT.pem KEY.pem]] [--auth KEY.pem EMAIL]

What the test asks of it lies under /_fake:
	POST /_fake/dataset {"id": "project.dataset"}
	POST /_fake/fault {"on": "insertAll", "do": ACTION, "times": N, ...}
	POST /_fake/clear_faults
	GET  /_fake/rows?table=project.dataset.table    the rows, with insertId
	GET  /_fake/values?table=...&column=...         of one column
	GET  /_fake/table?table=project.dataset.table   its resource
	GET  /_fake/log                                 the requests
	POST /_fake/skew {"seconds": N}                 its clock
	POST /_fake/expire                              all tokens
	GET  /_fake/tokens                              that were given
	POST /_fake/drop {"table": ...}                 a table
	GET  /_fake/streams, calls                      of the Storage Write API
	POST /_fake/expire_streams, finalize_streams, close_calls   there too
Actions: status (with "status", "reason", "retry_after"), 500_after,
cut_before, cut_after, slow (with "seconds"), row_reason and job_error (with
"reason").
"""

import base64
import email.utils
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
import urllib.parse
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REQUEST_MAX = 10 * 1024 * 1024
ROWS_MAX = 50000
TYPES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}
METADATA = "/computeMetadata/v1/instance/service-accounts/default/token"
CLUSTERABLE = {"INT64", "STRING", "NUMERIC", "BIGNUMERIC", "DATE", "DATETIME",
               "TIMESTAMP", "BOOL"}

lock = threading.RLock()
datasets = set()
tables = {}      # name -> resource
rows = {}        # name -> [{"insertId": ..., "json": ...}]
faults = []
requests = []
jobs = {}        # id -> resource
job_seconds = 0  # how long a job runs
tokens = {}      # token -> expiry
given = []       # all that there were
skew = 0
auth = None      # (modulus, exponent, email)
storage = None   # the module of the gRPC part, if it serves


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status, reason, message, headers=None):
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message
        self.headers = headers or {}


class Cut(Exception):
    """The connection ends without an answer."""


def type_of(field):
    name = field["type"].upper()
    return TYPES.get(name, name)


def check_decimal(text, before, behind):
    value = Decimal(str(text))
    if not value.is_finite():
        raise ValueError("not finite")
    sign, digits, exponent = value.normalize().as_tuple()
    if -exponent > behind or len(digits) + exponent > before:
        raise ValueError("out of range")


def check_value(kind, value):
    """Raise ValueError when a scalar is none of the type."""
    if value is None:
        return
    if isinstance(value, (dict, list)):
        raise ValueError("not a scalar")
    if kind == "INT64":
        if isinstance(value, (bool, float)) or not -2**63 <= int(value) < 2**63:
            raise ValueError("not an integer")
    elif kind == "FLOAT64":
        if isinstance(value, bool):
            raise ValueError("not a number")
        float(value)
    elif kind == "BOOL":
        if value not in (True, False) and str(value).lower() not in ("true", "false"):
            raise ValueError("not a boolean")
    elif kind == "NUMERIC":
        check_decimal(value, 29, 9)
    elif kind == "BIGNUMERIC":
        check_decimal(value, 38, 38)
    elif kind == "STRING":
        if not isinstance(value, str):
            raise ValueError("not a string")
    elif kind == "BYTES":
        base64.b64decode(value, validate=True)
    elif kind == "JSON":
        if not isinstance(value, str):
            raise ValueError("JSON travels as a string")
        json.loads(value)
    elif kind == "DATE":
        date.fromisoformat(value)
    elif kind == "TIME":
        if not re.fullmatch(r"\d\d:\d\d:\d\d(\.\d{1,6})?", value):
            raise ValueError("not a time")
    elif kind in ("DATETIME", "TIMESTAMP"):
        zone = r"(Z|[+-]\d\d:\d\d)" if kind == "TIMESTAMP" else ""
        if not re.fullmatch(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?" + zone, value):
            raise ValueError("not a " + kind)
        datetime.fromisoformat(re.sub(r"\.\d+|Z$", "", value))
    else:
        raise ValueError("no such type")


def check_row(schema, row):
    """The errors of a row: [(location, message)]."""
    fields = {f["name"].lower(): f for f in schema}
    errors = []
    for name, value in row.items():
        field = fields.get(name.lower())
        if field is None:
            errors.append((name, "no such field: %s." % name))
            continue
        kind, repeated = type_of(field), field.get("mode") == "REPEATED"
        try:
            if repeated:
                if not isinstance(value, list):
                    raise ValueError("Array specified for non-repeated field")
                for item in value:
                    if item is None:
                        raise ValueError("Only optional fields can be set to NULL")
                    check_value(kind, item)
            else:
                check_value(kind, value)
        except (ValueError, InvalidOperation, TypeError) as e:
            errors.append((name, "Could not convert value to %s: %s" % (kind, e)))
    return errors


def check_schema(fields):
    seen = set()
    for field in fields:
        name = field["name"].lower()
        if not re.fullmatch(r"[^\W\d][\w]{0,299}", field["name"]) or name in seen \
                or name.startswith(("_table_", "_file_", "_partition", "_row_timestamp", "__root__")):
            raise Refused(400, "invalid", "Invalid field name \"%s\"" % field["name"])
        seen.add(name)
        if type_of(field) not in CLUSTERABLE | {"FLOAT64", "BYTES", "JSON", "TIME"}:
            raise Refused(400, "invalid", "Invalid type %s" % field["type"])


def create_table(project, dataset, resource):
    name = "%s.%s.%s" % (project, dataset, resource["tableReference"]["tableId"])
    if "%s.%s" % (project, dataset) not in datasets:
        raise Refused(404, "notFound", "Not found: Dataset %s:%s" % (project, dataset))
    if name in tables:
        raise Refused(409, "duplicate", "Already Exists: Table %s" % name)
    if "view" not in resource:
        fields = resource["schema"]["fields"]
        check_schema(fields)
        kinds = {f["name"]: type_of(f) for f in fields}
        partition = resource.get("timePartitioning", {}).get("field")
        if partition and kinds.get(partition) not in ("DATE", "TIMESTAMP", "DATETIME"):
            raise Refused(400, "invalid", "The field specified for partitioning is not usable")
        for field in resource.get("clustering", {}).get("fields", []):
            if kinds.get(field) not in CLUSTERABLE:
                raise Refused(400, "invalid", "The field specified for clustering is not usable")
    tables[name] = resource
    rows[name] = []
    return resource


def patch_table(name, resource):
    old = tables[name]["schema"]["fields"]
    new = resource["schema"]["fields"]
    check_schema(new)
    for i, field in enumerate(old):
        if i >= len(new) or new[i]["name"] != field["name"] or type_of(new[i]) != type_of(field):
            raise Refused(400, "invalid", "Provided Schema does not match Table %s" % name)
    for field in new[len(old):]:
        if field.get("mode", "NULLABLE") == "REQUIRED":
            raise Refused(400, "invalid", "Cannot add required fields to an existing schema")
    tables[name]["schema"]["fields"] = new
    return tables[name]


def insert_all(name, body, fault):
    items = body.get("rows", [])
    if not items:
        raise Refused(400, "invalid", "No rows present in the request.")
    if len(items) > ROWS_MAX:
        raise Refused(400, "invalid", "too many rows present in the request")
    schema = tables[name]["schema"]["fields"]
    errors = {}
    for i, item in enumerate(items):
        if len(item.get("insertId", "")) > 128:
            raise Refused(400, "invalid", "insertId is too long")
        bad = check_row(schema, item["json"])
        if bad:
            errors[i] = [{"reason": "invalid", "location": loc, "message": msg, "debugInfo": ""}
                         for loc, msg in bad]
    if fault and fault["do"] == "row_reason":
        errors[0] = [{"reason": fault["reason"], "location": "", "message": "told to"}]
    if errors:
        if body.get("skipInvalidRows"):
            rows[name] += [item for i, item in enumerate(items) if i not in errors]
        else:
            for i in range(len(items)):
                errors.setdefault(i, [{"reason": "stopped", "location": "", "message": ""}])
        return {"kind": "bigquery#tableDataInsertAllResponse",
                "insertErrors": [{"index": i, "errors": errors[i]} for i in sorted(errors)]}
    rows[name] += items
    return {"kind": "bigquery#tableDataInsertAllResponse"}


def check_load_row(schema, row):
    """As check_row, with JSON as it is."""
    bad = check_row([f for f in schema if type_of(f) != "JSON"],
                    {k: v for k, v in row.items()
                     if not any(f["name"].lower() == k.lower() and type_of(f) == "JSON" for f in schema)})
    return bad


def insert_job(project, kind, data, fault):
    """The upload of a load job: two parts."""
    boundary = re.search("boundary=([^;]+)", kind).group(1).strip('"').encode()
    parts = data.split(b"--" + boundary)
    head, content = [p.split(b"\r\n\r\n", 1)[1] for p in parts[1:3]]
    content = content[:-2]
    job = json.loads(head)
    name = job["jobReference"]["jobId"]
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,1024}", name):
        raise Refused(400, "invalid", "Invalid job ID")
    if name in jobs:
        raise Refused(409, "duplicate", "Already Exists: Job %s:%s" % (project, name))
    load = job["configuration"]["load"]
    to = load["destinationTable"]
    table = "%s.%s.%s" % (to["projectId"], to["datasetId"], to["tableId"])
    if table not in tables:
        raise Refused(404, "notFound", "Not found: Table %s" % table)
    job["status"] = {"state": "RUNNING"}
    job["ends"] = time.time() + job_seconds
    if fault and fault["do"] == "job_error":
        job["result"] = [{"reason": fault["reason"], "message": "told to"}]
    else:
        job["result"], new, position = [], [], 0
        for line in content.split(b"\n"):
            if not line:
                continue
            row = json.loads(line, parse_float=Decimal)
            bad = check_load_row(tables[table]["schema"]["fields"], row)
            if bad:
                job["result"].append({"reason": "invalid", "message":
                                      "Error while reading data, error message: JSON parsing error in row "
                                      "starting at position %d: %s" % (position, bad[0][1])})
            new.append({"insertId": None, "json": row})
            position += len(line) + 1
        if not job["result"]:
            rows[table] += new
    jobs[name] = job
    return get_job(name)


def get_job(name):
    if name not in jobs:
        raise Refused(404, "notFound", "Not found: Job %s" % name)
    job = jobs[name]
    if time.time() >= job["ends"]:
        job["status"] = {"state": "DONE"}
        if job["result"]:
            job["status"].update(errorResult=job["result"][0], errors=job["result"])
    return {k: job[k] for k in ("jobReference", "configuration", "status")}


def run_query(project, body):
    """The one query that there is: which of these ids has a table?"""
    match = re.fullmatch(r"SELECT DISTINCT `(\w+)`, (?:`(\w+)`|NULL) FROM `([^`]+)` WHERE `\1` IN UNNEST\(@ids\) "
                         r"AND `(\w+)` >= TIMESTAMP '([^']+)' AND `\4` <= TIMESTAMP '([^']+)'", body["query"])
    if not match or body.get("useLegacySql", True):
        raise Refused(400, "invalidQuery", "Syntax error: " + body["query"])
    event, review, table, time_column, since, until = match.groups()
    if table not in tables:
        raise Refused(404, "notFound", "Not found: Table %s" % table)
    parameter, = body["queryParameters"]
    if parameter["name"] != "ids" or parameter["parameterType"] != {"type": "ARRAY", "arrayType": {"type": "STRING"}}:
        raise Refused(400, "invalidQuery", "wrong parameters")
    ids = {v["value"] for v in parameter["parameterValue"]["arrayValues"]}
    since, until = datetime.fromisoformat(since), datetime.fromisoformat(until)
    found = {(r["json"][event], r["json"].get(review) if review else None) for r in rows[table]
             if r["json"].get(event) in ids
             and since <= datetime.fromisoformat(r["json"][time_column].replace("Z", "+00:00")) <= until}
    return {"jobComplete": True, "totalRows": str(len(found)), "jobReference": {"projectId": project, "jobId": "q"},
            "rows": [{"f": [{"v": e}, {"v": None if r is None else str(r)}]} for e, r in found]}


def list_rows(name):
    """A table's rows as tabledata.list gives them to Google's libraries."""
    fields = tables[name]["schema"]["fields"]

    def scalar(field, v):
        if type_of(field) == "TIMESTAMP":
            since = datetime.fromisoformat(v.replace("Z", "+00:00")) - datetime(1970, 1, 1, tzinfo=timezone.utc)
            return str(since // timedelta(microseconds=1))
        if type_of(field) in ("TIME", "DATETIME") and "." in v:
            return v.ljust(v.index(".") + 7, "0")
        return json.dumps(v) if isinstance(v, (bool, dict, list)) else str(v)

    def value(field, row):
        v = row["json"].get(field["name"])
        if field.get("mode") == "REPEATED":
            return [{"v": scalar(field, item)} for item in v or []]
        return None if v is None else scalar(field, v)
    return {"totalRows": str(len(rows[name])), "rows": [{"f": [{"v": value(f, r)} for f in fields]}
                                                        for r in rows[name]]}


def unbase64url(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def verify_rs256(signed, signature, modulus, exponent):
    size = (modulus.bit_length() + 7) // 8
    if len(signature) != size:
        return False
    plain = pow(int.from_bytes(signature, "big"), exponent, modulus).to_bytes(size, "big")
    info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(signed).digest()
    return plain == b"\0\1" + b"\xff" * (size - len(info) - 3) + b"\0" + info


def grant_token(form, uri):
    """Google's token endpoint."""
    kind = form.get("grant_type")
    if kind == "refresh_token":
        if form.get("client_secret") != "user-secret" or form.get("refresh_token") != "user-refresh":
            raise Refused(400, "invalid_grant", "Bad Request")
    elif kind == "urn:ietf:params:oauth:grant-type:jwt-bearer":
        head, claims, signature = form["assertion"].split(".")
        modulus, exponent, mail = auth
        said = json.loads(unbase64url(claims))
        now = time.time() + skew
        if json.loads(unbase64url(head)).get("alg") != "RS256" or \
                not verify_rs256((head + "." + claims).encode(), unbase64url(signature), modulus, exponent):
            raise Refused(400, "invalid_grant", "Invalid JWT Signature.")
        if said["iss"] != mail or said["aud"] not in (uri, "https://oauth2.googleapis.com/token") or "bigquery" not in said["scope"]:
            raise Refused(400, "invalid_grant", "Invalid JWT: wrong claims.")
        if not said["iat"] - 300 <= now <= said["exp"] or said["exp"] - said["iat"] > 3600:
            raise Refused(400, "invalid_grant",
                          "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.")
    else:
        raise Refused(400, "unsupported_grant_type", "Invalid grant_type")
    return new_token()


def new_token():
    token = "ya29." + hashlib.sha256(str((time.time(), len(tokens))).encode()).hexdigest()
    tokens[token] = time.time() + 3600
    given.append(token)
    return {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}


def find_fault(action):
    for fault in faults:
        if fault["on"] == action and fault["times"] > 0:
            fault["times"] -= 1
            return fault
    return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def date_time_string(self, timestamp=None):
        return email.utils.formatdate(time.time() + skew, usegmt=True)

    def answer(self, status, body, headers=None):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def handle_any(self):
        length = int(self.headers.get("Content-Length", 0))
        data = self.rfile.read(length)
        try:
            self.answer(200, self.work(data))
        except Refused as e:
            if self.path.startswith("/token"):
                self.answer(e.status, {"error": e.reason, "error_description": e.message}, e.headers)
            else:
                self.answer(e.status, {"error": {"code": e.status, "message": e.message, "errors": [
                    {"reason": e.reason, "message": e.message}]}}, e.headers)
        except Cut:
            self.close_connection = True
            self.connection.close()

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any

    def work(self, data):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path.startswith("/_fake/"):
            return self.control(url.path[7:], query, json.loads(data or b"{}"))
        action = "token" if url.path in ("/token", METADATA) else \
            "insertAll" if url.path.endswith("/insertAll") else \
            "upload" if url.path.startswith("/upload/") else \
            "job" if "/jobs/" in url.path else \
            "query" if url.path.endswith("/queries") else \
            "list" if url.path.endswith("/data") else \
            {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}[self.command]
        with lock:
            fault = find_fault(action)
            request = {"action": action, "path": self.path, "bytes": len(data),
                       "fault": fault["do"] if fault else None, "at": time.time()}
            requests.append(request)
        if fault and fault["do"] == "cut_before":
            raise Cut()
        if fault and fault["do"] == "slow":
            time.sleep(fault["seconds"])
        if fault and fault["do"] == "status":
            raise Refused(fault["status"], fault.get("reason", "backendError"), "told to",
                          {"Retry-After": fault["retry_after"]} if "retry_after" in fault else None)
        with lock:
            if url.path == METADATA:
                if self.headers.get("Metadata-Flavor") != "Google":
                    raise Refused(403, "forbidden", "Metadata-Flavor is missing")
                result = new_token()
            elif action == "token":
                host = self.headers["Host"]
                result = grant_token(dict(urllib.parse.parse_qsl(data.decode())), "http://%s/token" % host)
            else:
                self.check_token()
                result = self.serve(action, url.path, data, fault)
                if action == "insertAll":
                    ids = [r["insertId"] for r in json.loads(data)["rows"]]
                    request["ids"] = ids
        if fault and fault["do"] == "cut_after":
            raise Cut()
        if fault and fault["do"] == "500_after":
            raise Refused(500, "internalError", "told to, after the fact")
        return result

    def check_token(self):
        if auth is None:
            return
        given = self.headers.get("Authorization", "")
        if not given.startswith("Bearer ") or tokens.get(given[7:], 0) < time.time():
            raise Refused(401, "authError", "Invalid Credentials")

    def serve(self, action, path, data, fault):
        if action == "upload":
            return insert_job(path.split("/")[5], self.headers["Content-Type"], data, fault)
        if action == "job":
            return get_job(path.split("/")[-1])
        if action == "query":
            return run_query(path.split("/")[4], json.loads(data))
        match = re.fullmatch(r"/bigquery/v2/projects/([^/]+)/datasets/([^/]+)/tables(?:/([^/]+))?(/insertAll|/data)?",
                             path)
        if not match:
            raise Refused(404, "notFound", "Not found")
        project, dataset, table, _ = match.groups()
        if len(data) > REQUEST_MAX:
            raise Refused(413, "uploadTooLarge", "Request Entity Too Large")
        body = json.loads(data, parse_float=Decimal) if data else {}
        name = "%s.%s.%s" % (project, dataset, table)
        if action == "create":
            return create_table(project, dataset, body)
        if name not in tables:
            raise Refused(404, "notFound", "Not found: Table %s" % name)
        if action == "get":
            return tables[name]
        if action == "patch":
            return patch_table(name, body)
        if action == "list":
            return list_rows(name)
        if action == "delete":
            del tables[name], rows[name]
            return {}
        if action == "insertAll":
            return insert_all(name, body, fault)
        raise Refused(405, "methodNotAllowed", "no")

    def control(self, what, query, body):
        global skew, job_seconds
        with lock:
            if what == "dataset":
                datasets.add(body["id"])
            elif what == "fault":
                faults.append({"times": 1, **body})
            elif what == "rows":
                return {"rows": [{"insertId": r.get("insertId"), "json": json.loads(json.dumps(
                    r["json"], default=str))} for r in rows.get(query["table"], [])]}
            elif what == "values":
                return {"values": [r["json"].get(query["column"]) for r in rows.get(query["table"], [])]}
            elif what == "table":
                return tables.get(query["table"], {})
            elif what == "log":
                return {"requests": requests}
            elif what == "clear_faults":
                faults.clear()
            elif what == "skew":
                skew = body["seconds"]
            elif what == "tokens":
                return {"tokens": [{"token": t} for t in given]}
            elif what == "expire":
                tokens.clear()
            elif what == "job_seconds":
                job_seconds = body["seconds"]
            elif what == "jobs":
                return {"jobs": {k: get_job(k)["status"] for k in jobs}}
            elif what == "drop":
                tables.pop(body["table"], None)
            elif what == "patch":
                patch_table(body["table"], body)
            else:
                answer = storage.control(what, body) if storage else None
                if answer is None:
                    raise Refused(404, "notFound", "Not found")
                return answer
        return {}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def main():
    global auth, storage
    if "--auth" in sys.argv:
        i = sys.argv.index("--auth")
        text = subprocess.run(["openssl", "rsa", "-in", sys.argv[i + 1], "-modulus", "-noout"],
                              check=True, capture_output=True, text=True).stdout
        auth = (int(text.strip().split("=")[1], 16), 65537, sys.argv[i + 2])
    if "--grpc" in sys.argv:
        import bigquery_fake_storage as storage
        tls = sys.argv.index("--tls") if "--tls" in sys.argv else None
        storage.start(sys.modules[__name__], int(sys.argv[sys.argv.index("--grpc") + 1]),
                      sys.argv[tls + 1:tls + 3] if tls else None)
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()


if __name__ == "__main__":
    main()
