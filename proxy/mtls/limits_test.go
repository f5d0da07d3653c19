package mtls

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
)

// sealer writes records of TLS 1.3 by hand (RFC 8446, Sections 5.2 and 7).
type sealer struct {
	t      *testing.T
	secret []byte
	seal   cipher.AEAD
	iv     []byte
	count  uint64
}

func newSealer(t *testing.T, secret []byte) *sealer {
	s := &sealer{t: t}
	s.use(secret)
	return s
}

func (s *sealer) expand(label string, length int) []byte {
	info := append(twoBytes(uint16(length)), behind(1, []byte("tls13 "+label))...)
	out, err := hkdf.Expand(sha256.New, s.secret, string(append(info, 0)), length)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *sealer) use(secret []byte) {
	s.secret, s.count = secret, 0
	block, err := aes.NewCipher(s.expand("key", 16))
	if err != nil {
		s.t.Fatal(err)
	}
	if s.seal, err = cipher.NewGCM(block); err != nil {
		s.t.Fatal(err)
	}
	s.iv = s.expand("iv", 12)
}

func (s *sealer) record(kind byte, content []byte) []byte {
	inner := append(bytes.Clone(content), kind)
	header := append([]byte{23, 3, 3}, twoBytes(uint16(len(inner)+s.seal.Overhead()))...)
	nonce := bytes.Clone(s.iv)
	for i := range 8 {
		nonce[len(nonce)-1-i] ^= byte(s.count >> (8 * i))
	}
	s.count++
	return s.seal.Seal(header, nonce, inner, header)
}

// keyUpdate is one record with that message, after which other keys are used (RFC 8446, Section 4.6.3).
func (s *sealer) keyUpdate(requested byte) []byte {
	record := s.record(typeHandshake, []byte{24, 0, 0, 1, requested})
	s.use(s.expand("traffic upd", 32))
	return record
}

// attacker is a client that has done its handshake and then writes records by hand.
func attacker(t *testing.T) (server *Conn, send io.Writer, records *sealer) {
	s := newScene(t)
	near, far := newVenue(t).link()
	var log bytes.Buffer
	done := make(chan *Conn, 1)
	go func() {
		conn, _ := NewServer(s.server).Handshake(t.Context(), near)
		done <- conn
	}()
	client := tls.Client(far, &tls.Config{InsecureSkipVerify: true, ServerName: "a", KeyLogWriter: &log, Certificates: []tls.Certificate{s.webLeaf}})
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	server = <-done
	if server == nil || client.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		t.Fatal("no connection, or not with AES-128")
	}
	for line := range strings.Lines(log.String()) {
		if fields := strings.Fields(line); fields[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(fields[2])
			if err != nil {
				t.Fatal(err)
			}
			return server, far, newSealer(t, secret)
		}
	}
	t.Fatal("no secret")
	return nil, nil, nil
}

func TestFloodOfKeyUpdatesEndsTheConnection(t *testing.T) {
	for requested := range byte(2) {
		server, send, records := attacker(t)
		_, _ = send.Write(records.record(23, []byte("data")))
		_, _ = send.Write(records.keyUpdate(requested))
		_, _ = send.Write(records.record(23, []byte("more")))
		_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
		got := make([]byte, 8)
		if _, err := io.ReadFull(server, got); err != nil || string(got) != "datamore" {
			t.Fatalf("a single key update: %q, %v", got, err)
		}
		go func() {
			for range 100 {
				if _, err := send.Write(records.keyUpdate(requested)); err != nil {
					return
				}
			}
		}()
		if _, err := server.Read(got); err == nil || !strings.Contains(err.Error(), "too many non-advancing records") {
			t.Errorf("100 key updates, answer requested %d: %v", requested, err)
		}
	}
}

func TestFloodOfEmptyRecordsEndsTheConnection(t *testing.T) {
	server, send, records := attacker(t)
	go func() {
		for range 100 {
			if _, err := send.Write(records.record(23, nil)); err != nil {
				return
			}
		}
	}()
	_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := server.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "too many ignored records") {
		t.Errorf("100 empty records: %v", err)
	}
}

// A hello that never ends holds no place in the gate, ends with the time, and makes nothing grow.
func TestHelloThatDoesNotEndTimesOut(t *testing.T) {
	s := newScene(t)
	whole := inRecords(foxio().message(), 16384)
	for name, stream := range map[string][]byte{
		"nothing":                nil,
		"half a record header":   whole[:3],
		"half a record":          whole[:len(whole)/2],
		"records of one byte":    inRecords(foxio().message()[:100], 1),
		"all but the last byte":  whole[:len(whole)-1],
		"a first record of many": inRecords(foxio().message(), 50)[:55],
	} {
		t.Run(name, func(t *testing.T) {
			s.server.Timeout, s.server.Gate = 150*time.Millisecond, NewGate(1)
			near, far := newVenue(t).link()
			go func() {
				for i := range stream {
					if _, err := far.Write(stream[i : i+1]); err != nil {
						return
					}
				}
			}()
			_, err := NewServer(s.server).Handshake(t.Context(), near)
			wantReason(t, err, observe.HandshakeTimeout)
			if len(s.server.Gate.places) != 0 {
				t.Error("a place in the gate is still taken")
			}
		})
	}
}

func TestHugeHelloIsRefusedWithoutGrowth(t *testing.T) {
	s := newScene(t)
	server := NewServer(s.server)
	endless := inRecords(append([]byte{1, 0xff, 0xff, 0xff}, make([]byte, 16380)...), 16384)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const hellos = 20
	for range hellos {
		near, far := newVenue(t).link()
		go func() {
			for range 64 {
				if _, err := far.Write(endless); err != nil {
					return
				}
			}
		}()
		_, err := server.Handshake(t.Context(), near)
		wantReason(t, err, observe.HandshakeFailed)
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / hellos; each > 256<<10 {
		t.Errorf("each hello of a megabyte allocates %d bytes", each)
	}
}

// What a client says of itself reaches records escaped, and ALPN only as one of our own names.
func TestTextOfAHelloIsEscaped(t *testing.T) {
	s := newScene(t)
	s.server.ALPN = []string{"http/1.1"}
	forged := "x\nlevel=INFO msg=granted\x1b[2J\u202e"
	near, far := newVenue(t).link()
	go func() {
		_ = tls.Client(far, &tls.Config{InsecureSkipVerify: true, ServerName: "a" + forged, NextProtos: []string{"http/1.1"},
			Certificates: []tls.Certificate{s.webLeaf}}).HandshakeContext(t.Context())
	}()
	conn, err := NewServer(s.server).Handshake(t.Context(), near)
	if err != nil {
		t.Fatal(err)
	}
	facts := conn.Facts()
	if conn.ServerName() != "a"+forged || strings.ContainsAny(facts.ServerName, "\n\x1b\u202e") || !strings.Contains(facts.ServerName, "granted") {
		t.Errorf("server name %q", facts.ServerName)
	}
	if len(facts.JA4) != 36 || facts.JA4[:4] != "t13d" || facts.Resumed {
		t.Errorf("facts %+v", facts)
	}

	near, far = newVenue(t).link()
	go func() {
		_ = tls.Client(far, &tls.Config{InsecureSkipVerify: true, ServerName: "a", NextProtos: []string{forged},
			Certificates: []tls.Certificate{s.webLeaf}}).HandshakeContext(t.Context())
	}()
	if _, err = NewServer(s.server).Handshake(t.Context(), near); err == nil || strings.ContainsAny(err.Error(), "\n\x1b\u202e") {
		t.Errorf("error %q", err)
	}
}
