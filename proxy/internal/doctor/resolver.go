package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/miekg/dns"
)

// maxServers is how many of resolv.conf programs ask (MAXNS, resolv.conf(5)).
const maxServers = 3

// resolver asks each server of resolv.conf for a name that is signed, the root,
// and looks whether the answer is said to be authentic (RFC 4035 §3.2.3). Nothing
// of this release depends on it, so that it is only noted.
func resolver(ctx context.Context, _ *examination) ([]Finding, error) {
	servers, err := resolvers("/etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, server := range servers {
		const why = "nothing depends on it yet; DANE will need a resolver that validates, on this machine"
		mend := []string{"apt-get install unbound # or dnf; then name 127.0.0.1 in /etc/resolv.conf"}
		authentic, err := Validates(ctx, server)
		switch {
		case err != nil:
			found = append(found, Finding{Severity: Note, What: fmt.Sprintf("the resolver %s gives no answer for a signed name: %v", server, err), Why: why, Mend: mend})
		case !authentic:
			found = append(found, Finding{Severity: Note, What: fmt.Sprintf("the resolver %s does not validate (no AD for a signed name)", server), Why: why, Mend: mend})
		case !server.IsLoopback():
			found = append(found, Finding{Severity: Note, What: fmt.Sprintf("the resolver %s validates, and is not on this machine", server),
				Why: "what it says of authenticity crosses the network unprotected; DANE will believe one on this machine only", Mend: mend})
		}
	}
	return found, nil
}

// Validates asks a resolver, and waits two seconds at most.
func Validates(ctx context.Context, server netip.Addr) (bool, error) {
	query := new(dns.Msg)
	query.SetQuestion(".", dns.TypeSOA)
	query.AuthenticatedData = true // RFC 6840 §5.7: tell me, without the signatures
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := dns.Client{Net: "udp", Timeout: patience}
	answer, _, err := client.ExchangeContext(ctx, query, netip.AddrPortFrom(server, 53).String())
	if err == nil && answer.Truncated {
		client.Net = "tcp"
		answer, _, err = client.ExchangeContext(ctx, query, netip.AddrPortFrom(server, 53).String())
	}
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return false, fmt.Errorf("nothing came within %s", patience)
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		err = errno // without the port of ours, which nobody asked for
	}
	if err != nil {
		return false, err
	}
	if answer.Rcode != dns.RcodeSuccess {
		return false, errors.New(dns.RcodeToString[answer.Rcode])
	}
	return answer.AuthenticatedData, nil
}

// Resolvers are those that programs on this machine ask.
func Resolvers() ([]netip.Addr, error) { return resolvers("/etc/resolv.conf") }

// resolvers reads resolv.conf(5). Without one, programs ask this machine.
func resolvers(path string) ([]netip.Addr, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var out []netip.Addr
	lines := bufio.NewScanner(file)
	for lines.Scan() && len(out) < maxServers {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if address, err := netip.ParseAddr(fields[1]); err == nil {
			out = append(out, address)
		}
	}
	if len(out) == 0 {
		out = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return out, lines.Err()
}
