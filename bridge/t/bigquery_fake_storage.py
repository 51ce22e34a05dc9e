"""The gRPC part of the double of BigQuery: the Storage Write API.

Its messages are those of Google's own library, its rules those that Google
documents: appends are all or nothing and at the stream's end alone, requests
have a size, the first of a call names its stream and describes its rows, rows
are checked down to the value, streams expire, tokens are checked.

Faults (on "append", "create_stream", "get_stream" and "finalize"):
	status         the call ends with "code", before anything is done
	error          an append is answered by that "code"
	status_after   an append is done, then its call ends with "code"
	cut_before, cut_after   all connections are reset, then or afterwards
	slow, slow_after        it takes "seconds"
	row_errors     the append is refused because of its "rows"
	extra_fields   the columns are not known everywhere yet
	poison         the append is refused as a whole, and no row named, if one
	               has "value" in "column"; with "form" each one is.  With "end"
	               the call ends with that
A "storage_code" of a StorageError goes along with a code, if it is given.
"""

import base64
import json
import queue
import re
import socket
import struct
import threading
import time
import uuid
from concurrent import futures
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import grpc
from google.cloud.bigquery_storage_v1.types import storage as messages
from google.cloud.bigquery_storage_v1.types import stream as stream_messages
from google.cloud.bigquery_storage_v1.types import table as table_messages
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import decoder
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

REQUEST_MAX = 10 * 1024 * 1024
SERVICE = "google.cloud.bigquery.storage.v1.BigQueryWrite"
COLUMN_NAME = 454943157
STREAM_NOT_FOUND, TABLE_NOT_FOUND, INVALID_STATE, FINALIZED = 3, 1, 5, 6
EXTRA_FIELDS, OFFSET_EXISTS, OFFSET_RANGE = 7, 8, 9
Field = descriptor_pb2.FieldDescriptorProto
INTEGERS = {Field.TYPE_INT32, Field.TYPE_INT64, Field.TYPE_UINT32, Field.TYPE_SINT32,
            Field.TYPE_SINT64, Field.TYPE_SFIXED32, Field.TYPE_SFIXED64, Field.TYPE_FIXED32}
# which types of a message's fields each type of a column takes
TAKES = {
    "BOOL": INTEGERS | {Field.TYPE_BOOL, Field.TYPE_UINT64},
    "BYTES": {Field.TYPE_BYTES, Field.TYPE_STRING},
    "DATE": {Field.TYPE_INT32, Field.TYPE_INT64, Field.TYPE_STRING},
    "DATETIME": {Field.TYPE_STRING, Field.TYPE_INT64},
    "TIME": {Field.TYPE_STRING, Field.TYPE_INT64},
    "FLOAT64": {Field.TYPE_DOUBLE, Field.TYPE_FLOAT},
    "INT64": INTEGERS | {Field.TYPE_ENUM},
    "JSON": {Field.TYPE_STRING},
    "NUMERIC": INTEGERS | {Field.TYPE_UINT64, Field.TYPE_DOUBLE, Field.TYPE_FLOAT,
                           Field.TYPE_STRING, Field.TYPE_BYTES},
    "STRING": {Field.TYPE_STRING, Field.TYPE_ENUM},
    "TIMESTAMP": INTEGERS,
}
TAKES["BIGNUMERIC"] = TAKES["NUMERIC"]
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Failed(Exception):
    """The call, or an append, fails."""

    def __init__(self, code, message, storage_code=0, entity=""):
        super().__init__(message)
        self.code, self.message = code, message
        self.storage_code, self.entity = storage_code, entity

    def status(self):
        result = status_pb2.Status(code=self.code.value[0], message=self.message)
        if self.storage_code:
            detail = messages.StorageError(code=self.storage_code, entity=self.entity,
                                           error_message=self.message)
            result.details.append(any_pb2.Any(
                type_url="type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError",
                value=messages.StorageError.serialize(detail)))
        return result


def code_of(number):
    return next(c for c in grpc.StatusCode if c.value[0] == number)


class Stream:
    def __init__(self, name, table, kind):
        self.name, self.table, self.kind = name, table, kind
        self.resource = the.tables[table]   # a table made anew is another
        self.rows = []       # of a stream that is not committed yet
        self.end = 0
        self.finalized = False
        self.call = None     # the one call that may append


