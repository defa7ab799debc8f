package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/proxy/proxytest"
)

// The lab has a /run of its own, so the socket at which the journal listens is
// free to be listened at.
func TestTheJournalGetsARecordByField(t *testing.T) {
	const path = "/run/systemd/journal/socket"
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	journal, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { journal.Close(); os.Remove(path) })
	journal.SetDeadline(time.Now().Add(time.Minute))

	kind, err := proxytest.TemperNamed("no-starttls")
	if err != nil {
		t.Fatal(err)
	}
	pki, err := proxytest.NewPKI("journal")
	if err != nil {
		t.Fatal(err)
	}
	server, err := kind.Config(pki, "mx.plain.example")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := proxytest.Serve(l, server)
	defer to.Close()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const listen = "127.0.0.1:2526"
	config := filepath.Join(t.TempDir(), "postern.toml")
	text := fmt.Sprintf("[intercept]\nmethod = \"none\"\n[listen]\naddresses = [%q]\nupstream = %q\n[log]\nformat = \"journal\"\n"+
		"[[rule]]\nname = \"all\"\ntls = \"forced\"\n", listen, l.Addr())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	postern := exec.CommandContext(ctx, program("postern"), "run", "--config", config)
	if err := postern.Start(); err != nil {
		t.Fatal(err)
	}
	journalHas(t, journal, "POSTERN_MSG", "started")
	conn, err := net.Dial("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	report := proxytest.Deliver(conn, proxytest.Delivery{Timeout: patience, Mails: []proxytest.Mail{{From: "a@x.example", To: []string{"b@y.example"}}}})
	if report.Hello.Code != 421 {
		t.Errorf("%v", report.Transcript)
	}
	record := journalHas(t, journal, "POSTERN_MSG", "session")
	for key, want := range map[string]string{
		"POSTERN_REASON": "starttls-not-offered", "POSTERN_VERDICT": "defer", "POSTERN_RULE": "all",
		"POSTERN_CLIENT_ADDRESS": "127.0.0.1", "POSTERN_UPSTREAM_TLS_STATE": "none", "PRIORITY": "6",
	} {
		if record[key] != want {
			t.Errorf("%s is %q, want %q", key, record[key], want)
		}
	}
	if !strings.Contains(record["MESSAGE"], "defer (starttls-not-offered") {
		t.Errorf("MESSAGE is %q", record["MESSAGE"])
	}
	postern.Process.Signal(syscall.SIGTERM)
	if err := postern.Wait(); err != nil {
		t.Error(err)
	}
}

// journalHas reads entries until one has the field.
func journalHas(t *testing.T, journal *net.UnixConn, key, value string) map[string]string {
	t.Helper()
	datagram := make([]byte, 1<<16)
	for {
		n, err := journal.Read(datagram)
		if err != nil {
			t.Fatalf("no entry with %s=%s: %v", key, value, err)
		}
		if entry := journalEntry(t, datagram[:n]); entry[key] == value {
			return entry
		}
	}
}

// journalEntry reads the journal's native protocol: KEY=value lines, or KEY and a
// length where the value has lines of its own.
func journalEntry(t *testing.T, p []byte) map[string]string {
	t.Helper()
	entry := make(map[string]string)
	for len(p) > 0 {
		line, rest, ok := bytes.Cut(p, []byte("\n"))
		if !ok {
			t.Fatalf("%q does not end", line)
		}
		if key, value, plain := bytes.Cut(line, []byte("=")); plain {
			entry[string(key)] = string(value)
			p = rest
			continue
		}
		size := binary.LittleEndian.Uint64(rest)
		entry[string(line)] = string(rest[8 : 8+size])
		p = rest[8+size+1:]
	}
	return entry
}
