package top

import (
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/portmon/portmon/internal/events"
	"github.com/portmon/portmon/internal/text"
)

// Model is the screen.
type Model struct {
	opts          Options
	width, height int

	now     Snapshot
	samples []float64 // packets dropped a second, the newest last
	source  Source
	trouble Trouble

	events  []events.Event // the newest last
	next    uint64         // the number of the next one
	bans    Bans
	reading bool // the bans have not been read yet

	bansShown bool
	paused    bool
	still     []events.Event // what is shown while it is paused
	filter    string
	typing    bool   // the filter
	cursor    int    // a line of the list
	anchor    uint64 // the event on that line; 0 if the cursor stays on the first line

	command string       // that waits for confirmation; "" if none
	about   netip.Prefix // its source
	busy    bool         // a command is running
	result  *Result      // shown in place of the list
	scroll  int          // within the result
}

// New returns a screen to which nothing has been sent yet.
func New(opts Options) *Model {
	return &Model{opts: opts, width: 80, height: 24, next: 1, reading: true}
}

// Init implements [tea.Model].
func (m *Model) Init() tea.Cmd { return nil }

// Update implements [tea.Model].
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case Snapshot:
		m.take(msg)
	case Source:
		m.source = msg
	case Trouble:
		m.trouble = msg
	case Batch:
		m.add(msg)
	case Bans:
		m.bans, m.reading = msg, false
		if m.source == "" {
			m.add(msg.New)
		}
	case Result:
		m.busy, m.result, m.scroll = false, &msg, 0
	case tea.PasteMsg:
		if m.typing {
			m.extend(msg.Content)
		}
	case tea.KeyPressMsg:
		return m, m.press(msg)
	}
	return m, nil
}

// take takes a snapshot, and a sample of what was dropped since the last one.
func (m *Model) take(s Snapshot) {
	if before := m.now; !before.Time.IsZero() {
		dropped := s.Dropped - before.Dropped
		if s.Dropped < before.Dropped {
			dropped = s.Dropped // the table is another one
		}
		if passed := s.Time.Sub(before.Time).Seconds(); passed > 0 {
			m.samples = append(m.samples, float64(dropped)/passed)
			m.samples = m.samples[max(0, len(m.samples)-maxSamples):]
		}
	}
	m.now = s
}

// add adds events, and numbers them so that the cursor can stay on one.
func (m *Model) add(all []events.Event) {
	for _, e := range all {
		e.Seq = m.next
		m.next++
		m.events = append(m.events, e)
		switch e.Event {
		case "lifted", "unbanned_by_hand", "allowed_by_hand", "whitelisted":
			if e.Time.After(m.bans.Time) { // the list may hold a later ban of the same source
				m.lift(e.Prefix, e.Count > 0 || e.Event == "allowed_by_hand")
			}
		}
	}
	if n := len(m.events); n > 2*maxEvents {
		m.events = slices.Clone(m.events[n-maxEvents:])
	}
}

// lift takes a ban out of the list, which is read again only now and then, or
// all bans within a prefix.
func (m *Model) lift(of netip.Prefix, within bool) {
	n := len(m.bans.Longest)
	m.bans.Longest = slices.DeleteFunc(slices.Clone(m.bans.Longest), func(b Ban) bool {
		return b.Prefix == of || within && of.IsValid() && of.Bits() <= b.Prefix.Bits() && of.Contains(b.Prefix.Addr())
	})
	m.bans.Total -= n - len(m.bans.Longest)
}

