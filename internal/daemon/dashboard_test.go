package daemon

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/portmon/portmon/ruleset"
)

// notShown are metrics that the dashboard leaves out on purpose.
var notShown = []string{
	"portmon_bytes_total", // packets tell the same, and a trap packet has hardly any bytes
}

// ofHub begins the names of metrics that the hub of a fleet serves. Its own
// tests look for those.
const ofHub = "portmon_hub_"

// dashboard is what matters here of a dashboard of Grafana.
type dashboard struct {
	SchemaVersion int
	Templating    struct{ List []variable }
	Panels        []panel
}

type variable struct {
	Name, Type, Definition string
	Query                  json.RawMessage
	Datasource             datasource
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               datasource
	GridPos                  struct{ X, Y, W, H int }
	Targets                  []struct {
		RefID, Expr, LegendFormat string
		Datasource                datasource
	}
}

type datasource struct{ Type, UID string }

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	text, err := os.ReadFile("../../docs/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Panels) < 10 || d.SchemaVersion < 39 {
		t.Fatalf("%d panels, schema version %d: this is no dashboard of a recent Grafana", len(d.Panels), d.SchemaVersion)
	}
	return d
}

// TestDashboardAsksForWhatThereIs compares the names and labels in all
// expressions with what a scrape returns.
func TestDashboardAsksForWhatThereIs(t *testing.T) {
	t.Parallel()
	labels := labelsOf(t)
	shown := map[string]bool{}
	check := func(where, expr, legend string) {
		allowed := []string{"instance", "job"} // added by Prometheus
		names := metricName.FindAllString(expr, -1)
		if strings.Contains(expr, ofHub) {
			return
		}
		if len(names) == 0 {
			t.Errorf("%s: no metric in %s", where, expr)
		}
		for _, name := range names {
			of, ok := labels[name]
			if !ok {
				t.Errorf("%s: there is no metric %s", where, name)
			}
			shown[name] = true
			allowed = append(allowed, of...)
		}
		for _, label := range labelsIn(expr, legend) {
			if !slices.Contains(allowed, label) {
				t.Errorf("%s: there is no label %s in %s, shown as %s", where, label, expr, legend)
			}
		}
		for _, m := range outcomeIs.FindAllStringSubmatch(expr, -1) {
			if !slices.Contains(ruleset.Counters(), m[1]) {
				t.Errorf("%s: no packet has the outcome %s", where, m[1])
			}
		}
	}
	d := readDashboard(t)
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			check(p.Title, target.Expr, target.LegendFormat)
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			check(v.Name, v.Definition, "")
			if !strings.Contains(string(v.Query), v.Definition) {
				t.Errorf("variable %s: %s is not what is asked: %s", v.Name, v.Definition, v.Query)
			}
		}
	}
	for _, n := range Metrics() {
		if left := slices.Contains(notShown, n.Name); shown[n.Name] == left {
			t.Errorf("%s: shown is %t, left out on purpose is %t", n.Name, shown[n.Name], left)
		}
	}
}

// TestDashboardIsWhole checks what makes Grafana show a panel: an id and a
// place of its own, and the data source that was chosen.
func TestDashboardIsWhole(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	chosen := datasource{"prometheus", "${datasource}"}
	if v := d.Templating.List[0]; v.Name != "datasource" || v.Type != "datasource" || string(v.Query) != `"prometheus"` {
		t.Errorf("the data source cannot be chosen: the first variable is %s, a %s of %s", v.Name, v.Type, v.Query)
	}
	for _, v := range d.Templating.List[1:] {
		if v.Datasource != chosen {
			t.Errorf("variable %s asks %v", v.Name, v.Datasource)
		}
	}
	ids, places := map[int]string{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if other := ids[p.ID]; p.ID == 0 || other != "" {
			t.Errorf("%s: has the id %d, like %q", p.Title, p.ID, other)
		}
		ids[p.ID] = p.Title
		if p.GridPos.W < 1 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s: does not fit into 24 columns: %+v", p.Title, p.GridPos)
		}
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := places[at]; other != "" {
					t.Fatalf("%s lies over %s", p.Title, other)
				}
				places[at] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource != chosen || p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("%s: no description, nothing asked, or asked of %v", p.Title, p.Datasource)
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.Datasource != chosen || refs[target.RefID] || target.LegendFormat == "" {
				t.Errorf("%s: query %s: asked of %v, twice, or without a legend", p.Title, target.RefID, target.Datasource)
			}
			refs[target.RefID] = true
		}
	}
}

// TestDocumentedMetricsExist looks for the metrics that the alerts and the
// manual name.
func TestDocumentedMetricsExist(t *testing.T) {
	t.Parallel()
	var found []string
	for _, file := range []string{"../../docs/operations.md", "../../docs/alerts.yml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, metricName.FindAllString(string(text), -1)...)
	}
	labels := labelsOf(t)
	if len(found) < 5 {
		t.Errorf("only %v", found)
	}
	for _, name := range found {
		if _, ok := labels[name]; !ok && !strings.HasPrefix(name, ofHub) {
			t.Errorf("there is no metric %s", name)
		}
	}
}

var (
	metricName = regexp.MustCompile(`\b(?:portmon|process)_[a-z_]*[a-z]\b`)
	matchers   = regexp.MustCompile(`\{([^{}]*)\}`)
	matcher    = regexp.MustCompile(`([a-z]+)\s*(?:=~|!~|!=|=)`)
	grouping   = regexp.MustCompile(`\b(?:by|on|without|ignoring)\s*\(([^)]*)\)`)
	inLegend   = regexp.MustCompile(`\{\{\s*([a-z]+)\s*\}\}`)
	outcomeIs  = regexp.MustCompile(`outcome="([^"]*)"`)
	ofDesc     = regexp.MustCompile(`fqName: "([^"]+)".* variableLabels: \{([^}]*)\}`)
)

// labelsIn returns the labels that an expression, and the legend made of its
// result, name.
func labelsIn(expr, legend string) []string {
	var names []string
	for _, m := range matchers.FindAllStringSubmatch(expr, -1) {
		for _, l := range matcher.FindAllStringSubmatch(m[1], -1) {
			names = append(names, l[1])
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			names = append(names, strings.TrimSpace(l))
		}
	}
	for _, m := range inLegend.FindAllStringSubmatch(legend, -1) {
		names = append(names, m[1])
	}
	return names
}

// labelsOf returns the labels of each metric that a watcher serves.
func labelsOf(t *testing.T) map[string][]string {
	t.Helper()
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		new(collector).Describe(ch)
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}).Describe(ch)
	}()
	labels := map[string][]string{}
	for d := range ch {
		m := ofDesc.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("what is %s?", d)
		}
		labels[m[1]] = nil
		if m[2] != "" {
			labels[m[1]] = strings.Split(m[2], ",")
		}
	}
	for _, n := range Metrics() {
		if _, ok := labels[n.Name]; !ok {
			t.Fatalf("%s is not described", n.Name)
		}
	}
	return labels
}
