package dnslab

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"
)

// probe asks for the SOA record of a name, in as much of DNS as that takes
// (RFC 1035 §4.1): the lab knows none of the libraries that are tested with it.
func probe(at netip.AddrPort, name string) ([]byte, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return nil, err
	}
	const soa, internet, recursion = 6, 1, 1
	query := []byte{0x70, 0x73, recursion, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(name, ".") {
		query = append(append(query, byte(len(label))), label...)
	}
	query = append(query, 0, 0, soa, 0, internet)
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	reply := make([]byte, 4096)
	n, err := conn.Read(reply)
	if err == nil && (n < len(query) || reply[0] != query[0] || reply[1] != query[1]) {
		err = errors.New("not an answer")
	}
	return reply[:n], err
}

// isAuthority reports whether a reply says with authority that the zone is there.
func isAuthority(reply []byte) bool {
	const authoritative = 4
	return reply[2]&authoritative != 0 && reply[3]&0x0f == 0 && binary.BigEndian.Uint16(reply[6:]) > 0
}

// isAnswer reports whether a reply is one at all.
func isAnswer(reply []byte) bool { return reply[2]&0x80 != 0 }
