package authz

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/bits"
	"sync/atomic"
)

// ID names a decision: 16 hexadecimal digits, unique in this process and, with overwhelming likelihood, among processes.
type ID uint64

// String returns the 16 digits; the zero value is "".
func (id ID) String() string {
	if id == 0 {
		return ""
	}
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], uint64(id))
	return hex.EncodeToString(raw[:])
}

// ParseID reads what String wrote.
func ParseID(s string) (ID, error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != 8 {
		return 0, errors.New("a decision id is 16 hexadecimal digits")
	}
	return ID(binary.BigEndian.Uint64(raw)), nil
}

// IDs makes decision ids: a random start, then an odd random stride, so that an id costs one atomic addition and says nothing of
// how many were made. Safe for concurrent use.
type IDs struct {
	next   atomic.Uint64
	stride uint64
}

// NewIDs returns a generator with its own random sequence.
func NewIDs() *IDs {
	var seed [16]byte
	_, _ = rand.Read(seed[:]) // crypto/rand never fails
	ids := &IDs{stride: binary.BigEndian.Uint64(seed[8:]) | 1}
	ids.next.Store(binary.BigEndian.Uint64(seed[:8]))
	return ids
}

// Next returns a new id, never zero.
func (g *IDs) Next() ID {
	for {
		if v := bits.RotateLeft64(g.next.Add(g.stride), 29); v != 0 {
			return ID(v)
		}
	}
}
