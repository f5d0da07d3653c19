package http2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The engine between a gRPC client and a gRPC server that are not ours.

const largest = 16 << 20

// shout answers each message with the same in upper case; the path says how.
var shout = grpc.ServiceDesc{
	ServiceName: "test.Shout",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var in wrapperspb.BytesValue
		if err := decode(&in); err != nil {
			return nil, err
		}
		switch string(in.Value) {
		case "fail":
			return nil, status.Error(codes.FailedPrecondition, "asked for")
		case "wait":
			<-ctx.Done()
			return nil, ctx.Err()
		}
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-sum", "1"))
		return wrapperspb.Bytes(bytes.ToUpper(in.Value)), nil
	}}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Down", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			var in wrapperspb.BytesValue
			if err := s.RecvMsg(&in); err != nil {
				return err
			}
			for range 100 {
				if err := s.SendMsg(&in); err != nil {
					return err
				}
			}
			return nil
		}},
		{StreamName: "Up", ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			var all []byte
			for {
				var in wrapperspb.BytesValue
				err := s.RecvMsg(&in)
				if errors.Is(err, io.EOF) {
					return s.SendMsg(wrapperspb.Bytes(all))
				}
				if err != nil {
					return err
				}
				all = append(all, in.Value...)
			}
		}},
		{StreamName: "Both", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			for {
				var in wrapperspb.BytesValue
				err := s.RecvMsg(&in)
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err == nil {
					err = s.SendMsg(wrapperspb.Bytes(bytes.ToUpper(in.Value)))
				}
				if err != nil {
					return err
				}
			}
		}},
	},
}

func grpcProxied(t *testing.T) *grpc.ClientConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(largest + 100))
	server.RegisterService(&shout, nil)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	s := startServer(t, ServerOptions{Handler: newProxy(t, listener.Addr().String(), ClientOptions{})})
	client, err := grpc.NewClient("passthrough:///"+s.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largest+100)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestGRPCUnary(t *testing.T) {
	client := grpcProxied(t)
	call := func(ctx context.Context, in string) (string, metadata.MD, error) {
		var out wrapperspb.BytesValue
		var trailer metadata.MD
		err := client.Invoke(ctx, "/test.Shout/Unary", wrapperspb.Bytes([]byte(in)), &out, grpc.Trailer(&trailer))
		return string(out.Value), trailer, err
	}
	if out, trailer, err := call(t.Context(), "hello"); out != "HELLO" || err != nil || len(trailer.Get("x-sum")) != 1 {
		t.Errorf("%q, %v, %v", out, trailer, err)
	}
	if _, _, err := call(t.Context(), "fail"); status.Code(err) != codes.FailedPrecondition || status.Convert(err).Message() != "asked for" {
		t.Errorf("%v", err)
	}
	if out, _, err := call(t.Context(), fill(largest)); len(out) != largest || err != nil {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := call(ctx, "wait"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v", err)
	}
	for range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		if _, _, err := call(ctx, "wait"); status.Code(err) != codes.Canceled {
			t.Fatalf("%v", err)
		}
	}
	if out, _, err := call(t.Context(), "still there"); out != "STILL THERE" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

func TestGRPCStreams(t *testing.T) {
	client := grpcProxied(t)
	open := func(ctx context.Context, method string) grpc.ClientStream {
		t.Helper()
		stream, err := client.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Shout/"+method)
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	send := func(stream grpc.ClientStream, in string) {
		t.Helper()
		if err := stream.SendMsg(wrapperspb.Bytes([]byte(in))); err != nil {
			t.Fatal(err)
		}
	}
	receive := func(stream grpc.ClientStream) string {
		t.Helper()
		var out wrapperspb.BytesValue
		if err := stream.RecvMsg(&out); err != nil {
			t.Fatal(err)
		}
		return string(out.Value)
	}
	end := func(stream grpc.ClientStream) {
		t.Helper()
		if err := stream.RecvMsg(&wrapperspb.BytesValue{}); !errors.Is(err, io.EOF) {
			t.Errorf("ended with %v", err)
		}
	}

	down := open(t.Context(), "Down")
	send(down, fill(10000))
	_ = down.CloseSend()
	for range 100 {
		if got := receive(down); got != fill(10000) {
			t.Fatalf("%d bytes", len(got))
		}
	}
	end(down)

	up := open(t.Context(), "Up")
	for range 100 {
		send(up, fill(10000))
	}
	_ = up.CloseSend()
	if got := receive(up); len(got) != 1000000 {
		t.Errorf("%d bytes", len(got))
	}
	end(up)

	both := open(t.Context(), "Both")
	for range 100 {
		send(both, "ping")
		if got := receive(both); got != "PING" {
			t.Fatal(got)
		}
	}
	_ = both.CloseSend()
	end(both)

	ctx, cancel := context.WithCancel(t.Context())
	cancelled := open(ctx, "Both")
	send(cancelled, "ping")
	_ = receive(cancelled)
	cancel()
	if err := cancelled.RecvMsg(&wrapperspb.BytesValue{}); status.Code(err) != codes.Canceled {
		t.Errorf("%v", err)
	}
}
