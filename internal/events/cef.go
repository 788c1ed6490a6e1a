package events

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/portmon/portmon/internal/text"
)

// CEF escapes backslashes and pipes in its header, and backslashes, equal signs
// and line ends in the values after it.
var (
	cefHeader = strings.NewReplacer(`\`, `\\`, `|`, `\|`, "\n", " ", "\r", " ")
	cefValue  = strings.NewReplacer(`\`, `\\`, `=`, `\=`, "\n", `\n`, "\r", `\r`)
)

// cefLine returns an event in the Common Event Format, version 0. The keys are
// from its dictionary. What that lacks is in custom fields, labelled with
// portmon's own names.
func cefLine(e *Event, version, host string) []byte {
	severity, name, ecsType := e.describe()
	line := "CEF:0"
	for _, field := range []string{"portmon", "portmon", version, e.Event, name, strconv.Itoa(severity)} {
		line += "|" + cefHeader.Replace(field)
	}
	line += "|"
	put := func(key, value string) {
		if value != "" && value != "0" {
			line += key + "=" + cefValue.Replace(value) + " "
		}
	}
	custom := func(key, label, value string) {
		if value != "" && value != "0" {
			put(key, value)
			put(key+"Label", label)
		}
	}
	put("rt", strconv.FormatInt(e.Time.UnixMilli(), 10))
	put("externalId", strconv.FormatUint(e.Seq, 10))
	put("dvchost", host)
	put("cat", "portmon")
	if source := text.Prefix(e.Prefix); source != "" {
		if ecsType != "info" {
			put("act", ecsType)
		}
		switch {
		case !e.Prefix.IsSingleIP():
			custom("cs2", "prefix", source)
		case e.Prefix.Addr().Is4():
			put("src", source)
		default:
			custom("c6a2", "Source IPv6 Address", source)
		}
	}
	put("proto", strings.ToUpper(e.Protocol))
	put("dpt", strconv.Itoa(int(e.Port)))
	custom("cs1", "cause", e.Cause)
	custom("cs5", "country", e.Country)
	custom("cs6", "network", e.System())
	custom("cn1", "tier", strconv.Itoa(e.Tier))
	custom("cn2", "offences", strconv.Itoa(e.Offences))
	switch {
	case e.Forever:
		custom("cs3", "until", "forever")
	case !e.Until.IsZero():
		custom("deviceCustomDate1", "until", strconv.FormatInt(e.Until.UnixMilli(), 10))
	}
	custom("cs4", "mode", e.Mode)
	put("cnt", strconv.Itoa(e.Count))
	put("reason", e.Reason)
	put("msg", e.Wrong)
	return fmt.Appendln(nil, strings.TrimRight(line, " "))
}
