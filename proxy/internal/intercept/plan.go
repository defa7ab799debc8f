package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// WhenDown is what happens to intercepted ports while no listening socket
// exists.
type WhenDown string

const (
	// Block answers with a TCP reset, so that senders defer at once and try the
	// next server. Nothing is dropped in silence.
	Block WhenDown = "block"
	// Pass forwards connections as if Postern were not there.
	Pass WhenDown = "pass"
)

// The numbers of the kernel's that every plan uses, and by which Down knows what
// Up made: they are not for choosing. Mark is one bit of the packet mark, one
// that neither Kubernetes (14, 15), nor Tailscale (16 to 23), nor Calico (16 to
// 31) uses. Table and Priority are those of the policy routing.
const (
	Mark     = 1 << 12
	Table    = 2525
	Priority = 525
)

// Plan is what the kernel is to do.
type Plan struct {
	Method Method
	// Interfaces are where the connections come in, by name, bridges and not
	// their ports. One that does not exist yet is no error. Loopback stands for
	// the connections that this machine itself makes.
	Interfaces []string
	// User is whom the daemon runs as, by name or number: with Loopback among the
	// interfaces its own connections must not come back to it.
	User  string
	Ports []uint16
	// Sources are the clients whose connections are taken; empty means all.
	Sources []netip.Prefix
	// Bypass are sources and destinations whose connections are left alone.
	Bypass   []netip.Prefix
	WhenDown WhenDown
	// Listen are the addresses of the daemon's sockets, one a family at most. A
	// family without one is down for good: WhenDown decides.
	Listen         []netip.AddrPort
	PreserveSource bool

	uid uint32 // of User, once it was looked for
}

// FieldError is one mistake of a Plan.
type FieldError struct {
	// Key is the configuration key that holds it, such as "intercept.ports".
	Key string
	// Msg says what was found and what was expected.
	Msg string
}

func (e *FieldError) Error() string { return e.Key + ": " + e.Msg }

// ConfigKey and Problem are the two parts of the message.
func (e *FieldError) ConfigKey() string { return e.Key }
func (e *FieldError) Problem() string   { return e.Msg }

// Validate returns all mistakes joined, each a *FieldError. It asks nothing of
// the machine: what is wrong only here and now is found by CheckMachine and Up.
func (p Plan) Validate() error {
	var errs []error
	report := func(key, format string, values ...any) {
		errs = append(errs, &FieldError{Key: key, Msg: fmt.Sprintf(format, values...)})
	}
	switch p.Method {
	case None:
		return nil // nothing below is used
	case TProxy, Redirect:
	default:
		report("intercept.method", "found %q, want %s, %s or %s", p.Method, TProxy, Redirect, None)
	}
	switch {
	case p.WhenDown != Block && p.WhenDown != Pass:
		report("intercept.when_down", "found %q, want %s or %s", p.WhenDown, Block, Pass)
	case p.WhenDown == Pass && p.Method == Redirect:
		report("intercept.when_down", "%s cannot be had with method %s: redirected connections have no other way to go",
			Pass, Redirect)
	}
	if p.PreserveSource && p.Method == Redirect {
		report("intercept.preserve_source", "needs method %s, found %s", TProxy, Redirect)
	}
	p.validateInterfaces(report)
	if p.Method == Redirect && p.takesOwn() && p.User == "" {
		report("intercept.user", "found none beside interface lo, want the user that Postern runs as")
	}
	p.validatePorts(report)
	p.validatePrefixes(report)
	p.validateListen(report)
	return errors.Join(errs...)
}

type reporter func(key, format string, values ...any)