// press handles a key.
func (m *Model) press(key tea.KeyPressMsg) tea.Cmd {
	k := key.String()
	switch {
	case k == "ctrl+c":
		return tea.Quit
	case k == "ctrl+z" && m.opts.MaySuspend && m.source != LogGroup: // while stopped, it could not leave it to a watcher
		return tea.Suspend
	case m.typing:
		m.edit(k, key.Text)
		return nil
	case m.command != "":
		command := m.command
		if m.command = ""; k == "y" || k == "Y" {
			return m.run(command, m.about)
		}
		return nil
	case m.result != nil:
		switch k {
		case "down", "j":
			m.scroll++
		case "up", "k":
			m.scroll = max(0, m.scroll-1)
		default:
			m.result = nil
		}
		return nil
	}
	switch k {
	case "q":
		if !m.busy { // a command that has begun is to be completed
			return tea.Quit
		}
	case "/":
		m.typing = true
	case "esc":
		m.filter = ""
	case "tab":
		m.bansShown = !m.bansShown
		m.cursor, m.anchor = 0, 0
	case "p", "space":
		m.paused, m.still = !m.paused, slices.Clone(m.events)
	case "down", "j":
		m.step(1)
	case "up", "k":
		m.step(-1)
	case "pgdown", "ctrl+f":
		m.step(m.rows() - 1)
	case "pgup", "ctrl+b":
		m.step(1 - m.rows())
	case "home", "g":
		m.step(-2 * maxEvents)
	case "end", "G":
		m.step(2 * maxEvents)
	case "enter", "w", "b", "u", "a":
		return m.ask(k)
	}
	return nil
}

// edit changes the filter.
func (m *Model) edit(key, typed string) {
	switch key {
	case "enter":
		m.typing = false
	case "esc":
		m.typing, m.filter = false, ""
	case "backspace":
		if r := []rune(m.filter); len(r) > 0 {
			m.filter = string(r[:len(r)-1])
		}
	default:
		m.extend(typed)
	}
	m.cursor, m.anchor = 0, 0
}

// ask begins a command about the selected line. All but "why" need
// confirmation.
func (m *Model) ask(key string) tea.Cmd {
	l := m.list()
	if m.busy || len(l.at) == 0 {
		return nil
	}
	if m.about = l.line(m.selected(l)).prefix; !m.about.IsValid() {
		return nil
	}
	switch key {
	case "b":
		m.command = "ban"
	case "u":
		m.command = "unban"
	case "a":
		m.command = "allow"
	default:
		return m.run("why", m.about)
	}
	return nil
}

func (m *Model) run(command string, about netip.Prefix) tea.Cmd {
	m.busy = true
	do := m.opts.Do
	return func() tea.Msg { return do(command, about) }
}

// list is the lines that pass the filter, from the top. Lines are made on
// demand, because few of a thousand are shown.
type list struct {
	at   []int // in the events or the bans
	line func(i int) line
}

func (m *Model) list() (l list) {
	n, get := len(m.bans.Longest), func(i int) line { return m.bans.Longest[i].line(m.now.Time) }
	if !m.bansShown {
		all := m.events
		if m.paused {
			all = m.still
		}
		all = all[max(0, len(all)-maxEvents):]
		n, get = len(all), func(i int) line { return eventLine(&all[len(all)-1-i], m.opts.Zone) }
	}
	wanted := strings.ToLower(m.filter)
	for i := range n {
		if wanted == "" || strings.Contains(strings.ToLower(strings.Join(get(i).cells, " ")), wanted) {
			l.at = append(l.at, i)
		}
	}
	l.line = func(i int) line { return get(l.at[i]) }
	return l
}

// selected returns the line that the cursor is on. The cursor follows its
// event.
func (m *Model) selected(l list) int {
	if m.anchor > 0 && !m.bansShown {
		if i := sort.Search(len(l.at), func(i int) bool { return l.line(i).id <= m.anchor }); i < len(l.at) {
			return i
		}
	}
	return max(0, min(m.cursor, len(l.at)-1))
}

// step moves the cursor. On the first line, it does not follow its event.
func (m *Model) step(by int) {
	l := m.list()
	m.cursor = max(0, min(m.selected(l)+by, len(l.at)-1))
	m.anchor = 0
	if m.cursor > 0 && !m.bansShown {
		m.anchor = l.line(m.cursor).id
	}
}

// short returns a name of an event that fits its column.
func short(event string) string {
	if event != "banned_by_hand" {
		event = strings.TrimSuffix(event, "_by_hand")
	}
	return strings.ReplaceAll(strings.TrimPrefix(event, "banned_"), "_", " ")
}

func tier(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

// extend appends to the filter.
func (m *Model) extend(typed string) {
	r := []rune(m.filter + text.Printable(typed))
	m.filter = string(r[:min(len(r), maxFilter)])
}

// clock returns the time of the last snapshot.
func (m *Model) clock() string {
	if m.now.Time.IsZero() {
		return ""
	}
	return m.now.Time.In(m.opts.Zone).Format(time.TimeOnly)
}
