package probe

import "time"

// The forms in which a Report is printed for programs: keys are promises. What is
// not known is absent. What others chose is escaped and cut.

// A Report is what a probe found.
type Report struct {
	Target  string   `json:"target"`
	Kind    string   `json:"kind"` // "domain" or "host"
	Domain  string   `json:"domain,omitempty"`
	Port    uint16   `json:"port"`
	Mode    string   `json:"mode"`   // of the configuration
	Config  string   `json:"config"` // its file; "" where the built-in rule alone holds
	MX      *MX      `json:"mx,omitempty"`
	MTASTS  *MTASTS  `json:"mta_sts,omitempty"`
	Hosts   []Host   `json:"hosts"`
	Notes   []string `json:"notes,omitempty"`
	Reached int      `json:"reached"` // addresses that answered as mail servers
	Refused int      `json:"refused"` // of those, how many the policy refuses
	Unknown int      `json:"unknown"` // of those, of how many the verdict could not be found out in time
	Fine    bool     `json:"fine"`    // some were reached, and the policy allows each of them
}

// An MX is what a domain says about its hosts.
type MX struct {
	State  string `json:"state"` // "found", "implicit", "null", "none" or "failed"
	Secure bool   `json:"secure"`
	Detail string `json:"detail,omitempty"`
}

