package store_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/postern-proxy/postern/certs/store"
)

// BenchmarkBoltCommit makes commits of one key of 1 KiB, like a record of issuance, with writers that each wait for their own. The
// time per operation is that of one commit with fsync.
func BenchmarkBoltCommit(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			st, err := store.OpenBolt(filepath.Join(b.TempDir(), "state", "store.db"), store.BoltOptions{})
			if err != nil {
				b.Fatal(err)
			}
			value := make([]byte, 1024)
			var (
				next atomic.Int64
				wg   sync.WaitGroup
			)
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						op := store.Op{Key: fmt.Sprintf("issued/%d", i), Value: value}
						if _, err := st.Commit(b.Context(), store.Txn{Then: []store.Op{op}}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			if err := st.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func BenchmarkBoltGet(b *testing.B) {
	st, err := store.OpenBolt(filepath.Join(b.TempDir(), "state", "store.db"), store.BoltOptions{})
	if err != nil {
		b.Fatal(err)
	}
	op := store.Op{Key: "a", Value: make([]byte, 1024)}
	if _, err := st.Commit(b.Context(), store.Txn{Then: []store.Op{op}}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := st.Get(b.Context(), "a"); err != nil {
			b.Fatal(err)
		}
	}
	if err := st.Close(); err != nil {
		b.Fatal(err)
	}
}
