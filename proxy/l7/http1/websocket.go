package http1

import (
	"crypto/sha1" //nolint:gosec // RFC 6455 asks for it; nothing is kept secret by it
	"encoding/base64"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// acceptGUID is what a server that understands WebSocket appends to the key (RFC 6455, Section 1.3).
const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// checkAccept: who answers a key has to show that it read it as a handshake, with one accept value made of it (RFC 6455,
// Section 4.2.2). Otherwise a cache, or a service that echoes fields, could be taken for a WebSocket server.
func checkAccept(req *l7.Request, resp *l7.Response) *l7.Error {
	key, given := req.Header.Get("sec-websocket-key")
	if !given || req.Upgrade != "websocket" {
		return nil
	}
	accept, _ := resp.Header.Get("sec-websocket-accept")
	if resp.Header.Count("sec-websocket-accept") != 1 || accept != acceptOf(key) {
		return upstreamError(l7.NewError(observe.BadRequest, "101 without the accept value of the request's Sec-WebSocket-Key"))
	}
	return nil
}

// acceptOf is the value of Sec-WebSocket-Accept for a key.
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + acceptGUID)) //nolint:gosec // see the import
	return base64.StdEncoding.EncodeToString(sum[:])
}
