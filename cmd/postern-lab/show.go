package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// width is how long a line may be, in characters.
const width = 96

// A page is where results are shown to a person.
type page struct {
	io.Writer
	colours bool
}

// newPage colours what it shows if that goes to a terminal whose user has nothing
// against it (no-color.org).
func newPage(w io.Writer) page {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return page{Writer: w}
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return page{w, err == nil}
}

// The colours (ECMA-48 SGR).
const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (p page) paint(colour, text string) string {
	if !p.colours {
		return text
	}
	return "\x1b[1;" + colour + "m" + text + "\x1b[0m"
}

// field shows a value behind its label, wrapped at words.
func (p page) field(label, value string) {
	const indent = 13
	line := fmt.Sprintf("    %-9s", label)
	empty := true
	for word := range strings.FieldsSeq(value) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			fmt.Fprintln(p, line)
			line, empty = strings.Repeat(" ", indent), true
		}
		if !empty {
			line += " "
		}
		line, empty = line+word, false
	}
	fmt.Fprintln(p, line)
}

// status is a result in one word, and its colour.
func (r *result) status() (word, colour string) {
	switch {
	case len(r.faults) > 0:
		return "UNEXPECTED", red
	case r.want.observed:
		return "OBSERVED", yellow
	case !r.want.delivered:
		return "REFUSED", yellow
	case len(r.want.refusals) > 0:
		return "IN PART", yellow
	}
	return "DELIVERED", green
}

// show shows a result.
func (p page) show(l *lab, number int, r *result) {
	word, colour := r.status()
	fmt.Fprintf(p, "\n%2d  %s %s\n", number, p.paint(colour, fmt.Sprintf("%-10s", word)), r.title)
	to := l.sites[r.to]
	p.field("from", fmt.Sprintf("%s, %s: %s", r.from.name, r.from.address, r.from.about))
	p.field("to", fmt.Sprintf("%s, %s: %s", to.name, to.address, to.about))
	p.field("client", legOf(r.record.ClientTLS))
	if r.record.Reason == "upstream-unreachable" {
		p.field("upstream", "never reached")
	} else {
		p.field("upstream", legOf(r.record.UpstreamTLS))
	}
	p.field("verdict", r.verdict())
	for _, refusal := range r.refusals() {
		p.field("said", refusal)
	}
	if r.want.cut && r.report.Err != nil {
		p.field("said", r.report.Err.Error())
	}
	p.field("message", r.fate())
	for _, fault := range r.faults {
		p.field("WRONG", fault)
	}
}

// legOf tells what a leg came to, and what the certificate shown there is worth.
func legOf(l leg) string {
	text := l.words()
	switch {
	case l.State == "ok" && l.Certificate != nil && l.Verified:
		text += "; certificate verified"
	case l.State == "ok" && l.Certificate != nil:
		text += "; verified: false (" + l.VerifyError + ")"
	}
	return text
}

func (r *result) verdict() string {
	rec := r.record
	text := rec.Verdict
	if domain, reason, rule := rec.refusedRecipient(); domain != "" && len(r.arrivals) > 0 {
		text += fmt.Sprintf(" %s alone: %s, %s, by rule %q", domain, reason, rec.Detail, rule)
	} else if rec.Reason != "" {
		text += fmt.Sprintf(": %s, %s", rec.Reason, rec.Detail)
	}
	text += fmt.Sprintf("; connection rule %q (%s)", rec.Rule, rec.TLS)
	if rec.Mode == "observe" {
		text += "; recorded and not spoken, " + rec.End
	}
	return text
}

// fate is what became of the message.
func (r *result) fate() string {
	if len(r.arrivals) == 0 && r.record.Verdict == "reject" {
		return "not delivered; the sender gives it back"
	}
	if len(r.arrivals) == 0 {
		return "not delivered; the sender still has it"
	}
	m, how, what := r.arrivals[0].message, "in clear", "not as sent"
	if m.TLS {
		how = "within TLS"
	}
	if m.SHA256 == sha256.Sum256(r.content) {
		what = "unchanged"
	}
	return fmt.Sprintf("%d octets arrived %s, %s (SHA-256 %x…)", m.Size, how, what, m.SHA256[:8])
}

// head says what is about to be seen.
func (p page) head(count int) {
	fmt.Fprintf(p, `Three hosts in network namespaces: client 10.1.0.0/24 -- gateway -- 203.0.113.0/24 servers.
The gateway runs postern, holding CAP_NET_RAW alone, behind real TPROXY rules; %d conversations.
"client" and "upstream" are the two legs as postern recorded them, "said" is what the sender heard.
`, count)
}

// tail counts, and says what the captures proved.
func (p page) tail(results []*result, f finding) {
	counts := map[string]int{}
	for _, r := range results {
		word, _ := r.status()
		counts[word]++
	}
	fmt.Fprintf(p, "\nCaptured outside the gateway: %d packets, %d octets of TCP. Found in clear there:\n", f.packets, f.octets)
	fmt.Fprintf(p, "%d of %d messages that servers took within TLS, %d of %d that they took in clear, %d of %d refused.\n",
		f.tls.seen, f.tls.all, f.clear.seen, f.clear.all, f.refused.seen, f.refused.all)
	fmt.Fprintf(p, "postern was reloaded to observe (SIGHUP) and ended by a drain with exit 0 (SIGTERM).\n")
	line := fmt.Sprintf("%d conversations: %d delivered, %d in part, %d refused, %d observed; %d otherwise than expected.",
		len(results), counts["DELIVERED"], counts["IN PART"], counts["REFUSED"], counts["OBSERVED"], counts["UNEXPECTED"])
	colour := green
	if counts["UNEXPECTED"] > 0 {
		colour = red
	}
	fmt.Fprintln(p, p.paint(colour, line))
}
