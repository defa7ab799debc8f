package proxytest

import (
	"encoding/binary"
	"net"
	"slices"
)

// oldTLSConn hides the extension supported_versions of the first ClientHello
// from the server that reads it, by giving it a number that nobody knows. What
// remains is what a server from before TLS 1.3 reads: the version field.
type oldTLSConn struct {
	net.Conn
	pending []byte // the altered record, not yet read
	done    bool
}

const (
	extSupportedVersions = 43
	extUnassigned        = 0xFAFE
	tlsRecordHeader      = 5
	maxRecord            = 1 << 14
)

// Read holds back what comes until one record is complete. A ClientHello that
// spans several is left as it is; no client in these tests sends one so long.
func (c *oldTLSConn) Read(p []byte) (int, error) {
	for !c.done {
		buffer := make([]byte, 4096)
		n, err := c.Conn.Read(buffer)
		c.pending = append(c.pending, buffer[:n]...)
		if end := recordEnd(c.pending); err != nil || end <= len(c.pending) {
			c.done = true
			hideSupportedVersions(c.pending[:min(end, len(c.pending))])
		}
	}
	if len(c.pending) > 0 {
		n := copy(p, c.pending)
		c.pending = c.pending[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// recordEnd returns where the record that p begins with ends.
func recordEnd(p []byte) int {
	if len(p) < tlsRecordHeader {
		return tlsRecordHeader
	}
	return tlsRecordHeader + min(int(binary.BigEndian.Uint16(p[3:])), maxRecord)
}

// hideSupportedVersions renumbers the extension in a record that holds a whole
// ClientHello (RFC 8446 §4.1.2); anything else is left alone.
func hideSupportedVersions(record []byte) {
	// Fixed part up to the session id: record, message header, version, random.
	at := tlsRecordHeader + 4 + 2 + 32
	skip := func(lengthBytes int) bool {
		if at+lengthBytes > len(record) {
			return false
		}
		n := 0
		for _, b := range record[at : at+lengthBytes] {
			n = n<<8 | int(b)
		}
		at += lengthBytes + n
		return at <= len(record)
	}
	if !skip(1) || !skip(2) || !skip(1) || at+2 > len(record) {
		return
	}
	for at += 2; at+4 <= len(record); {
		kind := record[at : at+2]
		if slices.Equal(kind, []byte{0, extSupportedVersions}) {
			binary.BigEndian.PutUint16(kind, extUnassigned)
			return
		}
		at += 2
		if !skip(2) {
			return
		}
	}
}
