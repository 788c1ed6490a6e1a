package main

import "strings"

// listWriter writes a list as it goes along.
type listWriter struct {
	*cli
	listOptions
	layout rowLayout
	n      int
	line   []byte
}

// write writes one entry, and before the first what stands above it.
func (w *listWriter) write(e *entry) error {
	w.line = w.line[:0]
	switch {
	case w.json && w.n == 0:
		w.begin()
		w.line = append(w.line, '\n')
	case w.json:
		w.line = append(w.line, ",\n"...)
	case w.n == 0:
		w.print("%s\n", paint(w.outColour, w.layout.heading(), bold))
	}
	if w.json {
		w.line = e.appendJSON(w.line)
	} else {
		w.line = append(w.layout.appendEntry(w.line, e), '\n')
	}
	w.n++
	if _, err := w.out.Write(w.line); err != nil {
		return said(exitFailed) // told when the rest is flushed
	}
	return nil
}

func (w *listWriter) begin() { w.print(`{"version":1,"table":"inet %s","bans":[`, tableName) }

func (w *listWriter) end() error {
	switch {
	case w.json && w.n == 0:
		w.begin()
		w.print("]}\n")
	case w.json:
		w.print("\n]}\n")
	case w.n == 0 && len(w.only) == 0:
		w.note("no ban")
	case w.n == 0:
		w.note("no ban of %s", texts(w.only))
	}
	return nil
}

func texts(targets []target) string {
	var all []string
	for _, t := range targets {
		all = append(all, t.text)
	}
	return strings.Join(all, ", ")
}
