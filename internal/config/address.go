package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// Address is where to listen or to connect: a host and port, or a unix socket. It is comparable; the zero value is none.
type Address struct {
	network string // "tcp" or "unix"
	host    string // tcp: an IP address, or a name in lower case
	port    uint16
	path    string // unix
}

// ParseAddress reads host:port, [ipv6]:port, :port (every address of the machine), localhost:port (127.0.0.1), or unix:// and a path.
func ParseAddress(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, unixScheme); ok {
		if err := checkSocketPath(path); err != nil {
			return Address{}, err
		}
		return Address{network: "unix", path: path}, nil
	}
	if strings.Contains(s, "://") {
		return Address{}, errors.New("an address is host:port, or unix:// and a path")
	}
	host, portText, err := net.SplitHostPort(s)
	if err != nil {
		return Address{}, fmt.Errorf("%q is not host:port, nor unix:// and a path", s)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return Address{}, fmt.Errorf("port %q is not a number from 0 to 65535", portText)
	}
	host, err = parseHost(host)
	if err != nil {
		return Address{}, err
	}
	return Address{network: "tcp", host: host, port: uint16(port)}, nil
}

func parseHost(host string) (string, error) {
	switch host {
	case "":
		return "::", nil
	case "localhost":
		return "127.0.0.1", nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().String(), nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if err := checkDNSName(name); err != nil {
		return "", fmt.Errorf("host %q is neither an IP address nor a name: %w", host, err)
	}
	return name, nil
}

// IsZero reports that there is no address.
func (a Address) IsZero() bool { return a == Address{} }

// Network is "tcp" or "unix", as net.Dial wants it; "" for the zero value.
func (a Address) Network() string { return a.network }

// Target is host:port or the path of the unix socket, as net.Dial wants it.
func (a Address) Target() string {
	switch a.network {
	case "tcp":
		return net.JoinHostPort(a.host, strconv.Itoa(int(a.port)))
	case "unix":
		return a.path
	default:
		return ""
	}
}

// String is what ParseAddress reads: the target, with unix:// in front of a path.
func (a Address) String() string {
	if a.network == "unix" {
		return unixScheme + a.path
	}
	return a.Target()
}

// Host is the IP address or the name in lower case; "" for a unix socket.
func (a Address) Host() string { return a.host }

// Port is the TCP port; 0 lets the kernel choose.
func (a Address) Port() uint16 { return a.port }

// AddrPort returns the address when its host is an IP address.
func (a Address) AddrPort() (netip.AddrPort, bool) {
	ip, err := netip.ParseAddr(a.host)
	if a.network != "tcp" || err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip, a.port), true
}

// Local reports that what travels there does not leave the machine: a unix socket or a loopback IP address. A name is not local,
// since what it resolves to is decided elsewhere.
func (a Address) Local() bool {
	if a.network == "unix" {
		return true
	}
	ip, err := netip.ParseAddr(a.host)
	return err == nil && ip.Unmap().IsLoopback()
}

// MarshalText returns String.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is ParseAddress.
func (a *Address) UnmarshalText(text []byte) error {
	parsed, err := ParseAddress(string(text))
	*a = parsed
	return err
}

func (a *Address) resolve(base string) {
	if a.network == "unix" {
		a.path = resolveSocket(base, a.path)
	}
}

// Socket is the path of a unix socket; "" is none. It is written as a path or as unix:// and a path. A first @ means Linux's
// abstract namespace.
type Socket string

// MarshalText returns the path.
func (s Socket) MarshalText() ([]byte, error) { return []byte(s), nil }

// UnmarshalText reads a path, or unix:// and a path.
func (s *Socket) UnmarshalText(text []byte) error {
	path := strings.TrimPrefix(string(text), unixScheme)
	if strings.Contains(path, "://") {
		return errors.New("a socket is a path, or unix:// and a path")
	}
	if err := checkSocketPath(path); err != nil {
		return err
	}
	*s = Socket(path)
	return nil
}

func (s Socket) address() Address {
	if s == "" {
		return Address{}
	}
	return Address{network: "unix", path: string(s)}
}

func (s *Socket) resolve(base string) { *s = Socket(resolveSocket(base, string(*s))) }

func resolveSocket(base, path string) string {
	if strings.HasPrefix(path, "@") {
		return path
	}
	return resolvePath(base, path)
}

// resolvePath makes a relative path start at the folder of the configuration file.
func resolvePath(base, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(base, path)
}

func checkSocketPath(path string) error {
	switch {
	case path == "":
		return errors.New("the path of the socket is missing")
	case strings.ContainsRune(path, 0):
		return errors.New("the path of the socket has a NUL")
	case len(path) > maxSocketPath:
		return fmt.Errorf("the path of the socket has %d bytes, the kernel takes %d", len(path), maxSocketPath)
	}
	return nil
}

// checkDNSName accepts RFC 1123 host names in lower case, with underscores as container runtimes use them.
func checkDNSName(name string) error {
	if name == "" || len(name) > 253 {
		return errors.New("a name has 1 to 253 characters")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return errors.New("a label of a name has 1 to 63 characters")
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("a label of a name does not begin or end with -")
		}
		for _, c := range []byte(label) {
			if !isLower(c) && !isDigit(c) && c != '-' && c != '_' {
				return fmt.Errorf("%q does not belong in a name", rune(c))
			}
		}
	}
	return nil
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }

const (
	unixScheme = "unix://"
	// maxSocketPath is sizeof(sockaddr_un.sun_path) on Linux, less the final NUL; other systems have 104.
	maxSocketPath = 107
)
