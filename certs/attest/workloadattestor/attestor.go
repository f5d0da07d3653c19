package workloadattestor

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	// ErrUnsupported says that this system offers no way to attest a process safely.
	ErrUnsupported = errors.New("workload attestation is not offered on this system")
	// ErrExited says that the process no longer lives, so that nothing can be said of it.
	ErrExited = errors.New("the calling process has exited")
	// ErrChanged says that the process is not what it was when it connected: it runs under another user or group.
	ErrChanged = errors.New("the calling process has changed its user or group since it connected")
)

// Defaults of Options.
const (
	// defaultMaxExecutable is above every statically linked program in sight.
	defaultMaxExecutable = 512 << 20
	// defaultMaxDigests remembers as many executables; an entry takes about 200 bytes.
	defaultMaxDigests = 1024
	// maxReaders is how many executables of one user are looked at together: who serves one that is slow to read, from a file system
	// of his own making, makes only himself wait.
	maxReaders = 8
)

// Options tune an Attestor. Logger is required.
type Options struct {
	Logger *slog.Logger
	// Registerer gets the metrics; nil means none.
	Registerer prometheus.Registerer
	// MaxExecutable is the size in bytes up to which an executable is digested; a larger one has no unix:sha256 selector. 0 means
	// 512 MiB, negative means that none is digested.
	MaxExecutable int64
	// MaxDigests is how many digests are remembered. 0 means 1,024.
	MaxDigests int
}

// Attestor attests callers of unix sockets. It may be used concurrently.
type Attestor struct {
	logger        *slog.Logger
	maxExecutable int64
	digests       *digestCache
	readers       readers

	attested *prometheus.CounterVec
	unpinned prometheus.Counter
}

// New returns an attestor, or ErrUnsupported.
func New(options Options) (*Attestor, error) {
	if !supported {
		return nil, ErrUnsupported
	}
	if options.Logger == nil {
		return nil, errors.New("workload attestor without logger")
	}
	if options.MaxExecutable == 0 {
		options.MaxExecutable = defaultMaxExecutable
	}
	if options.MaxDigests <= 0 {
		options.MaxDigests = defaultMaxDigests
	}
	a := &Attestor{
		logger:        options.Logger,
		maxExecutable: options.MaxExecutable,
		digests:       newDigestCache(options.MaxDigests),
		attested: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_workload_attestations_total",
			Help: "Attestations of local processes, by result.",
		}, []string{"result"}),
		unpinned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_workload_attestations_unpinned_total",
			Help: "Connections whose peer was found by process id, because the kernel keeps no pidfd with the connection.",
		}),
	}
	if options.Registerer == nil {
		return a, nil
	}
	for _, collector := range []prometheus.Collector{a.attested, a.unpinned} {
		if err := options.Registerer.Register(collector); err != nil {
			return nil, fmt.Errorf("register metric: %w", err)
		}
	}
	return a, nil
}

// count records the outcome of an attestation.
func (a *Attestor) count(err error) {
	result := "ok"
	switch {
	case err == nil:
	case errors.Is(err, ErrExited):
		result = "exited"
	case errors.Is(err, ErrChanged):
		result = "changed"
	default:
		result = "failed"
	}
	a.attested.WithLabelValues(result).Inc()
}
