package policy

import (
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/internal/config"
)

// bucket holds the rules that share a place in the index, by the principal they name.
type bucket struct {
	exact map[spiffeid.ID][]*rule // rules that name this SPIFFE ID
	other []*rule                 // rules with patterns, anonymous, or no from: looked at one by one
}

func (b *bucket) add(r *rule) {
	if r.from == nil {
		b.other = append(b.other, r)
		return
	}
	patterns := false
	for _, p := range r.from {
		id, ok := p.ID().Exact()
		if !ok {
			patterns = true
			continue
		}
		if b.exact == nil {
			b.exact = map[spiffeid.ID][]*rule{}
		}
		b.exact[id] = append(b.exact[id], r)
	}
	if patterns {
		b.other = append(b.other, r)
	}
}

// weigh gives every rule of the bucket that matches to v.
func (b *bucket) weigh(req *authz.Request, v *verdict) {
	for _, r := range b.exact[req.Principal.ID] {
		if r.matchRest(req) {
			v.take(r)
		}
	}
	for _, r := range b.other {
		if r.matchFrom(req) && r.matchRest(req) {
			v.take(r)
		}
	}
}

// node is a place in the tree of path templates, one level for each segment.
type node struct {
	literal map[string]*node
	param   *node   // {name}: any one segment
	here    *bucket // templates that end here
	rest    *bucket // templates that end in {name...} here
}

func (n *node) add(segments []config.Segment, r *rule) {
	if len(segments) == 0 {
		if n.here == nil {
			n.here = &bucket{}
		}
		n.here.add(r)
		return
	}
	segment, after := segments[0], segments[1:]
	switch segment.Kind {
	case config.Rest:
		if n.rest == nil {
			n.rest = &bucket{}
		}
		n.rest.add(r)
	case config.One:
		if n.param == nil {
			n.param = &node{}
		}
		n.param.add(after, r)
	case config.Literal:
		if n.literal == nil {
			n.literal = map[string]*node{}
		}
		if n.literal[segment.Text] == nil {
			n.literal[segment.Text] = &node{}
		}
		n.literal[segment.Text].add(after, r)
	}
}

// walk weighs the rules of every template that fits path, which is what follows the slash that led here. done is true when nothing
// follows, not even a slash.
func (n *node) walk(path string, done bool, req *authz.Request, v *verdict) {
	if done {
		if n.here != nil {
			n.here.weigh(req, v)
		}
		return
	}
	if n.rest != nil {
		n.rest.weigh(req, v)
	}
	segment, after, more := strings.Cut(path, "/")
	if next := n.literal[segment]; next != nil {
		next.walk(after, !more, req, v)
	}
	if n.param != nil && segment != "" {
		n.param.walk(after, !more, req, v)
	}
}
