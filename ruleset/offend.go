package ruleset

import (
	"net/netip"
	"strings"
)

// OffenceMark begins the comment of a ban that counts as an offence although a
// program made it and not the packet path: one that saw the source do wrong,
// such as fail2ban. Without it, a ban that a program makes is one by hand, and
// counts as none.
const OffenceMark = "offence: "

// Offence returns what was noted beside a ban behind the [OffenceMark], and
// whether it was marked.
func Offence(comment string) (reason string, ok bool) { return strings.CutPrefix(comment, OffenceMark) }

// Offend bans addresses as if they had offended in the packet path: each by the
// step that is next for its source. It returns what it has put into the table;
// sources that are banned already, and those that cannot be, are left alone.
func (h *Handle) Offend(spec Spec, addrs []netip.Addr, comment string) (put []Record, refused []error, err error) {
	refused = make([]error, len(addrs))
	for i, a := range addrs {
		st, err := h.Lookup(a)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case st.Whitelisted != nil:
			refused[i] = &WhitelistedError{st.Source, *st.Whitelisted}
			continue
		case len(st.Bans) > 0:
			continue
		}
		if refused[i] = CheckSource(st.Source); refused[i] == nil {
			put = append(put, spec.nextBan(st, OffenceMark+comment))
		}
	}
	_, err = h.Put(put)
	return put, refused, err
}

// nextBan returns the ban that is next for a source.
func (s Spec) nextBan(st Standing, comment string) Record {
	step := s.after(st.Step)
	d := s.BanTime[step-1]
	return Record{
		Source: st.Source, Banned: true, Timeout: d, Remaining: d, Comment: comment,
		Step: step, StepRemaining: s.memoryTime(step), Cause: CauseOther,
	}
}
