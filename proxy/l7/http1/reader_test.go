package http1

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// timedStream runs hooks at the points where an interrupt could come.
type timedStream struct {
	fakeStream
	onDeadline func()
	expired    int // reads that fail before the others
}

func (s *timedStream) SetReadDeadline(time.Time) error {
	if s.onDeadline != nil {
		s.onDeadline()
	}
	return nil
}

func (s *timedStream) Read(p []byte) (int, error) {
	if s.expired > 0 {
		s.expired--
		return 0, os.ErrDeadlineExceeded
	}
	return s.fakeStream.Read(p)
}

func TestInterruptBetweenDeadlineAndReadIsNotLost(t *testing.T) {
	var halt atomic.Bool
	r := &reader{stream: &timedStream{fakeStream: fakeStream{rest: "x"}, onDeadline: func() { halt.Store(true) }}, halt: &halt}
	if n, err := r.read(make([]byte, 1), time.Time{}); n != 0 || !errors.Is(err, errHalted) {
		t.Errorf("%d, %v", n, err)
	}
}

func TestInterruptThatComesTooLateChangesNothing(t *testing.T) {
	for _, deadline := range []time.Time{{}, time.Now().Add(time.Hour)} {
		r := &reader{stream: &timedStream{fakeStream: fakeStream{rest: "x"}, expired: 3}}
		if n, err := r.read(make([]byte, 1), deadline); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	r := &reader{stream: &timedStream{fakeStream: fakeStream{rest: "x"}, expired: 1}}
	if n, err := r.read(make([]byte, 1), longAgo); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d, %v after the deadline", n, err)
	}
}

func TestReaderGivesItsBufferBackOnlyWhenItIsEmpty(t *testing.T) {
	r := &reader{stream: &fakeStream{rest: "abc"}}
	if err := r.fill(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if r.release(); r.buf == nil {
		t.Error("a buffer with bytes in it was given back")
	}
	r.consume(3)
	if r.release(); r.buf != nil {
		t.Error("an empty buffer was kept")
	}
}
