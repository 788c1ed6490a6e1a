package main

import (
	"bytes"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// sshPeer returns the address that the user is connected from by SSH. Sudo and
// its like take that out of the environment; but the processes above them still
// have it.
func (p *cli) sshPeer() (netip.Addr, bool) {
	const variable = "SSH_CONNECTION" // "203.0.113.9 51234 192.0.2.1 22"
	v := p.getenv(variable)
	for _, mark := range []string{"SUDO_UID", "DOAS_USER", "PKEXEC_UID"} {
		if v == "" && p.getenv(mark) != "" {
			v = p.ancestorEnv(variable)
		}
	}
	text, _, _ := strings.Cut(v, " ")
	addr, err := netip.ParseAddr(text)
	return addr.Unmap().WithZone(""), err == nil
}

// ancestorEnv returns the value of an environment variable in the nearest
// process above this one that has it, as far up as this user may look.
func ancestorEnv(key string) string {
	const limit = 64 // pids that were reused meanwhile could make a circle
	pid := os.Getppid()
	for range limit {
		dir := "/proc/" + strconv.Itoa(pid)
		environ, err := os.ReadFile(dir + "/environ")
		if err != nil {
			return ""
		}
		for v := range bytes.SplitSeq(environ, []byte{0}) {
			if value, ok := strings.CutPrefix(string(v), key+"="); ok {
				return value
			}
		}
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			return ""
		}
		// "4711 (name) S 4710 ...": the name may hold anything, even
		// parentheses.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 2 {
			return ""
		}
		if pid, err = strconv.Atoi(fields[1]); err != nil || pid < 1 {
			return ""
		}
	}
	return ""
}
