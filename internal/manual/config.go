package manual

import "strings"

// Config writes what the reference configuration says about each of its keys.
// Its comments stand before what they are about: the file, a section, or a key.
// A list may take several lines, which are joined.
func (p *Page) Config(reference string) {
	var comment []string
	flush := func(inItem bool) {
		p.Text(strings.Join(comment, "\n"), inItem)
		comment = nil
	}
	section, begun := "", false
	var item string // a key and its value, up to here
	for line := range strings.Lines(reference) {
		line = strings.TrimSpace(line)
		switch {
		case item != "":
			item += " " + line
		case strings.HasPrefix(line, "#"):
			comment = append(comment, strings.TrimPrefix(strings.TrimPrefix(line, "#"), " "))
		case line == "" && !begun:
			begun = true
			flush(false) // what is said of the file
			p.Section("KEYS")
		case line == "":
			if len(comment) > 0 {
				comment = append(comment, "")
			}
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
			p.Subsection("[" + section + "]")
			flush(false)
		default:
			item = line
		}
		if key, value, _ := strings.Cut(item, "="); item != "" && complete(value) {
			item = ""
			p.Item(strings.TrimSpace(key), " = "+strings.TrimSpace(value))
			flush(true)
		}
	}
}

// complete reports whether a value is not a list that goes on.
func complete(value string) bool { return strings.Count(value, "[") == strings.Count(value, "]") }
