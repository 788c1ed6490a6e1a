package route

import (
	"os"
	"testing"

	"github.com/portmon/portmon/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }
