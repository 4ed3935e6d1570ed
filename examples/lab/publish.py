#!/usr/bin/env python3
"""Publish one test result as a laboratory does: Avro, through the schema registry.

Needs only the schema file and the addresses of the brokers and the registry.
See README.md beside this file.
"""

import argparse
import pathlib
import sys
import time
import uuid

import httpx
from confluent_kafka import KafkaException, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

TOPIC = "pat.test-results.v1"
SCHEMA_FILE = pathlib.Path(__file__).resolve().parents[2] / "avro" / f"{TOPIC}.avsc"
# Longest wait for the brokers' acknowledgement.
DELIVERY_TIMEOUT_MS = 10_000


def arguments():
    parser = argparse.ArgumentParser(description="Publish one test result.")
    parser.add_argument("--patient", default="pat-000001", help="the portal's identifier of the patient")
    parser.add_argument("--urgency", default="normal", choices=["normal", "abnormal", "critical"])
    parser.add_argument("--result", default=None, help="the laboratory's identifier of the result; default: a new one")
    parser.add_argument("--version", type=int, default=1, help="1, or greater for a correction of the same result")
    parser.add_argument("--embargo-minutes", type=int, default=0, help="the patient may see it only after this time")
    parser.add_argument("--brokers", default="127.0.0.1:19092")
    parser.add_argument("--registry", default="http://127.0.0.1:19081/apis/ccompat/v7")
    parser.add_argument("--schema", type=pathlib.Path, default=SCHEMA_FILE)
    return parser.parse_args()


def main():
    options = arguments()
    now_ms = int(time.time() * 1000)
    result = {
        "result_id": options.result or f"lab-{uuid.uuid4()}",
        "version": options.version,
        "patient_id": options.patient,
        "facility_id": "fac-01",
        "category": "laboratory",
        "urgency": options.urgency,
        "released_at": now_ms,
        "available_at": now_ms + options.embargo_minutes * 60_000,
    }

    # The registry's owner registers schemas; a publisher looks its own up and never
    # changes the contract by accident.
    registry = SchemaRegistryClient({"url": options.registry})
    serialize = AvroSerializer(
        registry,
        options.schema.read_text(encoding="utf-8"),
        conf={"auto.register.schemas": False, "normalize.schemas": True},
    )
    value = serialize(result, SerializationContext(TOPIC, MessageField.VALUE))

    acknowledged = []

    def on_delivery(error, record):
        if error is not None:
            raise KafkaException(error)
        acknowledged.append(record)

    producer = Producer(
        {
            "bootstrap.servers": options.brokers,
            "enable.idempotence": True,
            "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
        }
    )
    # The patient is the key: all that concerns one patient stays in order.
    producer.produce(TOPIC, key=result["patient_id"], value=value, on_delivery=on_delivery)
    producer.flush()
    record = acknowledged[0]
    print(
        f"acknowledged: {result['result_id']} version {result['version']} for {result['patient_id']} "
        f"at {record.topic()} partition {record.partition()} offset {record.offset()}"
    )


if __name__ == "__main__":
    try:
        main()
    except (KafkaException, SchemaRegistryError, httpx.HTTPError, OSError) as error:
        sys.exit(f"not published: {error}")
