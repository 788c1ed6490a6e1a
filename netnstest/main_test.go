package netnstest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The ways in which a test starts this binary again, by the value of roleVariable.
const (
	roleVariable = "NETNSTEST_TEST_ROLE"

	roleUnprivileged = "unprivileged"  // lose CAP_SYS_ADMIN, then be an ordinary test binary
	roleNoRaw        = "no raw socket" // lose CAP_NET_RAW instead
	roleForbidden    = "forbidden"     // lose CAP_SYS_ADMIN and allow no user namespaces either
	roleWhere        = "where"         // print the network namespace
	roleNested       = "nested"        // ordinary, but expected to have been given its privilege by Main
)

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "", roleNested:
		os.Exit(Main(m))
	case roleWhere:
		name, err := os.Readlink("/proc/self/ns/net")
		fmt.Println(name, err)
		os.Exit(0)
	default:
		fmt.Fprintf(os.Stderr, "%s: %v\n", role, losePrivilege(role))
		os.Exit(99)
	}
}

// losePrivilege goes on as a new program without a capability. It returns only if it fails.
func losePrivilege(role string) error {
	lost := unix.CAP_SYS_ADMIN
	if role == roleNoRaw {
		lost = unix.CAP_NET_RAW
	}
	if role == roleForbidden {
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
			return err
		}
	}
	// The bounding set is that of the thread, which must be the one that calls execve.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(lost), 0, 0, 0); err != nil {
		return err
	}
	if err := os.Setenv(roleVariable, roleNested); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}

// runSelf runs one test of this binary in another process, which has a user namespace of its own if it is to lose its
// privilege there.
func runSelf(t *testing.T, role, test string, attr *syscall.SysProcAttr) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+test+"$", "-test.v")
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = &out, &errOut, attr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// inUserns makes the process root of a user namespace, in which settings and capabilities can be lost to no one's harm.
func inUserns() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
}

func TestMainReexecutesWithoutPrivilege(t *testing.T) {
	withNet := inUserns()
	withNet.Cloneflags |= unix.CLONE_NEWNET
	for _, tt := range []struct {
		name, role string
		attr       *syscall.SysProcAttr
	}{
		{"no CAP_SYS_ADMIN", roleUnprivileged, withNet},
		{"no CAP_NET_RAW", roleNoRaw, withNet},
		// It may make a network namespace and enter it, but not come back.
		{"no right to its own network namespace", "", inUserns()},
	} {
		out, errOut, code := runSelf(t, tt.role, "TestProbeTellsAnswersApart", tt.attr)
		if code != 0 || !strings.Contains(out, "--- PASS: TestProbeTellsAnswersApart") {
			t.Errorf("%s: exit code %d, stdout:\n%sstderr:\n%s", tt.name, code, out, errOut)
		}
	}
}

func TestMainAsNobody(t *testing.T) {
	const nobody = 65534
	uidMap, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	if f := strings.Fields(string(uidMap)); len(f) == 3 && f[2] == "1" {
		t.Logf("this process is in a user namespace of one user (%q): it is itself the proof", uidMap)
		return
	}
	attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, errOut, code := runSelf(t, roleNested, "TestProbeTellsAnswersApart", attr)
	if code != 0 || !strings.Contains(out, "--- PASS: TestProbeTellsAnswersApart") {
		t.Errorf("exit code %d, stdout:\n%sstderr:\n%s", code, out, errOut)
	}
}

func TestMainReturnsExitCodeOfChild(t *testing.T) {
	if os.Getenv(roleVariable) == roleNested {
		os.Exit(42)
	}
	if out, errOut, code := runSelf(t, roleUnprivileged, t.Name(), inUserns()); code != 42 {
		t.Errorf("exit code %d, want 42; stdout:\n%sstderr:\n%s", code, out, errOut)
	}
}

func TestMainWhereNamespacesAreForbidden(t *testing.T) {
	out, errOut, code := runSelf(t, roleForbidden, "TestProbeTellsAnswersApart", inUserns())
	if code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if out != "" {
		t.Errorf("stdout %q: a test ran, or claims to have", out)
	}
	for _, want := range []string{
		"netnstest: error: these tests need network namespaces",
		"sysctl user.max_user_namespaces=",
		"as root",
	} {
		if !strings.Contains(errOut, want) {
			t.Errorf("stderr does not say %q:\n%s", want, errOut)
		}
	}
}

func TestChildHasLoopback(t *testing.T) {
	if os.Getenv(roleVariable) != roleNested {
		out, errOut, code := runSelf(t, roleUnprivileged, t.Name(), inUserns())
		if code != 0 || !strings.Contains(out, "--- PASS") {
			t.Errorf("exit code %d, stdout:\n%sstderr:\n%s", code, out, errOut)
		}
		return
	}
	s, err := serveTCP("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
}
