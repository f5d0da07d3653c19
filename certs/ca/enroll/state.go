package enroll

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/svid"
)

// NodeIdentity is what makes a machine a node. It is immutable.
type NodeIdentity struct {
	ID  spiffeid.ID
	Key crypto.Signer
	// Chain is the node's SVID, leaf first.
	Chain []*x509.Certificate
	// Authorities are the bundle of the trust domain when the identity was saved.
	Authorities []*x509.Certificate
}

// State keeps a node's identity on disk, in one file, so that key, SVID and bundle are always those of one moment. Its methods are for
// one caller at a time.
type State struct{ dir string }

const (
	stateFile = "node.pem"
	// maxState bounds the file, in bytes.
	maxState = 1 << 20
	// A certificate with this header is one of the bundle.
	useHeader    = "Use"
	useAuthority = "authority"
)

// OpenState returns the state in a directory, which is made, for its owner only, when it does not exist. A directory that others may read is
// refused.
func OpenState(dir string) (*State, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open state of node: %w", err)
	}
	if err := checkPrivate(dir); err != nil {
		return nil, fmt.Errorf("open state of node: %w", err)
	}
	return &State{dir: dir}, nil
}

// checkPrivate refuses what group or others may use. Windows has no such bits.
func checkPrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%q is open to others (%s): chmod go= it", path, info.Mode().Perm())
	}
	return nil
}

// Load reads the identity. The error is fs.ErrNotExist when there is none yet.
func (s *State) Load() (*NodeIdentity, error) {
	path := filepath.Join(s.dir, stateFile)
	if err := checkPrivate(path); err != nil {
		return nil, fmt.Errorf("load identity of node: %w", err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load identity of node: %w", err)
	}
	identity, err := decodeIdentity(data)
	if err != nil {
		return nil, fmt.Errorf("load identity of node from %q: %w", path, err)
	}
	return identity, nil
}

// Save replaces the identity. After a crash at any point the file has the old or the new one, whole.
func (s *State) Save(identity *NodeIdentity) error {
	data, err := encodeIdentity(identity)
	if err != nil {
		return fmt.Errorf("save identity of node: %w", err)
	}
	if err := s.replace(data); err != nil {
		return fmt.Errorf("save identity of node: %w", err)
	}
	return nil
}

func (s *State) replace(data []byte) error {
	temporary, err := os.CreateTemp(s.dir, stateFile+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = temporary.Write(data)
	err = errors.Join(err, temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), filepath.Join(s.dir, stateFile))
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary.Name()))
	}
	return syncDirectory(s.dir)
}

// syncDirectory makes a rename durable. Windows cannot, and does not need to.
func syncDirectory(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func encodeIdentity(identity *NodeIdentity) ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(identity.Key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	out = append(out, svid.MarshalPEM(identity.Chain)...)
	for _, authority := range identity.Authorities {
		out = append(out, pem.EncodeToMemory(&pem.Block{
			Type: "CERTIFICATE", Headers: map[string]string{useHeader: useAuthority}, Bytes: authority.Raw,
		})...)
	}
	return out, nil
}

// decodeIdentity reads what encodeIdentity wrote, and refuses a key that is not the SVID's.
func decodeIdentity(data []byte) (*NodeIdentity, error) {
	if len(data) > maxState {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(data), maxState)
	}
	identity := &NodeIdentity{}
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if err := identity.add(block); err != nil {
			return nil, err
		}
	}
	if err := identity.check(); err != nil {
		return nil, err
	}
	return identity, nil
}

func (n *NodeIdentity) add(block *pem.Block) error {
	switch block.Type {
	case "PRIVATE KEY":
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return errors.New("the private key is damaged")
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return errors.New("the private key cannot sign")
		}
		n.Key = signer
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("parse certificate: %w", err)
		}
		if block.Headers[useHeader] == useAuthority {
			n.Authorities = append(n.Authorities, cert)
			return nil
		}
		n.Chain = append(n.Chain, cert)
	default:
		return fmt.Errorf("unexpected block %q", block.Type)
	}
	return nil
}

// check makes sure of what belongs together, and sets ID.
func (n *NodeIdentity) check() error {
	if n.Key == nil || len(n.Chain) == 0 || len(n.Authorities) == 0 {
		return errors.New("key, certificates or bundle are missing")
	}
	public, err := x509.MarshalPKIXPublicKey(n.Key.Public())
	if err != nil {
		return fmt.Errorf("encode public key: %w", err)
	}
	if !bytes.Equal(public, n.Chain[0].RawSubjectPublicKeyInfo) {
		return errors.New("the key is not that of the certificate")
	}
	id, err := leafID(n.Chain[0])
	if err != nil {
		return err
	}
	if _, ok := NodeName(id); !ok {
		return fmt.Errorf("%q is no node", id.String())
	}
	n.ID = id
	return nil
}

// leafID reads the one SPIFFE ID of a certificate.
func leafID(leaf *x509.Certificate) (spiffeid.ID, error) {
	if len(leaf.URIs) != 1 {
		return spiffeid.ID{}, fmt.Errorf("certificate has %d URI names instead of one", len(leaf.URIs))
	}
	id, err := spiffeid.FromURI(leaf.URIs[0])
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("identity of certificate: %w", err)
	}
	return id, nil
}

// IsNotAttested reports whether Load failed because there is no identity yet.
func IsNotAttested(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// with returns a copy with another key and SVID, or another bundle; nil keeps what is there.
func (n *NodeIdentity) with(key crypto.Signer, chain, authorities []*x509.Certificate) *NodeIdentity {
	next := *n
	if key != nil {
		next.Key, next.Chain = key, slices.Clone(chain)
	}
	if authorities != nil {
		next.Authorities = slices.Clone(authorities)
	}
	return &next
}
