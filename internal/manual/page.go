// Package manual writes manual pages in the language of man(7), out of the
// texts that the program has anyway, so that no command, flag or key can be
// missing.
package manual

import (
	"bytes"
	"fmt"
	"strings"
)

// Page is a page that is being written.
type Page struct{ b bytes.Buffer }

// NewPage begins a page.
func NewPage(name, section, version, title string) *Page {
	p := new(Page)
	p.macro("TH", strings.ToUpper(name), section, "", "portmon "+version, title)
	p.line(".ad l")
	return p
}

// Bytes returns the page.
func (p *Page) Bytes() []byte { return p.b.Bytes() }

// Section and Subsection begin one.
func (p *Page) Section(title string)    { p.macro("SH", title) }
func (p *Page) Subsection(title string) { p.macro("SS", title) }

// Item begins an item of a list with its term, which may have a part in bold
// and one that is not.
func (p *Page) Item(bold, rest string) {
	p.line(".TP")
	p.line(`\fB` + escape(bold) + `\fR` + escape(rest))
}

// Text writes paragraphs, which empty lines divide. Lines that begin with two
// blanks are shown as they are. In an item, all of it belongs to the item.
func (p *Page) Text(text string, inItem bool) {
	paragraph := "PP"
	if inItem {
		paragraph = "IP"
	}
	literal, fresh := false, true
	end := func() {
		if literal {
			p.line(".EE")
			if inItem {
				p.line(".RE")
			}
			literal = false
		}
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \n")
		indented := strings.HasPrefix(line, "  ")
		switch {
		case line == "":
			if !literal {
				fresh = false
				p.line("." + paragraph)
			}
			continue
		case indented && !literal:
			if inItem {
				p.line(".RS")
			}
			if fresh {
				p.line("." + paragraph)
			}
			p.line(".EX")
			literal = true
		case !indented && literal:
			end()
			p.line("." + paragraph)
		}
		fresh = false
		p.line(protect(unbroken(escape(line))))
	}
	end()
}

// Example shows lines as they are.
func (p *Page) Example(text string) {
	p.line(".PP")
	p.line(".EX")
	for line := range strings.Lines(text) {
		p.line(protect(escape(strings.TrimRight(line, "\n"))))
	}
	p.line(".EE")
}

func (p *Page) line(s string) { p.b.WriteString(s + "\n") }

func (p *Page) macro(name string, args ...string) {
	line := "." + name
	for _, arg := range args {
		line += fmt.Sprintf(` "%s"`, strings.ReplaceAll(escape(arg), `"`, `""`))
	}
	p.line(line)
}

// escape keeps text from being taken for more than text.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\e`, `-`, `\-`, "`", "\\`", `'`, `\(aq`, `^`, `\(ha`, `~`, `\(ti`).Replace(s)
}

// unbroken keeps paths from being hyphenated: they are to be copied.
func unbroken(line string) string {
	words := strings.SplitAfter(line, " ")
	for i, word := range words {
		if strings.Contains(word, "/") {
			words[i] = `\%` + word
		}
	}
	return strings.Join(words, "")
}

// protect keeps a line from being taken for a request.
func protect(line string) string {
	if strings.HasPrefix(line, ".") {
		return `\&` + line
	}
	return line
}
