package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

func boltOptions(opts BoltOptions, readOnly bool) *bbolt.Options {
	return &bbolt.Options{
		Timeout:      opts.LockTimeout,
		FreelistType: bbolt.FreelistMapType, // the default slows down as a file fragments
		ReadOnly:     readOnly,
		NoStatistics: true,
	}
}

func openError(err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return ErrLocked
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return fmt.Errorf("%w, or no store of postern: %w", errDamaged, err)
	}
	return err
}

// ensureBoltFile leaves a file at path that may be opened for writing, or says why there is none.
func ensureBoltFile(path string, opts BoltOptions) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make its folder: %w", err)
	}
	if err := checkFolder(dir); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createBoltFile(path, opts); !errors.Is(err, fs.ErrExist) {
			return err
		}
		info, err = os.Lstat(path) // another process was quicker
	}
	if err != nil {
		return err
	}
	if err := checkFile(info); err != nil {
		return err
	}
	return inspectBoltFile(path, opts)
}

// createBoltFile makes an empty store under another name and links it to path when it is whole and on disk. So a file at path
// is a store from its first moment on, and one that exists is never replaced.
func createBoltFile(path string, opts BoltOptions) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(temp.Name())) }()
	if err := temp.Close(); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	db, err := bbolt.Open(temp.Name(), 0o600, boltOptions(opts, false))
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	err = db.Update(layOut)
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if err := os.Link(temp.Name(), path); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	return syncFolder(filepath.Dir(path))
}

func layOut(tx *bbolt.Tx) error {
	for _, name := range [][]byte{bucketState, bucketItems, bucketExpiry, bucketLog} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	first := state{revision: 1, compacted: 1}
	return errors.Join(
		tx.Bucket(bucketState).Put(keyFormat, []byte(boltFormat)),
		tx.Bucket(bucketState).Put(keyState, first.encode()))
}

func checkFile(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("it is no regular file but %s", info.Mode().Type())
	}
	if info.Size() == 0 {
		return fmt.Errorf("%w: it is empty", errDamaged)
	}
	return checkPrivate(info)
}

// inspectBoltFile looks at the file as a reader, before bbolt as a writer believes what it says: bbolt maps the file into memory,
// where a page that the file is too short for ends the process, and so does a list of free pages that is none.
func inspectBoltFile(path string, opts BoltOptions) error {
	db, err := bbolt.Open(path, 0o600, boltOptions(opts, true)) // its lock keeps writers away meanwhile
	if err != nil {
		return openError(err)
	}
	if err = checkLength(path); err != nil {
		err = fmt.Errorf("%w: %w", errDamaged, err)
	} else {
		err = view(db, checkAll)
	}
	return errors.Join(err, db.Close())
}

// checkLength compares the length of the file with what its newest valid meta page says.
func checkLength(path string) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	var (
		newest boltMeta
		found  bool
	)
	for _, offset := range metaOffsets() {
		var page [metaEnd]byte
		if _, err := file.ReadAt(page[:], offset); err != nil {
			break // too short for this one
		}
		if meta, ok := parseBoltMeta(page[:]); ok && (!found || meta.txid > newest.txid) {
			newest, found = meta, true
		}
	}
	if !found {
		return errors.New("it has no valid meta page")
	}
	if need := newest.pages * uint64(newest.pageSize); uint64(info.Size()) < need {
		return fmt.Errorf("it was cut short: %d bytes, of %d", info.Size(), need)
	}
	return nil
}

// boltMeta is what is read here of bbolt's meta page.
type boltMeta struct {
	pageSize uint32
	pages    uint64 // no page of the file has this number or a higher one
	txid     uint64
}

// bbolt's layout, unchanged since its first release: a page header, then the fields in the machine's byte order, then FNV-1a of
// the fields.
const (
	metaStart = 16
	metaSum   = metaStart + 56
	metaEnd   = metaSum + 8
	metaMagic = 0xED0CDAED
)

// metaOffsets are where the two meta pages may be: the second follows the first at the page size, which is that of the machine
// that made the file.
func metaOffsets() []int64 {
	offsets := []int64{0}
	for size := int64(1 << 10); size <= 1<<16; size <<= 1 {
		offsets = append(offsets, size)
	}
	return offsets
}

