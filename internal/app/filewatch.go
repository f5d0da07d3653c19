package app

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a file must be left alone before it counts as changed: editors write in several steps.
const settle = 100 * time.Millisecond

// watchFile calls changed whenever the file at path has been written, renamed over or replaced through a symbolic link, until ctx
// ends. It watches the directory, since a file that is replaced takes its own watch with it.
func watchFile(ctx context.Context, path string, changed func()) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	defer func() { _ = watcher.Close() }()
	dir := filepath.Dir(path)
	if err := watcher.Add(dir); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	before, _ := filepath.EvalSymlinks(path)
	timer := time.NewTimer(0)
	<-timer.C
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-watcher.Events:
			if !ok {
				return nil
			}
			now, _ := filepath.EvalSymlinks(path)
			if filepath.Clean(event.Name) == path && event.Op != fsnotify.Chmod || now != before {
				before = now
				timer.Reset(settle)
			}
		case <-timer.C:
			changed()
		case _, ok := <-watcher.Errors: // an overflow loses names, not changes: look again
			if !ok {
				return nil
			}
			timer.Reset(settle)
		}
	}
}
