package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"go.etcd.io/bbolt"
)

// The buckets of the file.
var (
	bucketState  = []byte("state")
	bucketItems  = []byte("items")   // key -> record
	bucketExpiry = []byte("expiry")  // time in ns, key -> nothing
	bucketLog    = []byte("changes") // revision, number within it -> length of key, key, record
)

// The keys of the state bucket.
var (
	keyFormat = []byte("format")
	keyState  = []byte("state")
)

// boltFormat names the layout below. A build that lays records out differently reads this one and writes its own name.
const boltFormat = "postern store 1"

var errDamaged = errors.New("the file is damaged")

// castagnoli is the CRC that processors compute by themselves.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// state is what changes with every commit.
type state struct {
	revision  Revision
	compacted Revision // the log holds the revisions after this one
	logBytes  uint64   // keys and values of the log
}

const stateSize = 3*8 + 4

func (s state) encode() []byte {
	out := make([]byte, 0, stateSize)
	out = binary.BigEndian.AppendUint64(out, uint64(s.revision))
	out = binary.BigEndian.AppendUint64(out, uint64(s.compacted))
	out = binary.BigEndian.AppendUint64(out, s.logBytes)
	return binary.BigEndian.AppendUint32(out, crc32.Checksum(out, castagnoli))
}

func readState(tx *bbolt.Tx) (state, error) {
	raw := tx.Bucket(bucketState).Get(keyState)
	if len(raw) != stateSize || crc32.Checksum(raw[:24], castagnoli) != binary.BigEndian.Uint32(raw[24:]) {
		return state{}, fmt.Errorf("%w: its state record", errDamaged)
	}
	return state{
		revision:  Revision(binary.BigEndian.Uint64(raw)),
		compacted: Revision(binary.BigEndian.Uint64(raw[8:])),
		logBytes:  binary.BigEndian.Uint64(raw[16:]),
	}, nil
}

// A record is a checksum over the key and all that follows, flags, the revisions of creation and change, the time of expiry in
// nanoseconds of the Unix epoch (0: never), and the value.
const (
	recordHeader = 4 + 1 + 8 + 8 + 8
	flagDeleted  = 1
)

func encodeRecord(item Item, deleted bool) []byte {
	out := make([]byte, 4, recordHeader+len(item.Value))
	flags := byte(0)
	if deleted {
		flags = flagDeleted
	}
	out = append(out, flags)
	out = binary.BigEndian.AppendUint64(out, uint64(item.Created))
	out = binary.BigEndian.AppendUint64(out, uint64(item.Modified))
	out = binary.BigEndian.AppendUint64(out, expiryNanos(item.Expires))
	out = append(out, item.Value...)
	binary.BigEndian.PutUint32(out, recordSum(item.Key, out[4:]))
	return out
}

// decodeRecord copies the record out of the file's memory.
func decodeRecord(key string, raw []byte) (item Item, deleted bool, err error) {
	if len(raw) < recordHeader || binary.BigEndian.Uint32(raw) != recordSum(key, raw[4:]) {
		return Item{}, false, fmt.Errorf("%w: the record of key %q", errDamaged, key)
	}
	item = Item{
		Key:      key,
		Value:    append([]byte{}, raw[recordHeader:]...),
		Created:  Revision(binary.BigEndian.Uint64(raw[5:])),
		Modified: Revision(binary.BigEndian.Uint64(raw[13:])),
	}
	if ns := binary.BigEndian.Uint64(raw[21:]); ns != 0 {
		item.Expires = time.Unix(0, int64(ns)).UTC()
	}
	return item, raw[4]&flagDeleted != 0, nil
}

func recordSum(key string, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, rest)
}

func expiryNanos(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

func expired(item Item, now time.Time) bool {
	return !item.Expires.IsZero() && !item.Expires.After(now)
}

// expiryKey orders keys by the time at which they expire.
func expiryKey(item Item) []byte {
	return append(binary.BigEndian.AppendUint64(nil, expiryNanos(item.Expires)), item.Key...)
}

func expiryTime(key []byte) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(key)))
}

// liveItem reads one key as of now.
func liveItem(tx *bbolt.Tx, key string, now time.Time) (Item, bool, error) {
	item, found, err := storedItem(tx, key)
	if err != nil || !found || expired(item, now) {
		return Item{}, false, err
	}
	return item, true, nil
}

// storedItem reads one key, expired or not.
func storedItem(tx *bbolt.Tx, key string) (Item, bool, error) {
	raw := tx.Bucket(bucketItems).Get([]byte(key))
	if raw == nil {
		return Item{}, false, nil
	}
	item, _, err := decodeRecord(key, raw)
	return item, err == nil, err
}

// The key of a change is its revision and its number within it.
const logKeySize = 8 + 2

func logKey(rev Revision, n uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint64(nil, uint64(rev)), n)
}

func logRevision(key []byte) Revision { return Revision(binary.BigEndian.Uint64(key)) }

func encodeChange(e Event) []byte {
	record := encodeRecord(e.Item, e.Deleted)
	out := make([]byte, 0, 2+len(e.Item.Key)+len(record))
	out = binary.BigEndian.AppendUint16(out, uint16(len(e.Item.Key)))
	out = append(out, e.Item.Key...)
	return append(out, record...)
}

// changeKey returns the key that a change is about, and the record behind it.
func changeKey(raw []byte) (key string, record []byte, err error) {
	if len(raw) < 2 || len(raw) < 2+int(binary.BigEndian.Uint16(raw)) {
		return "", nil, fmt.Errorf("%w: a record of the change log", errDamaged)
	}
	end := 2 + int(binary.BigEndian.Uint16(raw))
	return string(raw[2:end]), raw[end:], nil
}
