package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/observe"
)

const (
	// maxCredentialFile bounds a file read. A CRL of 100,000 serials is about 4 MB.
	maxCredentialFile = 16 << 20
	// settleTime is how long the files must be quiet before they are read: a renewal writes two or three of them.
	settleTime       = 50 * time.Millisecond
	defaultPollFiles = 30 * time.Second
)

// FilesOptions say where the files are, all PEM. Certificate, Key, Bundle and Logger are required.
type FilesOptions struct {
	Certificate string // leaf first, then intermediates
	Key         string
	Bundle      string // authorities of the certificate's trust domain
	// CRL is optional: revocation lists, each signed by an authority of the bundle.
	CRL        string
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
	// Poll is how often the files are looked at besides the system's notifications, which network file systems do not send. 0 means
	// 30 s.
	Poll time.Duration
}

// Files is a credential that something else keeps in files. It reads them again when they change, whatever way they are replaced
// (written over, renamed over, or through a symbolic link as Kubernetes does), and keeps what it has while they do not fit
// together.
type Files struct {
	options FilesOptions
	metrics *metrics
	holder  Holder

	mu          sync.Mutex
	read        fileContents
	generation  uint64
	revocations []revocation.Revocation
}

// fileContents are the bytes of one reading.
type fileContents struct{ certificate, key, bundle, crl []byte }

func (c fileContents) equal(other fileContents) bool {
	return bytes.Equal(c.certificate, other.certificate) && bytes.Equal(c.key, other.key) &&
		bytes.Equal(c.bundle, other.bundle) && bytes.Equal(c.crl, other.crl)
}

// NewFiles returns a source that has read nothing yet: Load reads once, Run follows.
func NewFiles(options FilesOptions) (*Files, error) {
	if options.Certificate == "" || options.Key == "" || options.Bundle == "" {
		return nil, errors.New("credential files need a certificate, a key and a bundle")
	}
	if options.Logger == nil {
		return nil, errors.New("credential files without logger")
	}
	if options.Poll <= 0 {
		options.Poll = defaultPollFiles
	}
	metrics, err := newMetrics(options.Registerer)
	if err != nil {
		return nil, err
	}
	return &Files{options: options, metrics: metrics}, nil
}

// Holder returns what holds the credential; its SVID is nil before the first successful Load and after the end of its life.
func (f *Files) Holder() *Holder { return &f.holder }

// Revocations returns what the CRL revokes, as of the SVID that Holder holds: they change together. The slice is shared.
func (f *Files) Revocations() []revocation.Revocation {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.revocations
}

// Load reads the files now. When they cannot be read, or do not fit together, it says so and what was there stays. A key file that everybody
// may read is refused.
func (f *Files) Load() error {
	err := f.load()
	if x := f.holder.Get(); err != nil && x != nil {
		return fmt.Errorf("%w; the SVID of %q taken before serves on until %s", err, x.ID.String(), x.NotAfter.Format(time.RFC3339))
	}
	return err
}

func (f *Files) load() error {
	contents, err := f.readAll()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if contents.equal(f.read) {
		return nil
	}
	x, revocations, err := contents.parse(f.options, f.generation+1)
	if err != nil {
		f.metrics.renewed(err)
		return err
	}
	f.read = contents
	f.generation++
	f.revocations = revocations
	before := f.holder.Get()
	f.metrics.renewed(nil)
	f.metrics.setOwn(x.ID.String(), x)
	if before != nil && !before.Certificate.Leaf.Equal(x.Certificate.Leaf) {
		f.metrics.rotations.Inc()
		if before.ID != x.ID {
			f.metrics.setOwn(before.ID.String(), nil)
		}
	}
	f.holder.Set(x) // last: who waits for it finds the rest in place
	return nil
}

