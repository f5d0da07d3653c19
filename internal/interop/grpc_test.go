package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// grpcPath is a way from a client to the service.
type grpcPath struct {
	name string
	dial func(t *testing.T, options ...grpc.DialOption) *grpc.ClientConn
}

// grpcPaths are no proxy (when these calls fail, the tests are wrong), one, and a pair.
func grpcPaths(t *testing.T, service string) []grpcPath {
	t.Helper()
	back := startProxy(t, service, "protocol: h2c")
	pair := startFront(t, back, "h2")
	return []grpcPath{
		{"no proxy", func(t *testing.T, options ...grpc.DialOption) *grpc.ClientConn {
			return dialGRPC(t, service, nil, options...)
		}},
		{"one proxy", func(t *testing.T, options ...grpc.DialOption) *grpc.ClientConn {
			return dialGRPC(t, back.Mutual, &back.SVID, options...)
		}},
		{"a pair", func(t *testing.T, options ...grpc.DialOption) *grpc.ClientConn {
			return dialGRPC(t, pair.Plain, nil, options...)
		}},
	}
}

// grpcCases are what is tried on every path.
var grpcCases = []struct {
	name string
	run  func(t *testing.T, service *testService, conn *grpc.ClientConn)
}{
	{"all four shapes", fourShapes},
	{"a deadline arrives at both ends", deadlines},
	{"cancellation reaches the server", cancellation},
	{"statuses and their details arrive", statuses},
	{"messages of 16 MiB", largeMessages},
	{"metadata, binary too", metadataBothWays},
	{"200 streams on one connection", manyStreams},
	{"compression", compression},
	{"health checks", healthChecks},
}

func TestGRPC(t *testing.T) {
	service, address := startGRPC(t)
	for _, path := range grpcPaths(t, address) {
		for _, c := range grpcCases {
			t.Run(c.name+", "+path.name, func(t *testing.T) {
				service.forget()
				c.run(t, service, path.dial(t))
			})
		}
	}
}

// forget drops what earlier calls reported.
func (s *testService) forget() {
	for {
		select {
		case <-s.deadlines:
		case <-s.ended: //nolint:errcheck // nobody waits for it any more
		default:
			return
		}
	}
}

func within(t *testing.T, bound time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	t.Cleanup(cancel)
	return ctx
}

func fourShapes(t *testing.T, _ *testService, conn *grpc.ClientConn) {
	ctx, client := within(t, 20*time.Second), pb.NewTestServiceClient(conn)
	if answer, err := client.UnaryCall(ctx, &pb.SimpleRequest{Payload: &pb.Payload{Body: []byte("one")}}); err != nil || string(answer.GetPayload().GetBody()) != "one" {
		t.Errorf("unary: %v, %v", answer, err)
	}
	if _, err := client.EmptyCall(ctx, &pb.Empty{}); err != nil {
		t.Errorf("empty: %v", err)
	}

	sizes := []int{31415, 9, 0, 2653, 58979}
	ask := &pb.StreamingOutputCallRequest{}
	for _, size := range sizes {
		ask.ResponseParameters = append(ask.ResponseParameters, &pb.ResponseParameters{Size: int32(size)})
	}
	down, err := client.StreamingOutputCall(ctx, ask)
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	var message *pb.StreamingOutputCallResponse
	for message, err = down.Recv(); err == nil; message, err = down.Recv() {
		got = append(got, len(message.GetPayload().GetBody()))
	}
	if !errors.Is(err, io.EOF) || !slices.Equal(got, sizes) {
		t.Errorf("server streams: sizes %v, want %v; error %v", got, sizes, err)
	}

	up, err := client.StreamingInputCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, size := range sizes {
		if err := up.Send(&pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: make([]byte, size)}}); err != nil {
			t.Fatal(err)
		}
		total += size
	}
	if sum, err := up.CloseAndRecv(); err != nil || int(sum.GetAggregatedPayloadSize()) != total {
		t.Errorf("client streams: %v, want %d; error %v", sum, total, err)
	}

	both, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 { // each answer is awaited, so that nothing on the way may hold a message back
		pingPong(t, both, fmt.Sprintf("message %d", i))
	}
	_ = both.CloseSend()
	if _, err := both.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("both stream: ended with %v", err)
	}
}

