package recorded

import (
	"crypto/tls"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"postern/enforce"
	"postern/smtpwire/tlshello"
)

// Connection gives the addresses by which connection rules are chosen; ok is false
// where the record does not have both. Of which domains the server was an MX host
// no record says.
func (r *Record) Connection() (c enforce.Connection, ok bool) {
	client, err := netip.ParseAddr(r.Client.Address)
	upstream, err2 := netip.ParseAddr(r.Upstream.Address)
	return enforce.Connection{Client: client.Unmap(), Upstream: upstream.Unmap()}, err == nil && err2 == nil
}

// Observed reports whether verdicts were only recorded.
func (r *Record) Observed() bool { return r.Mode == "observe" }

// Refused reports whether the verdict of the session is anything but allow.
func (r *Record) Refused() bool { return r.Verdict != enforce.Allow.String() }

// StateOf is the state of the leg as rules look at it.
func (l *Leg) StateOf() enforce.TLSState {
	switch l.State {
	case enforce.StateNone.String():
		return enforce.StateNone
	case enforce.StateOK.String():
		return enforce.StateOK
	case enforce.StateWatched.String():
		return enforce.StateWatched
	case enforce.StateFailed.String():
		return enforce.StateFailed
	}
	return enforce.StateUnknown
}

// InTLS reports whether the leg had TLS, whoever ended it.
func (l *Leg) InTLS() bool {
	s := l.StateOf()
	return s == enforce.StateOK || s == enforce.StateWatched
}

// DNSNames gives the subject alternative names; whole is false where the record left
// some out.
func (c *Certificate) DNSNames() (names []string, whole bool) {
	if n := len(c.Names); n > 0 && strings.HasPrefix(c.Names[n-1], "and ") {
		return c.Names[:n-1], false
	}
	return c.Names, true
}

// Facts gives the certificate as rules look at it. What cannot be read is zero.
func (c *Certificate) Facts() *enforce.Certificate {
	if c == nil {
		return nil
	}
	f := &enforce.Certificate{SHA256: digest(c.SHA256), SPKISHA256: digest(c.SPKISHA256)}
	f.DNSNames, _ = c.DNSNames()
	f.NotBefore, _ = time.Parse(time.RFC3339, c.NotBefore)
	f.NotAfter, _ = time.Parse(time.RFC3339, c.NotAfter)
	return f
}

func digest(text string) (sum [32]byte) {
	if raw, err := hex.DecodeString(text); err == nil && len(raw) == len(sum) {
		copy(sum[:], raw)
	}
	return sum
}

// A Names finds the values behind the names of a record.
type Names struct{ ciphers, groups map[string]uint16 }

// NewNames knows all names that a record can have. It is made once; it costs some
// milliseconds.
func NewNames() *Names {
	n := &Names{ciphers: map[string]uint16{}, groups: map[string]uint16{}}
	for v := range 1 << 16 {
		if name := tlshello.CipherName(uint16(v)); !strings.HasPrefix(name, "0x") {
			n.ciphers[name] = uint16(v)
		}
		if name := tlshello.GroupName(uint16(v)); !strings.HasPrefix(name, "0x") {
			n.groups[name] = uint16(v)
		}
	}
	return n
}

// Cipher and Group give the value of a name, 0 where there is none.
func (n *Names) Cipher(name string) uint16 { return or(n.ciphers[name], unnamed(name)) }
func (n *Names) Group(name string) uint16  { return or(n.groups[name], unnamed(name)) }

// unnamed reads the value of what has no name, "0xC0FF".
func unnamed(text string) uint16 {
	v, _ := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 16)
	if strings.HasPrefix(text, "0x") {
		return uint16(v)
	}
	return 0
}

func or(v, otherwise uint16) uint16 {
	if v == 0 {
		return otherwise
	}
	return v
}

// Version gives the value of a version such as "TLS 1.2", 0 where there is none.
func Version(name string) uint16 {
	for _, v := range []uint16{tlshello.VersionSSL20, tlshello.VersionSSL30, tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
		if tlshello.VersionName(v) == name {
			return v
		}
	}
	return 0
}

// Facts gives what rules look at of a leg but its chain, whose worth depends on
// the roots that are asked for.
func (l *Leg) Facts(n *Names) enforce.Leg {
	return enforce.Leg{
		State: l.StateOf(), Version: Version(l.Version), Cipher: n.Cipher(l.Cipher), Group: n.Group(l.Group),
		Resumed: l.Resumed, Certificate: l.Certificate.Facts(),
	}
}
