package memory

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
)

// Every value in the file ends with a checksum over key and value, for bbolt has
// none: a bit that turned over on the disk must not make a destination verified.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	recordFormat = 1
	sealLength   = 4
	mostDomain   = 253 // octets of a domain (RFC 1035 §2.3.4, without the last dot)
)

var errRecord = errors.New("damaged record")

func sealed(key, value []byte) []byte {
	return binary.BigEndian.AppendUint32(value, sum(key, value))
}

func opened(key, value []byte) ([]byte, error) {
	n := len(value) - sealLength
	if n < 0 || binary.BigEndian.Uint32(value[n:]) != sum(key, value[:n]) {
		return nil, errRecord
	}
	return value[:n], nil
}

func sum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

func (s *seen) encode() []byte {
	b := []byte{recordFormat}
	b = binary.AppendUvarint(b, uint64(s.missed))
	b = binary.AppendVarint(b, s.lastMissed)
	b = append(b, byte(len(s.sightings)))
	for i := range s.sightings {
		c := &s.sightings[i]
		flags := byte(0)
		if c.verified {
			flags = 1
		}
		b = append(b, flags)
		b = binary.BigEndian.AppendUint16(b, c.version)
		for _, t := range []int64{c.first, c.last, c.counted} {
			b = binary.AppendVarint(b, t)
		}
		b = binary.AppendUvarint(b, uint64(c.occasions))
		b = binary.AppendUvarint(b, uint64(c.count))
		b = append(b, c.spki[:]...)
		b = append(b, byte(len(c.issuer)))
		b = append(b, c.issuer...)
	}
	return b
}

// A scanner takes a record apart. After the first octet that is missing, all is
// zero and it is bad.
type scanner struct {
	rest []byte
	bad  bool
}

func (s *scanner) octets(n int) []byte {
	if s.bad = s.bad || n > len(s.rest); s.bad {
		return make([]byte, n)
	}
	b := s.rest[:n]
	s.rest = s.rest[n:]
	return b
}

func (s *scanner) octet() byte    { return s.octets(1)[0] }
func (s *scanner) uint16() uint16 { return binary.BigEndian.Uint16(s.octets(2)) }

func (s *scanner) varint() int64 {
	v, n := binary.Varint(s.rest)
	if s.bad = s.bad || n <= 0; s.bad {
		return 0
	}
	s.rest = s.rest[n:]
	return v
}

func (s *scanner) uint32() uint32 {
	v, n := binary.Uvarint(s.rest)
	if s.bad = s.bad || n <= 0 || v > 1<<32-1; s.bad {
		return 0
	}
	s.rest = s.rest[n:]
	return uint32(v)
}

func (s *scanner) addr(n int) netip.Addr {
	a, ok := netip.AddrFromSlice(s.octets(n))
	s.bad = s.bad || !ok
	return a
}

// done is nil when everything was there, and nothing else.
func (s *scanner) done() error {
	if s.bad || len(s.rest) > 0 {
		return errRecord
	}
	return nil
}

func decodeSeen(b []byte) (seen, error) {
	s := scanner{rest: b}
	s.bad = s.octet() != recordFormat
	out := seen{missed: s.uint32(), lastMissed: s.varint()}
	n := int(s.octet())
	if n > mostKeys+1 {
		return seen{}, errRecord
	}
	for i := range n {
		flags := s.octet()
		c := sighting{version: s.uint16(), first: s.varint(), last: s.varint(), counted: s.varint(), occasions: s.uint32(), count: s.uint32()}
		c.verified = flags == 1
		copy(c.spki[:], s.octets(len(c.spki)))
		c.issuer = cut(string(s.octets(int(s.octet()))))
		s.bad = s.bad || flags > 1 || c.verified && i > 0 || out.find(c.spki) >= 0
		out.sightings = append(out.sightings, c)
	}
	if err := s.done(); err != nil {
		return seen{}, err
	}
	return out, nil
}

func encodeDestination(a netip.AddrPort) []byte {
	return binary.BigEndian.AppendUint16(a.Addr().AsSlice(), a.Port())
}

func decodeDestination(b []byte) (netip.AddrPort, error) {
	s := scanner{rest: b}
	a := netip.AddrPortFrom(s.addr(max(0, len(b)-2)), s.uint16())
	return destination(a), s.done()
}

// A domainKey is a domain and, for what did not verify, whose sessions it was
// seen in: a client chooses both the domain and the server that it names it to,
// so what it shows counts for itself alone.
type domainKey struct {
	domain string
	client netip.Prefix // zero: what verified, for all
}

func encodeDomain(k domainKey) []byte {
	b := append([]byte(k.domain), 0)
	if k.client.IsValid() {
		b = append(b, k.client.Addr().AsSlice()...)
	}
	return b
}

func decodeDomain(b []byte) (domainKey, error) {
	for i, c := range b {
		if c != 0 {
			continue
		}
		k := domainKey{domain: string(b[:i])}
		if rest := b[i+1:]; len(rest) > 0 {
			s := scanner{rest: rest}
			k.client = clientOf(s.addr(len(rest)))
			if err := s.done(); err != nil {
				return k, err
			}
		}
		if i == 0 || i > mostDomain {
			break
		}
		return k, nil
	}
	return domainKey{}, errRecord
}