class Writer:
    """How the rows of a call are read."""

    def __init__(self, descriptor, schema):
        self.fields = {}
        columns = {f["name"].lower(): f for f in schema}
        file = descriptor_pb2.FileDescriptorProto(name="w%s.proto" % uuid.uuid4().hex, syntax="proto2")
        plain = descriptor_pb2.DescriptorProto()
        plain.CopyFrom(descriptor)
        for field in plain.field:
            name = option_text(field.options) or field.name
            field.ClearField("options")
            column = columns.get(name.lower())
            if column is None:
                raise Failed(grpc.StatusCode.INVALID_ARGUMENT,
                             "Input schema has more fields than BigQuery schema, extra fields: '%s'" % name,
                             EXTRA_FIELDS)
            if (field.label == Field.LABEL_REPEATED) != (column.get("mode") == "REPEATED") \
                    or field.type not in TAKES[the.type_of(column)]:
                raise Failed(grpc.StatusCode.INVALID_ARGUMENT,
                             "The proto field mismatched with BigQuery field at %s, type %d" % (name, field.type))
            self.fields[field.name] = column
        file.message_type.append(plain)
        pool = descriptor_pool.DescriptorPool()
        try:
            pool.Add(file)
            self.descriptor = pool.FindFileByName(file.name).message_types_by_name[plain.name]
        except Exception as e:
            raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "Invalid proto schema: %s" % e)
        self.message = message_factory.GetMessageClass(self.descriptor)
        self.required = {f["name"] for f in schema if f.get("mode") == "REQUIRED"}

    def row(self, data):
        """The row as JSON, as insertAll has it; ValueError when it is bad."""
        try:
            message = self.message.FromString(data)
        except DecodeError:
            raise ValueError("Row cannot be parsed")
        result = {}
        for field, value in message.ListFields():
            column = self.fields[field.name]
            if column.get("mode") == "REPEATED":
                result[column["name"]] = [as_json(column, field, v) for v in value]
            else:
                result[column["name"]] = as_json(column, field, value)
        for name in self.required - set(result):
            raise ValueError("Field %s: is required" % name)
        return result


def option_text(options):
    """The column that an option of a field names."""
    data, pos = options.SerializeToString(), 0
    while pos < len(data):
        tag, pos = decoder._DecodeVarint(data, pos)
        size, pos = decoder._DecodeVarint(data, pos)
        if tag >> 3 == COLUMN_NAME:
            return data[pos:pos + size].decode()
        pos += size
    return None


def as_json(column, field, value):
    kind, name = the.type_of(column), column["name"]
    try:
        if kind == "DATE" and isinstance(value, int):
            if not -719162 <= value <= 2932896:
                raise ValueError("out of range")
            value = (date(1970, 1, 1) + timedelta(days=value)).isoformat()
        elif kind == "TIMESTAMP":
            value = (EPOCH + timedelta(microseconds=value)).isoformat().replace("+00:00", "Z")
        elif kind == "BYTES" and isinstance(value, bytes):
            value = base64.b64encode(value).decode()
        elif kind in ("NUMERIC", "BIGNUMERIC") and isinstance(value, (bytes, float)):
            raise ValueError("the double reads decimals from text alone")
        elif kind == "FLOAT64" or kind == "INT64":
            pass
        elif kind == "BOOL":
            value = bool(value)
        if kind not in ("FLOAT64",):
            the.check_value(kind, value)
    except (ValueError, ArithmeticError, OverflowError) as e:
        raise ValueError("Field %s: Could not convert value to %s: %s" % (name, kind, e))
    return value


def table_schema(schema):
    kinds = {"FLOAT64": "DOUBLE"}
    return table_messages.TableSchema(fields=[table_messages.TableFieldSchema(
        name=f["name"], type_=getattr(table_messages.TableFieldSchema.Type,
                                      kinds.get(the.type_of(f), the.type_of(f))),
        mode=getattr(table_messages.TableFieldSchema.Mode, f.get("mode", "NULLABLE"))) for f in schema])


def table_of(parent):
    match = re.fullmatch(r"projects/([^/]+)/datasets/([^/]+)/tables/([^/]+)", parent)
    if not match:
        raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "Invalid table name: %s" % parent)
    name = ".".join(match.groups())
    if name not in the.tables or "view" in the.tables[name]:
        raise Failed(grpc.StatusCode.NOT_FOUND, "Requested entity was not found: %s" % name,
                     TABLE_NOT_FOUND, parent)
    return name


