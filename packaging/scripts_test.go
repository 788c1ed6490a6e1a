package packaging

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"
)

// The scripts are for any POSIX shell.
func TestShellcheck(t *testing.T) {
	scripts, err := filepath.Glob("scripts/*")
	services, serviceErr := filepath.Glob("openrc/*")
	hub, hubErr := filepath.Glob("fleet/[os]*/*")
	if err := errors.Join(err, serviceErr, hubErr); err != nil || len(scripts) == 0 || len(services) == 0 || len(hub) == 0 {
		t.Fatal(scripts, services, hub, err)
	}
	for _, script := range append(slices.Concat(scripts, services, hub), "build") {
		if out, err := tool(t, "shellcheck", "--shell=sh", script); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
		mustTool(t, "sh", "-n", script)
	}
}
