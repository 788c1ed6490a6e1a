package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// sshPeer reads the address from the environment, or else from that of the
// nearest process above this one that has it, as far as this user may look: sudo
// and its like take it out of what they start. In a tmux that was left and
// entered again it is that of the login that the shell was started in.
func sshPeer() (netip.Addr, bool) {
	for _, variable := range []string{
		"SSH_CONNECTION", // "203.0.113.9 51234 192.0.2.1 22"
		"SSH_CLIENT",     // "203.0.113.9 51234 22"
	} {
		value, ok := os.LookupEnv(variable)
		if !ok {
			value, ok = ancestorEnv(variable)
		}
		if ok {
			from, _, _ := strings.Cut(value, " ")
			addr, err := netip.ParseAddr(from)
			return addr.Unmap().WithZone(""), err == nil
		}
	}
	return netip.Addr{}, false
}

func ancestorEnv(key string) (value string, ok bool) {
	const limit = 64 // pids that were reused meanwhile could make a circle
	pid := os.Getppid()
	for range limit {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			break
		}
		for v := range bytes.SplitSeq(environ, []byte{0}) {
			if value, ok := strings.CutPrefix(string(v), key+"="); ok {
				return value, true
			}
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, parent, found := bytes.Cut(status, []byte("\nPPid:"))
		if err != nil || !found {
			break
		}
		if _, err := fmt.Sscan(string(parent), &pid); err != nil || pid < 1 {
			break
		}
	}
	return "", false
}
