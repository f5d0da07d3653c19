package workloadapi

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"

	"github.com/postern-proxy/postern/certs/source"
)

// maxHint is from SPIFFE Workload API, Section 8: "SHOULD NOT support values of more than 1024 bytes in length".
const maxHint = 1024

// svidResponse puts an update into the message of SPIFFE Workload API, Section 5.1.
func svidResponse(update source.Update) (*workload.X509SVIDResponse, error) {
	response := &workload.X509SVIDResponse{Svids: make([]*workload.X509SVID, 0, len(update.SVIDs))}
	hints := make(map[string]bool)
	home := update.SVIDs[0].ID.TrustDomain()
	for _, granted := range update.SVIDs {
		key, err := x509.MarshalPKCS8PrivateKey(granted.Certificate.PrivateKey)
		if err != nil {
			return nil, fmt.Errorf("marshal key of %q: %w", granted.ID.String(), err)
		}
		svid := &workload.X509SVID{
			SpiffeId:    granted.ID.String(),
			X509Svid:    bytes.Join(granted.Certificate.Certificate, nil),
			X509SvidKey: key,
			Hint:        uniqueHint(granted.Hint, hints),
		}
		if bundle, ok := update.Bundles.Get(granted.ID.TrustDomain()); ok {
			svid.Bundle = concatenated(bundle)
		}
		response.Svids = append(response.Svids, svid)
	}
	for _, bundle := range update.Bundles.Bundles() {
		if bundle.TrustDomain() == home {
			continue
		}
		if response.FederatedBundles == nil {
			response.FederatedBundles = make(map[string][]byte)
		}
		response.FederatedBundles[bundle.TrustDomain().IDString()] = concatenated(bundle)
	}
	return response, nil
}

// uniqueHint follows Section 5.2.1: "When the hint field is set (i.e. non-empty), SPIFFE Workload API servers MUST ensure its value is
// unique amongst the set of returned SVIDs". The oldest entry keeps it; the others stay available without one.
func uniqueHint(hint string, used map[string]bool) string {
	if hint == "" || len(hint) > maxHint || used[hint] {
		return ""
	}
	used[hint] = true
	return hint
}

func bundlesResponse(update source.Update) *workload.X509BundlesResponse {
	response := &workload.X509BundlesResponse{Bundles: make(map[string][]byte)}
	for _, bundle := range update.Bundles.Bundles() {
		response.Bundles[bundle.TrustDomain().IDString()] = concatenated(bundle)
	}
	return response
}

func equalBundles(a, b map[string][]byte) bool { return maps.EqualFunc(a, b, bytes.Equal) }

// concatenated is the form of a bundle on the wire: DER certificates one after the other.
func concatenated(bundle *x509bundle.Bundle) []byte {
	var der []byte
	for _, authority := range bundle.X509Authorities() {
		der = append(der, authority.Raw...)
	}
	return der
}

// fingerprint tells one update from another; nil is none.
type fingerprint []grant

type grant struct {
	entryID    string
	hint       string
	generation uint64
}

func fingerprintOf(update source.Update) fingerprint {
	f := make(fingerprint, len(update.SVIDs))
	for i, granted := range update.SVIDs {
		f[i] = grant{granted.EntryID, granted.Hint, granted.Generation}
	}
	return f
}

func (f fingerprint) is(update source.Update) bool {
	return f != nil && slices.Equal(f, fingerprintOf(update))
}
