package memory

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// What unverified sessions must have in common before they bind: the same public
// key, of which every one proved possession, on so many occasions, each at least
// Apart from the one before, the last at least Spread after the first. An
// attacker who answers in a destination's stead has to do so for that long with
// one key, and what happened within one outage or one attack is one occasion.
const (
	Occasions = 3
	Apart     = time.Hour
	Spread    = 24 * time.Hour
)

const (
	mostKeys   = 3   // unverified ones under watch, of one destination or domain
	mostIssuer = 128 // octets kept of a name
)

// An Observation is what a session saw of an upstream that came as far as TLS.
type Observation struct {
	Client  netip.Addr // whose session it was
	Version uint16     // of TLS
	Issuer  string     // of the certificate; quotes the peer, and is cut and escaped here
	SPKI    [32]byte   // SHA-256 of the SubjectPublicKeyInfo; zero: no certificate, and nothing is learnt

	// Verified: the chain led to a trusted root or a DANE record, and the
	// certificate was for a name that this destination had to have. A chain that
	// verifies for whatever name is not enough: anyone can get that.
	Verified bool
	// VerifiedDomains: it was verified for each of the domains told with it, by what
	// they publish or by a rule for them. That it was for a name of the destination's
	// is not enough: the client chose to whom it named the domains.
	VerifiedDomains bool

	At time.Time
}

// Known is what binds of what is remembered.
type Known struct {
	Since, Last time.Time // the first and the last session with TLS, to the second
	Version     uint16    // the best version of TLS that the keys that bind were seen with
	Verified    bool      // a verified session is among them; otherwise they were seen repeatedly
	Count       int       // sessions
}

// A sighting is one public key that was seen, times in Unix seconds.
type sighting struct {
	spki             [32]byte
	issuer           string
	first, last      int64
	counted          int64 // when the last occasion was
	occasions, count uint32
	version          uint16 // the best that this key was seen with
	verified         bool
}

func (s *sighting) binds() bool {
	return s.verified || s.occasions >= Occasions && s.counted-s.first >= int64(Spread/time.Second)
}

// again counts one more session under the same key. Nothing in it can become
// less: not the version, and not the time.
func (s *sighting) again(o *Observation) {
	at := o.At.Unix()
	s.version = max(s.version, o.Version)
	s.last = max(s.last, at)
	s.count = more(s.count)
	if at-s.counted >= int64(Apart/time.Second) {
		s.counted, s.occasions = at, more(s.occasions)
	}
}

func more(n uint32) uint32 { return max(n, n+1) }

// seen is all that is known under one key of a table. A verified sighting, of
// which there is at most one, comes first.
type seen struct {
	sightings  []sighting
	missed     uint32 // sessions without TLS, for people to read
	lastMissed int64
}

// learn takes one session with TLS into account. The key of an unverified session
// never touches what is known of another key, so that who injects theirs neither
// renews, raises nor ends anything but their own.
func (s *seen) learn(o *Observation, remember int64) {
	s.expire(o.At.Unix(), remember)
	i := s.find(o.SPKI)
	if o.Verified {
		s.verify(o, i)
		return
	}
	switch {
	case i >= 0:
		s.sightings[i].again(o)
	case s.room():
		s.sightings = append(s.sightings, sightingOf(o))
	}
}

// verify has the verified sighting take the place of the same key unverified, or
// of the key that verified before: certificates are renewed.
func (s *seen) verify(o *Observation, i int) {
	fresh := sightingOf(o)
	if i >= 0 {
		fresh = s.sightings[i]
		fresh.again(o)
		fresh.verified = true
		s.sightings = append(s.sightings[:i], s.sightings[i+1:]...)
	}
	if len(s.sightings) > 0 && s.sightings[0].verified {
		old := &s.sightings[0]
		fresh.first, fresh.version = min(fresh.first, old.first), max(fresh.version, old.version)
		fresh.occasions, fresh.count = max(fresh.occasions, old.occasions), max(fresh.count, fresh.count+old.count)
		*old = fresh
		return
	}
	s.sightings = append([]sighting{fresh}, s.sightings...)
}

func (s *seen) find(spki [32]byte) int {
	for i := range s.sightings {
		if s.sightings[i].spki == spki {
			return i
		}
	}
	return -1
}

// room makes room for one more unverified key, if it can. What binds stays until
// it runs out; of the others, the one seen on the fewest occasions goes, so that
// keys that change with every session push out each other and not the one that
// comes back.
func (s *seen) room() bool {
	worst, unverified := -1, 0
	for i := range s.sightings {
		c := &s.sightings[i]
		if c.verified {
			continue
		}
		unverified++
		if c.binds() {
			continue
		}
		if w := worst; w < 0 || c.occasions < s.sightings[w].occasions || c.occasions == s.sightings[w].occasions && c.last < s.sightings[w].last {
			worst = i
		}
	}
	switch {
	case unverified < mostKeys:
		return true
	case worst < 0:
		return false
	}
	s.sightings = append(s.sightings[:worst], s.sightings[worst+1:]...)
	return true
}

// expire drops what was last seen remember seconds ago, or before.
func (s *seen) expire(now, remember int64) {
	kept := s.sightings[:0]
	for _, c := range s.sightings {
		if now-c.last < remember {
			kept = append(kept, c)
		}
	}
	s.sightings = kept
}

// known adds up the sightings that bind and have not run out.
func (s *seen) known(now, remember int64) (Known, bool) {
	var k Known
	var first, last int64
	found := false
	for i := range s.sightings {
		c := &s.sightings[i]
		if !c.binds() || now-c.last >= remember {
			continue
		}
		if !found {
			first, last = c.first, c.last
		}
		found = true
		first, last = min(first, c.first), max(last, c.last)
		k.Version = max(k.Version, c.version)
		k.Verified = k.Verified || c.verified
		k.Count += int(c.count)
	}
	if !found {
		return Known{}, false
	}
	k.Since, k.Last = time.Unix(first, 0), time.Unix(last, 0)
	return k, true
}

// miss counts a session without TLS, and changes nothing else.
func (s *seen) miss(at int64) {
	s.missed, s.lastMissed = more(s.missed), max(s.lastMissed, at)
}

// last is when it was last seen with TLS.
func (s *seen) last() int64 {
	var t int64
	for i := range s.sightings {
		t = max(t, s.sightings[i].last)
	}
	return t
}

func sightingOf(o *Observation) sighting {
	at := o.At.Unix()
	return sighting{spki: o.SPKI, issuer: cut(o.Issuer), first: at, last: at, counted: at, occasions: 1, count: 1, version: o.Version, verified: o.Verified}
}

// cut makes what a peer said short and fit to be printed.
func cut(said string) string {
	var b strings.Builder
	for len(said) > 0 && b.Len() < mostIssuer && utf8.FullRuneInString(said) {
		r, n := utf8.DecodeRuneInString(said)
		piece := said[:n]
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			quoted := strconv.QuoteToASCII(piece)
			piece = quoted[1 : len(quoted)-1]
		}
		if b.Len()+len(piece) > mostIssuer {
			break
		}
		b.WriteString(piece)
		said = said[n:]
	}
	return b.String()
}
