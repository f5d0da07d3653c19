package workloadattestor

import (
	"context"
	"net"
)

// Attest pins the peer of conn and reads what it is: Pin and Process.Attest in one. The caller closes the Process.
func (a *Attestor) Attest(ctx context.Context, conn *net.UnixConn) (*Process, []string, error) {
	process, err := a.Pin(conn)
	if err != nil {
		return nil, nil, err
	}
	selectors, err := process.Attest(ctx)
	if err != nil {
		_ = process.Close()
		return nil, nil, err
	}
	return process, selectors, nil
}