type duplex = grpc.BidiStreamingClient[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]

func pingPong(t *testing.T, stream duplex, text string) {
	t.Helper()
	if err := stream.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte(text)}}); err != nil {
		t.Errorf("send %.40q: %v", text, err)
		return
	}
	if answer, err := stream.Recv(); err != nil || string(answer.GetPayload().GetBody()) != text {
		t.Errorf("answer to %.40q: %.40q, %v", text, answer.GetPayload().GetBody(), err)
	}
}

func deadlines(t *testing.T, service *testService, conn *grpc.ClientConn) {
	client := pb.NewTestServiceClient(conn)
	ctx := metadata.AppendToOutgoingContext(within(t, 700*time.Millisecond), "x-wait", "1")
	_, err := client.UnaryCall(ctx, &pb.SimpleRequest{})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("unary: %v", err)
	}
	if left := receive(t, service.deadlines, "the call to begin"); left <= 0 || left > 700*time.Millisecond {
		t.Errorf("the server saw a deadline in %v, want one within 700ms: grpc-timeout did not pass", left)
	}
	if cause := receive(t, service.ended, "the server to see the end"); cause == nil {
		t.Error("the server's context did not end")
	}

	stream, err := client.FullDuplexCall(within(t, 700*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	pingPong(t, stream, "before")
	if _, err := stream.Recv(); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("stream: %v", err)
	}
	if cause := receive(t, service.ended, "the server to see the end of the stream"); cause == nil {
		t.Error("the context of the server's stream did not end")
	}
}

func cancellation(t *testing.T, service *testService, conn *grpc.ClientConn) {
	client := pb.NewTestServiceClient(conn)
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(within(t, 20*time.Second), "x-wait", "1"))
	ended := make(chan error, 1)
	go func() {
		_, err := client.UnaryCall(ctx, &pb.SimpleRequest{})
		ended <- err
	}()
	receive(t, service.deadlines, "the call to begin")
	cancel()
	if err := receive(t, ended, "the client's call to end"); status.Code(err) != codes.Canceled {
		t.Errorf("unary: %v", err)
	}
	if cause := receive(t, service.ended, "the server to see the end"); !errors.Is(cause, context.Canceled) {
		t.Errorf("unary: the server's context ended with %v", cause)
	}

	ctx, cancel = context.WithCancel(within(t, 20*time.Second))
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	pingPong(t, stream, "before")
	cancel()
	if cause := receive(t, service.ended, "the server to see the end of the stream"); !errors.Is(cause, context.Canceled) {
		t.Errorf("stream: the server's context ended with %v", cause)
	}
	if _, err := client.EmptyCall(within(t, 10*time.Second), &pb.Empty{}); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

func receive[T any](t *testing.T, from <-chan T, what string) (value T) {
	t.Helper()
	select {
	case value = <-from:
	case <-time.After(10 * time.Second):
		t.Errorf("waited 10s for %s", what)
	}
	return value
}

func statuses(t *testing.T, _ *testService, conn *grpc.ClientConn) {
	ctx, client := within(t, 30*time.Second), pb.NewTestServiceClient(conn)
	late := metadata.AppendToOutgoingContext(ctx, "x-fail-late", "1")
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		message := fmt.Sprintf("\t%s: ünïcode ☺ and 100%% \r\n", code)
		ask := &pb.EchoStatus{Code: int32(code), Message: message}
		_, err := client.UnaryCall(ctx, &pb.SimpleRequest{ResponseStatus: ask}) // trailers only
		wantFailure(t, "trailers only", err, code, message)
		_, err = client.UnaryCall(late, &pb.SimpleRequest{ResponseStatus: ask}) // after a header
		wantFailure(t, "after a header", err, code, message)

		stream, err := client.FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		pingPong(t, stream, "before")
		_ = stream.Send(&pb.StreamingOutputCallRequest{ResponseStatus: ask})
		_, err = stream.Recv() // after a message
		wantFailure(t, "after a message", err, code, message)
	}
	if _, err := client.HalfDuplexCall(ctx); err != nil {
		t.Errorf("begin a method that is not implemented: %v", err)
	}
	if _, err := client.CacheableUnaryCall(ctx, &pb.SimpleRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that is not implemented: %v", err)
	}
}

