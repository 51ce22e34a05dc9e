#!/usr/bin/env python3
"""Google's own libraries against the double of BigQuery.

	google_clients.py HTTP_PORT GRPC_PORT [CREDENTIALS.json]

One line for each check: "ok" or "not ok", what it is, and what came instead.
"""

import itertools
import json
import sys
import urllib.request
from datetime import date, datetime, timezone

import grpc
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import Request
from google.cloud import bigquery
from google.cloud import bigquery_storage_v1 as storage
from google.cloud.bigquery_storage_v1 import types, writer
from google.cloud.bigquery_storage_v1.services.big_query_write.transports import BigQueryWriteGrpcTransport
from google.oauth2 import service_account
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import encoder

http_port, grpc_port = sys.argv[1:3]
base = "http://127.0.0.1:" + http_port
TABLE = "my-project.fraud.clients"
PARENT = "projects/my-project/datasets/fraud/tables/clients"
Field = descriptor_pb2.FieldDescriptorProto
numbers = itertools.count(1)


def check(name, got, want):
    if got == want:
        print("ok %s" % name, flush=True)
    else:
        print("not ok %s: %r instead of %r" % (name, got, want), flush=True)


def raised(action):
    """The class and message of what a call raises."""
    try:
        return "nothing", str(action())
    except exceptions.GoogleAPICallError as e:
        return type(e).__name__, str(e)


def fake(what, body):
    urllib.request.urlopen("%s/_fake/%s" % (base, what), json.dumps(body).encode()).read()


def storage_error(e):
    """The code of the StorageError that came with an error."""
    for call in getattr(e, "errors", ()):
        for key, value in call.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                from google.rpc import status_pb2
                for detail in status_pb2.Status.FromString(value).details:
                    return types.StorageError.deserialize(detail.value).code.name
    return None


# ---- the REST interface ----

credentials = AnonymousCredentials()
if len(sys.argv) > 3:
    credentials = service_account.Credentials.from_service_account_file(
        sys.argv[3], scopes=["https://www.googleapis.com/auth/bigquery"])
client = bigquery.Client("my-project", credentials=credentials, client_options=ClientOptions(api_endpoint=base))

schema = [
    bigquery.SchemaField("id", "INT64"),
    bigquery.SchemaField("amount", "NUMERIC"),
    bigquery.SchemaField("wide", "BIGNUMERIC"),
    bigquery.SchemaField("real", "FLOAT64"),
    bigquery.SchemaField("yes", "BOOL"),
    bigquery.SchemaField("text", "STRING"),
    bigquery.SchemaField("data", "BYTES"),
    bigquery.SchemaField("day", "DATE"),
    bigquery.SchemaField("moment", "TIMESTAMP"),
    bigquery.SchemaField("plain", "DATETIME"),
    bigquery.SchemaField("clock", "TIME"),
    bigquery.SchemaField("doc", "JSON"),
    bigquery.SchemaField("tags", "STRING", mode="REPEATED"),
]
table = bigquery.Table(TABLE, schema)
table.time_partitioning = bigquery.TimePartitioning(field="moment")
table.clustering_fields = ["id"]
client.create_table(table)
check("create_table", raised(lambda: client.create_table(table))[0], "Conflict")
found = client.get_table(TABLE)
check("get_table", ([f.name for f in found.schema], found.time_partitioning.field, found.clustering_fields),
      ([f.name for f in schema], "moment", ["id"]))
check("get_table of none", raised(lambda: client.get_table("my-project.fraud.none"))[0], "NotFound")
check("create_table in no dataset",
      raised(lambda: client.create_table(bigquery.Table("my-project.none.t", schema)))[0], "NotFound")

row = {"id": 1, "amount": "1234567890.10", "text": "grüße", "tags": ["a", "b"], "day": "2026-01-31",
       "moment": "2026-01-31T10:00:00.123456Z", "doc": '{"x": 1}', "yes": True, "real": 0.5,
       "data": "3q2+7w==", "plain": "2026-01-31T10:00:00", "clock": "10:11:12.5"}
check("insert_rows_json", client.insert_rows_json(TABLE, [row, {"id": 2}], row_ids=["a", "b"]), [])
errors = client.insert_rows_json(TABLE, [{"id": 3}, {"id": "x"}, {"none": 1}])
check("insert_rows_json with bad rows", [(e["index"], e["errors"][0]["reason"]) for e in errors],
      [(0, "stopped"), (1, "invalid"), (2, "invalid")])
check("... inserts none of them", [r["id"] for r in client.list_rows(TABLE)], [1, 2])
errors = client.insert_rows_json(TABLE, [{"id": 3}, {"id": "x"}], skip_invalid_rows=True)
check("... or the good ones", ([e["index"] for e in errors], [r["id"] for r in client.list_rows(TABLE)]),
      ([1], [1, 2, 3]))
