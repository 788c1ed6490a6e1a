package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/fleet/wire"
	outside "github.com/portmon/portmon/internal/lab"
)

// browser is a headless Chromium with one page, which is asked by the protocol
// of its developers' tools, in messages that end with a zero byte.
type browser struct {
	t       *testing.T
	in      *os.File
	out     *bufio.Reader
	id      int
	session string
	faults  []string // what the console of the page said
	loaded  string   // the document that was there in full last
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	path := outside.Program(t, "chromium")
	read, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
		"--remote-debugging-pipe", "--user-data-dir="+t.TempDir(), "about:blank")
	cmd.ExtraFiles = []*os.File{read, write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read.Close()
	write.Close()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // with all its children
		_ = cmd.Wait()
		in.Close()
		out.Close()
	})
	if err := out.SetReadDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, in: in, out: bufio.NewReader(out)}
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Log", "Runtime"} {
		b.call(domain+".enable", struct{}{}, nil)
	}
	b.call("Page.setLifecycleEventsEnabled", map[string]any{"enabled": true}, nil)
	return b
}

// message is one of the protocol, of either direction.
type message struct {
	ID        int             `json:"id,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     json.RawMessage `json:"error,omitempty"`
}

// next returns the next message, and notes what the console of the page says.
func (b *browser) next() message {
	b.t.Helper()
	data, err := b.out.ReadBytes(0)
	if err != nil {
		b.t.Fatalf("read from Chromium: %v", err)
	}
	var m message
	if err := json.Unmarshal(data[:len(data)-1], &m); err != nil {
		b.t.Fatal(err)
	}
	switch m.Method {
	case "Log.entryAdded", "Runtime.consoleAPICalled":
		b.faults = append(b.faults, string(m.Params))
	case "Page.lifecycleEvent":
		var event struct{ LoaderID, Name string }
		if err := json.Unmarshal(m.Params, &event); err != nil {
			b.t.Fatal(err)
		}
		if event.Name == "load" {
			b.loaded = event.LoaderID
		}
	}
	return m
}

// call calls a method, and stores its result.
func (b *browser) call(method string, params, result any) {
	b.t.Helper()
	b.id++
	given, err := json.Marshal(params)
	if err != nil {
		b.t.Fatal(err)
	}
	data, err := json.Marshal(message{ID: b.id, SessionID: b.session, Method: method, Params: given})
	if err == nil {
		_, err = b.in.Write(append(data, 0))
	}
	if err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	m := b.next()
	for m.ID != b.id {
		m = b.next()
	}
	if m.Error != nil {
		b.t.Fatalf("%s: %s", method, m.Error)
	}
	if result != nil {
		if err := json.Unmarshal(m.Result, result); err != nil {
			b.t.Fatal(err)
		}
	}
}

// open goes to an address, and waits until all of it is there.
func (b *browser) open(url string) {
	b.t.Helper()
	var document struct{ LoaderID string }
	b.call("Page.navigate", map[string]any{"url": url}, &document)
	for b.loaded != document.LoaderID {
		b.next()
	}
}

// eval stores what an expression of JavaScript is on the page. The page's own
// policy forbids scripts, but not those of the tools.
func (b *browser) eval(expression string, result any) {
	b.t.Helper()
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &answer)
	if answer.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, answer.ExceptionDetails)
	}
	if err := json.Unmarshal(answer.Result.Value, result); err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
}

// keys are those that can be pressed, with their code and the text that they
// make.
var keys = map[string]struct {
	code int
	text string
}{"Tab": {9, ""}, "Enter": {13, "\r"}, " ": {32, " "}}

func (b *browser) press(name string) {
	b.t.Helper()
	k := keys[name]
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": name, "windowsVirtualKeyCode": k.code, "text": k.text}, nil)
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": name, "windowsVirtualKeyCode": k.code}, nil)
}

func (b *browser) show(width int, scheme string) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]any{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// complaints lists what is wrong with the page that is shown, for whoever sees
// badly, hears it read, or has a narrow screen.
const complaints = `(() => {
	const wrong = [], all = s => [...document.querySelectorAll(s)];
	const want = (ok, what) => ok || wrong.push(what);
	want(document.documentElement.scrollWidth <= innerWidth, "it is wider than the screen: " + document.documentElement.scrollWidth);
	want(document.documentElement.lang === "en" && document.title !== "", "no language or title");
	want(all("h1").length === 1, "not one h1");
	want(all("script, img, iframe").length === 0, "a script or picture");
	for (const t of all("table")) want(t.caption && t.caption.innerText, "a table has no caption");
	for (const h of all("th")) want(h.scope, "a heading of a table has no scope: " + h.innerText);
	for (const i of all("input")) want(i.labels.length === 1 && i.labels[0].innerText.trim(), "no label: " + i.name);
	for (const a of all('a[href^="#"]')) want(document.getElementById(a.hash.slice(1)), "a link to nothing: " + a.hash);
	for (const r of all("[aria-labelledby]")) want(document.getElementById(r.getAttribute("aria-labelledby")), "labelled by nothing");
	const rgba = s => { const n = s.match(/[\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n };
	const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
	const seen = new Set();
	for (const e of all("body *")) {
		if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
		let behind = e;
		while (behind && rgba(getComputedStyle(behind).backgroundColor)[3] < 1) behind = behind.parentElement;
		const front = light(rgba(getComputedStyle(e).color)), back = behind ? light(rgba(getComputedStyle(behind).backgroundColor)) : 1;
		const ratio = (Math.max(front, back) + .05) / (Math.min(front, back) + .05), what = e.tagName + "." + e.className;
		if (ratio < 4.5 && !seen.has(what)) { seen.add(what); wrong.push("contrast of " + what + " is " + ratio.toFixed(2)) }
	}
	return wrong;
})()`

// TestPageInChromium shows the page with 0, 3 and 500 hosts, on a telephone and
// a desk, in light and dark.
func TestPageInChromium(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	for _, hosts := range []int{0, 3, 500} {
		h := exampleHub(hosts)
		for _, k := range h.hosts {
			if k.Standing == wire.Quarantined {
				k.Reason = `</li><script>document.title="owned"</script><img src=x onerror="document.title='owned'">`
			}
		}
		server := httptest.NewServer(h.pages("secret"))
		for _, width := range []int{390, 1280} {
			for _, scheme := range []string{"light", "dark"} {
				b.show(width, scheme)
				b.open(server.URL)
				var wrong []string
				if b.eval(complaints, &wrong); len(wrong) > 0 {
					t.Errorf("%d hosts, %d wide, %s: %q", hosts, width, scheme, wrong)
				}
				var title string
				if b.eval("document.title", &title); !strings.HasPrefix(title, "portmon hub: ") {
					t.Errorf("the title is %q", title)
				}
				b.picture(fmt.Sprintf("page-%d-%d-%s.png", hosts, width, scheme))
			}
		}
		server.Close()
	}
	if len(b.faults) > 0 {
		t.Errorf("Chromium complains: %q", b.faults)
	}
}

// picture takes one into the folder that PORTMON_PAGES names.
func (b *browser) picture(name string) {
	b.t.Helper()
	folder := os.Getenv("PORTMON_PAGES")
	if folder == "" {
		return
	}
	var shot struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	data, err := base64.StdEncoding.DecodeString(shot.Data)
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, name), data, 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// TestPageByKeyboard goes through the page by the tab key, each stop to be seen,
// and sends its form.
func TestPageByKeyboard(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	server := httptest.NewServer(exampleHub(3).pages("secret"))
	defer server.Close()
	b.show(1280, "light")
	b.open(server.URL)
	var stops []string
	for range 20 {
		b.press("Tab")
		var at string
		b.eval(`(e => e === document.body ? "" : (getComputedStyle(e).outlineStyle === "none" ? "unseen " : "") + (e.name || e.hash || e.getAttribute("aria-labelledby") || e.innerText))(document.activeElement)`, &at)
		if at == "" {
			break
		}
		stops = append(stops, at)
		switch at {
		case "host":
			b.call("Input.insertText", map[string]any{"text": "web-1"}, nil)
		case "action":
			b.press(" ")
		case "token":
			b.call("Input.insertText", map[string]any{"text": "wrong"}, nil)
		}
		if at == "Do it" {
			break
		}
	}
	if got, want := strings.Join(stops, ", "), "#bans, #act, hosts, bans, host, action, token, Do it"; got != want {
		t.Errorf("the tab key leads to %s: want %s", got, want)
	}
	before := b.loaded
	b.press("Enter")
	for b.loaded == before {
		b.next()
	}
	var alert string
	if b.eval(`document.querySelector("[role=alert]").innerText`, &alert); !strings.Contains(alert, "token is wrong") {
		t.Errorf("the form answers %q", alert)
	}
}