func wantFailure(t *testing.T, when string, err error, code codes.Code, message string) {
	t.Helper()
	got := status.Convert(err)
	if got.Code() != code || got.Message() != message {
		t.Errorf("%s: %v, %q; want %v, %q", when, got.Code(), got.Message(), code, message)
	}
	want := &pb.EchoStatus{Code: int32(code), Message: "detail of " + message}
	if details := got.Details(); len(details) != 1 || !proto.Equal(details[0].(proto.Message), want) {
		t.Errorf("%s: details %v, want %v", when, details, want)
	}
}

func largeMessages(t *testing.T, _ *testService, conn *grpc.ClientConn) {
	ctx, client := within(t, 60*time.Second), pb.NewTestServiceClient(conn)
	body, err := io.ReadAll(io.LimitReader(pattern(), 16*mib))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.UnaryCall(ctx, &pb.SimpleRequest{Payload: &pb.Payload{Body: body}})
	if err != nil || !bytes.Equal(answer.GetPayload().GetBody(), body) {
		t.Errorf("unary: %d bytes, error %v", len(answer.GetPayload().GetBody()), err)
	}
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		pingPong(t, stream, string(body))
	}
	_ = stream.CloseSend()
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("stream: %v", err)
	}
}

func metadataBothWays(t *testing.T, _ *testService, conn *grpc.ClientConn) {
	text := []string{"plain", "two words", "a,b", `"quoted"`, ""}
	var binary []string
	for size := range 5 { // every length of the last group of base64
		binary = append(binary, string([]byte{0, 0xff, '\r', '\n', 0x80}[:size]))
	}
	ctx := metadata.NewOutgoingContext(within(t, 10*time.Second), metadata.MD{"x-echo": text, "x-echo-bin": binary})
	var header, trailer metadata.MD
	if _, err := pb.NewTestServiceClient(conn).UnaryCall(ctx, &pb.SimpleRequest{}, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	if got := header.Get("x-echo"); !slices.Equal(got, text) {
		t.Errorf("header %q, want %q", got, text)
	}
	if got := trailer.Get("x-echo-bin"); !slices.Equal(got, binary) {
		t.Errorf("trailer %q, want %q", got, binary)
	}
}

// manyStreams has every stream get its answer of a round before any begins the next.
func manyStreams(t *testing.T, _ *testService, conn *grpc.ClientConn) {
	const streams, rounds = 200, 20
	ctx, client := within(t, 60*time.Second), pb.NewTestServiceClient(conn)
	open := make([]duplex, streams)
	for i := range open {
		var err error
		if open[i], err = client.FullDuplexCall(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for round := range rounds {
		var talking sync.WaitGroup
		for i, stream := range open {
			talking.Go(func() {
				pingPong(t, stream, fmt.Sprintf("stream %d, round %d, %s", i, round, bytes.Repeat([]byte{'x'}, i*round%3000)))
			})
		}
		talking.Wait()
		if t.Failed() {
			return
		}
	}
	for i, stream := range open {
		_ = stream.CloseSend()
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("stream %d ended with %v", i, err)
		}
	}
}

func compression(t *testing.T, service *testService, conn *grpc.ClientConn) {
	ctx, client := metadata.AppendToOutgoingContext(within(t, 10*time.Second), "x-compress", "1"), pb.NewTestServiceClient(conn)
	body := bytes.Repeat([]byte("compressible "), 10_000)
	answer, err := client.UnaryCall(ctx, &pb.SimpleRequest{Payload: &pb.Payload{Body: body}}, grpc.UseCompressor(gzip.Name))
	if err != nil || !bytes.Equal(answer.GetPayload().GetBody(), body) {
		t.Errorf("%d bytes, want %d; error %v", len(answer.GetPayload().GetBody()), len(body), err)
	}
	if got := service.compression.Load(); got != gzip.Name {
		t.Errorf("the server saw the compression %q, want %q", got, gzip.Name)
	}
}

func healthChecks(t *testing.T, service *testService, conn *grpc.ClientConn) {
	service.health.SetServingStatus("orders", healthpb.HealthCheckResponse_SERVING)
	ctx, client := within(t, 10*time.Second), healthpb.NewHealthClient(conn)
	if answer, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: "orders"}); err != nil || answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("check: %v, %v", answer, err)
	}
	watch, err := client.Watch(ctx, &healthpb.HealthCheckRequest{Service: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
		if answer, err := watch.Recv(); err != nil || answer.GetStatus() != want {
			t.Errorf("watch: %v, %v; want %v", answer, err, want)
		}
		service.health.SetServingStatus("orders", healthpb.HealthCheckResponse_NOT_SERVING)
	}
}

