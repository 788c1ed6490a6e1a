package overview

import (
	_ "embed"
	"strings"
	"sync"
)

// land is a country, or a territory that belongs to none.
type land struct {
	Code, Name string
	X, Y       string // its middle
	Path       string // its outline; empty if it is too small to be seen
}

// worldText has a line for each country: its code, name, middle and outline.
// The outlines are from Natural Earth, in the public domain, in its projection
// and to a seven-hundredth of the width.
//
//go:embed world.tsv
var worldText string

var world = sync.OnceValue(func() []land {
	var lands []land
	for line := range strings.Lines(worldText) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		lands = append(lands, land{f[0], f[1], f[2], f[3], f[4]})
	}
	return lands
})

// country returns the name of a country, or "" if the code is not known.
func country(code string) string {
	for _, l := range world() {
		if l.Code == code {
			return l.Name
		}
	}
	return ""
}
