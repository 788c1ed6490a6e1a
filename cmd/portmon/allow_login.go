package main

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/names"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// loginPatience is how long a login waits for it to be allowed.
var loginPatience = time.Second

// allowLogin allows the host that has just logged in. The login goes on whatever
// becomes of that, and after a second at the latest: then what is still waited
// for ends with the process. What is to be said goes to standard error, which
// pam_exec throws away unless it is told to log it.
func (p *cli) allowLogin() {
	said := make(chan []byte, 1)
	go func() {
		var buffer bytes.Buffer
		defer func() {
			recover() // a fault of portmon's is no reason to fail either
			said <- buffer.Bytes()
		}()
		e := p.env
		e.stdout, e.stderr = &buffer, &buffer
		own := &cli{env: e, ui: newUI(e), configFile: p.configFile}
		own.finish(own.allowPeer())
	}()
	select {
	case b := <-said:
		p.err.Write(b)
	case <-time.After(loginPatience):
		p.warn("allow --login: no end within %v: the host may not be allowed", loginPatience)
	}
}

// allowPeer allows the host of the session that PAM opens, as its environment
// says (pam_exec(8)). PAM opens one only once the user is authenticated, so that
// a failed login never gets here. Whether the host is whitelisted does not matter,
// as it may be taken out of that list: that is when the allowance saves somebody.
func (p *cli) allowPeer() error {
	switch p.getenv("PAM_TYPE") {
	case "open_session":
	case "":
		return errors.New("allow --login: PAM_TYPE is not set: it is for pam_exec to run")
	default:
		return nil
	}
	const nobody = "allow --login: nobody is allowed: "
	host := p.getenv("PAM_RHOST")
	if host == "" {
		p.note(nobody + "PAM_RHOST is not set: the session is of this host")
		return nil
	}
	addr, err := parseAddr(host)
	if err != nil { // it is a name, which anybody can have who has a domain
		return &hinted{fmt.Errorf(nobody+"PAM_RHOST: %w", err), "names are not believed: sshd_config needs UseDNS no"}
	}
	if !addr.IsGlobalUnicast() {
		p.note(nobody+"%s is not an address of another network", addr)
		return nil
	}
	var length time.Duration
	if p.state, length, _, p.stateErr = config.Glance(p.configFile); p.stateErr != nil {
		p.warn("the allowance will not be remembered: %v", p.stateErr)
	}
	if length == 0 {
		p.note(nobody + "login in [allow] is 0")
		return nil
	}
	return p.withTable(func(h *ruleset.Handle) error {
		source, err := names.Prefix(addr, h.Source)
		if err != nil {
			return err
		}
		user := p.getenv("PAM_USER")
		if checkReason(user, ruleset.CauseLogin.String()+": ") != nil {
			user = ""
		}
		r := ruleset.Record{
			Source: source, Allowed: true, Timeout: length, Remaining: length, Cause: ruleset.CauseLogin, Comment: user,
		}
		for e, err := range h.Allowed(source) {
			// Most logins come again soon: as long as nearly all of the time is
			// left, nothing is written.
			if err != nil || e.Covers(nftset.Prefix(source).Interval) && (heldBan{e.Set, e.Remaining}).outlasts(length-length/16) {
				return err
			}
			if e.Cause == ruleset.CauseHand && e.Interval == nftset.Prefix(source).Interval {
				r.Cause, r.Comment = e.Cause, e.Comment // which stands by itself, and lasts longer now
			}
		}
		_, refused, _, _, err := p.rememberAllowed(h, []ruleset.Record{r})
		if err = errors.Join(append(refused, err)...); err != nil {
			return fmt.Errorf("allow %s, which has logged in: %w", text.Prefix(source), err)
		}
		p.note("allowed %s %s", text.Prefix(source), banTime(length))
		return nil
	})
}
