package manual

import "strings"

// Config writes what the reference configuration says about each of its keys. Its comments stand before what they are about: the
// file, a section, or a key.
func (p *Page) Config(reference string) {
	var comment []string
	flush := func(inItem bool) {
		p.Text(strings.Join(comment, "\n"), inItem)
		comment = nil
	}
	section, begun := "", false
	for line := range strings.Lines(reference) {
		line = strings.TrimSpace(line)
		switch {
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
			key, value, _ := strings.Cut(line, "=")
			p.Item(strings.TrimSpace(key), " = "+strings.TrimSpace(value))
			flush(true)
		}
	}
}
