package main

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
)

// A record is what Postern wrote down of one session, read back from its log by
// the names that are documented and from nothing else.
type record struct {
	Msg          string        `json:"msg"`
	Session      string        `json:"session"`
	Mode         string        `json:"mode"`
	Generation   uint64        `json:"generation"`
	Client       peer          `json:"client"`
	Upstream     peer          `json:"upstream"`
	Interface    string        `json:"interface"`
	Rule         string        `json:"rule"`
	Verdict      string        `json:"verdict"`
	Reason       string        `json:"reason"`
	Detail       string        `json:"detail"`
	TLS          string        `json:"tls"`
	ClientTLS    leg           `json:"client_tls"`
	UpstreamTLS  leg           `json:"upstream_tls"`
	Transactions []transaction `json:"transactions"`
	End          string        `json:"end"`

	raw string // the whole line
}

type peer struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	Helo    string     `json:"helo"`
	Banner  string     `json:"banner"`
}

func (p peer) addrPort() netip.AddrPort { return netip.AddrPortFrom(p.Address, p.Port) }

type leg struct {
	State       string       `json:"state"`
	Version     string       `json:"version"`
	Cipher      string       `json:"cipher"`
	Group       string       `json:"group"`
	Certificate *certificate `json:"certificate"`
	Verified    bool         `json:"verified"`
	VerifyError string       `json:"verify_error"`
	Offered     []string     `json:"offered_versions"`
}

type certificate struct {
	Subject string `json:"subject"`
}

type transaction struct {
	MailDomain  string   `json:"mail_domain"`
	RcptDomains []string `json:"rcpt_domains"`
	Accepted    int      `json:"accepted"`
	Refused     []struct {
		Domain string `json:"domain"`
		Rule   string `json:"rule"`
		Reason string `json:"reason"`
	} `json:"refused"`
	Bytes int64  `json:"bytes"`
	Reply string `json:"reply"`
}

// parseRecord reads a line of the log; ok is false for what is no session record.
func parseRecord(line string) (r record, ok bool) {
	if json.Unmarshal([]byte(line), &r) != nil || r.Msg != "session" {
		return record{}, false
	}
	r.raw = line
	return r, true
}

// field finds a field by its path, "upstream_tls.version" or "transactions.0.bytes";
// it is "" when there is none.
func (r record) field(path string) string {
	var at any
	if json.Unmarshal([]byte(r.raw), &at) != nil {
		return ""
	}
	for key := range strings.SplitSeq(path, ".") {
		switch v := at.(type) {
		case map[string]any:
			at = v[key]
		case []any:
			at = nil
			if n, err := strconv.Atoi(key); err == nil && n >= 0 && n < len(v) {
				at = v[n]
			}
		default:
			return ""
		}
	}
	switch v := at.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	text, err := json.Marshal(at)
	if err != nil {
		return ""
	}
	return string(text)
}

// refusedRecipient is the reason and rule of the first recipient or sender that a
// rule refused alone.
func (r record) refusedRecipient() (domain, reason, rule string) {
	for _, t := range r.Transactions {
		for _, one := range t.Refused {
			if one.Reason != "" {
				return one.Domain, one.Reason, one.Rule
			}
		}
	}
	return "", "", ""
}

// words tells a leg in one line.
func (l leg) words() string {
	if l.State == "none" {
		return "in clear"
	}
	var parts []string
	for _, part := range []string{l.Version, l.Cipher, l.Group} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if l.State != "ok" {
		parts = append(parts, "handshake "+l.State)
	}
	if l.State != "ok" && len(l.Offered) > 0 {
		parts = append(parts, "offered was "+strings.Join(l.Offered, ", "))
	}
	return strings.Join(parts, ", ")
}
