package events

import "github.com/portmon/portmon/internal/text"

// ecsVersion is the version of the Elastic Common Schema that the names are
// from.
const ecsVersion = "8.17.0"

// ecs is an event with the field names of ECS. The event in portmon's own
// format is under "portmon", for what ECS has no field for.
type ecs struct {
	Timestamp   Time            `json:"@timestamp"`
	ECS         ecsOf           `json:"ecs"`
	Message     string          `json:"message"`
	Event       ecsEvent        `json:"event"`
	Source      *ecsSource      `json:"source,omitempty"`
	Destination *ecsDestination `json:"destination,omitempty"`
	Network     *ecsNetwork     `json:"network,omitempty"`
	Rule        *ecsRule        `json:"rule,omitempty"`
	Related     *ecsRelated     `json:"related,omitempty"`
	Observer    ecsObserver     `json:"observer"`
	Host        *ecsHost        `json:"host,omitempty"`
	Portmon     *Event          `json:"portmon"`
}

type ecsOf struct {
	Version string `json:"version"`
}

type ecsEvent struct {
	Kind     string   `json:"kind"`
	Category []string `json:"category"`
	Type     []string `json:"type"`
	Action   string   `json:"action"`
	Module   string   `json:"module"`
	Dataset  string   `json:"dataset"`
	Provider string   `json:"provider"`
	Severity int      `json:"severity"`
	Sequence uint64   `json:"sequence"`
	Reason   string   `json:"reason,omitempty"`
}

type ecsSource struct {
	Address string `json:"address"`
	IP      string `json:"ip,omitempty"` // ECS has no networks there
	Geo     ecsGeo `json:"geo,omitzero"`
	AS      ecsAS  `json:"as,omitzero"`
}

type ecsGeo struct {
	Country string `json:"country_iso_code"`
}

type ecsAS struct {
	Number       uint32          `json:"number,omitempty"`
	Organization ecsOrganization `json:"organization,omitzero"`
}

type ecsOrganization struct {
	Name string `json:"name"`
}

type ecsDestination struct {
	Port uint16 `json:"port"`
}

type ecsNetwork struct {
	Transport string `json:"transport,omitempty"`
	Type      string `json:"type"`
}

type ecsRule struct {
	Name string `json:"name"`
}

type ecsRelated struct {
	IP []string `json:"ip"`
}

type ecsObserver struct {
	Vendor  string `json:"vendor"`
	Product string `json:"product"`
	Type    string `json:"type"`
	Version string `json:"version"`
}

type ecsHost struct {
	Name string `json:"name"`
}

func newECS(e *Event, version, host string) *ecs {
	severity, _, ecsType := e.describe()
	v := &ecs{
		Timestamp: e.Time, ECS: ecsOf{ecsVersion}, Message: e.Message(), Portmon: e,
		Event: ecsEvent{
			Kind: "event", Category: []string{"configuration"}, Type: []string{ecsType}, Action: e.Event, Severity: severity,
			Module: "portmon", Dataset: "portmon.events", Provider: "portmon", Sequence: e.Seq, Reason: e.Reason,
		},
		Observer: ecsObserver{Vendor: "portmon", Product: "portmon", Type: "firewall", Version: version},
	}
	if host != "" {
		v.Host = &ecsHost{host}
	}
	if e.Cause != "" {
		v.Rule = &ecsRule{e.Cause}
	}
	if !e.Prefix.IsValid() {
		return v
	}
	v.Event.Category = []string{"network", "intrusion_detection"}
	if ecsType != "info" {
		v.Event.Kind = "alert"
	}
	v.Network = &ecsNetwork{Transport: e.Protocol, Type: "ipv4"}
	if e.Prefix.Addr().Is6() {
		v.Network.Type = "ipv6"
	}
	v.Source = &ecsSource{
		Address: text.Prefix(e.Prefix), Geo: ecsGeo{e.Country}, AS: ecsAS{e.ASN, ecsOrganization{e.Network}},
	}
	if e.Prefix.IsSingleIP() {
		v.Source.IP = v.Source.Address
		v.Related = &ecsRelated{[]string{v.Source.IP}}
	}
	if e.Port > 0 {
		v.Destination = &ecsDestination{e.Port}
	}
	return v
}
