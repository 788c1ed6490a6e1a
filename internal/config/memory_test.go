//go:build !race

// The race detector's allocator takes more.

package config

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// The largest whitelist is read within 200 MB. A process of its own does it, as
// the memory of this one has other uses.
func TestWhitelistFileMemory(t *testing.T) {
	t.Parallel()
	const limit = 200e6
	if path := os.Getenv("PORTMON_TEST_CONFIG"); path != "" {
		c, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if m.Sys > limit {
			t.Errorf("%d prefixes took %d MB", len(c.Spec.Whitelist), m.Sys/1e6)
		}
		return
	}
	dir := writeFiles(t, map[string]string{"portmon.toml": `whitelist_files = ["large.txt"]`})
	f, err := os.Create(filepath.Join(dir, "large.txt"))
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	for i, left := uint32(0), maxWhitelistSize-len("255.255.255.255\n"); left > 0; i++ {
		addr := binary.BigEndian.AppendUint32(nil, i*2654435761) // all over the address space, none twice
		n, err := fmt.Fprintf(w, "%d.%d.%d.%d\n", addr[0], addr[1], addr[2], addr[3])
		if err != nil {
			t.Fatal(err)
		}
		left -= n
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestWhitelistFileMemory$")
	child.Env = append(os.Environ(), "PORTMON_TEST_CONFIG="+filepath.Join(dir, "portmon.toml"))
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
