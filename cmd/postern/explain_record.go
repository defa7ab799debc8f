package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/internal/recorded"
	"postern/enforce"
)

// A recordExplanation is what "explain --record --format json" prints.
type recordExplanation struct {
	Session  string          `json:"session"`
	Line     int             `json:"line"` // of the file
	Time     string          `json:"time"`
	Mode     string          `json:"mode"`
	Rule     string          `json:"rule,omitempty"` // the connection rule
	Facts    []statement     `json:"facts"`
	Verdict  string          `json:"verdict"`
	Reason   string          `json:"reason,omitempty"`
	Stage    string          `json:"stage,omitempty"`
	Findings []recordFinding `json:"findings"`
	End      string          `json:"end,omitempty"`
}

// A recordFinding is one reason, as one rule gave it.
type recordFinding struct {
	Reason     string   `json:"reason"`
	Means      string   `json:"means"`
	Found      string   `json:"found,omitempty"`
	DemandedBy string   `json:"demanded_by,omitempty"` // the rule, "" where none is named
	Domains    []string `json:"domains,omitempty"`     // that were refused for it
	Logged     bool     `json:"logged"`                // recorded and let pass
	There      string   `json:"there,omitempty"`       // what would have to change on the other side
	Here       string   `json:"here,omitempty"`        // and on this one
	Mend       string   `json:"mend,omitempty"`        // a piece of configuration
}

// explainRecord explains one record of a file, "-" for standard input.
func (o *options) explainRecord(cmd *cobra.Command, path, session string) error {
	if path == "" {
		file, err := o.load()
		if err != nil {
			return err
		}
		switch path = file.Proxy.Log.Output; {
		case file.Proxy.Log.Format == "journal", path == "stderr", path == "stdout":
			return errors.New("--session found without --record, and the log is no file, expected perhaps: journalctl -u postern -o json --all | postern explain --record - --session " + session)
		}
	}
	from, done, err := open(path, cmd.InOrStdin())
	if err != nil {
		return err
	}
	defer done()
	rec, err := theRecord(from, path, session, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	e := explanationOf(rec, dates{time.Now()})
	if o.json() {
		err = printJSON(cmd.OutOrStdout(), e)
	} else {
		err = e.print(cmd.OutOrStdout())
	}
	switch {
	case err != nil:
		return runtimeError{err}
	case e.Verdict != allowed:
		return errFinding
	}
	return nil
}

// open opens a file of records, "-" for standard input.
func open(path string, stdin io.Reader) (io.Reader, func(), error) {
	if path == "-" {
		return stdin, func() {}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("records: %w", err)
	}
	return f, func() { f.Close() }, nil
}

// A complainer names bad lines, the first of them.
type complainer struct {
	to   io.Writer
	path string
	bad  int
}

// mostBad bounds how many bad lines of a file are named.
const mostBad = 10

// note reports whether err is of a line that can be passed over.
func (c *complainer) note(err error) bool {
	var bad *recorded.LineError
	if !errors.As(err, &bad) {
		return false
	}
	if c.bad++; c.bad <= mostBad {
		fmt.Fprintf(c.to, "%s:%d: %s\n", c.path, bad.Line, bad.Msg)
	}
	return true
}

// done tells how many were not named.
func (c *complainer) done() {
	if more := c.bad - mostBad; more > 0 {
		fmt.Fprintf(c.to, "%s: and %d more lines that cannot be read\n", c.path, more)
	}
}

// theRecord finds the record of a session, or the only one there is.
func theRecord(from io.Reader, path, session string, complaints io.Writer) (*recorded.Record, error) {
	const mostNamed = 5
	r, c := recorded.NewReader(from), &complainer{to: complaints, path: path}
	defer c.done()
	var found *recorded.Record
	var ids []string
	n := 0
	for {
		rec, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return found, notOne(path, session, n, ids)
		case err != nil && !c.note(err):
			return nil, runtimeError{fmt.Errorf("records: %s: %w", path, err)}
		case err != nil, session != "" && rec.Session != session:
			continue
		}
		if n++; len(ids) < mostNamed {
			ids = append(ids, shownSafe(rec.Session))
		}
		if found = rec; session != "" {
			return found, nil
		}
	}
}

