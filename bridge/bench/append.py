#!/usr/bin/env python3
"""Appends rows to BigQuery by Google's own library, as fast as the service
takes them: all requests are on their way at once.

	append.py GRPC_HOST:PORT TABLE ROWS_FILE ROWS_PER_REQUEST

TABLE is project.dataset.table; a row is a line of JSON.  The rows are made
into messages before the time is taken.  Prints the seconds.
"""

import json
import sys
import time
from datetime import datetime, timedelta, timezone

import grpc
from google.cloud import bigquery_storage_v1 as storage
from google.cloud.bigquery_storage_v1 import types, writer
from google.cloud.bigquery_storage_v1.services.big_query_write.transports import BigQueryWriteGrpcTransport
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

address, table, file_name, size = sys.argv[1:5]
size = int(size)
Field = descriptor_pb2.FieldDescriptorProto
Type = types.TableFieldSchema.Type
KINDS = {Type.INT64: Field.TYPE_INT64, Type.DOUBLE: Field.TYPE_DOUBLE, Type.BOOL: Field.TYPE_BOOL,
         Type.TIMESTAMP: Field.TYPE_INT64}
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

client = storage.BigQueryWriteClient(transport=BigQueryWriteGrpcTransport(channel=grpc.insecure_channel(address)))
parent = "projects/%s/datasets/%s/tables/%s" % tuple(table.split("."))
stream = client.create_write_stream(parent=parent, write_stream=types.WriteStream(type_="COMMITTED"))

file = descriptor_pb2.FileDescriptorProto(name="row.proto", syntax="proto2")
row_type = file.message_type.add(name="Row")
columns = {}
for number, column in enumerate(stream.table_schema.fields, 1):
    columns[column.name] = column
    row_type.field.add(name=column.name, number=number, type=KINDS.get(column.type_, Field.TYPE_STRING),
                       label=3 if column.mode == types.TableFieldSchema.Mode.REPEATED else 1)
pool = descriptor_pool.DescriptorPool()
pool.Add(file)
Row = message_factory.GetMessageClass(pool.FindFileByName("row.proto").message_types_by_name["Row"])


def message(line):
    result = Row()
    for name, value in json.loads(line, parse_float=str).items():
        column = columns.get(name)
        if value is None or column is None:
            continue
        if column.type_ == Type.TIMESTAMP:
            value = (datetime.fromisoformat(value) - EPOCH) // timedelta(microseconds=1)
        if column.mode == types.TableFieldSchema.Mode.REPEATED:
            getattr(result, name).extend(value)
        elif column.type_ in KINDS:
            setattr(result, name, value)
        else:
            setattr(result, name, str(value))
    return result.SerializeToString()


with open(file_name) as lines:
    rows = [message(line) for line in lines]
template = types.AppendRowsRequest(write_stream=stream.name)
template.proto_rows = types.AppendRowsRequest.ProtoData(writer_schema=types.ProtoSchema(proto_descriptor=row_type))
appends = writer.AppendRowsStream(client, template)

began = time.monotonic()
sent = []
for start in range(0, len(rows), size):
    # the emulator wants the name each time
    request = types.AppendRowsRequest(offset=start, write_stream=stream.name)
    request.proto_rows = types.AppendRowsRequest.ProtoData(
        rows=types.ProtoRows(serialized_rows=rows[start:start + size]))
    sent.append(appends.send(request))
for future in sent:
    future.result()
print("%.6f" % (time.monotonic() - began))
