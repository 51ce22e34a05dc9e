"""The loop that many begin with: kafka-python, json.loads, psycopg INSERT.

loop.py CONNECTION BROKERS TOPIC COUNT BATCH

Reads COUNT messages and commits after each BATCH of them.  Prints the seconds
that it took.
"""
import json
import sys
import time

import kafka
import psycopg

connection, brokers, topic, count, batch = sys.argv[1:]
count, batch = int(count), int(batch)
insert = (
    "INSERT INTO loop (transaction_id, user_id, currency, device_type,"
    " card_number, amount, occurred_at, city, state, merchant) VALUES"
    " (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)


def row(message):
    value = json.loads(message.value)
    place = value["location"]
    return (
        value["transaction_id"],
        value["user_id"],
        value["currency"],
        value["device_type"],
        value["card_number"],
        value["amount"],
        value["timestamp"],
        place["city"],
        place["state"],
        value["merchant"],
    )


consumer = kafka.KafkaConsumer(
    topic, bootstrap_servers=brokers, auto_offset_reset="earliest"
)
done = 0
with psycopg.connect(connection) as database:
    began = time.monotonic()
    with database.cursor() as cursor:
        rows = []
        for message in consumer:
            rows.append(row(message))
            done += 1
            if len(rows) == batch or done == count:
                cursor.executemany(insert, rows)
                database.commit()
                rows = []
            if done == count:
                break
    print(f"{time.monotonic() - began:.6f}")
consumer.close()
