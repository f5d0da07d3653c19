//go:build !unix

package workloadapi

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Listen returns an error: the Workload API is not offered on this system, where callers cannot be attested.
func Listen(_ context.Context, path string) (net.Listener, error) {
	return nil, fmt.Errorf("listen on unix socket %q: %w", path, errors.ErrUnsupported)
}
