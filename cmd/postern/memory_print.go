package main

import (
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"postern/enforce/memory"
)

// remembered is what "memory list" and "memory show" print.
type remembered struct {
	Destinations []recollection `json:"destinations"`
	Domains      []recollection `json:"domains"`
	Holds        []heldClient   `json:"holds"`
	Damaged      int            `json:"damaged_records"`
}

// A recollection is what is remembered of a destination or a domain.
type recollection struct {
	Destination string     `json:"destination,omitempty"`
	Domain      string     `json:"domain,omitempty"`
	Client      string     `json:"client,omitempty"` // whom alone it binds; absent: everybody
	Binds       bool       `json:"binds"`            // what follows is of the keys that bind, if any does
	Verified    bool       `json:"verified"`
	Version     string     `json:"version"`
	First       time.Time  `json:"first"`
	Last        time.Time  `json:"last"`
	Sessions    int        `json:"sessions"`
	Missed      int        `json:"sessions_without_tls"`
	LastMissed  *time.Time `json:"last_without_tls,omitempty"`
	Keys        []seenKey  `json:"keys"`
}

type seenKey struct {
	SPKI      string    `json:"spki_sha256"`
	Issuer    string    `json:"issuer"`
	Binds     bool      `json:"binds"`
	Verified  bool      `json:"verified"`
	Version   string    `json:"version"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Occasions int       `json:"occasions"`
	Sessions  int       `json:"sessions"`
}

type heldClient struct {
	Client      string    `json:"client"`
	Destination string    `json:"destination"`
	Offered     string    `json:"offered_version"`
	Since       time.Time `json:"since"`
	Until       time.Time `json:"until"`
	Refused     int       `json:"refused"`
}

// rememberedOf leaves out what has run out and is not swept out yet.
func rememberedOf(c memory.Contents, remember, hold time.Duration, now time.Time) remembered {
	m := remembered{Destinations: []recollection{}, Domains: []recollection{}, Holds: []heldClient{}, Damaged: c.Damaged}
	for _, e := range c.Destinations {
		if r, ok := recollectionOf(e, remember, now); ok {
			r.Destination = e.Destination.String()
			m.Destinations = append(m.Destinations, r)
		}
	}
	for _, e := range c.Domains {
		if r, ok := recollectionOf(e, remember, now); ok {
			r.Domain = e.Domain
			if e.Client.IsValid() {
				r.Client = clientWord(e.Client.String())
			}
			m.Domains = append(m.Domains, r)
		}
	}
	for _, h := range c.Holds {
		if until := h.Renewed.Add(hold); now.Before(until) {
			m.Holds = append(m.Holds, heldClient{clientWord(h.Client.String()), h.Destination.String(), tls.VersionName(h.Offered),
				h.Since.UTC(), until.UTC(), h.Refused})
		}
	}
	return m
}

// clientWord leaves the length off a network of one address.
func clientWord(network string) string { return strings.TrimSuffix(network, "/32") }

func recollectionOf(e memory.Entry, remember time.Duration, now time.Time) (recollection, bool) {
	r := recollection{Missed: e.Missed, Keys: []seenKey{}}
	var best uint16
	for _, s := range e.Sightings {
		if now.Sub(s.Last) >= remember {
			continue
		}
		r.Keys = append(r.Keys, seenKey{hex.EncodeToString(s.SPKI[:]), s.Issuer, s.Binds, s.Verified, tls.VersionName(s.Version),
			s.First.UTC(), s.Last.UTC(), s.Occasions, s.Count})
		if r.First.IsZero() || s.First.Before(r.First) {
			r.First = s.First.UTC()
		}
		if s.Last.After(r.Last) {
			r.Last = s.Last.UTC()
		}
		best = max(best, s.Version)
		r.Sessions += s.Count
	}
	k, binds := e.Known(now, remember)
	if binds {
		r.Binds, r.Verified, r.First, r.Last, r.Sessions, best = true, k.Verified, k.Since.UTC(), k.Last.UTC(), k.Count, k.Version
	}
	r.Version = tls.VersionName(best)
	if !e.LastMissed.IsZero() {
		at := e.LastMissed.UTC()
		r.LastMissed = &at
	}
	return r, len(r.Keys) > 0
}

// founded says how far r is relied on.
func (r recollection) founded() string {
	switch {
	case r.Verified:
		return "verified"
	case r.Binds:
		return "seen repeatedly"
	}
	return "not relied on yet"
}

// name is escaped, whatever a file has.
func (r recollection) name() string {
	name := r.Destination + r.Domain
	if quoted := strconv.QuoteToASCII(name); quoted != `"`+name+`"` {
		return quoted
	}
	if r.Client != "" {
		name += " (as " + r.Client + " sees it)"
	}
	return name
}

const minute = "2006-01-02 15:04"

func (m remembered) list(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	section := func(title string, all []recollection) {
		if len(all) == 0 {
			return
		}
		fmt.Fprintf(t, "%s\tBEST\tWHICH IS\tLAST, UTC\tSESSIONS\tWITHOUT TLS\n", title)
		for _, r := range all {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\n", r.name(), r.Version, r.founded(), r.Last.Format(minute), r.Sessions, r.Missed)
		}
	}
	section("DESTINATION", m.Destinations)
	section("DOMAIN", m.Domains)
	if err := t.Flush(); err != nil {
		return err
	}
	if len(m.Holds) > 0 {
		fmt.Fprintln(t, "CLIENT HELD\tTO\tOFFERED\tUNTIL, UTC\tREFUSED")
		for _, h := range m.Holds {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\n", h.Client, h.Destination, h.Offered, h.Until.Format(minute), h.Refused)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return m.last(w)
}

// last says what no line says.
func (m remembered) last(w io.Writer) error {
	var b strings.Builder
	if len(m.Destinations)+len(m.Domains)+len(m.Holds) == 0 {
		b.WriteString("Nothing is known.\n")
	}
	if m.Damaged > 0 {
		fmt.Fprintf(&b, "%d damaged records are passed over.\n", m.Damaged)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (m remembered) show(w io.Writer) error {
	var b strings.Builder
	for _, all := range [][]recollection{m.Destinations, m.Domains} {
		for _, r := range all {
			r.write(&b)
		}
	}
	for _, h := range m.Holds {
		fmt.Fprintf(&b, "%s is held to %s\n", h.Client, h.Destination)
		paragraph(&b, "  offered  ", "no more than "+h.Offered)
		paragraph(&b, "  since    ", fmt.Sprintf("%s, until %s UTC; refused %d times", h.Since.Format(minute), h.Until.Format(minute), h.Refused))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	return m.last(w)
}

func (r recollection) write(b *strings.Builder) {
	fmt.Fprintln(b, r.name())
	paragraph(b, "  TLS      ", fmt.Sprintf("up to %s, %s", r.Version, r.founded()))
	paragraph(b, "  seen     ", fmt.Sprintf("%s to %s UTC, sessions: %d", r.First.Format(minute), r.Last.Format(minute), r.Sessions))
	if r.LastMissed != nil {
		paragraph(b, "  without  ", fmt.Sprintf("sessions without TLS: %d, last %s UTC", r.Missed, r.LastMissed.Format(minute)))
	}
	for _, k := range r.Keys {
		how := "not relied on yet"
		switch {
		case k.Verified:
			how = "verified"
		case k.Binds:
			how = "seen repeatedly"
		}
		fmt.Fprintf(b, "  key      spki-sha256:%s\n", k.SPKI)
		issuer := k.Issuer
		if issuer == "" {
			issuer = "unnamed"
		}
		paragraph(b, "           ", fmt.Sprintf("%s, up to %s, %s to %s UTC, occasions: %d, sessions: %d", how, k.Version,
			k.First.Format(minute), k.Last.Format(minute), k.Occasions, k.Sessions))
		paragraph(b, "           issued by ", issuer)
	}
}