func (p Plan) validateInterfaces(report reporter) {
	const key = "intercept.interfaces"
	if len(p.Interfaces) == 0 {
		report(key, "found none, want the interfaces where connections come in")
	}
	seen := map[string]bool{}
	for _, name := range p.Interfaces {
		switch {
		case name == Loopback && p.Method == TProxy:
			report(key, "found lo with method %s, want method %s: only that takes connections of this machine itself",
				TProxy, Redirect)
		case name == "" || len(name) >= interfaceNameSize || name == "." || name == ".." ||
			strings.ContainsAny(name, "/:* \t\n\v\f\r\x00"):
			report(key, "found %q, want an interface name of 1 to %d bytes", name, interfaceNameSize-1)
		case strings.Contains(name, "@"):
			// Nobody's interface, or it would silently carry nothing.
			own, _, _ := strings.Cut(name, "@")
			report(key, "found %q, want %q: what ip(8) shows behind the @ is the interface below it", name, own)
		case seen[name]:
			report(key, "%s stands twice", name)
		}
		seen[name] = true
	}
}

func (p Plan) validatePorts(report reporter) {
	const key = "intercept.ports"
	if len(p.Ports) == 0 {
		report(key, "found none, want at least one, usually 25")
	}
	seen := map[uint16]bool{}
	for _, port := range p.Ports {
		if port == 0 {
			report(key, "found 0, want 1 to 65535")
		}
		if seen[port] {
			report(key, "%d stands twice", port)
		}
		seen[port] = true
	}
	for _, address := range p.Listen {
		if seen[address.Port()] {
			report(key, "%d is the port that Postern listens on (%s): it would intercept itself",
				address.Port(), address)
		}
	}
}

func (p Plan) validatePrefixes(report reporter) {
	for key, prefixes := range map[string][]netip.Prefix{
		"intercept.sources": p.Sources, "intercept.bypass": p.Bypass,
	} {
		for _, prefix := range prefixes {
			switch {
			case !prefix.IsValid():
				report(key, "found an invalid network")
			case prefix.Addr().Is4In6():
				report(key, "found %s, want the IPv4 network itself", prefix)
			case prefix != prefix.Masked():
				report(key, "found %s, want %s: bits beyond the prefix are set", prefix, prefix.Masked())
			}
		}
	}
}

func (p Plan) validateListen(report reporter) {
	const key = "listen.addresses"
	if len(p.Listen) == 0 {
		report(key, "found none, want where the daemon listens")
	}
	families := map[bool]bool{}
	for _, address := range p.Listen {
		ip := address.Addr()
		switch {
		case !address.IsValid() || address.Port() == 0 || ip.Is4In6() || ip.Zone() != "":
			report(key, "found %s, want address:port", address)
			continue
		case p.Method == TProxy && !ip.IsLoopback():
			// A listener that others can reach is one they can talk to directly.
			report(key, "found %s, want a loopback address with method %s", address, TProxy)
		case p.Method == Redirect && p.onlyOwn() && ip.IsLoopback():
			// Where the kernel redirects this machine's own connections to.
			if ip != loopbackOf(ip.Is4()) {
				report(key, "found %s, want %s with interface lo alone: connections of this machine are redirected there",
					address, loopbackOf(ip.Is4()))
			}
		case p.Method == Redirect && !ip.IsUnspecified():
			report(key, "found %s, want 0.0.0.0 or [::] with method %s: "+
				"connections are redirected to the address of the interface they come in on", address, Redirect)
		}
		if families[ip.Is4()] {
			report(key, "found %s, want one address a family at most", address)
		}
		families[ip.Is4()] = true
	}
}

// listener is the address for one family.
func (p Plan) listener(v4 bool) (netip.AddrPort, bool) {
	for _, address := range p.Listen {
		if address.Addr().Is4() == v4 {
			return address, true
		}
	}
	return netip.AddrPort{}, false
}

// reaches tells whether connections of a family come to the rules for them, and
// not merely past: without a listener they do to be blocked, and only then.
func (p Plan) reaches(v4 bool) bool {
	_, ok := p.listener(v4)
	return ok || p.Method == TProxy && p.WhenDown == Block
}
