package ca

import (
	"errors"
	"fmt"
)

// ErrRefused is matched by every error that stands for a refusal of what was asked, as opposed to a failure of this authority.
var ErrRefused = errors.New("refused")

// Refusals. Each matches ErrRefused as well.
var (
	ErrInvalidRequest     = fmt.Errorf("invalid request: %w", ErrRefused)
	ErrForeignTrustDomain = fmt.Errorf("foreign trust domain: %w", ErrRefused)
	ErrTTL                = fmt.Errorf("life out of bounds: %w", ErrRefused)
	ErrWeakKey            = fmt.Errorf("key below the floor: %w", ErrRefused)
	ErrRevoked            = fmt.Errorf("identity or key is revoked: %w", ErrRefused)
	ErrActiveAuthority    = fmt.Errorf("authority is in use: %w", ErrRefused)
	ErrNotFound           = fmt.Errorf("not found: %w", ErrRefused)
	ErrTooMany            = fmt.Errorf("too many: %w", ErrRefused)
)

// Failures.
var (
	// ErrClock: the wall clock stands before the beginning of the signing authority, so nothing signed now could be trusted.
	ErrClock = errors.New("clock is wrong")
	// ErrExpired: the signing authority has ended, or ends too soon; Run replaces it.
	ErrExpired = errors.New("signing authority has ended")
	// ErrStateLost: the store has traces of an authority, and not its state.
	ErrStateLost = errors.New("state of the authority is lost")
	// ErrWrongTrustDomain: the store belongs to the authority of another trust domain.
	ErrWrongTrustDomain = errors.New("store belongs to another trust domain")
)