// An MTASTS is a domain's policy (RFC 8461).
type MTASTS struct {
	State   string     `json:"state"` // "none", "found", "invalid", "fetch failed" or "unknown"
	Mode    string     `json:"mode,omitempty"`
	MX      []string   `json:"mx,omitempty"`
	ID      string     `json:"id,omitempty"`
	MaxAge  int        `json:"max_age_seconds,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	Detail  string     `json:"detail,omitempty"`
}

// A Host is one that takes the domain's mail.
type Host struct {
	Name       string    `json:"name"` // "" where an address was asked for
	Preference *uint16   `json:"preference,omitempty"`
	Detail     string    `json:"detail,omitempty"` // why there are no addresses
	DANE       *DANE     `json:"dane,omitempty"`
	MTASTS     *bool     `json:"mta_sts_allows,omitempty"` // the policy names it
	Addresses  []Address `json:"addresses"`
}

// A DANE is a host's TLSA records (RFC 7672).
type DANE struct {
	State   string   `json:"state"` // "none", "usable", "unusable", "failed" or "unavailable"
	Base    string   `json:"base,omitempty"`
	Records []string `json:"records,omitempty"`
	Detail  string   `json:"detail,omitempty"`
}

// An Address is one server.
type Address struct {
	Address   string        `json:"address"`
	Reached   bool          `json:"reached"` // it greeted us, and took our EHLO
	Detail    string        `json:"detail,omitempty"`
	Banner    string        `json:"banner,omitempty"`
	StartTLS  *StartTLS     `json:"starttls,omitempty"`
	Session   *Session      `json:"session,omitempty"`
	Versions  []Try         `json:"versions,omitempty"`
	Suites    *Suites       `json:"suites,omitempty"`
	Groups    []Try         `json:"groups,omitempty"`
	Chain     *Chain        `json:"chain,omitempty"`
	DANE      *Match        `json:"dane,omitempty"`
	MTASTS    *Match        `json:"mta_sts,omitempty"`
	Revoked   *Revocation   `json:"revocation,omitempty"`
	Reach     []Reachable   `json:"reachability,omitempty"`
	Verdict   *Verdict      `json:"verdict,omitempty"`
	Duration  int64         `json:"duration_ms"`
	Tries     int           `json:"connections"`
	duration  time.Duration // of Duration
	LeftAlone bool          `json:"left_alone,omitempty"` // connections came to nothing, so that no more were made
}

// A StartTLS is whether it is offered.
type StartTLS struct {
	Offered    bool   `json:"offered"`
	HELOOnly   bool   `json:"helo_only,omitempty"`
	Mark       string `json:"mark,omitempty"` // the trace of somebody who took it out
	MarkWords  string `json:"mark_words,omitempty"`
	Reply      int    `json:"reply,omitempty"`      // where it was not 220
	RequireTLS *bool  `json:"requiretls,omitempty"` // offered in TLS (RFC 8689)
}

// A Session is what a session of the proxy would get.
type Session struct {
	State          string `json:"state"` // "ok" or "failed"
	ServerName     string `json:"sni,omitempty"`
	Version        string `json:"version,omitempty"`
	Cipher         string `json:"cipher,omitempty"`
	Group          string `json:"group,omitempty"`
	ForwardSecrecy bool   `json:"forward_secrecy"`
	Detail         string `json:"detail,omitempty"`
}

// A Try is one thing that was offered alone.
type Try struct {
	Name   string `json:"name"`
	Result string `json:"result"`           // "accepted", "refused" or "unknown"
	Cipher string `json:"cipher,omitempty"` // that was chosen
	Detail string `json:"detail,omitempty"` // why it was not accepted, or the handshake failed after all
}

// Suites are those that are accepted, in the order of the server's choice.
type Suites struct {
	TLS12    []string `json:"tls1.2"`
	TLS13    []string `json:"tls1.3"`   // the one that it chose
	Complete bool     `json:"complete"` // of TLS 1.2: no more are accepted of those that can be tried
	Detail   string   `json:"detail,omitempty"`
}

// A Chain is what the server showed.
type Chain struct {
	Leaf        Certificate `json:"leaf"`
	Shown       []Issued    `json:"shown"` // the leaf first
	Verified    bool        `json:"verified"`
	Reason      string      `json:"reason,omitempty"`
	Detail      string      `json:"detail,omitempty"`
	Root        string      `json:"root,omitempty"`
	RuleRoots   string      `json:"rule_ca,omitempty"`       // the ca of the rule that binds
	RuleTrusts  *bool       `json:"rule_verified,omitempty"` // it verifies with that
	RuleDetail  string      `json:"rule_detail,omitempty"`
	NameMatches *bool       `json:"name_matches,omitempty"` // it is for the host's name
	Staple      string      `json:"staple"`                 // "none", "good", "revoked" or "invalid"
	StapleWords string      `json:"staple_detail,omitempty"`
}

// An Issued is a certificate by its names.
type Issued struct {
	Subject string `json:"subject"`
	Issuer  string `json:"issuer"`
}

// A Certificate is the leaf.
type Certificate struct {
	Subject    string    `json:"subject"`
	Issuer     string    `json:"issuer"`
	Names      []string  `json:"names"`
	Key        string    `json:"key"`
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
	DaysLeft   int       `json:"days_left"` // whole days; negative: past
	SHA256     string    `json:"sha256"`
	SPKISHA256 string    `json:"spki_sha256"`
}

// A Match is what was published, held against the server.
type Match struct {
	State  string `json:"state"`
	Detail string `json:"detail,omitempty"`
}

// A Revocation is what is known of the chain's.
type Revocation struct {
	State       string     `json:"state"` // "good", "revoked" or "unknown"
	Source      string     `json:"source,omitempty"`
	Certificate string     `json:"certificate,omitempty"`
	Detail      string     `json:"detail,omitempty"`
	At          *time.Time `json:"at,omitempty"`
	Until       *time.Time `json:"until,omitempty"`
}

// A Reachable is an address that the chain names.
type Reachable struct {
	Kind        string `json:"kind"` // "ocsp" or "crl"
	URL         string `json:"url"`
	Certificate string `json:"certificate"`
	OK          bool   `json:"ok"`
	Detail      string `json:"detail"`
	Duration    int64  `json:"duration_ms"`
}

// A Verdict is what the proxy would say.
type Verdict struct {
	Client   string   `json:"client,omitempty"` // the address that rules were asked with
	Rule     string   `json:"rule,omitempty"`   // the connection rule
	Envelope string   `json:"envelope_rule,omitempty"`
	Verdict  string   `json:"verdict"` // "allow", "defer" or "reject"; "unknown" where time ran out
	Stage    string   `json:"stage,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Detail   string   `json:"detail,omitempty"`
	By       string   `json:"demanded_by,omitempty"` // the rule; "" for no rule alone
	Reply    string   `json:"reply,omitempty"`       // its codes
	Notes    []string `json:"notes,omitempty"`
	Logged   []string `json:"logged,omitempty"` // demands not met that are only logged
}