func parseBoltMeta(page []byte) (boltMeta, bool) {
	sum := fnv.New64a()
	_, _ = sum.Write(page[metaStart:metaSum]) // a hash never fails
	order := binary.NativeEndian
	if order.Uint32(page[metaStart:]) != metaMagic || order.Uint64(page[metaSum:]) != sum.Sum64() {
		return boltMeta{}, false
	}
	return boltMeta{
		pageSize: order.Uint32(page[metaStart+8:]),
		pages:    order.Uint64(page[metaStart+40:]),
		txid:     order.Uint64(page[metaStart+48:]),
	}, true
}

// checkAll reads the whole store once, so that damage shows when it is opened and not in the middle of an issuance. It costs
// about a second per gigabyte.
func checkAll(tx *bbolt.Tx) error {
	meta := tx.Bucket(bucketState)
	if meta == nil || tx.Bucket(bucketItems) == nil || tx.Bucket(bucketExpiry) == nil || tx.Bucket(bucketLog) == nil {
		return errors.New("it is a bbolt file, but no store of postern")
	}
	if format := string(meta.Get(keyFormat)); format != boltFormat {
		return fmt.Errorf("it has the format %q, and this version reads %q", format, boltFormat)
	}
	st, err := readState(tx)
	if err != nil {
		return err
	}
	if err := checkItems(tx, st); err != nil {
		return err
	}
	if err := checkLog(tx, st); err != nil {
		return err
	}
	return checkPages(tx)
}

// checkPages has bbolt look at its trees and its list of free pages.
func checkPages(tx *bbolt.Tx) error {
	var first error
	for err := range tx.Check() { // read to its end, or its goroutine waits for ever
		if first == nil {
			first = fmt.Errorf("%w: %w", errDamaged, err)
		}
	}
	return first
}

func checkItems(tx *bbolt.Tx, st state) error {
	expiring := 0
	expiry := tx.Bucket(bucketExpiry)
	err := tx.Bucket(bucketItems).ForEach(func(k, v []byte) error {
		item, _, err := decodeRecord(string(k), v)
		if err != nil {
			return err
		}
		if item.Modified > st.revision {
			return fmt.Errorf("%w: key %q is of revision %d, after the last one, %d", errDamaged, k, item.Modified, st.revision)
		}
		if item.Expires.IsZero() {
			return nil
		}
		expiring++
		if expiry.Get(expiryKey(item)) == nil {
			return fmt.Errorf("%w: key %q is missing in the order of expiry", errDamaged, k)
		}
		return nil
	})
	if err != nil {
		return err
	}
	ordered := 0
	err = expiry.ForEach(func(k, _ []byte) error {
		if len(k) <= 8 {
			return fmt.Errorf("%w: the order of expiry", errDamaged)
		}
		ordered++
		return nil
	})
	if err == nil && ordered != expiring {
		return fmt.Errorf("%w: %d keys expire, %d are in the order of expiry", errDamaged, expiring, ordered)
	}
	return err
}

func checkLog(tx *bbolt.Tx, st state) error {
	last := place{rev: st.compacted}
	bytes := uint64(0)
	err := tx.Bucket(bucketLog).ForEach(func(k, v []byte) error {
		if len(k) != logKeySize {
			return fmt.Errorf("%w: the change log", errDamaged)
		}
		at := place{rev: logRevision(k), n: binary.BigEndian.Uint16(k[8:])}
		if at != (place{rev: last.rev, n: last.n + 1}) && at != (place{rev: last.rev + 1}) {
			return fmt.Errorf("%w: the change log has a gap after revision %d", errDamaged, last.rev)
		}
		last = at
		bytes += uint64(len(k) + len(v))
		key, record, err := changeKey(v)
		if err != nil {
			return err
		}
		_, _, err = decodeRecord(key, record)
		return err
	})
	if err != nil {
		return err
	}
	if last.rev != st.revision || bytes != st.logBytes {
		return fmt.Errorf("%w: the change log ends at revision %d, the store is at %d", errDamaged, last.rev, st.revision)
	}
	return nil
}
