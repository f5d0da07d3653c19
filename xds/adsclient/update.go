package adsclient

import (
	"fmt"
	"strings"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/anypb"
)

// Rejection says why one resource was not applied.
type Rejection struct {
	Name string
	Err  error
}

// Rejections are the resources of an update that were not applied, while all others were.
type Rejections []Rejection

// maxReasons is how many rejected resources a NACK spells out.
const maxReasons = 10

// Error names up to ten resources with their reasons.
func (r Rejections) Error() string {
	var text strings.Builder
	for i, rejection := range r {
		if i == maxReasons {
			fmt.Fprintf(&text, "; and %d more", len(r)-maxReasons)
			break
		}
		if i > 0 {
			text.WriteString("; ")
		}
		fmt.Fprintf(&text, "%s: %v", rejection.Name, rejection.Err)
	}
	return text.String()
}

// details name every rejected resource in a google.rpc.BadRequest, so that the control plane knows that the others were applied. A server that does
// not know it takes the whole response as rejected, as xDS says.
func (r Rejections) details() []*anypb.Any {
	if len(r) == 0 {
		return nil
	}
	bad := &errdetails.BadRequest{}
	for _, rejection := range r {
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: rejection.Name})
	}
	detail, err := anypb.New(bad)
	if err != nil {
		return nil // a name that is not UTF-8, which no valid response has
	}
	return []*anypb.Any{detail}
}

// decode turns a response into an update, and says which of its resources are no messages of the type. A name that stands in the response
// more than once counts as it stood last, and one that was both sent and removed is sent.
func (t *followed) decode(response *discovery.DeltaDiscoveryResponse) (Update, Rejections) {
	update := Update{TypeURL: t.typeURL}
	var rejections Rejections
	place := make(map[string]int, len(response.GetResources()))
	for _, r := range response.GetResources() {
		message := t.message.ProtoReflect().New().Interface()
		if err := r.GetResource().UnmarshalTo(message); err != nil {
			rejections = append(rejections, Rejection{Name: r.GetName(), Err: fmt.Errorf("decode: %w", err)})
			continue
		}
		resource := Resource{Name: r.GetName(), Version: r.GetVersion(), Message: message}
		if i, again := place[r.GetName()]; again {
			update.Upserted[i] = resource
			continue
		}
		place[r.GetName()] = len(update.Upserted)
		update.Upserted = append(update.Upserted, resource)
	}
	gone := make(map[string]struct{}, len(response.GetRemovedResources()))
	for _, name := range response.GetRemovedResources() {
		_, sent := place[name]
		if _, again := gone[name]; again || sent {
			continue
		}
		gone[name] = struct{}{}
		update.Removed = append(update.Removed, name)
	}
	return update, rejections
}

// bound refuses an update after which there would be more than limit resources.
func (t *followed) bound(update Update, limit int) error {
	after := len(t.versions)
	for _, r := range update.Upserted {
		if _, known := t.versions[r.Name]; !known {
			after++
		}
	}
	for _, name := range update.Removed {
		if _, known := t.versions[name]; known {
			after--
		}
	}
	if after > limit {
		return fmt.Errorf("%d resources, the limit is %d", after, limit)
	}
	return nil
}

// accept notes the versions of what was applied.
func (t *followed) accept(update Update, rejections Rejections) {
	rejected := make(map[string]struct{}, len(rejections))
	for _, r := range rejections {
		rejected[r.Name] = struct{}{}
	}
	for _, r := range update.Upserted {
		if _, bad := rejected[r.Name]; !bad {
			t.versions[r.Name] = r.Version
		}
	}
	for _, name := range update.Removed {
		delete(t.versions, name)
	}
}

// isComplete reports whether nothing more follows by itself: postern's server writes "done/total" as the version of a response that it cut.
func isComplete(response *discovery.DeltaDiscoveryResponse) bool {
	return !strings.Contains(response.GetSystemVersionInfo(), "/")
}