check("insert_rows_json of too much", raised(lambda: client.insert_rows_json(
    TABLE, [{"text": "x" * 11000000}], retry=None))[1][:3], "413")
listed = list(client.list_rows(TABLE))[0]
check("list_rows", (str(listed["amount"]), listed["day"], listed["tags"], listed["data"], listed["doc"]),
      ("1234567890.10", date(2026, 1, 31), ["a", "b"], b"\xde\xad\xbe\xef", {"x": 1}))

config = bigquery.LoadJobConfig(schema=schema, source_format="NEWLINE_DELIMITED_JSON",
                                write_disposition="WRITE_APPEND")
job = client.load_table_from_json([{"id": 4, "doc": {"y": [1, None]}}, {"id": 5}], TABLE, job_id="job_1",
                                  job_config=config)
check("load_table_from_json", (job.result().state, [r["id"] for r in client.list_rows(TABLE)]),
      ("DONE", [1, 2, 3, 4, 5]))
check("... twice under one id", raised(lambda: client.load_table_from_json(
    [{"id": 6}], TABLE, job_id="job_1", job_config=config))[0], "Conflict")
bad = client.load_table_from_json([{"id": 7}, {"id": "x"}], TABLE, job_id="job_2", job_config=config)
check("... with a bad row", (raised(bad.result)[0], client.get_job("job_2").state,
                             "starting at position" in client.get_job("job_2").errors[0]["message"]),
      ("BadRequest", "DONE", True))
check("... which loads nothing", [r["id"] for r in client.list_rows(TABLE)], [1, 2, 3, 4, 5])
check("get_job of none", raised(lambda: client.get_job("job_3"))[0], "NotFound")

ids = bigquery.ArrayQueryParameter("ids", "STRING", ["a", "none"])
events = bigquery.Table("my-project.fraud.events", [bigquery.SchemaField("event_id", "STRING"),
                                                     bigquery.SchemaField("detected_at", "TIMESTAMP")])
client.create_table(events)
client.insert_rows_json(events, [{"event_id": e, "detected_at": "2026-01-31T10:00:00Z"} for e in "aab"])
answer = client._connection.api_request(method="POST", path="/projects/my-project/queries", data={
    "query": "SELECT DISTINCT `event_id`, NULL FROM `my-project.fraud.events` WHERE `event_id` IN UNNEST(@ids) AND "
             "`detected_at` >= TIMESTAMP '2026-01-31 00:00:00+00' AND `detected_at` <= TIMESTAMP "
             "'2026-01-31 23:00:00+00'", "useLegacySql": False, "parameterMode": "NAMED",
    "queryParameters": [ids.to_api_repr()]})
check("the query for events", answer["rows"], [{"f": [{"v": "a"}, {"v": None}]}])

# ---- the Storage Write API ----

transport = BigQueryWriteGrpcTransport(channel=grpc.insecure_channel("127.0.0.1:" + grpc_port, options=[
    ("grpc.max_send_message_length", 64 * 1024 * 1024)]))
write = storage.BigQueryWriteClient(transport=transport)
headers = []
if len(sys.argv) > 3:
    check("create_write_stream without a token", raised(lambda: write.create_write_stream(
        parent=PARENT, write_stream=types.WriteStream(type_="COMMITTED"), retry=None))[0], "Unauthenticated")
    credentials.refresh(Request())
    headers = [("authorization", "Bearer " + credentials.token)]


def create(kind="COMMITTED", parent=PARENT):
    return write.create_write_stream(parent=parent, write_stream=types.WriteStream(type_=kind), metadata=headers,
                                     retry=None)


def descriptor(**fields):
    """A description of rows: name=(type, label)."""
    result = descriptor_pb2.DescriptorProto(name="Row")
    for number, (name, (kind, label)) in enumerate(fields.items(), 1):
        result.field.add(name=name, number=number, label=label, type=kind)
    return result


ONE, MANY = Field.LABEL_OPTIONAL, Field.LABEL_REPEATED
plain = descriptor(id=(Field.TYPE_INT64, ONE), amount=(Field.TYPE_STRING, ONE), day=(Field.TYPE_INT32, ONE),
                   moment=(Field.TYPE_INT64, ONE), data=(Field.TYPE_BYTES, ONE), tags=(Field.TYPE_STRING, MANY),
                   real=(Field.TYPE_DOUBLE, ONE), yes=(Field.TYPE_BOOL, ONE), wide=(Field.TYPE_STRING, ONE),
                   doc=(Field.TYPE_STRING, ONE))


