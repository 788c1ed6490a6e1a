package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// loginLine is what the manual says belongs into /etc/pam.d/sshd.
const loginLine = "session optional pam_exec.so quiet type=open_session /usr/bin/portmon allow --login"

// TestLoginIsAllowed logs in by a real sshd, with PAM.
func TestLoginIsAllowed(t *testing.T) {
	text, err := os.ReadFile(operations)
	if err != nil || !strings.Contains(string(text), "\n"+loginLine+"\n") {
		t.Fatalf("the manual does not say %q (%v)", loginLine, err)
	}
	s := newScene(t, newTools(t), "[trap]\ngrace = \"0s\"\n")
	// PAM hands no environment on, and tests need theirs.
	s.write("login", fmt.Sprintf("#!/bin/sh\n%s='%s' exec %s/portmon \"$@\"\n", homeVariable, os.Getenv(homeVariable), s.bin))
	if err := os.Chmod(filepath.Join(s.dir, "login"), 0o755); err != nil {
		t.Fatal(err)
	}
	pam := func(program string) {
		t.Helper()
		line := strings.Replace(loginLine, "/usr/bin/portmon", program, 1)
		s.write("etc/pam.d/sshd", pam+line+"\n")
	}
	pam(filepath.Join(s.dir, "login"))
	s.does("portmon", "apply")
	allowed := func() string { return s.does("portmon", "list", "--allowed") }

	// A login that fails allows nobody.
	for _, src := range []netip.Addr{adminAddr4, adminAddr6} {
		args := s.sshArgs(src)
		args[slices.Index(args, filepath.Join(s.bin, "key"))] = filepath.Join(s.bin, "host_key")
		if out, err := lab.Run(s.admin, "", lab.Program(t, "ssh"), append(args, "echo in")...); err == nil {
			t.Errorf("a wrong key gets in: %s", out)
		}
	}
	if got := allowed(); got != "portmon: no allowances\n" {
		t.Errorf("after failed logins there is\n%s", got)
	}

	// Whoever gets in is allowed.
	for _, src := range []netip.Addr{adminAddr4, adminAddr6} {
		if out := s.mustLogin(src, "echo in"); out != "in\n" {
			t.Errorf("the session from %v says %q", src, out)
		}
	}
	for _, want := range []string{`203.0.113.1       login  `, `2001:db8:77::/64  login  `} {
		if got := allowed(); !strings.Contains(got, want) || strings.Count(got, " root\n") != 2 {
			t.Errorf("there is no %q in\n%s", want, got)
		}
	}
	for _, src := range []netip.Addr{adminAddr4, adminAddr6} {
		s.trap(s.admin, src)
		s.scan(s.admin, src)
		s.mustLogin(src, "true")
	}
	s.trap(s.stranger, strangerAddr)
	s.strangerIs(netnstest.NoAnswer)

	// Whatever is wrong, the login goes on.
	s.does("portmon", "remove")
	s.mustLogin(adminAddr4, "true")
	pam("/nowhere/portmon")
	s.mustLogin(adminAddr4, "true")
	pam("/bin/false")
	s.mustLogin(adminAddr6, "true")
}
