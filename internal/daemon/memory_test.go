package daemon

import (
	"runtime/debug"
	"testing"
)

// While it runs, garbage is collected sooner; what the user says by GOGC has
// the last word.
func TestFrugal(t *testing.T) {
	percent := func() int {
		n := debug.SetGCPercent(100)
		debug.SetGCPercent(n)
		return n
	}
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	t.Setenv("GOGC", "")
	undo := collectAt(collectSooner)
	if n := percent(); n != 50 {
		t.Errorf("collected at %d %%", n)
	}
	if undo(); percent() != 100 {
		t.Errorf("collected at %d %% in the end", percent())
	}
	t.Setenv("GOGC", "100")
	if undo := collectAt(collectSooner); percent() != 100 {
		t.Errorf("collected at %d %%", percent())
		undo()
	}
}
