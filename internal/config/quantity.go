package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written as 512, 512B, 64KiB, 10MiB or 1GiB.
type Size int64

// Units of a size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
)

// ParseSize reads a size.
func ParseSize(s string) (Size, error) {
	digits := strings.TrimRight(s, "BKMGi")
	unit, known := sizeUnits[s[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case err != nil || !known || !isDigit(digits[0]):
		return 0, fmt.Errorf("%q is not a size: write whole bytes with a unit, such as 64KiB (B, KiB, MiB, GiB)", s)
	case n > math.MaxInt64/int64(unit):
		return 0, fmt.Errorf("size %q is too large", s)
	}
	return Size(n) * unit, nil
}

var sizeUnits = map[string]Size{"": 1, "B": 1, "KiB": KiB, "MiB": MiB, "GiB": GiB}

// String writes the size with the largest unit that divides it.
func (s Size) String() string {
	switch {
	case s != 0 && s%GiB == 0:
		return strconv.FormatInt(int64(s/GiB), 10) + "GiB"
	case s != 0 && s%MiB == 0:
		return strconv.FormatInt(int64(s/MiB), 10) + "MiB"
	case s != 0 && s%KiB == 0:
		return strconv.FormatInt(int64(s/KiB), 10) + "KiB"
	default:
		return strconv.FormatInt(int64(s), 10) + "B"
	}
}

// MarshalText returns String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParseSize.
func (s *Size) UnmarshalText(text []byte) error {
	parsed, err := ParseSize(string(text))
	*s = parsed
	return err
}

// parseDuration reads durations as Go writes them, and with d (24 hours), w (7 days) and y (365 days) in front of the hours.
func parseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	var total time.Duration
	rest := s
	for rest != "" {
		digits := leadingNumber(rest)
		unitText := leadingUnit(rest[len(digits):])
		unit, known := durationUnits[unitText]
		amount, err := strconv.ParseFloat(digits, 64)
		if err != nil || !known {
			return 0, fmt.Errorf("%q is not a duration: write a number with a unit, such as 30s (ms, s, m, h, d, w, y)", s)
		}
		part := amount * float64(unit)
		if part > float64(math.MaxInt64-total)-1024 { // 1024: above 2^62 a float64 steps by that much
			return 0, fmt.Errorf("duration %q is too long", s)
		}
		total += time.Duration(math.Round(part))
		rest = rest[len(digits)+len(unitText):]
	}
	if s == "" {
		return 0, fmt.Errorf("%q is not a duration: write a number with a unit, such as 30s (ms, s, m, h, d, w, y)", s)
	}
	return total, nil
}

func leadingNumber(s string) string {
	end := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		return s
	}
	return s[:end]
}

func leadingUnit(s string) string {
	end := strings.IndexFunc(s, func(r rune) bool { return r >= '0' && r <= '9' || r == '.' })
	if end < 0 {
		return s
	}
	return s[:end]
}

var durationUnits = map[string]time.Duration{
	"ns": time.Nanosecond, "us": time.Microsecond, "ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour,
	"d": day, "w": 7 * day, "y": year,
}

// formatDuration writes what parseDuration reads: 10y, 7d, 1h30m, 1.5s.
func formatDuration(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	var b strings.Builder
	if d < 0 {
		b.WriteByte('-')
		d = -d
	}
	for _, step := range []struct {
		unit time.Duration
		text string
	}{{year, "y"}, {day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if n := d / step.unit; n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10) + step.text)
			d -= n * step.unit
		}
	}
	if d > 0 {
		b.WriteString(strings.ReplaceAll(d.String(), "µ", "u"))
	}
	return b.String()
}