// Run loads the files and follows them until ctx is done. It returns nil.
func (f *Files) Run(ctx context.Context) error {
	var events <-chan fsnotify.Event
	var failures <-chan error
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		f.options.Logger.Warn("credential files are polled only", slog.Any(observe.KeyError, err))
	} else {
		defer func() { _ = watcher.Close() }()
		events, failures = watcher.Events, watcher.Errors
	}
	poll := time.NewTicker(f.options.Poll)
	defer poll.Stop()
	settle := time.NewTimer(0)
	defer settle.Stop()
	end := time.NewTimer(f.options.Poll)
	defer end.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			settle.Reset(settleTime)
		case err := <-failures:
			f.options.Logger.Warn("watch of credential files", slog.Any(observe.KeyError, err))
			settle.Reset(settleTime)
		case <-settle.C:
			f.reload(watcher)
		case <-poll.C:
			f.reload(watcher)
		case <-end.C:
			f.expire()
		}
		end.Reset(f.untilEnd())
	}
}

// reload loads, logs what stands against it, and watches the directories that the files are in now.
func (f *Files) reload(watcher *fsnotify.Watcher) {
	if watcher != nil {
		for _, dir := range f.directories() {
			_ = watcher.Add(dir) // the poll covers a directory that cannot be watched
		}
	}
	if err := f.Load(); err != nil {
		f.options.Logger.Error("credential files not taken", slog.Any(observe.KeyError, err))
	}
}

// directories returns those that the paths name and those that their symbolic links lead to.
func (f *Files) directories() []string {
	seen := make(map[string]bool)
	var dirs []string
	for _, path := range []string{f.options.Certificate, f.options.Key, f.options.Bundle, f.options.CRL} {
		if path == "" {
			continue
		}
		candidates := []string{filepath.Dir(path)}
		if resolved, err := filepath.EvalSymlinks(path); err == nil {
			candidates = append(candidates, filepath.Dir(resolved))
		}
		for _, dir := range candidates {
			if !seen[dir] {
				seen[dir] = true
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// untilEnd is the time to the end of the SVID's life, at most the poll interval, since the wall clock may be set.
func (f *Files) untilEnd() time.Duration {
	x := f.holder.Get()
	if x == nil {
		return f.options.Poll
	}
	return min(max(time.Until(x.NotAfter), 0), f.options.Poll)
}

// expire drops an SVID whose life is over.
func (f *Files) expire() {
	x := f.holder.Get()
	if x == nil || time.Now().Before(x.NotAfter) {
		return
	}
	f.options.Logger.Error("SVID in files expired and was not replaced",
		slog.String(observe.KeySPIFFEID, x.ID.String()),
		slog.String(observe.KeyPath, f.options.Certificate),
		slog.Time(observe.KeyNotAfter, x.NotAfter))
	f.holder.Set(nil)
}

func (f *Files) readAll() (fileContents, error) {
	var contents fileContents
	for _, part := range []struct {
		path  string
		check func(*os.File) error
		into  *[]byte
	}{
		{f.options.Certificate, nil, &contents.certificate},
		{f.options.Key, checkSecret, &contents.key},
		{f.options.Bundle, nil, &contents.bundle},
		{f.options.CRL, nil, &contents.crl},
	} {
		if part.path == "" {
			continue
		}
		data, err := readBounded(part.path, part.check)
		if err != nil {
			return fileContents{}, err
		}
		*part.into = data
	}
	return contents, nil
}

// checkSecret refuses a file that everybody may use. Its group may: a file that a service's group shares is a common way to hand a key over.
// Windows has no such bits.
func checkSecret(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o007 != 0 {
		return fmt.Errorf("key file %q is open to everybody (mode %s): chmod o= it", file.Name(), mode)
	}
	return nil
}

// readBounded reads a file that passes check, which may be nil.
func readBounded(path string, check func(*os.File) error) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read credential: %w", err)
	}
	defer func() { _ = file.Close() }()
	if check != nil {
		if err := check(file); err != nil {
			return nil, fmt.Errorf("read credential: %w", err)
		}
	}
	data, err := io.ReadAll(io.LimitReader(file, maxCredentialFile+1))
	if err != nil {
		return nil, fmt.Errorf("read credential: %w", err)
	}
	if len(data) > maxCredentialFile {
		return nil, fmt.Errorf("read credential: %q is larger than %d bytes", path, maxCredentialFile)
	}
	return data, nil
}
