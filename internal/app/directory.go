package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/attest/nodeattestor"
	"github.com/postern-proxy/postern/certs/ca"
	"github.com/postern-proxy/postern/certs/ca/enroll"
	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/admin"
)

// directory answers the admin socket for the authority in this process.
type directory struct{ a *authority }

func (d directory) Entries(ctx context.Context) ([]admin.Entry, error) {
	entries, err := d.a.allEntries(ctx, registration.Query{})
	return entries, asAdminError(err)
}

func (d directory) Entry(ctx context.Context, id string) (admin.Entry, error) {
	e, err := d.a.entries.Get(ctx, id)
	return e, asAdminError(err)
}

func (d directory) CreateEntry(ctx context.Context, e admin.Entry, actor string) (admin.Entry, error) {
	if err := d.a.permitted(e); err != nil {
		return admin.Entry{}, err
	}
	made, err := d.a.entries.Create(ctx, e, actor)
	return made, asAdminError(err)
}

// permitted refuses what only the authority itself may hold, and what it would never sign.
func (a *authority) permitted(e registration.Entry) error {
	if longest := a.ca.MaxTTL(); e.TTL > longest {
		return &admin.Error{Code: admin.CodeInvalid, Err: fmt.Errorf("ttl %s: the authority signs nothing that lives longer than %s", e.TTL, longest)}
	}
	if registration.IsTemplate(e.SPIFFEID) {
		return nil // registration holds templates to the trust domain, enrolment what they become
	}
	id, err := spiffeid.FromString(e.SPIFFEID)
	if err == nil && enroll.Reserved(id) {
		return &admin.Error{Code: admin.CodeInvalid, Err: fmt.Errorf("spiffe id %q is reserved: paths under /node and /authority belong to postern itself", e.SPIFFEID)}
	}
	return nil // registration says what is wrong with the form
}

func (d directory) UpdateEntry(ctx context.Context, id string, change admin.EntryChange, actor string) (admin.Entry, error) {
	e, err := d.a.entries.Get(ctx, id)
	if err != nil {
		return admin.Entry{}, asAdminError(err)
	}
	if change.Revision != 0 && change.Revision != uint64(e.Revision) {
		return admin.Entry{}, &admin.Error{Code: admin.CodeConflict, Err: fmt.Errorf("entry %s is at revision %d, not %d: read it again", id, e.Revision, change.Revision)}
	}
	applyChange(&e, change)
	if err := d.a.permitted(e); err != nil {
		return admin.Entry{}, err
	}
	changed, err := d.a.entries.Update(ctx, e, actor)
	return changed, asAdminError(err)
}

func applyChange(e *registration.Entry, change admin.EntryChange) {
	set(&e.SPIFFEID, change.SPIFFEID)
	set(&e.Node, change.Node)
	set(&e.TTL, change.TTL)
	set(&e.Hint, change.Hint)
	set(&e.Owner, change.Owner)
	set(&e.Purpose, change.Purpose)
	set(&e.Selectors, change.Selectors)
	set(&e.DNSNames, change.DNSNames)
}

func set[T any](field, value *T) {
	if value != nil {
		*field = *value
	}
}

func (d directory) DeleteEntry(ctx context.Context, id, actor string) error {
	_, err := d.a.entries.Delete(ctx, id, actor)
	return asAdminError(err)
}

func (d directory) CreateToken(ctx context.Context, req admin.TokenRequest, actor string) (admin.Token, error) {
	node, err := enroll.NodeID(d.a.td, req.Node)
	if err != nil {
		return admin.Token{}, &admin.Error{Code: admin.CodeInvalid, Err: err}
	}
	if req.Node == localNode {
		return admin.Token{}, &admin.Error{Code: admin.CodeInvalid, Err: fmt.Errorf("node name %q is the authority's own", localNode)}
	}
	spec := nodeattestor.TokenSpec{Node: node, TTL: req.TTL}
	for _, text := range req.Identities {
		id, err := spiffeid.FromString(text)
		if err == nil && (!id.MemberOf(d.a.td) || id.Path() == "" || enroll.Reserved(id)) {
			err = fmt.Errorf("%q is no workload of trust domain %s", text, d.a.td)
		}
		if err != nil {
			return admin.Token{}, &admin.Error{Code: admin.CodeInvalid, Err: fmt.Errorf("identity of the node: %w", err)}
		}
		spec.Identities = append(spec.Identities, id)
	}
	pin, err := d.a.credential.Pin()
	if err != nil {
		return admin.Token{}, fmt.Errorf("pin the authority: %w", err)
	}
	token, info, err := d.a.tokens.Create(ctx, spec, pin, actor)
	if err != nil {
		return admin.Token{}, asAdminError(err)
	}
	return admin.Token{Token: token.Text(), Node: node.String(), Expires: info.Expires}, nil
}

