package workloadapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/postern-proxy/postern/certs/attest/workloadattestor"
	"github.com/postern-proxy/postern/certs/registration"
)

// helperEnv makes the test binary open a connection that it hands down: its value is the socket.
const helperEnv = "POSTERN_TEST_CONNECTION"

func TestMain(m *testing.M) {
	if socket := os.Getenv(helperEnv); socket != "" {
		if err := connectAndWait(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// connectAndWait connects and sends its descriptor over standard output's socket, as a process that shares it with another one does.
// Then it waits for its end.
func connectAndWait(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	file, err := conn.(*net.UnixConn).File()
	if err != nil {
		return err
	}
	if err := syscall.Sendmsg(3, []byte("x"), syscall.UnixRights(int(file.Fd())), nil, 0); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// connectionOf starts this test binary so that it connects to socket, and returns that same connection, shared with it.
func connectionOf(t *testing.T, socket string) (net.Conn, *exec.Cmd) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return connectionOfProgram(t, program, socket, nil)
}

func connectionOfProgram(t *testing.T, program, socket string, credential *syscall.Credential) (net.Conn, *exec.Cmd) {
	t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "pair")
	ours := os.NewFile(uintptr(pair[0]), "pair")
	defer func() { _, _ = theirs.Close(), ours.Close() }()
	command := exec.CommandContext(context.Background(), program, "-test.run=^$")
	command.Env = []string{helperEnv + "=" + socket}
	command.ExtraFiles = []*os.File{theirs}
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Credential: credential, Pdeathsig: syscall.SIGKILL}
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	oob := make([]byte, 64)
	_, n, _, _, err := syscall.Recvmsg(pair[0], make([]byte, 1), oob, 0)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fds[0]), "connection")
	defer func() { _ = file.Close() }()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	return conn, command
}

// readableSelf is a copy of this test binary that every user may execute.
func readableSelf(t *testing.T) string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "program")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func clientOver(t *testing.T, conn net.Conn) workload.SpiffeWorkloadAPIClient {
	t.Helper()
	used := false
	client, err := grpc.NewClient("passthrough:///shared",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used {
				return nil, io.EOF
			}
			used = true
			return conn, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return workload.NewSpiffeWorkloadAPIClient(client)
}

// The connection is attested as the process that opened it. When that one ends, whoever else holds the socket has nothing from it.
func TestConnectionEndsWithTheProcessThatOpenedIt(t *testing.T) {
	n := serve(t, ServerOptions{})
	n.SetEntries([]registration.Entry{entry("a", "/orders", myUID())})
	conn, process := connectionOf(t, n.socket)
	stream, err := clientOver(t, conn).FetchX509SVID(authorized(t), &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantCode(t, err, codes.Unavailable)
	if took := time.Since(begun); took > time.Second {
		t.Errorf("the stream ended %s after the process", took)
	}
}

func TestCallerOfAnotherUserGetsThatUsersIdentity(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: starts a process of another user, which only root may")
	}
	n := serve(t, ServerOptions{Grace: time.Millisecond})
	n.SetEntries([]registration.Entry{entry("a", "/root", "unix:uid:0"), entry("bb", "/other", "unix:uid:4242")})
	conn, _ := connectionOfProgram(t, readableSelf(t), n.socket, &syscall.Credential{Uid: 4242, Gid: 4343})
	stream, err := clientOver(t, conn).FetchX509SVID(authorized(t), &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	response, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(pathsOf(response), " "); got != "/other" {
		t.Errorf("granted %q, want %q", got, "/other")
	}
}

func TestProcessThatIsGoneBeforeItsConnectionIsAcceptedIsRefused(t *testing.T) {
	n := serve(t, ServerOptions{MaxConnections: 100})
	for range 20 {
		conn, process := connectionOf(t, n.socket)
		_ = process.Process.Kill()
		_ = process.Wait()
		_, err := bufio.NewReader(conn).ReadByte() // closed, or the server's first frame and then closed
		if err == nil {
			_, err = io.Copy(io.Discard, conn)
		}
		if err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
	for begun := time.Now(); testutil.ToFloat64(n.server.metrics.connections) != 0; {
		if time.Since(begun) > deadline {
			t.Fatal("connections of processes that are gone are still counted")
		}
		time.Sleep(time.Millisecond)
	}
}

// Nobody can do anything about a caller that hung up, so nobody is warned.
func TestCallerThatIsGoneBeforeItIsPinnedIsNotWarnedOf(t *testing.T) {
	n := serve(t, ServerOptions{})
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n.server.callers.logger, n.server.callers.gone = newLimitedLogger(logger), newLimitedLogger(logger)
	socket := filepath.Join(filepath.Dir(n.socket), "gone")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	shared, process := connectionOf(t, socket)
	defer func() { _ = shared.Close() }()
	_ = process.Process.Kill()
	_ = process.Wait()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, _, err := n.server.callers.ServerHandshake(conn); !errors.Is(err, workloadattestor.ErrExited) {
		t.Errorf("handshake: %v, want ErrExited", err)
	}
	if !strings.Contains(log.String(), "level=DEBUG") || strings.Contains(log.String(), "level=WARN") {
		t.Errorf("the log says %q, want one line at DEBUG", log.String())
	}
	if got := testutil.ToFloat64(n.server.metrics.refusedConnections.WithLabelValues("gone")); got != 1 {
		t.Errorf("%v connections are counted as gone, want 1", got)
	}
}
