package proxyproto

import (
	"testing"

	"github.com/postern-proxy/postern/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