def message_of(description):
    file = descriptor_pb2.FileDescriptorProto(name="c%d.proto" % next(numbers), syntax="proto2")
    file.message_type.append(description)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindFileByName(file.name).message_types_by_name["Row"])


Row = message_of(plain)


def request(rows, offset=None, stream=None, description=None):
    result = types.AppendRowsRequest()
    if stream:
        result.write_stream = stream
    if offset is not None:
        result.offset = offset
    data = types.AppendRowsRequest.ProtoData()
    if description is not None:
        data.writer_schema = types.ProtoSchema(proto_descriptor=description)
    data.rows = types.ProtoRows(serialized_rows=[r.SerializeToString() for r in rows])
    result.proto_rows = data
    return result


class Appends:
    """The library's writer of a stream."""

    def __init__(self, name, description=plain):
        self.stream = writer.AppendRowsStream(write, request([], stream=name, description=description),
                                              metadata=headers)

    def append(self, rows, offset=None):
        try:
            return self.stream.send(request(rows, offset)).result(timeout=20).append_result.offset
        except exceptions.GoogleAPICallError as e:
            return type(e).__name__


def ids_there():
    return sorted(r["id"] for r in client.list_rows(TABLE) if (r["id"] or 0) >= 100)


def raw(*requests):
    """Requests as they are; the answers, then the error if the call ended with one."""
    answers = []
    try:
        for answer in write.append_rows(iter(requests), metadata=headers + [
            ("x-goog-request-params", "write_stream=" + requests[0].write_stream)], retry=None):
            answers.append(answer)
    except exceptions.GoogleAPICallError as e:
        answers.append("%s %s" % (type(e).__name__, storage_error(e)))
    return answers


def code(answer):
    """The code of an answer's error, and of the StorageError in it."""
    details = [types.StorageError.deserialize(d.value).code.name for d in answer.error.details]
    return (answer.error.code, *details)


check("create_write_stream for no table",
      raised(lambda: create(parent=PARENT + "x"))[0], "NotFound")
name = create().name
check("get_write_stream", write.get_write_stream(name=name, metadata=headers).type_, types.WriteStream.Type.COMMITTED)
check("get_write_stream of none", raised(lambda: write.get_write_stream(
    name=PARENT + "/streams/none", metadata=headers, retry=None))[0], "NotFound")

appends = Appends(name)
full = Row(id=100, amount="-1234567890.123456789", day=-1, moment=-1, data=b"\x00\xff", tags=["x", ""], real=0.1,
           yes=False, wide="12345678901234567890123456789012345678.5", doc='{"z": null}')
check("append at offset 0", appends.append([full, Row(id=101)], 0), 0)
check("... visible at once", ids_there(), [100, 101])
got = [r for r in client.list_rows(TABLE) if r["id"] == 100][0]
check("... as it was sent", (str(got["amount"]), got["day"], got["moment"], got["data"], got["tags"], got["real"],
                            got["yes"], str(got["wide"]), got["doc"], got["text"]),
      ("-1234567890.123456789", date(1969, 12, 31), datetime(1969, 12, 31, 23, 59, 59, 999999, timezone.utc),
       b"\x00\xff", ["x", ""], 0.1, False, "12345678901234567890123456789012345678.5", {"z": None}, None))
check("append at the end", appends.append([Row(id=102)], 2), 2)
check("append without offset", appends.append([Row(id=103)]), 3)
check("append at an offset taken", appends.append([Row(id=104)], 3), "AlreadyExists")
check("append beyond the end", Appends(name).append([Row(id=104)], 9), "OutOfRange")
check("... neither is there", ids_there(), [100, 101, 102, 103])

first = request([Row(id=104)], 9, name, plain)
answers = raw(first, request([Row(id=104)], 3), request([Row(id=104)], 4))
check("the errors say what they are, and the call goes on", [code(a) for a in answers[:2]] + [
    answers[2].append_result.offset], [(11, "OFFSET_OUT_OF_RANGE"), (6, "OFFSET_ALREADY_EXISTS"), 4])

bad = [Row(id=105), Row(id=106, amount="1.0000000001"), Row(id=107), Row(id=108, day=2932897), Row(id=109, amount="x"),
       Row(id=110, doc="{")]
answers = raw(request(bad, 5, name, plain), request([bad[0], bad[2]], 5))
check("bad rows are named", ([(e.index, e.code.name) for e in answers[0].row_errors], code(answers[0])),
      ([(1, "FIELDS_ERROR"), (3, "FIELDS_ERROR"), (4, "FIELDS_ERROR"), (5, "FIELDS_ERROR")], (3,)))
check("... and cost the good ones their place, until sent alone", (answers[1].append_result.offset, ids_there()),
      (5, [100, 101, 102, 103, 104, 105, 107]))

