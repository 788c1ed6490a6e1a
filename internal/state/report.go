package state

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Condition is what a state file was found to be.
type Condition int

const (
	Whole   Condition = iota // as it was written
	Missing                  // there is no file
	Empty                    // there is nothing in it
	Torn                     // its end is missing
	Damaged                  // something in it cannot be read, or is not what was written
)

// Report tells what was found in a state file. Whatever its condition, all records that can be read were read.
type Report struct {
	Path      string
	Condition Condition
	// Saved is when the state was saved, or with HeaderLost, when the file was last written.
	Saved time.Time
	// Records is how many were read.
	Records int
	// HeaderLost tells that the first line cannot be read.
	HeaderLost bool
	// BadLines is how many lines were left out because they cannot be read, and Lines are the numbers of the first ten, from 1.
	BadLines int
	Lines    []int
	// Err is the error at which reading ended early, if it did.
	Err error

	end      *trailer
	altered  bool // the checksum does not fit
	late     bool // there is something after the end
	tornLine int  // the number of the line in the middle of which the file ends
}

func (r *Report) badLine(number int) {
	r.BadLines++
	if len(r.Lines) < 10 {
		r.Lines = append(r.Lines, number)
	}
}

// finish draws the conclusion when the file was read.
func (r *Report) finish() {
	switch {
	case r.HeaderLost || r.BadLines > 0 || r.altered || r.late || r.Err != nil || r.end != nil && r.end.Records != r.Records:
		r.Condition = Damaged
	case r.end == nil:
		r.Condition = Torn
	default:
		r.Condition = Whole
	}
}

// String returns a sentence about what is wrong, or "" if the file is whole.
func (r Report) String() string {
	var faults []string
	say := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	switch r.Condition {
	case Whole:
		return ""
	case Missing:
		return "no state " + r.Path + ": nothing is remembered yet"
	case Empty:
		return "state " + r.Path + " is empty: nothing is remembered"
	}
	if r.HeaderLost {
		say("its first line cannot be read, so it is taken as saved at %s", r.Saved.UTC().Format(time.RFC3339))
	}
	// The first line is not to be blamed twice.
	lines := slices.DeleteFunc(slices.Clone(r.Lines), func(n int) bool { return n == 1 && r.HeaderLost })
	bad := r.BadLines - (len(r.Lines) - len(lines))
	if bad > 0 {
		say("%s cannot be read", numbers(lines, bad))
	}
	if r.Err != nil {
		say("it cannot be read to the end: %v", r.Err)
	}
	switch {
	case r.end == nil && r.tornLine > 0:
		say("it ends in line %d, before its end", r.tornLine)
	case r.end == nil && r.Err == nil:
		say("its last line is missing")
	case r.end != nil && r.end.Records != r.Records:
		say("it should have %d records", r.end.Records)
	}
	if r.late {
		say("there is more after its end")
	}
	if len(faults) == 0 {
		say("it was edited, or a value in it is damaged")
	}
	return fmt.Sprintf("state %s is damaged: %s; %d records were read", r.Path, strings.Join(faults, "; "), r.Records)
}

// numbers returns "line 3", "lines 3 and 4" or "lines 3, 4, 9 and 12 more".
func numbers(lines []int, n int) string {
	words := make([]string, len(lines))
	for i, line := range lines {
		words[i] = fmt.Sprint(line)
	}
	if more := n - len(lines); more > 0 {
		words = append(words, fmt.Sprintf("%d more", more))
	}
	if n == 1 {
		return "line " + words[0]
	}
	last := len(words) - 1
	return "lines " + strings.Join(words[:last], ", ") + " and " + words[last]
}
