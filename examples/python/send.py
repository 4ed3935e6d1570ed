"""Asks for a notification, and prints what becomes of it. See README.md."""

import sys
import time
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from patientnotify.v1 import notification_service_pb2 as messages
from patientnotify.v1 import notification_service_pb2_grpc as services
from patientnotify.v1 import vocabulary_pb2 as words

CALL_TIMEOUT_S = 5
SEND_TIMEOUT_S = 60
PAUSE_S = 0.5
# Where callers are authenticated, ("authorization", "Bearer …") takes its place.
CALLER = [("x-caller", "scheduling")]
AGAIN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


def details(error, kind):
    """The first google.rpc detail of this kind, or None."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        found = kind()
        if detail.Unpack(found):
            return found
    return None


def send(front, request):
    """Repeats the same call, with the same key, until it is taken over."""
    give_up = time.monotonic() + SEND_TIMEOUT_S
    while True:
        try:
            return front.Send(request, timeout=CALL_TIMEOUT_S, metadata=CALLER)
        except grpc.RpcError as error:
            retry = details(error, error_details_pb2.RetryInfo)
            pause = retry.retry_delay.ToTimedelta().total_seconds() if retry else PAUSE_S
            if error.code() not in AGAIN or time.monotonic() + pause >= give_up:
                raise
            time.sleep(pause)


def main(address, patient):
    front = services.NotificationServiceStub(grpc.insecure_channel(address))
    try:
        sent = send(
            front,
            messages.NotificationServiceSendRequest(
                # A real backend has a key already: the visit, the letter, the invoice.
                idempotency_key=f"visit-{uuid.uuid4()}",
                patient_id=patient,
                purpose=words.PURPOSE_APPOINTMENT_REMINDER,
            ),
        )
        got = front.Get(
            messages.NotificationServiceGetRequest(
                notification_id=sent.notification_id, consistency_token=sent.consistency_token
            ),
            timeout=CALL_TIMEOUT_S,
            metadata=CALLER,
        )
    except grpc.RpcError as error:
        info = details(error, error_details_pb2.ErrorInfo)
        print(error.code().name, info.reason if info else "", error.details(), file=sys.stderr)
        fields = details(error, error_details_pb2.BadRequest)
        for fault in fields.field_violations if fields else ():
            print(f"  {fault.field}: {fault.description}", file=sys.stderr)
        return 1
    print(sent.notification_id, words.State.Name(got.notification.state), got.notification.reason)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: send.py 127.0.0.1:19080 pat-000001")
    sys.exit(main(*sys.argv[1:]))
