//go:build !unix

package store

import "io/fs"

// Where access is not a matter of mode bits, the folder's own access list guards the file, and names need no sync.
func checkFolder(string) error       { return nil }
func checkPrivate(fs.FileInfo) error { return nil }
func syncFolder(string) error        { return nil }
