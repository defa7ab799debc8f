package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"postern/smtpwire/wiretest"
)

// attackTime bounds the whole gallery. It takes less than half a minute.
const attackTime = 3 * time.Minute

// The bytes of one event that are shown, without and with --verbose.
const (
	shownBytes = 200
	allBytes   = 8 << 10
)

// attackGallery plays the attacks whose names match and shows them; it returns the
// exit code. It must be called within netlab.Enter.
func attackGallery(postern, only string, verbose bool, stdout, stderr io.Writer) int {
	pattern, err := regexp.Compile(only)
	if err != nil {
		fmt.Fprintln(stderr, "postern-lab: --only:", err)
		return exitUsage
	}
	all, err := readAttacks(attackFiles, pattern)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("no attack's name matches %q", only)
	}
	if err != nil {
		fmt.Fprintln(stderr, "postern-lab:", err)
		return exitUsage
	}
	results, err := playAll(postern, all)
	out := newPage(stdout)
	for _, t := range results {
		if t != nil {
			out.showAttempt(t, verbose)
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "postern-lab:", err)
		return exitFinding
	}
	return out.sumUp(results)
}

// playAll opens a gallery for the attacks and closes it behind them.
func playAll(postern string, all []attack) ([]*attempt, error) {
	ctx, cancel := context.WithTimeout(context.Background(), attackTime)
	defer cancel()
	g, err := openGallery(postern)
	if err != nil {
		return nil, err
	}
	results, err := g.play(ctx, all)
	if closing := g.lab.close(); err == nil {
		err = closing
	}
	return results, err
}

// word is how an attempt went, and its colour.
func (t *attempt) word() (word, colour string) {
	if len(t.faults) > 0 {
		return "FAIL", red
	}
	return "PASS", green
}

// showAttempt shows an attempt: what each side did (->) and saw (<-).
func (p page) showAttempt(t *attempt, verbose bool) {
	word, colour := t.word()
	fmt.Fprintf(p, "\n%s  %s: %s\n", p.paint(colour, fmt.Sprintf("%-5s", word)), t.name, t.title)
	p.field("source", t.source)
	limit := shownBytes
	if verbose {
		limit = allBytes
	}
	p.transcript("client", &t.client, wiretest.Client, limit)
	for i := range t.servers {
		p.transcript("server", &t.servers[i], wiretest.Server, limit)
	}
	p.field("record", t.recorded())
	for _, fault := range t.faults {
		for i, line := range strings.Split(fault, "\n") {
			label := ""
			if i == 0 {
				label = "WRONG"
			}
			fmt.Fprintf(p, "    %-9s%s\n", label, line)
		}
	}
}

// transcript shows what passed on one side, in the manner of a conversation.
func (p page) transcript(label string, seen *transcript, self wiretest.Side, limit int) {
	seen.mu.Lock()
	defer seen.mu.Unlock()
	for _, e := range seen.events {
		arrow := "<-"
		switch {
		case e.From == self:
			arrow = "->"
		case e.From == 0:
			arrow = "--"
		}
		fmt.Fprintf(p, "    %-9s%s %s\n", label, arrow, eventText(e, limit))
		label = ""
	}
}

// eventText is what an event was, within a limit of bytes. What came or went in
// TLS is marked.
func eventText(e wiretest.Event, limit int) string {
	var parts []string
	if e.TLS {
		parts = append(parts, "TLS")
	}
	if e.Note != "" {
		parts = append(parts, e.Note)
	}
	if len(e.Bytes) > limit {
		parts = append(parts, fmt.Sprintf("%q… (%d bytes)", e.Bytes[:limit], len(e.Bytes)))
	} else if len(e.Bytes) > 0 {
		parts = append(parts, fmt.Sprintf("%q", e.Bytes))
	}
	return strings.Join(parts, " ")
}

// recorded is what the record says of the session.
func (t *attempt) recorded() string {
	r := t.record
	if r.raw == "" {
		return "none"
	}
	text := r.Verdict
	if domain, reason, _ := r.refusedRecipient(); r.Reason == "" && domain != "" {
		text += fmt.Sprintf(" %s alone: %s", domain, reason)
	} else if r.Reason != "" {
		text += fmt.Sprintf(": %s, %s", r.Reason, r.Detail)
	}
	return fmt.Sprintf("%s; end %q; client %s; upstream %s", text, r.End, legOf(r.ClientTLS), legOf(r.UpstreamTLS))
}

// sumUp counts, and returns the exit code.
func (p page) sumUp(results []*attempt) int {
	counts := map[string]int{}
	for _, t := range results {
		word, _ := t.word()
		counts[word]++
	}
	line := fmt.Sprintf("%d attacks: %d passed, %d failed.", len(results), counts["PASS"], counts["FAIL"])
	if counts["FAIL"] > 0 {
		fmt.Fprintf(p, "\n%s\n", p.paint(red, line))
		return exitFinding
	}
	fmt.Fprintf(p, "\n%s\n", p.paint(green, line))
	return exitFine
}
