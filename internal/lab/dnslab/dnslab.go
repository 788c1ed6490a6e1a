// Package dnslab is a DNS server for tests, and what makes a program ask it.
package dnslab

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

// maxDatagram is how long an answer by UDP may be, in bytes.
const maxDatagram = 1232

// Server answers by UDP and TCP. What it answers may change at any time.
type Server struct {
	t testing.TB

	mu      sync.Mutex
	names   map[string]records
	behave  func(reply []byte, tcp bool) [][]byte
	queries map[dnsmessage.Question]int
	serving sync.WaitGroup
}

type records struct {
	ttl   time.Duration
	addrs []netip.Addr
}

// Serve starts a server on port 53 of a host, which runs until t ends.
func Serve(t testing.TB, h *netnstest.Host) *Server {
	t.Helper()
	s := &Server{t: t, names: make(map[string]records), queries: make(map[dnsmessage.Question]int)}
	var udp net.PacketConn
	var tcp net.Listener
	var err4, err6 error
	h.Do(func() {
		udp, err4 = net.ListenPacket("udp", ":53")
		tcp, err6 = net.Listen("tcp", ":53")
	})
	if err := errors.Join(err4, err6); err != nil {
		t.Fatal(err)
	}
	s.serving.Go(func() { s.serveUDP(udp) })
	s.serving.Go(func() { s.serveTCP(tcp) })
	t.Cleanup(func() {
		udp.Close()
		tcp.Close()
		s.serving.Wait()
	})
	return s
}

// Set gives a name addresses. It has none without, and exists from now on.
func (s *Server) Set(name string, ttl time.Duration, addrs ...netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[name+"."] = records{ttl, addrs}
}

// Behave has f return the messages that are sent in place of each reply; nil has
// the replies sent again.
func (s *Server) Behave(f func(reply []byte, tcp bool) [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behave = f
}

// Queries returns how often a name was asked for, by either type.
func (s *Server) Queries(name string) (a, aaaa int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for q, n := range s.queries {
		if strings.EqualFold(q.Name.String(), name+".") && q.Type == dnsmessage.TypeA {
			a += n
		} else if strings.EqualFold(q.Name.String(), name+".") {
			aaaa += n
		}
	}
	return a, aaaa
}

func (s *Server) serveUDP(c net.PacketConn) {
	query := make([]byte, maxDatagram)
	for {
		n, from, err := c.ReadFrom(query)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		query := append([]byte(nil), query[:n]...)
		s.serving.Go(func() {
			for _, reply := range s.reply(query, false) {
				c.WriteTo(reply, from) // nobody may wait for it any more
			}
		})
	}
}

func (s *Server) serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.serving.Go(func() {
			defer c.Close()
			c.SetDeadline(time.Now().Add(time.Minute))
			length := make([]byte, 2)
			if _, err := io.ReadFull(c, length); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(length))
			if _, err := io.ReadFull(c, query); err != nil {
				return
			}
			for _, reply := range s.reply(query, true) {
				c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
			}
		})
	}
}

// reply returns the messages that are the reply to a query.
func (s *Server) reply(query []byte, tcp bool) [][]byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	s.mu.Lock()
	s.queries[q]++
	found, known := s.names[strings.ToLower(q.Name.String())]
	behave := s.behave
	s.mu.Unlock()

	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: h.ID, Response: true, RecursionDesired: true, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, addr := range found.addrs {
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: uint32(found.ttl.Seconds())}}
		switch {
		case q.Type == dnsmessage.TypeA && addr.Is4():
			r.Body = &dnsmessage.AResource{A: addr.As4()}
		case q.Type == dnsmessage.TypeAAAA && addr.Is6():
			r.Body = &dnsmessage.AAAAResource{AAAA: addr.As16()}
		default:
			continue
		}
		m.Answers = append(m.Answers, r)
	}
	reply, err := m.Pack()
	if err == nil && !tcp && len(reply) > maxDatagram {
		m.Truncated, m.Answers = true, nil
		reply, err = m.Pack()
	}
	if err != nil {
		s.t.Errorf("pack the answer to %v: %v", q, err)
	}
	if behave != nil {
		return behave(reply, tcp)
	}
	return [][]byte{reply}
}

// Within calls f on a thread in the network namespace of a host, and in a mount
// namespace where files, by their path, have other contents: programs that f
// starts find the host's /etc/resolv.conf there.
func Within(t testing.TB, h *netnstest.Host, files map[string]string, f func()) {
	t.Helper()
	dir := t.TempDir()
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its namespaces
		ended <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return os.NewSyscallError("unshare", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
				return os.NewSyscallError("mount", err)
			}
			for path, text := range files {
				file := filepath.Join(dir, filepath.Base(path))
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					return err
				}
				if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
					return &os.PathError{Op: "mount", Path: path, Err: err}
				}
			}
			if err := unix.Setns(h.FD(), unix.CLONE_NEWNET); err != nil {
				return os.NewSyscallError("setns", err)
			}
			f()
			return nil
		}()
	}()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// Resolv is an /etc/resolv.conf with these servers, which are given little time.
func Resolv(servers ...netip.Addr) string {
	var b strings.Builder
	b.WriteString("options timeout:1 attempts:2\n")
	for _, s := range servers {
		b.WriteString("nameserver " + s.String() + "\n")
	}
	return b.String()
}
