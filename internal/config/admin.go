package config

// Admin is the operator's socket.
type Admin struct {
	// Socket is the path of the unix socket for reload, status, explain and the other commands. Left out: there is none.
	Socket Socket `config:"socket"`
}

// Metrics serves Prometheus metrics, liveness and readiness over HTTP.
type Metrics struct {
	// Listen is ip:port. Left out: /metrics is on the admin socket only.
	Listen Address `config:"listen"`
	// InsecurePlaintext allows an address that other machines reach.
	InsecurePlaintext bool `config:"insecure_plaintext"`
}

// AccessLog is the record of requests and connections, apart from the process's own log.
type AccessLog struct {
	// Path is stdout, stderr, off, or a file to which lines are appended.
	Path LogPath `config:"path"`
	// Format of a line: json.
	Format LogFormat `config:"format"`
}

// LogPath is where a log goes: one of the constants, or the path of a file.
type LogPath string

// Places that are no files.
const (
	LogStdout LogPath = "stdout"
	LogStderr LogPath = "stderr"
	LogOff    LogPath = "off"
)

// File returns the path when the log goes to a file.
func (p LogPath) File() (string, bool) {
	switch p {
	case LogStdout, LogStderr, LogOff, "":
		return "", false
	default:
		return string(p), true
	}
}

func (p *LogPath) resolve(base string) {
	if file, ok := p.File(); ok {
		*p = LogPath(resolvePath(base, file))
	}
}

// LogFormat is the form of a log line.
type LogFormat string

// LogJSON is one JSON object on each line.
const LogJSON LogFormat = "json"

func (LogFormat) values() []string { return []string{string(LogJSON)} }

func (a *AccessLog) setDefaults() {
	a.Path = LogStdout
	a.Format = LogJSON
}

func (m *Metrics) check(k *checker, path string) {
	switch {
	case m.Listen.IsZero() || m.Listen.Local():
	case !m.InsecurePlaintext:
		k.fail(path+".listen", CodePlaintext, "other machines reach "+m.Listen.String()+", and metrics are served without TLS", "a loopback address, or insecure_plaintext: true")
	default:
		k.warn(path+".insecure_plaintext", WarnInsecure, "other machines reach the metrics on "+m.Listen.String()+" without TLS", "")
	}
}
