// Command postern gives machines identities, proves them to each other, and decides what they may do: authority, agent and proxy
// in one binary. Each subcommand has its own file; what they do stands in internal/app (a process that runs) and internal/admin
// (a question to one).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/postern-proxy/postern/internal/admin"
)

// Exit codes.
const (
	exitCheckFailed = 1
	exitUsage       = 2
	exitUnreachable = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRoot().ExecuteContext(ctx)
	stop()
	os.Exit(report(err))
}

// report prints an error once and returns the exit code.
func report(err error) int {
	if err == nil {
		return 0
	}
	if message := err.Error(); message != "" {
		fmt.Fprintln(os.Stderr, "postern:", message)
	}
	var refused *admin.Error
	if errors.As(err, &refused) {
		for _, line := range refused.Details {
			fmt.Fprintln(os.Stderr, "  "+line)
		}
	}
	var coded *exitError
	switch {
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, admin.ErrUnreachable):
		return exitUnreachable
	case refused != nil && refused.Code == admin.CodeInvalid:
		return exitUsage
	default:
		return exitCheckFailed
	}
}

// exitError carries the exit code of an error; err may be nil when all has been said already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usageError(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}
