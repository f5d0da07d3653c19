package admin

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-proxy/postern/internal/observe"
)

// Process is what every process can be asked.
type Process interface {
	Status(ctx context.Context) Status
	// Reload loads the configuration file again, all or nothing.
	Reload(ctx context.Context, actor string) error
	// Explain judges a described request; ExplainDecision tells of one that was made.
	Explain(ctx context.Context, req ExplainRequest) (Explanation, error)
	ExplainDecision(ctx context.Context, id string) (Explanation, error)
	Bundle(ctx context.Context) (Bundle, error)
	SetLogLevel(ctx context.Context, level slog.Level, actor string)
	Drain(ctx context.Context, actor string)
}

// Directory is what a process with an authority can be asked; every change names its actor.
type Directory interface {
	Entries(ctx context.Context) ([]Entry, error)
	Entry(ctx context.Context, id string) (Entry, error)
	CreateEntry(ctx context.Context, e Entry, actor string) (Entry, error)
	UpdateEntry(ctx context.Context, id string, change EntryChange, actor string) (Entry, error)
	DeleteEntry(ctx context.Context, id, actor string) error
	CreateToken(ctx context.Context, req TokenRequest, actor string) (Token, error)
	Authorities(ctx context.Context) ([]Authority, error)
	Rotate(ctx context.Context, kind, actor string) ([]Authority, error)
	Credentials(ctx context.Context, spiffeID string) ([]Credential, error)
	Revoke(ctx context.Context, r Revocation, actor string) (Revocation, error)
	Revocations(ctx context.Context) ([]Revocation, error)
	LiftRevocation(ctx context.Context, id, actor string) error
}

// Error is an error whose code tells the caller of the socket what kind it is.
type Error struct {
	Code    string // as in Failure
	Err     error
	Details []string
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Codes of Failure and Error.
const (
	CodeNotFound    = "not_found"
	CodeConflict    = "conflict"
	CodeInvalid     = "invalid"
	CodeDenied      = "denied"
	CodeUnavailable = "unavailable"
	CodeInternal    = "internal"
)

// Server answers on the admin socket.
type Server struct {
	process   Process
	directory Directory // nil in a process without authority
	gatherer  prometheus.Gatherer
	logger    *slog.Logger
	callers   Callers
}

// NewServer returns a server; directory is nil in a process without authority.
func NewServer(process Process, directory Directory, gatherer prometheus.Gatherer, callers Callers, logger *slog.Logger) *Server {
	return &Server{process: process, directory: directory, gatherer: gatherer, callers: callers, logger: logger}
}

// Limits of the socket: an operator's tool needs no more, and a mistaken one must not hurt.
const (
	maxBody        = 4 << 20
	requestTimeout = 60 * time.Second
)

// Serve answers on l until ctx ends, then finishes what is under way. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.guard(s.routes()),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       requestTimeout,
		MaxHeaderBytes:    16 << 10,
		ConnContext:       s.callers.connContext,
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = srv.Shutdown(deadline)
	})
	err := srv.Serve(l)
	if !stop() {
		<-done
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	s.processRoutes(mux)
	mux.Handle("GET /metrics", metricsHandler(s.gatherer))
	if s.directory != nil {
		s.directoryRoutes(mux)
		return mux
	}
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &Error{Code: CodeUnavailable, Err: errors.New("this process has no authority: ask the admin socket of the authority's process")})
	})
	return mux
}

// guard lets in only who the socket is for, and bounds what a request may cost. Browsers are kept out by the Origin check: a page
// can reach a socket only through a forwarder, and then it must not act.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, ok := callerOf(r.Context())
		if !ok || !s.callers.allowed(caller) {
			s.fail(w, r, &Error{Code: CodeDenied, Err: errors.New("the admin socket serves only root and the user that postern runs as")})
			return
		}
		if r.Header.Get("Origin") != "" {
			s.fail(w, r, &Error{Code: CodeDenied, Err: errors.New("the admin socket does not serve browsers")})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

// answer calls f and writes its value, or its error.
func answer[T any](s *Server, f func(r *http.Request, actor string) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		caller, _ := callerOf(r.Context())
		value, err := f(r, caller.Actor())
		if err != nil {
			s.fail(w, r, err)
			return
		}
		writeJSON(w, http.StatusOK, value)
	}
}

// change is answer for a call whose body is decoded into T first.
func change[T, R any](s *Server, f func(r *http.Request, in T, actor string) (R, error)) http.HandlerFunc {
	return answer(s, func(r *http.Request, actor string) (R, error) {
		var in T
		dec := json.NewDecoder(r.Body)
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil {
			var none R
			return none, &Error{Code: CodeInvalid, Err: errors.New("read the request: " + err.Error())}
		}
		return f(r, in, actor)
	})
}

// done is what a change without a result answers.
type done struct {
	OK bool `json:"ok"`
}

var statusOfCode = map[string]int{
	CodeNotFound: http.StatusNotFound, CodeConflict: http.StatusConflict, CodeInvalid: http.StatusUnprocessableEntity,
	CodeDenied: http.StatusForbidden, CodeUnavailable: http.StatusServiceUnavailable,
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	failure := Failure{Message: err.Error(), Code: CodeInternal}
	var typed *Error
	if errors.As(err, &typed) {
		failure.Code, failure.Details = typed.Code, typed.Details
	}
	status, ok := statusOfCode[failure.Code]
	if !ok {
		status = http.StatusInternalServerError
		s.logger.Error("admin call failed", slog.String(observe.KeyPath, r.URL.Path), slog.String(observe.KeyError, err.Error()))
	}
	writeJSON(w, status, failure)
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}
