package state

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/ledger"
)

// Here returns the origin of what this process saves of the table with that handle, in the network namespace of the calling thread.
func Here(table uint64) Origin {
	return Origin{Machine: machine("/etc/machine-id"), Boot: bootID(), NetNS: netns(), Table: table}
}

// Clock reads both clocks.
func Clock() ledger.Now {
	var mono unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono); err != nil {
		panic("CLOCK_MONOTONIC is on every Linux: " + err.Error())
	}
	return ledger.Now{Wall: time.Now(), Mono: ledger.Instant(mono.Nano())}
}

// machine returns what stands for the machine id in that file, or "" if there is none. It is a keyed hash, as machine-id(5) asks of
// everybody who lets the id out of sight.
func machine(path string) string {
	b, err := os.ReadFile(path)
	id, hexErr := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || hexErr != nil || len(id) != 16 { // "uninitialized" in an image that was not booted yet
		return ""
	}
	h := hmac.New(sha256.New, id)
	h.Write([]byte("portmon state"))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// netns returns the cookie of the thread's network namespace; on kernels before 5.14, which have none, its inode number.
func netns() uint64 {
	if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
		defer unix.Close(fd)
		if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
			return cookie
		}
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0
	}
	return st.Ino
}
