// Asks for a notification, and prints what becomes of it. See README.md.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "example.org/scheduling/gen/patientnotify/v1"
)

const (
	callTimeout = 5 * time.Second
	sendTimeout = 60 * time.Second
	pause       = 500 * time.Millisecond
)

// call is the context of one call. Where callers are authenticated,
// "authorization", "Bearer …" takes the place of the name.
func call() (context.Context, context.CancelFunc) {
	named := metadata.AppendToOutgoingContext(context.Background(), "x-caller", "scheduling")
	return context.WithTimeout(named, callTimeout)
}

// detail is the first google.rpc detail of this type.
func detail[T any](err error) (found T, ok bool) {
	for _, one := range status.Convert(err).Details() {
		if found, ok = one.(T); ok {
			return found, true
		}
	}
	return found, false
}

// again says when the same call may be made again.
func again(err error) (time.Duration, bool) {
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
		if retry, ok := detail[*errdetails.RetryInfo](err); ok {
			return retry.RetryDelay.AsDuration(), true
		}
		return pause, true
	default:
		return 0, false
	}
}

// send repeats the same call, with the same key, until it is taken over.
func send(front pb.NotificationServiceClient, request *pb.NotificationServiceSendRequest) (*pb.NotificationServiceSendResponse, error) {
	giveUp := time.Now().Add(sendTimeout)
	for {
		ctx, cancel := call()
		sent, err := front.Send(ctx, request)
		cancel()
		if err == nil {
			return sent, nil
		}
		wait, ok := again(err)
		if !ok || time.Now().Add(wait).After(giveUp) {
			return nil, err
		}
		time.Sleep(wait)
	}
}

func run(address, patient string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	front := pb.NewNotificationServiceClient(connection)
	sent, err := send(front, &pb.NotificationServiceSendRequest{
		// A real backend has a key already: the visit, the letter, the invoice.
		IdempotencyKey: "visit-" + uuid.NewString(),
		PatientId:      patient,
		Purpose:        pb.Purpose_PURPOSE_APPOINTMENT_REMINDER,
	})
	if err != nil {
		return err
	}
	ctx, cancel := call()
	defer cancel()
	got, err := front.Get(ctx, &pb.NotificationServiceGetRequest{
		NotificationId:   sent.NotificationId,
		ConsistencyToken: &sent.ConsistencyToken,
	})
	if err != nil {
		return err
	}
	fmt.Println(sent.NotificationId, got.Notification.State, got.Notification.Reason)
	return nil
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: scheduling 127.0.0.1:19080 pat-000001")
		os.Exit(2)
	}
	err := run(os.Args[1], os.Args[2])
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	if info, ok := detail[*errdetails.ErrorInfo](err); ok {
		fmt.Fprintln(os.Stderr, "reason:", info.Reason)
	}
	if bad, ok := detail[*errdetails.BadRequest](err); ok {
		for _, fault := range bad.FieldViolations {
			fmt.Fprintf(os.Stderr, "  %s: %s\n", fault.Field, fault.Description)
		}
	}
	os.Exit(1)
}
