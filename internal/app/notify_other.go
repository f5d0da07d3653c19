//go:build !linux

package app

import "time"

// monotonic: there is no systemd to tell.
func monotonic() time.Duration { return 0 }
