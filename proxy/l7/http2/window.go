package http2

// sendWindow is how many bytes of DATA the peer still takes (RFC 9113, Section 5.2). It may be negative after a change of the
// peer's initial window size.
type sendWindow int32

// open adds n, which may be negative; false when the window would pass its largest size (RFC 9113, Section 6.9.1).
func (w *sendWindow) open(n int64) bool {
	sum := int64(*w) + n
	if sum > maxWindow || sum < -maxWindow {
		return false
	}
	*w = sendWindow(sum)
	return true
}

// recvWindow is how many bytes of DATA the peer may still send, and how many of those that it sent have been read and are not
// given back to it yet.
type recvWindow struct {
	left, read int
}

// take counts bytes that arrived; false when the peer had no right to send them.
func (w *recvWindow) take(n int) bool {
	if n > w.left {
		return false
	}
	w.left -= n
	return true
}

// giveBack counts bytes that were read. It returns what to announce: nothing until a share of the window has gathered, so that
// small reads do not cost a frame each.
func (w *recvWindow) giveBack(n, share int) int {
	w.read += n
	if w.read < share {
		return 0
	}
	n, w.read = w.read, 0
	w.left += n
	return n
}