func notOne(path, session string, n int, ids []string) error {
	switch {
	case n == 0 && session != "":
		return fmt.Errorf("--session %q found, expected one of those in %s", session, path)
	case n == 0:
		return fmt.Errorf("no record found in %s, expected one: a log line in JSON whose msg is %q", path, "session")
	case n > 1:
		if n > len(ids) {
			ids = append(ids, "…")
		}
		return fmt.Errorf("%d records found in %s, expected --session and the id of one: %s", n, path, strings.Join(ids, ", "))
	}
	return nil
}

func explanationOf(r *recorded.Record, d dates) *recordExplanation {
	e := &recordExplanation{
		Session: r.Session, Line: r.Line, Time: r.Time, Mode: r.Mode, Rule: r.Rule, Verdict: r.Verdict,
		Reason: string(r.Reason), Stage: r.Stage, Facts: recordFacts(r), Findings: []recordFinding{}, End: r.End,
	}
	for _, f := range reasonsIn(r) {
		a := adviceFor(enforce.Reason(f.Reason), r)
		f.Means, f.There, f.Here = a.means, a.there, a.here
		if f.Means == "" {
			f.Means = "This release does not know the reason."
		}
		if a.mend != nil {
			f.Mend = a.mend(r, d)
		}
		e.Findings = append(e.Findings, f)
	}
	return e
}

// reasonsIn gives each reason once for each rule that gave it, the one that decided
// first.
func reasonsIn(r *recorded.Record) []recordFinding {
	var all []recordFinding
	find := func(reason enforce.Reason, rule string) *recordFinding {
		i := slices.IndexFunc(all, func(f recordFinding) bool { return f.Reason == string(reason) && f.DemandedBy == rule })
		if i < 0 {
			all = append(all, recordFinding{Reason: string(reason), DemandedBy: rule})
			i = len(all) - 1
		}
		return &all[i]
	}
	if r.Reason != "" {
		first := find(r.Reason, whoDecided(r))
		first.Found, first.Logged = r.Detail, !r.Refused()
	}
	for _, failure := range r.Failures {
		f := find(failure.Reason, failure.Rule)
		f.Logged = failure.Logged
		if f.Found == "" {
			f.Found = failure.Detail
		}
	}
	const mostDomains = 20
	for _, t := range r.Transactions {
		for _, no := range t.Refused {
			if no.Reason == "" { // the server did
				continue
			}
			f := find(no.Reason, no.Rule)
			f.Logged = false
			if len(f.Domains) < mostDomains && !slices.Contains(f.Domains, no.Domain) {
				f.Domains = append(f.Domains, no.Domain)
			}
		}
	}
	return all
}

// whoDecided gives the rule whose demand decided, "" where the record names none.
func whoDecided(r *recorded.Record) string {
	for _, f := range r.Failures {
		if f.Reason == r.Reason {
			return f.Rule
		}
	}
	for _, t := range r.Transactions {
		for _, no := range t.Refused {
			if no.Reason == r.Reason {
				return no.Rule
			}
		}
	}
	// Before the envelope only the connection rule demands anything but the floor.
	early := r.Stage == enforce.AfterEHLO.String() || r.Stage == enforce.AfterUpstreamTLS.String()
	if early && slices.Contains([]enforce.Reason{enforce.StartTLSNotOffered, enforce.TLSCipherNotAllowed, enforce.TLSNoForwardSecrecy,
		enforce.CertNotTrusted, enforce.CertExpired, enforce.CertNameMismatch, enforce.CertFingerprintMismatch,
		enforce.CertRevoked, enforce.CertMissingRevocation}, r.Reason) {
		return r.Rule
	}
	return ""
}
