package proxy

import (
	"net/netip"
	"time"

	"postern/enforce"
	"postern/enforce/cluster"
	"postern/smtpwire"
)

// Config is everything that a Server is told. It is made by reading a
// configuration file and is never changed afterwards; a reload makes a new one.
// Durations of zero and limits of zero are errors, not "unlimited".
type Config struct {
	Observe bool // mode = "observe": verdicts are recorded, not spoken

	Intercept Intercept
	Listen    Listen
	TLS       TLS
	SMTP      SMTP
	Resolver  Resolver
	Verify    Verify
	Memory    Memory
	Limits    Limits
	Timeouts  Timeouts
	Log       Log
	Rules     []enforce.Rule // in the order of the file, without the built-in last one
}

// Intercept is how connections come to the proxy.
type Intercept struct {
	Method         string   // "tproxy", "redirect" or "none"
	Interfaces     []string // where the connections come in; lo: those of this machine itself
	User           string   // whom the proxy runs as, by name or number, for lo
	Ports          []uint16
	Sources        []netip.Prefix // empty: all
	Bypass         []netip.Prefix // sources or destinations left alone
	PreserveSource bool           // the upstream sees the client's own address (tproxy)
	Pass           bool           // when_down = "pass"
}

// Listen is where the proxy listens when it inherits no sockets.
type Listen struct {
	Addresses []netip.AddrPort
	Upstream  string // host:port for every connection; "" is the original destination
}

// TLS is the floor of both legs and what is shown and trusted.
type TLS struct {
	MinVersion   uint16 // tls.VersionTLS12 or tls.VersionTLS13
	Certificates []Certificate
	Authority    Authority      // without files: none is minted
	TrustCA      string         // "system", or a file of PEM roots
	Hold         time.Duration  // how long a client whose handshake fell below the floor is held to that
	HoldFor      []netip.Prefix // clients that are held even where no rule demands TLS of them
}

// Certificate names the files of one [[tls.certificate]].
type Certificate struct {
	Name, Cert, Key string
}

// Authority names the files of the CA that certificates are minted from.
type Authority struct{ Cert, Key string }

// Resolver is whom Postern asks about names, and whose word for DNSSEC it takes.
type Resolver struct {
	Servers []netip.AddrPort
	TrustAD string // "loopback", "always" or "never"
}

// Verify is what holds without a rule that says so.
type Verify struct {
	Auto   enforce.Auto   // what recipient domains publish binds
	Relays []netip.Prefix // smart hosts, to which Auto does not apply
	Cache  string         // the directory of MTA-STS policies; "" keeps them in memory
}

// Memory is what is kept of destinations.
type Memory struct {
	Store     string          // the file; "" keeps it in memory, or on Server
	Server    cluster.Address // that gateways share; zero: there is none
	Downgrade string          // "off", "log" or "block": what becomes of one that loses its TLS
	Remember  time.Duration   // how long after it was last seen
}

// Verification is what c says of all rules alike.
func (c *Config) Verification() enforce.Verification {
	return enforce.Verification{Auto: c.Verify.Auto, Relays: c.Verify.Relays, LogDowngrade: c.Memory.Downgrade == "log"}
}

// BareNewline says what becomes of a CR or LF that stands alone in message content.
type BareNewline = smtpwire.BareNewline

// The values of [smtp] bare_newline.
const (
	Normalize  = smtpwire.Normalize
	RejectBare = smtpwire.RejectBare
	PassBare   = smtpwire.PassBare
)

// SMTP is what the dialogue lets through.
type SMTP struct {
	BareNewline BareNewline
	Extensions  []string // further EHLO keywords, upper case
}

// Limits bound what peers can make the proxy hold.
type Limits struct {
	Sessions          int // at once
	SessionsPerSource int // at once, per client address (IPv6: per /64)
	Recipients        int // per message
	Line              int // octets of a command line
	ReplyLines        int // of one upstream reply
}

// Timeouts bound each wait.
type Timeouts struct {
	Connect   time.Duration // dialling the upstream; its banner has as long as any reply
	Handshake time.Duration
	Command   time.Duration // the next command, and the reply to one
	Data      time.Duration // each 4 KiB of message content
	Final     time.Duration // the reply to end-of-data
	Drain     time.Duration // what a stopping proxy gives to messages under way
}

// Log is where records and events go.
type Log struct {
	Format string // "json", "console" or "journal"
	Output string // "stderr", "stdout" or a file
	Level  string // a zap level: "debug", "info", "warn", "error"
}
