package tlshello

import (
	"crypto/sha256"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// Extensions of the IANA registry "TLS ExtensionType Values".
const (
	extServerName        = 0
	extSupportedGroups   = 10
	extSignatureSchemes  = 13
	extALPN              = 16
	extEarlyData         = 42
	extSupportedVersions = 43
	extKeyShare          = 51
)

const (
	randomLength    = 32
	maxSessionID    = 32
	maxServerName   = 255 // RFC 1035 §2.3.4
	hostName        = 0   // the only name type of RFC 6066 §3
	minExtensionFit = 4   // type and length: the smallest extension
)

// retryRandom stands in the place of the random in a HelloRetryRequest; RFC
// 8446 §4.1.3 gives it as this hash.
var retryRandom = sha256.Sum256([]byte("HelloRetryRequest"))

// parseClientHello reads the body of a ClientHello (RFC 8446 §4.1.2); nil if it
// is not well formed.
func parseClientHello(body []byte) *ClientHello {
	s := cryptobyte.String(body)
	h := &ClientHello{Length: messageHeader + len(body)}
	var id, suites, compression cryptobyte.String
	if !s.ReadUint16(&h.LegacyVersion) || !s.Skip(randomLength) ||
		!s.ReadUint8LengthPrefixed(&id) || len(id) > maxSessionID ||
		!s.ReadUint16LengthPrefixed(&suites) ||
		!s.ReadUint8LengthPrefixed(&compression) || compression.Empty() {
		return nil
	}
	var ok bool
	if h.CipherSuites, ok = uint16s(suites); !ok {
		return nil
	}
	h.SessionID = slices.Clone([]byte(id))
	if !extensions(&s, h.extension) {
		return nil
	}
	return h
}

// extension takes one extension; false if it is not well formed.
func (h *ClientHello) extension(kind uint16, data cryptobyte.String) bool {
	var list cryptobyte.String
	var ok bool
	switch kind {
	case extServerName:
		return h.serverName(data)
	case extSupportedGroups:
		if !data.ReadUint16LengthPrefixed(&list) {
			return false
		}
		h.Groups, ok = uint16s(list)
	case extSignatureSchemes:
		if !data.ReadUint16LengthPrefixed(&list) {
			return false
		}
		h.SignatureSchemes, ok = uint16s(list)
	case extSupportedVersions:
		if !data.ReadUint8LengthPrefixed(&list) {
			return false
		}
		h.SupportedVersions, ok = uint16s(list)
	case extALPN:
		if !data.ReadUint16LengthPrefixed(&list) {
			return false
		}
		h.ALPN, ok = protocols(list)
	case extEarlyData:
		h.EarlyData = true
		return data.Empty() // RFC 8446 §4.2.10
	default:
		return true
	}
	return ok && data.Empty()
}

// serverName reads RFC 6066 §3. A name longer than any host's is not kept.
func (h *ClientHello) serverName(data cryptobyte.String) bool {
	var list cryptobyte.String
	if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() || list.Empty() {
		return false
	}
	var found bool
	for !list.Empty() {
		var kind uint8
		var name cryptobyte.String
		if !list.ReadUint8(&kind) || !list.ReadUint16LengthPrefixed(&name) || name.Empty() {
			return false
		}
		if kind != hostName {
			continue
		}
		// "MUST NOT contain more than one name of the same name_type."
		if found {
			return false
		}
		found = true
		if len(name) <= maxServerName {
			h.ServerName = string(name)
		}
	}
	return true
}

// parseServerHello reads the body of a ServerHello (RFC 8446 §4.1.3, and before
// it RFC 5246 §7.4.1.3); nil if it is not well formed.
func parseServerHello(body []byte) *ServerHello {
	s := cryptobyte.String(body)
	h := &ServerHello{Length: messageHeader + len(body)}
	var random, id cryptobyte.String
	var compression uint8
	if !s.ReadUint16(&h.LegacyVersion) || !s.ReadBytes((*[]byte)(&random), randomLength) ||
		!s.ReadUint8LengthPrefixed(&id) || len(id) > maxSessionID ||
		!s.ReadUint16(&h.CipherSuite) || !s.ReadUint8(&compression) {
		return nil
	}
	h.SessionID = slices.Clone([]byte(id))
	h.Version = h.LegacyVersion
	h.HelloRetryRequest = string(random) == string(retryRandom[:])
	h.Final = !h.HelloRetryRequest
	if !extensions(&s, h.extension) {
		return nil
	}
	// RFC 8446 §4.1.3: TLS 1.3 is told by the extension alone.
	if h.Version == h.LegacyVersion && (h.Version >= VersionTLS13 || !h.Final) {
		return nil
	}
	return h
}

// extension takes one extension; false if it is not well formed.
func (h *ServerHello) extension(kind uint16, data cryptobyte.String) bool {
	switch kind {
	case extSupportedVersions:
		// RFC 8446 §4.2.1: a server does not choose anything older this way.
		return data.ReadUint16(&h.Version) && data.Empty() && h.Version >= VersionTLS13
	case extKeyShare:
		var key cryptobyte.String
		if !data.ReadUint16(&h.Group) {
			return false
		}
		// RFC 8446 §4.2.8: a HelloRetryRequest names the group alone.
		return !h.Final && data.Empty() ||
			h.Final && data.ReadUint16LengthPrefixed(&key) && data.Empty()
	case extALPN:
		var list cryptobyte.String
		if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() {
			return false
		}
		chosen, ok := protocols(list)
		if !ok || len(chosen) > 1 {
			return false
		}
		if len(chosen) == 1 {
			h.ALPN = chosen[0]
		}
	}
	return true
}

// extensions walks over the extensions at the end of a hello, which may be
// missing altogether (RFC 5246 §7.4.1.4). A repeated one is refused: which of
// two would hold is exactly what a bystander cannot know.
func extensions(s *cryptobyte.String, take func(uint16, cryptobyte.String) bool) bool {
	if s.Empty() {
		return true
	}
	var list cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&list) || !s.Empty() {
		return false
	}
	seen := make(map[uint16]struct{}, min(len(list)/minExtensionFit, 32))
	for !list.Empty() {
		var kind uint16
		var data cryptobyte.String
		if !list.ReadUint16(&kind) || !list.ReadUint16LengthPrefixed(&data) {
			return false
		}
		if _, twice := seen[kind]; twice {
			return false
		}
		seen[kind] = struct{}{}
		if !take(kind, data) {
			return false
		}
	}
	return true
}

// uint16s reads a list that must not be empty; GREASE values are left out.
func uint16s(s cryptobyte.String) ([]uint16, bool) {
	if s.Empty() {
		return nil, false
	}
	list := make([]uint16, 0, min(len(s)/2, MaxList))
	for !s.Empty() {
		var v uint16
		if !s.ReadUint16(&v) {
			return nil, false
		}
		if !isGREASE(v) && len(list) < MaxList {
			list = append(list, v)
		}
	}
	return list, true
}

// protocols reads the names of RFC 7301 §3.1; GREASE values are left out.
func protocols(s cryptobyte.String) ([]string, bool) {
	if s.Empty() {
		return nil, false
	}
	var list []string
	for !s.Empty() {
		var name cryptobyte.String
		if !s.ReadUint8LengthPrefixed(&name) || name.Empty() {
			return nil, false
		}
		grease := len(name) == 2 && isGREASE(uint16(name[0])<<8|uint16(name[1]))
		if !grease && len(list) < MaxList {
			list = append(list, string(name))
		}
	}
	return list, true
}
