package store_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-proxy/postern/certs/store"
)

// crashDirEnv tells the test binary to be the process that is killed, syncDirEnv the one whose disk fails. crashRoundsEnv is the number of rounds; make soak asks for
// 200.
const (
	crashDirEnv    = "POSTERN_TEST_STORE_CRASH_DIR"
	syncDirEnv     = "POSTERN_TEST_STORE_SYNC_DIR"
	crashRoundsEnv = "POSTERN_CRASH_ROUNDS"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		if err := commitUntilKilled(dir); err != nil {
			fmt.Println("error", err)
		}
		os.Exit(1)
	}
	if dir := os.Getenv(syncDirEnv); dir != "" {
		if err := commitOnFailingDisk(dir); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const crashWriters = 4

// commitUntilKilled commits without end and prints each key once its commit was acknowledged.
func commitUntilKilled(dir string) error {
	st, err := store.OpenBolt(filepath.Join(dir, "state", "store.db"), store.BoltOptions{KeepRevisions: 200})
	if err != nil {
		return err
	}
	fmt.Println("open")
	ctx := context.Background()
	var (
		wg     sync.WaitGroup
		print  sync.Mutex
		failed error
	)
	for w := range crashWriters {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d/%d/%d", os.Getpid(), w, i)
				op := store.Op{Key: key, Value: []byte(strings.Repeat(key, 1+i%50))}
				rev, err := st.Commit(ctx, store.Txn{Then: []store.Op{op, {Key: "last/" + key, TTL: time.Hour}}})
				print.Lock()
				if err != nil {
					failed = err
					print.Unlock()
					return
				}
				fmt.Println("ack", key, rev)
				print.Unlock()
			}
		})
	}
	wg.Wait()
	return failed
}

// Facts, security section 4, check 1: kill -9 at any moment; the store opens in less than a second each time and has every commit that
// was acknowledged.
func TestAcknowledgedCommitsSurviveKill(t *testing.T) {
	rounds := 20
	if s := os.Getenv(crashRoundsEnv); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	acked := map[string]store.Revision{}
	for range rounds {
		for key, rev := range runAndKill(t, dir) {
			acked[key] = rev
		}
		began := time.Now()
		st, err := store.OpenBolt(filepath.Join(dir, "state", "store.db"), store.BoltOptions{})
		if err != nil {
			t.Fatalf("open after kill: %v", err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("opening took %s", took)
		}
		for key, rev := range acked {
			item, err := st.Get(t.Context(), key)
			if err != nil || item.Modified != rev {
				t.Fatalf("acknowledged at revision %d: %+v, %v", rev, item, err)
			}
			if _, err := st.Get(t.Context(), "last/"+key); err != nil {
				t.Fatalf("half of a commit is missing: %v", err)
			}
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(acked) == 0 {
		t.Fatal("no commit was acknowledged in any round")
	}
	t.Logf("%d acknowledged commits in %d rounds, none lost", len(acked), rounds)
}

// runAndKill starts the committing process, kills it at a random moment, and returns what it had acknowledged.
func runAndKill(t *testing.T, dir string) map[string]store.Revision {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashDirEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if first, err := lines.ReadString('\n'); first != "open\n" {
		_ = cmd.Wait()
		t.Fatalf("child said %q, %v", first, err)
	}
	kill := time.AfterFunc(time.Duration(rand.IntN(60_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	acked := map[string]store.Revision{}
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			_ = cmd.Wait() // killed, as it was meant
			return acked
		}
		if err != nil {
			t.Fatal(err)
		}
		var (
			key string
			rev store.Revision
		)
		if _, err := fmt.Sscanf(line, "ack %s %d\n", &key, &rev); err != nil {
			t.Fatalf("child said %q", line)
		}
		acked[key] = rev
	}
}
