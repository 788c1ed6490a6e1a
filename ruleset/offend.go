package ruleset

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
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
// step of the table's ladder that is next for its source. It returns what it
// has put into the table; sources that are banned already, and those that
// cannot be, are left alone. Without a table err is os.ErrNotExist.
func (h *Handle) Offend(addrs []netip.Addr, comment string) (put []Record, refused []error, err error) {
	var ladder Spec
	if ladder.BanTime, ladder.Forget = h.Ladder(); len(ladder.BanTime) == 0 {
		return nil, nil, fmt.Errorf("ladder of table %s: %w", h.Table, unix.ENOENT)
	}
	all, err := h.LookupAll(addrs...)
	if err != nil {
		return nil, nil, err
	}
	refused = make([]error, len(addrs))
	for i, st := range all {
		switch {
		case st.Whitelisted != nil:
			refused[i] = &WhitelistedError{st.Source, *st.Whitelisted}
			continue
		case st.Allowed != nil:
			refused[i] = &AllowedError{st.Source, *st.Allowed}
			continue
		case len(st.Bans) > 0:
			continue
		}
		if refused[i] = CheckSource(st.Source); refused[i] != nil {
			continue
		}
		step := ladder.after(st.Step)
		d := ladder.BanTime[step-1]
		put = append(put, Record{
			Source: st.Source, Banned: true, Timeout: d, Remaining: d, Comment: OffenceMark + comment,
			Step: step, StepRemaining: ladder.memoryTime(step), Cause: CauseOther,
		})
	}
	_, err = h.Put(put)
	return put, refused, err
}