def find_stream(name):
    parent, _, last = name.rpartition("/streams/")
    if last == "_default":
        table_of(parent)
        return streams.setdefault(name, Stream(name, table_of(parent), 1))
    if not re.fullmatch("[0-9a-zA-Z_-]+", last):
        raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "Invalid stream name. Entity: %s" % name)
    stream = streams.get(name)
    if stream is None or the.tables.get(stream.table) is not stream.resource:
        raise Failed(grpc.StatusCode.NOT_FOUND, "Requested entity was not found. Entity: %s" % name,
                     STREAM_NOT_FOUND, name)
    return stream


def check_call(context, parameter, value):
    """Who asks, and whether the request finds its way."""
    headers = dict(context.invocation_metadata())
    if the.auth is not None:
        given = headers.get("authorization", "")
        if not given.startswith("Bearer ") or the.tokens.get(given[7:], 0) < time.time():
            raise Failed(grpc.StatusCode.UNAUTHENTICATED,
                         "Request had invalid authentication credentials.")
    # Google's library sends it twice, once empty
    route = "&".join(v for k, v in context.invocation_metadata() if k == "x-goog-request-params")
    if "%s=%s" % (parameter, value) not in route.replace("%2F", "/").split("&"):
        raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "x-goog-request-params is missing or wrong: %s" % route)


def begin(action, entry):
    """Note a request, and find what is to go wrong with it."""
    with the.lock:
        fault = the.find_fault(action)
        entry.update(action=action, fault=fault["do"] if fault else None, at=time.time())
        the.requests.append(entry)
    if fault and fault["do"] == "slow":
        time.sleep(fault["seconds"])
    if fault and fault["do"] == "cut_before":
        gate.cut()
        raise Failed(grpc.StatusCode.UNAVAILABLE, "cut")
    if fault and fault["do"] in ("status", "error"):
        failed = Failed(code_of(fault["code"]), "told to", fault.get("storage_code", 0))
        failed.in_call = fault["do"] == "error"
        raise failed
    return fault


def finish(fault):
    """What goes wrong after the fact."""
    if not fault:
        return
    if fault["do"] == "slow_after":
        time.sleep(fault["seconds"])
    elif fault["do"] == "cut_after":
        gate.cut()
        raise Failed(grpc.StatusCode.UNAVAILABLE, "cut")
    elif fault["do"] == "status_after":
        raise Failed(code_of(fault["code"]), "told to, after the fact", fault.get("storage_code", 0))


def end_call(context, failed):
    context.set_trailing_metadata([("grpc-status-details-bin", failed.status().SerializeToString())])
    context.abort(failed.code, failed.message)


def one_to_one(action, parameter, kind, work):
    """A method of one message each way."""
    def handle(data, context):
        request = kind.deserialize(data)
        value = getattr(request, parameter)
        try:
            fault = begin(action, {"path": value})
            with the.lock:
                check_call(context, parameter, value)
                answer = work(request)
            finish(fault)
            return type(answer).serialize(answer)
        except Failed as e:
            end_call(context, e)
    return grpc.unary_unary_rpc_method_handler(handle)


def create_stream(request):
    table = table_of(request.parent)
    kind = request.write_stream.type_
    if kind == 0:
        raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "Stream type must be specified")
    name = "%s/streams/Cis%s" % (request.parent, uuid.uuid4().hex)
    streams[name] = Stream(name, table, int(kind))
    return stream_messages.WriteStream(name=name, type_=kind, table_schema=table_schema(
        the.tables[table]["schema"]["fields"]))


def get_stream(request):
    stream = find_stream(request.name)
    return stream_messages.WriteStream(name=stream.name, type_=stream.kind, location="EU")


def finalize_stream(request):
    stream = find_stream(request.name)
    if stream.name.endswith("/_default"):
        raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "The default stream cannot be finalized")
    stream.finalized = True
    return messages.FinalizeWriteStreamResponse(row_count=stream.end)


