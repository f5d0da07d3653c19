package upstream

import (
	"fmt"
	"net/netip"

	"github.com/postern-proxy/postern/proxy/proxyproto"
)

// DialOptions say for whom a byte stream is opened. The zero value is the proxy itself.
type DialOptions struct {
	// Source and Destination are the ends of the connection that the byte stream continues, for the PROXY header; zero where they
	// are not known.
	Source, Destination netip.AddrPort
	// TLVs are what the header says besides, in version 2.
	TLVs []proxyproto.TLV
}

// preamble is the PROXY header of that version; nil for version 0. Without addresses it is the one that says nothing about them.
func (o *DialOptions) preamble(version int) ([]byte, error) {
	switch version {
	case 0:
		return nil, nil
	case 1, 2:
		return proxyproto.AppendHeader(nil, proxyproto.Header{
			Version: version, Local: !o.Source.IsValid() || !o.Destination.IsValid(),
			Source: o.Source, Destination: o.Destination, TLVs: o.TLVs,
		}), nil
	default:
		return nil, fmt.Errorf("there is no version %d of the PROXY protocol", version)
	}
}
