package http2

import "encoding/binary"

// setting is the identifier of a parameter (RFC 9113, Section 6.5.2; RFC 8441, Section 3).
type setting uint16

const (
	settingEnablePush            setting = 0x2
	settingMaxConcurrentStreams  setting = 0x3
	settingInitialWindowSize     setting = 0x4
	settingMaxFrameSize          setting = 0x5
	settingMaxHeaderListSize     setting = 0x6
	settingEnableConnectProtocol setting = 0x8
)

// settings is what the peer announced, as far as it matters here: nothing is indexed in its header table, and no frame is larger
// than the smallest limit that it may set.
type settings struct {
	maxStreams      uint32
	initialWindow   int32
	connectProtocol bool
	// received: these are the peer's, and not what holds before.
	received bool
}

// initialSettings hold until the peer says otherwise.
func initialSettings() settings {
	return settings{maxStreams: maxStreamID, initialWindow: defaultWindow}
}

// take reads the payload of a SETTINGS frame, whose parameters count in their order.
func (s *settings) take(payload []byte, fromServer bool) *connError {
	if len(payload)%6 != 0 {
		return brokenRule(codeFrameSize, "SETTINGS whose length is no multiple of 6")
	}
	s.received = true
	for ; len(payload) > 0; payload = payload[6:] {
		if err := s.set(setting(binary.BigEndian.Uint16(payload)), binary.BigEndian.Uint32(payload[2:]), fromServer); err != nil {
			return err
		}
	}
	return nil
}

func (s *settings) set(id setting, value uint32, fromServer bool) *connError {
	switch id {
	case settingEnablePush:
		if value > 1 || value == 1 && fromServer {
			return protocolError("SETTINGS_ENABLE_PUSH has no such value")
		}
	case settingMaxConcurrentStreams:
		s.maxStreams = value
	case settingInitialWindowSize:
		if value > maxWindow {
			return brokenRule(codeFlowControl, "SETTINGS_INITIAL_WINDOW_SIZE above the largest window")
		}
		s.initialWindow = int32(value)
	case settingMaxFrameSize:
		if value < maxFrame || value > 1<<24-1 {
			return protocolError("SETTINGS_MAX_FRAME_SIZE out of range")
		}
	case settingEnableConnectProtocol:
		// RFC 8441, Section 3: what was announced cannot be taken back.
		if value > 1 || s.connectProtocol && value == 0 {
			return protocolError("SETTINGS_ENABLE_CONNECT_PROTOCOL has no such value")
		}
		s.connectProtocol = value == 1
	case settingMaxHeaderListSize: // advice, which the peer enforces itself
	}
	return nil
}

func appendSetting(out []byte, id setting, value int) []byte {
	out = binary.BigEndian.AppendUint16(out, uint16(id))
	return binary.BigEndian.AppendUint32(out, uint32(value))
}

// appendServerSettings writes our side of the preface and opens the connection's window.
func appendServerSettings(out []byte, limits *Limits) []byte {
	out = appendFrameHead(out, 4*6, frameSettings, 0, 0)
	out = appendSetting(out, settingMaxConcurrentStreams, limits.MaxStreams)
	out = appendSetting(out, settingInitialWindowSize, limits.StreamWindow)
	out = appendSetting(out, settingMaxHeaderListSize, limits.MaxHead)
	out = appendSetting(out, settingEnableConnectProtocol, 1)
	return appendConnectionWindow(out, limits)
}

// appendClientPreface writes the preface of a client.
func appendClientPreface(out []byte, limits *Limits) []byte {
	out = append(out, preface...)
	out = appendFrameHead(out, 3*6, frameSettings, 0, 0)
	out = appendSetting(out, settingEnablePush, 0)
	out = appendSetting(out, settingInitialWindowSize, limits.StreamWindow)
	out = appendSetting(out, settingMaxHeaderListSize, limits.MaxHead)
	return appendConnectionWindow(out, limits)
}

func appendConnectionWindow(out []byte, limits *Limits) []byte {
	if more := limits.ConnectionWindow - defaultWindow; more > 0 {
		out = appendWindowUpdate(out, 0, more)
	}
	return out
}