def batch_commit(request):
    found = [find_stream(name) for name in request.write_streams]
    for stream in found:
        if stream.kind != 2 or not stream.finalized:
            raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "not a finalized pending stream", INVALID_STATE)
    for stream in found:
        the.rows[stream.table] += stream.rows
        stream.rows = []
    return messages.BatchCommitWriteStreamsResponse(commit_time=datetime.now(timezone.utc))


class Call:
    """A call of AppendRows."""

    def __init__(self, context):
        self.context = context
        self.inbox = queue.Queue()
        self.stream = self.writer = self.descriptor = self.schema = None

    def close(self, failed):
        """Let the server end it."""
        self.inbox.put(failed)

    def pump(self, requests):
        try:
            for request in requests:
                self.inbox.put(request)
        except Exception:
            pass
        self.inbox.put(None)

    def bind(self, request):
        """The stream and the rows' description, which the first request has."""
        pb = messages.AppendRowsRequest.pb(request)
        if self.stream is None:
            if not request.write_stream:
                raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "The first request names no stream")
            check_call(self.context, "write_stream", request.write_stream)
            self.stream = find_stream(request.write_stream)
            if not self.stream.name.endswith("/_default"):
                if self.stream.call is not None:
                    self.stream.call.close(Failed(grpc.StatusCode.ABORTED, "another connection appends"))
                self.stream.call = self
        elif request.write_stream and request.write_stream != self.stream.name:
            raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "The stream cannot change within a call")
        find_stream(self.stream.name)
        if not pb.HasField("proto_rows"):
            raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "Rows must be protocol buffers")
        now = the.tables[self.stream.table]["schema"]["fields"]
        if pb.proto_rows.HasField("writer_schema"):
            self.descriptor = pb.proto_rows.writer_schema.proto_descriptor
            self.writer, self.schema = Writer(self.descriptor, now), list(now)
        if self.writer is None:
            raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "The first request does not describe its rows")
        return now

    def check_offset(self, pb):
        stream = self.stream
        if stream.name.endswith("/_default"):
            if pb.HasField("offset"):
                raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "The default stream takes no offsets")
            return
        failed = None
        if stream.finalized:
            failed = Failed(grpc.StatusCode.FAILED_PRECONDITION, "Stream is finalized", FINALIZED, stream.name)
        elif pb.HasField("offset") and pb.offset.value < stream.end:
            failed = Failed(grpc.StatusCode.ALREADY_EXISTS, "The offset is within stream, expected offset %d, "
                            "received %d" % (stream.end, pb.offset.value), OFFSET_EXISTS, stream.name)
        elif pb.HasField("offset") and pb.offset.value > stream.end:
            failed = Failed(grpc.StatusCode.OUT_OF_RANGE, "The offset is beyond stream, expected offset %d, "
                            "received %d" % (stream.end, pb.offset.value), OFFSET_RANGE, stream.name)
        if failed:
            failed.in_call = True
            raise failed

    def append(self, data):
        """Do what a request asks for; the answer."""
        request = messages.AppendRowsRequest.deserialize(data)
        pb = messages.AppendRowsRequest.pb(request)
        entry = {"path": request.write_stream, "bytes": len(data)}
        fault = begin("append", entry)
        with the.lock:
            if len(data) > REQUEST_MAX:
                raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "AppendRows request too large: %d" % len(data))
            if fault and fault["do"] == "extra_fields":
                raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "Input schema has more fields than BigQuery schema",
                             EXTRA_FIELDS)
            now = self.bind(request)
            self.check_offset(pb)
            stream, at = self.stream, self.stream.end
            entry["offset"], entry["rows"] = at, len(pb.proto_rows.rows.serialized_rows)
            errors, new = [], []
            for i, row in enumerate(pb.proto_rows.rows.serialized_rows):
                try:
                    new.append({"insertId": None, "json": self.writer.row(row)})
                except ValueError as e:
                    errors.append((i, str(e)))
            if fault and fault["do"] == "row_errors":
                errors += [(i, "told to") for i in fault["rows"]]
            entry["ids"] = [r["json"].get("event_id") for r in new]
            entry["kind"] = stream.kind
            if fault and fault["do"] == "poison" and not errors and (
                    fault.get("form") or any(r["json"].get(fault["column"]) == fault["value"] for r in new)):
                failed = Failed(grpc.StatusCode.INVALID_ARGUMENT, "a value is poison")
                failed.in_call = not fault.get("end")
                raise failed
            if errors:
                return self.refuse(errors)
            (the.rows[stream.table] if stream.kind == 1 else stream.rows).extend(new)
            stream.end += len(new)
        finish(fault)
        answer = messages.AppendRowsResponse(write_stream=stream.name)
        if stream.name.endswith("/_default"):
            answer.append_result = messages.AppendRowsResponse.AppendResult()
        else:
            answer.append_result = messages.AppendRowsResponse.AppendResult(offset=at)
        if now != self.schema:
            answer.updated_schema = table_schema(now)
            self.schema = list(now)
        return answer

    def refuse(self, errors):
        return messages.AppendRowsResponse(
            error=status_pb2.Status(code=3, message="Errors found while processing rows. Please refer to the "
                                    "row_errors field for details. The list may not be complete because of the "
                                    "size limitations."),
            row_errors=[messages.RowError(index=i, code=1, message=m) for i, m in errors],
            write_stream=self.stream.name)

    def run(self, requests):
        threading.Thread(target=self.pump, args=(requests,), daemon=True).start()
        try:
            while (item := self.inbox.get()) is not None:
                if isinstance(item, Failed):
                    raise item
                try:
                    yield messages.AppendRowsResponse.serialize(self.append(item))
                except Failed as e:
                    if not getattr(e, "in_call", False):
                        raise
                    yield messages.AppendRowsResponse.serialize(messages.AppendRowsResponse(
                        error=e.status(), write_stream=self.stream.name if self.stream else ""))
        except Failed as e:
            end_call(self.context, e)
        finally:
            calls.discard(self)
            if self.stream is not None and self.stream.call is self:
                self.stream.call = None


