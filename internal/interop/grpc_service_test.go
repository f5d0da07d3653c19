package interop

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// testService is grpc-go's service for interoperability tests, as these tests want it to behave. Metadata orders what a call does:
// x-wait has it wait for its end, x-fail-late has it send its header before it fails.
type testService struct {
	pb.UnimplementedTestServiceServer
	deadlines   chan time.Duration // what was left when a call began that waits
	ended       chan error         // why a call's context ended, from calls that wait or stream
	compression atomic.Value       // of the last request, a string
	connections atomic.Int64
	health      *health.Server
}

// startGRPC serves the service in plaintext and returns it with its address.
func startGRPC(t *testing.T, options ...grpc.ServerOption) (*testService, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &testService{deadlines: make(chan time.Duration, 1000), ended: make(chan error, 1000), health: health.NewServer()}
	server := grpc.NewServer(append(options, grpc.MaxRecvMsgSize(64*mib), grpc.MaxSendMsgSize(64*mib), grpc.StatsHandler(s),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))...)
	pb.RegisterTestServiceServer(server, s)
	healthpb.RegisterHealthServer(server, s.health)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return s, listener.Addr().String()
}

// dialGRPC makes a client of one connection to the address, with mutual TLS when there is an SVID.
func dialGRPC(t *testing.T, address string, svid *chain, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	credential := insecure.NewCredentials()
	if svid != nil {
		credential = credentials.NewTLS(svid.tls(t))
	}
	conn, err := grpc.NewClient("passthrough:///"+address, append(options, grpc.WithTransportCredentials(credential), grpc.WithAuthority("orders.test"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64*mib), grpc.MaxCallSendMsgSize(64*mib)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (s *testService) EmptyCall(context.Context, *pb.Empty) (*pb.Empty, error) {
	return &pb.Empty{}, nil
}

// UnaryCall echoes the payload, or makes one of the size asked for, and the metadata x-echo (in the header) and x-echo-bin (in the trailer).
func (s *testService) UnaryCall(ctx context.Context, request *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	order, _ := metadata.FromIncomingContext(ctx)
	_ = grpc.SetHeader(ctx, metadata.MD{"x-echo": order.Get("x-echo")})
	_ = grpc.SetTrailer(ctx, metadata.MD{"x-echo-bin": order.Get("x-echo-bin")})
	if len(order.Get("x-wait")) > 0 {
		return nil, s.wait(ctx)
	}
	if len(order.Get("x-fail-late")) > 0 {
		_ = grpc.SendHeader(ctx, nil)
	}
	if asked := request.GetResponseStatus(); asked != nil {
		return nil, failure(codes.Code(asked.GetCode()), asked.GetMessage())
	}
	if len(order.Get("x-compress")) > 0 {
		_ = grpc.SetSendCompressor(ctx, gzip.Name)
	}
	payload := request.GetPayload()
	if size := request.GetResponseSize(); size > 0 {
		payload = &pb.Payload{Body: make([]byte, size)}
	}
	return &pb.SimpleResponse{Payload: payload}, nil
}

// failure is an error of which every part must arrive.
func failure(code codes.Code, message string) error {
	with, err := status.New(code, message).WithDetails(&pb.EchoStatus{Code: int32(code), Message: "detail of " + message})
	if err != nil {
		return err
	}
	return with.Err()
}

// wait returns at the end of the call, and reports what it saw.
func (s *testService) wait(ctx context.Context) error {
	left := time.Duration(math.MaxInt64)
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	s.deadlines <- left
	<-ctx.Done()
	s.ended <- ctx.Err()
	return status.FromContextError(ctx.Err()).Err()
}

func (s *testService) StreamingOutputCall(request *pb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	for _, part := range request.GetResponseParameters() {
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: &pb.Payload{Body: make([]byte, part.GetSize())}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *testService) StreamingInputCall(stream grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error {
	var total int
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: int32(total)})
		}
		if err != nil {
			s.ended <- stream.Context().Err()
			return err
		}
		total += len(request.GetPayload().GetBody())
	}
}

// FullDuplexCall sends every message back.
func (s *testService) FullDuplexCall(stream grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			s.ended <- stream.Context().Err()
			return err
		}
		if asked := request.GetResponseStatus(); asked != nil {
			return failure(codes.Code(asked.GetCode()), asked.GetMessage())
		}
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: request.GetPayload()}); err != nil {
			return err
		}
	}
}

func (s *testService) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (s *testService) HandleRPC(_ context.Context, event stats.RPCStats) {
	if header, ok := event.(*stats.InHeader); ok {
		s.compression.Store(header.Compression)
	}
}

func (s *testService) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (s *testService) HandleConn(_ context.Context, event stats.ConnStats) {
	if _, ok := event.(*stats.ConnBegin); ok {
		s.connections.Add(1)
	}
}
