package adsclient

import (
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/postern-proxy/postern/internal/posternpb"
)

// FuzzUpdate: whatever a server sends, an update names nothing twice, and what was not rejected is what is known.
func FuzzUpdate(f *testing.F) {
	policy, err := anypb.New(&posternpb.Policy{Name: "p"})
	if err != nil {
		f.Fatal(err)
	}
	for _, r := range []*discovery.DeltaDiscoveryResponse{
		{},
		{Resources: []*discovery.Resource{{Name: "p", Version: "1", Resource: policy}}, RemovedResources: []string{"q"}},
		{Resources: []*discovery.Resource{{Name: "p", Resource: policy}, {Name: "p", Version: "2", Resource: policy}}, RemovedResources: []string{"p", "known", "known"}},
		{Resources: []*discovery.Resource{{Name: "p"}, {Resource: &anypb.Any{TypeUrl: "x", Value: []byte{1}}}}},
	} {
		encoded, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var response discovery.DeltaDiscoveryResponse
		if proto.Unmarshal(data, &response) != nil {
			return
		}
		followed := &followed{typeURL: "t", message: (*posternpb.Policy)(nil), versions: map[string]string{"known": "1"}}
		update, rejections := followed.decode(&response)
		names := map[string]bool{}
		for _, r := range update.Upserted {
			if names[r.Name] {
				t.Fatalf("%q twice", r.Name)
			}
			names[r.Name] = true
		}
		for _, name := range update.Removed {
			if names[name] {
				t.Fatalf("%q twice", name)
			}
			names[name] = true
		}
		want := followed.bound(update, 0) == nil
		followed.accept(update, nil)
		if got := len(followed.versions) == 0; got != want {
			t.Fatalf("%d resources known, while the bound says %v", len(followed.versions), want)
		}
		_ = rejections.Error()
	})
}