def append_rows(requests, context):
    call = Call(context)
    calls.add(call)
    return call.run(requests)


class Gate:
    """Stands before the server, and resets its connections when told to."""

    def __init__(self, port, inner):
        self.inner, self.pairs = inner, set()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.inner))
            for s in (client, server):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.pairs.add((client, server))
            for a, b in ((client, server), (server, client)):
                threading.Thread(target=self.pass_on, args=(a, b, (client, server)), daemon=True).start()

    def pass_on(self, a, b, pair):
        try:
            while data := a.recv(262144):
                b.sendall(data)
        except OSError:
            pass
        self.drop(pair)

    def drop(self, pair):
        self.pairs.discard(pair)
        for s in pair:
            try:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()

    def cut(self):
        for pair in list(self.pairs):
            self.drop(pair)


def control(what, body):
    """What the test asks of streams and calls."""
    if what == "streams":
        return {"streams": {s.name: {"table": s.table, "rows": s.end, "finalized": s.finalized}
                            for s in streams.values()}}
    if what == "expire_streams":
        streams.clear()
    elif what == "finalize_streams":
        for stream in streams.values():
            stream.finalized = True
    elif what == "close_calls":
        for call in list(calls):
            call.close(Failed(grpc.StatusCode.ABORTED, "Closing the stream because there is no traffic for 600s."))
    elif what == "calls":
        return {"calls": len(calls)}
    else:
        return None
    return {}


def start(main, port, tls=None):
    """Serve on a port, with what the other part of the double keeps; tls is
    the files of a certificate and its key."""
    global the, gate, server
    the = main
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=[
        ("grpc.max_receive_message_length", 32 * 1024 * 1024), ("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {
        "CreateWriteStream": one_to_one("create_stream", "parent", messages.CreateWriteStreamRequest, create_stream),
        "GetWriteStream": one_to_one("get_stream", "name", messages.GetWriteStreamRequest, get_stream),
        "FinalizeWriteStream": one_to_one("finalize", "name", messages.FinalizeWriteStreamRequest, finalize_stream),
        "BatchCommitWriteStreams": one_to_one("commit", "parent", messages.BatchCommitWriteStreamsRequest,
                                              batch_commit),
        "AppendRows": grpc.stream_stream_rpc_method_handler(append_rows),
    }),))
    if tls:
        cert, key = (open(name, "rb").read() for name in tls)
        inner = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, cert)]))
    else:
        inner = server.add_insecure_port("127.0.0.1:0")
    server.start()
    gate = Gate(port, inner)


the = gate = server = None
streams = {}   # name -> Stream
calls = set()