func TestGRPCDenialIsPermissionDenied(t *testing.T) {
	_, address := startGRPC(t)
	for _, path := range grpcPaths(t, address)[1:] {
		t.Run(path.name, func(t *testing.T) {
			_, err := pb.NewTestServiceClient(path.dial(t)).UnimplementedCall(within(t, 10*time.Second), &pb.Empty{})
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("%v, want PermissionDenied", err)
			}
		})
	}
}

// An idle stream outlives timeouts.body_idle, which is 5s here, and idle connections outlive their client's pings.
func TestGRPCStreamsMayBeIdleAndClientsMayPing(t *testing.T) {
	t.Parallel()
	_, address := startGRPC(t)
	for _, path := range grpcPaths(t, address) {
		for _, pings := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, pings %t", path.name, pings), func(t *testing.T) {
				t.Parallel()
				connections := &counter{}
				options := []grpc.DialOption{grpc.WithStatsHandler(connections)}
				if pings { // every 10s, the least that grpc-go allows
					options = append(options, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}))
				}
				conn := path.dial(t, options...)
				client := pb.NewTestServiceClient(conn)
				stream, err := client.FullDuplexCall(within(t, time.Minute))
				if err != nil {
					t.Fatal(err)
				}
				pingPong(t, stream, "before")
				up, err := client.StreamingInputCall(within(t, time.Minute))
				if err != nil {
					t.Fatal(err)
				}
				if err := up.Send(&pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: []byte("before")}}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(22 * time.Second)
				pingPong(t, stream, "after")
				_ = up.Send(&pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: []byte("after")}})
				if sum, err := up.CloseAndRecv(); err != nil || sum.GetAggregatedPayloadSize() != 11 {
					t.Errorf("client streams: %v, %v", sum, err)
				}
				if n := connections.begun.Load(); n != 1 {
					t.Errorf("the client needed %d connections, want 1", n)
				}
			})
		}
	}
}

// counter counts a client's connections.
type counter struct{ begun atomic.Int64 }

func (*counter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*counter) HandleRPC(context.Context, stats.RPCStats)                         {}
func (*counter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *counter) HandleConn(_ context.Context, event stats.ConnStats) {
	if _, ok := event.(*stats.ConnBegin); ok {
		c.begun.Add(1)
	}
}

// The server says GOAWAY to every connection that is a second old, and ends it when its calls have ended.
func TestGRPCServersMayEndConnectionsUnderLoad(t *testing.T) {
	t.Parallel()
	service, address := startGRPC(t, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: time.Second, MaxConnectionAgeGrace: 5 * time.Second}))
	for _, path := range grpcPaths(t, address) {
		t.Run(path.name, func(t *testing.T) {
			client := pb.NewTestServiceClient(path.dial(t))
			before, calls := service.connections.Load(), atomic.Int64{}
			var calling sync.WaitGroup
			end := time.Now().Add(6 * time.Second)
			for range 16 {
				calling.Go(func() {
					for time.Now().Before(end) {
						ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
						answer, err := client.UnaryCall(ctx, &pb.SimpleRequest{Payload: &pb.Payload{Body: make([]byte, 2000)}})
						cancel()
						if n := calls.Add(1); err != nil || len(answer.GetPayload().GetBody()) != 2000 {
							t.Errorf("call %d: %v", n, err)
						}
					}
				})
			}
			calling.Wait()
			connections := service.connections.Load() - before
			t.Logf("%d calls over %d connections of the server", calls.Load(), connections)
			if connections < 3 {
				t.Errorf("the server had %d connections, want one each second", connections)
			}
		})
	}
}
