package source

import (
	"math/rand/v2"
	"time"
)

// Pacing of what goes to the authority.
const (
	// firstBackoff is the wait after a first failure; each further one doubles it.
	firstBackoff = 100 * time.Millisecond
	// minBackoffCap and maxBackoffCap bound the longest wait, which is otherwise a twentieth of the SVID's life: ten attempts or more
	// fit between the renewal at half of life and the end.
	minBackoffCap = time.Second
	maxBackoffCap = time.Minute
	// unknownLifeBackoffCap is the longest wait for a first SVID.
	unknownLifeBackoffCap = 10 * time.Second
	// maxRotationSpread bounds the time over which SVIDs of a former authority are renewed.
	maxRotationSpread = 30 * time.Second
	reconnectSpread   = time.Second
)

// renewAfter is how long after it was obtained an SVID that lives for life is renewed: at half of life, give or take a tenth of
// that, so that what was issued together is not renewed together.
func renewAfter(life time.Duration) time.Duration {
	return time.Duration(float64(life) * (0.45 + 0.10*rand.Float64()))
}

// retryAfter is the wait after failed attempts in a row, at least one, for an SVID that lives for life; 0 when none was obtained yet.
// Half of it is chance, so that a fleet that failed together does not come back together.
func retryAfter(attempts int, life time.Duration) time.Duration {
	longest := unknownLifeBackoffCap
	if life > 0 {
		longest = min(max(life/20, minBackoffCap), maxBackoffCap)
	}
	wait := longest
	if doublings := attempts - 1; doublings < 20 {
		wait = min(firstBackoff<<doublings, longest)
	}
	return wait/2 + spread(wait/2)
}

// rotationSpread is the time over which an SVID that lives for life is renewed after its authority stopped being the active one.
func rotationSpread(life time.Duration) time.Duration { return min(maxRotationSpread, life/20) }

// spread is a random part of within.
func spread(within time.Duration) time.Duration {
	if within <= 0 {
		return 0
	}
	return rand.N(within)
}
