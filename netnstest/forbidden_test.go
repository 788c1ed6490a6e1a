package netnstest

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
)

func TestForbiddenNamesTheObstacle(t *testing.T) {
	for name, tt := range map[string]struct {
		path, value string
		want        string // "" for no hint but the one that is always given
	}{
		"user namespaces limited": {"proc/sys/user/max_user_namespaces", "0\n", "sysctl user.max_user_namespaces="},
		"user namespaces allowed": {"proc/sys/user/max_user_namespaces", "15000\n", ""},
		"net namespaces limited":  {"proc/sys/user/max_net_namespaces", "0\n", "sysctl user.max_net_namespaces="},
		"debian": {
			"proc/sys/kernel/unprivileged_userns_clone", "0\n", "sysctl kernel.unprivileged_userns_clone=1",
		},
		"debian allowed": {"proc/sys/kernel/unprivileged_userns_clone", "1\n", ""},
		"ubuntu": {
			"proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n",
			"sysctl kernel.apparmor_restrict_unprivileged_userns=0",
		},
		"container":         {"proc/self/status", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n", "seccomp=unconfined"},
		"no seccomp filter": {"proc/self/status", "Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t0\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := forbidden(errors.New("the cause"), fstest.MapFS{tt.path: {Data: []byte(tt.value)}})
			hints := strings.Count(got, "netnstest: hint: ")
			if tt.want == "" && hints != 1 || tt.want != "" && (hints != 2 || !strings.Contains(got, tt.want)) {
				t.Errorf("want a hint with %q:\n%s", tt.want, got)
			}
			if !strings.Contains(got, "the cause") {
				t.Errorf("does not name the cause:\n%s", got)
			}
			if !strings.HasSuffix(got, "\n") {
				t.Errorf("does not end in a newline: %q", got)
			}
		})
	}
}
