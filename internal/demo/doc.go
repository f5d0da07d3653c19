// Package demo runs the whole of postern on one machine in a few seconds: an authority, two services that know nothing of TLS, a
// sidecar for each, and a policy, as separate processes on loopback, with real requests.
//
// Each step says what it does, does it, and checks what came of it, so the demonstration is a self-check as well. It needs no root
// and leaves nothing behind.
package demo
