package mta

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
)

// startedLine is logged by the master once it listens everywhere.
var startedLine = regexp.MustCompile(`postfix/master\[\d+\]: daemon started`)

// Log is described at Server.
func (s *server) Log() ([]string, error) {
	text, err := os.ReadFile(s.log)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("mta: %w", err)
	}
	lines := strings.Split(string(text), "\n")
	// Behind the last line end stands nothing, or a line not yet whole.
	return lines[:len(lines)-1], nil
}

// WaitLog is described at Server.
func (s *server) WaitLog(ctx context.Context, pattern *regexp.Regexp) (string, error) {
	var found string
	err := s.wait(ctx, "a log line with "+pattern.String(), func() (bool, error) {
		lines, err := s.Log()
		if i := slices.IndexFunc(lines, pattern.MatchString); i >= 0 {
			found = lines[i]
			return true, nil
		}
		return false, err
	})
	return found, err
}

// Handshake is what Postfix logged of a TLS handshake that came to its end.
type Handshake struct {
	Accepted bool       // as server; else as client
	Peer     netip.Addr // of the other one
	Trust    string     // "Anonymous", "Untrusted", "Trusted" or "Verified"
	Version  string     // "TLSv1.3"
	Cipher   string     // by OpenSSL's name
}

// handshakeLine is logged by tls_log_summary of Postfix: "Anonymous TLS
// connection established from unknown[10.1.0.2]: TLSv1.3 with cipher …".
var handshakeLine = regexp.MustCompile(`: (\w+) TLS connection established (from|to) [^\[\]]*\[([^\[\]]+)\](?::\d+)?: (\S+) with cipher (\S+) `)

// Handshakes returns the handshakes that were logged until now, in order.
func (p *Postfix) Handshakes() ([]Handshake, error) {
	lines, err := p.Log()
	var all []Handshake
	for _, line := range lines {
		if h, ok := parseHandshake(line); ok {
			all = append(all, h)
		}
	}
	return all, err
}

func parseHandshake(line string) (Handshake, bool) {
	found := handshakeLine.FindStringSubmatch(line)
	if found == nil {
		return Handshake{}, false
	}
	peer, err := netip.ParseAddr(found[3])
	if err != nil {
		return Handshake{}, false
	}
	return Handshake{Accepted: found[2] == "from", Peer: peer, Trust: found[1], Version: found[4], Cipher: found[5]}, true
}