check("a request of more than 10 MB", raw(request([Row(data=b"x" * 10500000)], 7, name, plain)),
      ["InvalidArgument None"])
check("a first request without a description", raw(request([Row()], 7, name)), ["InvalidArgument None"])
check("a field that is no column", raw(request(
    [], 7, name, descriptor(none=(Field.TYPE_STRING, ONE)))), ["InvalidArgument SCHEMA_MISMATCH_EXTRA_FIELDS"])
check("a field of another type", raw(request(
    [], 7, name, descriptor(moment=(Field.TYPE_STRING, ONE)))), ["InvalidArgument None"])
check("an array for a scalar", raw(request([], 7, name, descriptor(id=(Field.TYPE_INT64, MANY)))),
      ["InvalidArgument None"])
check("another stream within a call", [type(a).__name__ if not isinstance(a, str) else a for a in raw(
    request([Row(id=111)], 7, name, plain), request([Row(id=112)], 0, create().name))],
      ["AppendRowsResponse", "InvalidArgument None"])
check("no routing header", raised(lambda: list(write.append_rows(
    iter([request([Row()], 8, name, plain)]), metadata=headers, retry=None)))[0], "InvalidArgument")



def add_a_column():
    """Two requests, and a new column in between."""
    yield request([Row(id=113)], 8, name, plain)
    while 113 not in ids_there():
        pass
    fake("patch", {"table": TABLE, "schema": {"fields": [f.to_api_repr() for f in schema] + [
        {"name": "country", "type": "STRING"}]}})
    yield request([Row(id=114)], 9)


answers = list(write.append_rows(add_a_column(), metadata=headers + [
    ("x-goog-request-params", "write_stream=" + name)], retry=None))
check("a new column is told to a call that began before it",
      [[f.name for f in a.updated_schema.fields][len(schema):] for a in answers], [[], ["country"]])
named = descriptor(other=(Field.TYPE_STRING, ONE))
# the option column_name of Google's annotations.proto: field 454943157, 7 bytes
named.field[0].options.MergeFromString(encoder._VarintBytes(454943157 << 3 | 2) + b"\x07country")
answers = raw(request([message_of(named)(other="AT")], 10, name, named))
check("a field that names its column", answers[0].append_result.offset, 10)
check("... fills it", [r["country"] for r in client.list_rows(client.get_table(TABLE)) if r["country"]], ["AT"])

check("finalize_write_stream", write.finalize_write_stream(name=name, metadata=headers).row_count, 11)
check("... is the end of it", code(raw(request([Row()], 11, name, plain))[0]), (9, "STREAM_FINALIZED"))
fake("expire_streams", {})
check("an append to no stream", raw(request([Row()], 11, name, plain)), ["NotFound STREAM_NOT_FOUND"])
check("finalize_write_stream of none", raised(lambda: write.finalize_write_stream(
    name=name, metadata=headers, retry=None))[0], "NotFound")

before = ids_there()
pending = create("PENDING").name
Appends(pending).append([Row(id=200)], 0)
check("rows of a pending stream are not seen", ids_there(), before)
write.finalize_write_stream(name=pending, metadata=headers)
write.batch_commit_write_streams(request=types.BatchCommitWriteStreamsRequest(
    parent=PARENT, write_streams=[pending]), metadata=headers)
check("... until it is committed", ids_there(), before + [200])
default = PARENT + "/streams/_default"
check("the default stream takes no offset", raw(request([Row(id=201)], 0, default, plain)), ["InvalidArgument None"])
check("... and rows without", (Appends(default).append([Row(id=201)]), ids_there()), (None, before + [200, 201]))

name = create().name
fake("fault", {"on": "append", "do": "status_after", "code": 13})
check("an error after the fact", raw(request([Row(id=300)], 0, name, plain)), ["InternalServerError None"])
check("... which the offset tells", code(raw(request([Row(id=300)], 0, name, plain))[0]),
      (6, "OFFSET_ALREADY_EXISTS"))
fake("fault", {"on": "append", "do": "cut_after"})
check("a connection reset after the fact", raw(request([Row(id=301)], 1, name, plain)), ["ServiceUnavailable None"])
check("... which the offset tells too", (code(raw(request([Row(id=301)], 1, name, plain))[0]), ids_there()[-2:]),
      ((6, "OFFSET_ALREADY_EXISTS"), [300, 301]))
for number, kind in ((8, "ResourceExhausted"), (14, "ServiceUnavailable"), (16, "Unauthenticated")):
    fake("fault", {"on": "append", "do": "status", "code": number})
    check("told to fail: %s" % kind, raw(request([Row(id=302)], 2, name, plain)), ["%s None" % kind])
check("... which appends nothing", ids_there()[-1], 301)
print("done", flush=True)
