package proxy

import (
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/postern-proxy/postern/authz"
)

func TestRecordedRequestsAreBoundedAndSayWhatWasCut(t *testing.T) {
	for _, test := range []struct {
		name        string
		path, value string
		clipped     bool
	}{
		{"short", "/v1", "blue", false},
		{"a long path", "/" + strings.Repeat("p", 2*maxRecorded), "blue", true},
		{"a long value", "/v1", strings.Repeat("v", 2*maxRecorded), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked := &askedFields{from: func(string) iter.Seq[string] { return slices.Values([]string{test.value, test.value}) }}
			request := authz.Request{Path: test.path, Header: asked.header}
			for range request.Header("x-tier") {
				continue
			}
			kept, clipped := recordedRequest(&request, asked)
			size := len(kept.Path)
			for value := range kept.Header("x-tier") {
				size += len(value)
				if !strings.HasPrefix(test.value, value) {
					t.Errorf("value %.20q", value)
				}
			}
			if clipped != test.clipped || size > maxRecorded || !strings.HasPrefix(test.path, kept.Path) {
				t.Errorf("%d bytes, clipped %v", size, clipped)
			}
			if whole := keptRequest(&request, asked); whole.Path != test.path { // what is judged again is never cut
				t.Errorf("%d bytes of the path are kept for judging it again", len(whole.Path))
			}
		})
	}
}
