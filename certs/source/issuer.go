package source

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net/url"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Issuer has SVIDs signed by the authority.
type Issuer interface {
	// IssueX509 answers every request, in order, with a chain or an error of its own. An error beside the results concerns all of
	// them. It is called concurrently and honours ctx.
	IssueX509(ctx context.Context, requests []IssueRequest) ([]IssueResult, error)
}

// IssueRequest asks for an SVID of an entry.
type IssueRequest struct {
	EntryID string
	// ID is the entry's SPIFFE ID, or what its template became for one workload.
	ID spiffeid.ID
	// CSR is a PKCS #10 request, DER, that proves possession of the key and names ID.
	CSR []byte
}

// IssueResult has the chain, leaf first, or says why there is none.
type IssueResult struct {
	Chain []*x509.Certificate
	Err   error
}

// newRequest makes a fresh key, which never leaves the process, and asks for its certificate.
func newRequest(entryID string, id spiffeid.ID) (crypto.Signer, IssueRequest, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, IssueRequest{}, fmt.Errorf("generate key for %q: %w", id.String(), err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{id.URL()}}, key)
	if err != nil {
		return nil, IssueRequest{}, fmt.Errorf("make certificate request for %q: %w", id.String(), err)
	}
	return key, IssueRequest{EntryID: entryID, ID: id, CSR: csr}, nil
}
