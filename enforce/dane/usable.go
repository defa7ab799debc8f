package dane

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"slices"
	"strconv"

	"postern/enforce/resolver"
)

// A Record is one TLSA record.
type Record = resolver.TLSARecord

// The fields of a record that mail knows (RFC 7218 gives the names).
const (
	usageTA      = 2 // DANE-TA: what signed the certificate
	usageEE      = 3 // DANE-EE: the certificate itself
	selectorCert = 0
	selectorSPKI = 1
	matchFull    = 0
	matchSHA256  = 1
	matchSHA512  = 2
)

// mostRecords bounds the records of one name that are looked at, the first of the
// answer. Domains have two to six.
const mostRecords = 64

// usable gives those of the records that can be used (RFC 7672 §3.1: usages 2 and
// 3 alone; RFC 6698 §4.1: selectors and matching types that are known, and data
// that can be what they say), at most mostRecords.
func usable(records []Record) []Record {
	var can []Record
	for i, r := range records {
		if len(can) < mostRecords && canUse(r) {
			can = append(slices.Grow(can, len(records)-i), r)
		}
	}
	return can
}

func canUse(r Record) bool {
	if r.Usage != usageTA && r.Usage != usageEE || r.Selector > selectorSPKI {
		return false
	}
	switch r.MatchingType {
	case matchFull:
		return der(r.Data)
	case matchSHA256:
		return len(r.Data) == sha256.Size
	case matchSHA512:
		return len(r.Data) == sha512.Size
	}
	return false
}

// der reports whether data is one ASN.1 sequence and nothing behind it, as
// certificates and keys are. It need not be one that this program can read: to be
// the same as what the server shows is enough for it to match.
func der(data []byte) bool {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(data, &v)
	return err == nil && len(rest) == 0 && v.Class == asn1.ClassUniversal && v.Tag == asn1.TagSequence && v.IsCompound
}

// strongest leaves out the weaker digests: who can break one may not profit from
// its standing beside a better one (RFC 7671 §9). It is settled for each usage and
// selector alone, and a record without a digest always stays.
//
// The records are usable ones, and are changed: there are no others than usages 2
// and 3 with selectors 0 and 1.
func strongest(records []Record) []Record {
	var best [usageEE + 1][selectorSPKI + 1]uint8
	for _, r := range records {
		best[r.Usage][r.Selector] = max(best[r.Usage][r.Selector], r.MatchingType) // SHA-512 has the higher number
	}
	return slices.DeleteFunc(records, func(r Record) bool {
		return r.MatchingType != matchFull && r.MatchingType != best[r.Usage][r.Selector]
	})
}

// of gives the part of a record that says how it matches: "3 1 1".
func of(r Record) string {
	text := make([]byte, 0, len("255 255 255 "))
	for _, n := range [...]uint8{r.Usage, r.Selector, r.MatchingType} {
		text = append(strconv.AppendUint(text, uint64(n), 10), ' ')
	}
	return string(text[:len(text)-1])
}
