package recorded

import (
	"postern/enforce"
)

// A Record is one session as it was written down. A field that was left out there
// is empty here. Fields that this release does not know are passed over.
type Record struct {
	Line int `json:"-"` // of the file, counted from 1

	Time       string `json:"time"`
	Msg        string `json:"msg"`
	Session    string `json:"session"`
	Mode       string `json:"mode"` // "enforce" or "observe"
	Generation uint64 `json:"generation"`

	Client    Peer   `json:"client"`
	Upstream  Peer   `json:"upstream"`
	Interface string `json:"interface"`

	Rule     string         `json:"rule"`    // the connection rule
	Verdict  string         `json:"verdict"` // "allow", "defer" or "reject"
	Reason   enforce.Reason `json:"reason"`
	Detail   string         `json:"detail"`
	Stage    string         `json:"stage"`
	TLS      string         `json:"tls"`
	Failures []Failure      `json:"failures"`

	ClientTLS   Leg `json:"client_tls"`
	UpstreamTLS Leg `json:"upstream_tls"`

	Transactions []Transaction `json:"transactions"`
	Omitted      int           `json:"omitted"`
	DurationMS   float64       `json:"duration_ms"`
	End          string        `json:"end"`
}

// A Peer is one of the two whom a session connected.
type Peer struct {
	Address string `json:"address"`
	Port    uint16 `json:"port"`
	Helo    string `json:"helo"`
	Banner  string `json:"banner"`
}

// A Failure is one demand that was not met.
type Failure struct {
	Reason enforce.Reason `json:"reason"`
	Detail string         `json:"detail"`
	Rule   string         `json:"rule"`
	Logged bool           `json:"logged"`
}

// A Leg is what TLS came to on one leg, in the words of the record.
type Leg struct {
	State          string       `json:"state"` // "none", "ok", "failed", "watched" or "unknown"
	Version        string       `json:"version"`
	Cipher         string       `json:"cipher"`
	Group          string       `json:"group"`
	SNI            string       `json:"sni"`
	Offered        []string     `json:"offered_versions"`
	Resumed        bool         `json:"resumed"`
	ForwardSecrecy bool         `json:"forward_secrecy"`
	Certificate    *Certificate `json:"certificate"`
	Verified       bool         `json:"verified"`
	VerifyError    string       `json:"verify_error"`
	Revocation     string       `json:"revocation"` // "good", "revoked" or "unknown"; "" where nobody asked
	DANE           string       `json:"dane"`
	MTASTS         string       `json:"mta_sts"`
	StrippedBy     string       `json:"stripped_by"`
	Failure        string       `json:"failure"`
	Hold           *Hold        `json:"hold"`
}

// A Certificate is the leaf that a peer showed.
type Certificate struct {
	Subject    string   `json:"subject"`
	Issuer     string   `json:"issuer"`
	Names      []string `json:"names"` // the first 20, and then how many more
	SHA256     string   `json:"sha256"`
	SPKISHA256 string   `json:"spki_sha256"`
	NotBefore  string   `json:"not_before"`
	NotAfter   string   `json:"not_after"`
	Key        string   `json:"key"`
}

// A Hold is what a client was held to.
type Hold struct {
	Offered string `json:"offered"`
	Since   string `json:"since"`
	Until   string `json:"until"`
	Refused int    `json:"refused"`
}

// A Transaction is one MAIL and what followed it.
type Transaction struct {
	MailDomain  string    `json:"mail_domain"`
	RcptDomains []string  `json:"rcpt_domains"`
	Accepted    int       `json:"accepted"`
	Refused     []Refused `json:"refused"`
	Bytes       int64     `json:"bytes"`
	Reply       string    `json:"reply"`
}

// Refused is one sender or recipient that was refused, by Postern if there is a
// reason, otherwise by the server.
type Refused struct {
	Domain string         `json:"domain"`
	Rule   string         `json:"rule"`
	Reason enforce.Reason `json:"reason"`
	Reply  string         `json:"reply"`
}
