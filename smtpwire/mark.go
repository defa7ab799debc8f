package smtpwire

import "strings"

// A Mark is the trace that something in between left of having taken STARTTLS out
// of what a server said.
type Mark uint8

// The marks, with the words of the record.
const (
	NoMark Mark = iota
	// CapabilityMark ("xxxxxxxa"): a capability of nothing but X, or X and one A,
	// stands among the others. Cisco's ESMTP inspection overwrites the keywords that
	// it does not let through, in their own length.
	CapabilityMark
	// BannerMark ("starred-banner"): the same inspection overwrites the banner with
	// asterisks.
	BannerMark
	// EHLOMark ("ehlo-refused"): EHLO was refused by a server that names ESMTP in its
	// banner, so that something else may have answered.
	EHLOMark
)

func (m Mark) String() string {
	return [...]string{"", "xxxxxxxa", "starred-banner", "ehlo-refused"}[min(m, EHLOMark)]
}

// Words say what was seen and who is known to do that.
func (m Mark) Words() string {
	return [...]string{"",
		"a capability is overwritten with X, as a firewall that inspects ESMTP does",
		"the banner is overwritten with asterisks, as a firewall that inspects ESMTP does",
		"EHLO was refused, though the banner names ESMTP: something in between may have answered",
	}[min(m, EHLOMark)]
}

// StripMark looks for the trace in a server's banner (its text behind the code)
// and in its reply to EHLO, or to HELO where that was refused.
func StripMark(banner []byte, caps Capabilities, heloOnly bool) Mark {
	for _, c := range caps.List {
		if overwritten(c.Keyword) {
			return CapabilityMark
		}
	}
	text := string(banner)
	switch {
	case strings.Count(text, "*") >= 8 && strings.Count(text, "*")*2 > len(text):
		return BannerMark
	case heloOnly && strings.Contains(strings.ToUpper(text), "ESMTP"):
		return EHLOMark
	}
	return NoMark
}

// overwritten reports whether a keyword is what STARTTLS is overwritten with:
// XXXXXXXA, or eight X. Others that are overwritten have another length.
func overwritten(keyword string) bool {
	return keyword == "XXXXXXXA" || keyword == "XXXXXXXX"
}