func (d directory) Authorities(context.Context) ([]admin.Authority, error) {
	infos := d.a.ca.Authorities()
	list := make([]admin.Authority, 0, len(infos))
	for _, i := range infos {
		list = append(list, admin.Authority{
			ID: i.ID, Kind: string(i.Use), State: string(i.Stage), Issuer: i.Issuer,
			NotBefore: i.Certificate.NotBefore, NotAfter: i.Certificate.NotAfter, PEM: string(svid.MarshalPEM([]*x509.Certificate{i.Certificate})),
		})
	}
	return list, nil
}

func (d directory) Rotate(ctx context.Context, kind, actor string) ([]admin.Authority, error) {
	use := ca.Use(kind)
	if use != ca.Root && use != ca.Signing {
		return nil, &admin.Error{Code: admin.CodeInvalid, Err: fmt.Errorf("rotate %q: use root or signing", kind)}
	}
	if err := d.a.ca.Rotate(ctx, use, actor); err != nil {
		return nil, asAdminError(err)
	}
	return d.Authorities(ctx)
}

func (d directory) Credentials(ctx context.Context, spiffeID string) ([]admin.Credential, error) {
	revocations := d.a.revocations.Load().All()
	list := []admin.Credential{}
	for c, err := range d.a.ca.Credentials(ctx, ca.CredentialFilter{SPIFFEID: spiffeID}) {
		if err != nil {
			return nil, asAdminError(err)
		}
		list = append(list, admin.Credential{
			Serial: c.Serial, SPIFFEID: c.SPIFFEID, Entry: c.Entry, Node: c.Node, Authority: c.Authority, Issued: c.NotBefore, NotAfter: c.NotAfter,
			Revoked: revoked(c, revocations),
		})
	}
	return list, nil
}

func (d directory) Revoke(ctx context.Context, r admin.Revocation, actor string) (admin.Revocation, error) {
	if d.a.isOwn(r) {
		return admin.Revocation{}, &admin.Error{Code: admin.CodeInvalid, Err: errors.New("that is the authority itself, which would cut itself off from every node: replace its signing authority instead (postern ca rotate signing)")}
	}
	made, err := d.a.ca.Revoke(ctx, r, actor)
	return made, asAdminError(err)
}

// isOwn reports that a revocation names the identity or the credential with which the authority serves.
func (a *authority) isOwn(r revocation.Revocation) bool {
	own := a.credential.Get()
	switch {
	case r.Kind == revocation.SPIFFEID:
		return r.Value == enroll.AuthorityID(a.td).String()
	case own == nil:
		return false
	case r.Kind == revocation.Serial:
		return r.Value == revocation.SerialString(own.Certificate.Leaf.SerialNumber)
	default:
		return r.Kind == revocation.Key && r.Value == revocation.KeyString(own.Certificate.Leaf)
	}
}

func (d directory) Revocations(ctx context.Context) ([]admin.Revocation, error) {
	list, err := d.a.ca.Revocations(ctx)
	return list, asAdminError(err)
}

func (d directory) LiftRevocation(ctx context.Context, id, actor string) error {
	return asAdminError(d.a.ca.Lift(ctx, id, actor))
}

// revoked reports whether a live credential is withdrawn.
func revoked(c ca.Credential, revocations []revocation.Revocation) bool {
	return slices.ContainsFunc(revocations, func(r revocation.Revocation) bool {
		switch r.Kind {
		case revocation.Serial:
			return r.Value == c.Serial
		case revocation.SPIFFEID:
			return r.Value == c.SPIFFEID
		case revocation.Key:
			return r.Value == c.Key
		case revocation.Authority:
			return r.Value == c.Authority
		default:
			return false
		}
	})
}

// asAdminError gives an error the code by which the caller of the socket tells what kind it is.
func asAdminError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, registration.ErrNotFound), errors.Is(err, ca.ErrNotFound):
		return &admin.Error{Code: admin.CodeNotFound, Err: err}
	case errors.Is(err, registration.ErrExists), errors.Is(err, registration.ErrConflict):
		return &admin.Error{Code: admin.CodeConflict, Err: err}
	case isInvalid(err), errors.Is(err, ca.ErrRefused), errors.Is(err, nodeattestor.ErrInvalid):
		return &admin.Error{Code: admin.CodeInvalid, Err: err}
	default:
		return err
	}
}

func isInvalid(err error) bool {
	var invalid *registration.InvalidError
	return errors.As(err, &invalid)
}
