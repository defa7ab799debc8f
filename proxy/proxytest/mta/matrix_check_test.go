package mta_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"postern/proxy/proxytest/mta"
)

// settle gives something the time to come true. Whether it did is for others to
// tell, with the cell.
func settle(yes func() bool) {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !yes() {
		select {
		case <-deadline.C:
			return
		case <-ticker.C:
		}
	}
}

func (m *matrix) allArrived() bool {
	return !slices.ContainsFunc(m.expected, func(d delivery) bool { return len(m.arrived.of(d.to)) == 0 })
}

// drain takes what arrived besides, once nothing more can.
func (m *matrix) drain() {
	m.t.Helper()
	for name, server := range m.servers {
		if queue, err := server.WaitQueue(within(m.t, patience), mta.Empty); err != nil {
			m.fail("%s as a server keeps mail: %v: %+v", name, err, queue)
		}
		messages, err := server.Messages()
		must(m.t, err)
		must(m.t, m.arrived.take(server, messages))
	}
}

// compareContent wants each message once, unchanged, and no other.
func (m *matrix) compareContent() {
	wanted := map[string]bool{}
	for _, d := range m.expected {
		wanted[d.to] = true
		all := m.arrived.of(d.to)
		if len(all) != 1 {
			m.fail("%s: it arrived %d times", d, len(all))
			continue
		}
		if all[0].body != m.letters[d.kind].body {
			m.fail("%s: the content changed on its way", d)
		}
		if all[0].from != d.kind.from() {
			m.fail("%s: it came from %q", d, all[0].from)
		}
		if d.kind == utf8 && !strings.Contains(all[0].header, "Subject: Größe und Gewicht") {
			m.fail("%s: the header is %q", d, all[0].header)
		}
	}
	for to, all := range m.arrived.all {
		if !wanted[to] {
			m.fail("%d messages arrived for %q", len(all), to)
		}
	}
}

// eximChunked is how Exim logs a delivery in chunks: "=> address … K C="250 …".
var eximChunked = regexp.MustCompile(` [=-]> (?:\S+ <)?([^ >]+)>? .* K `)

// checkChunks wants Exim to have sent chunks where the server takes them. Of the
// clients it alone knows them.
func (m *matrix) checkChunks(program mta.Program, client mta.Server) error {
	if program.Name != "Exim" {
		return nil
	}
	lines, err := client.Log()
	if err != nil {
		return err
	}
	chunked := map[string]bool{}
	for _, line := range lines {
		if found := eximChunked.FindStringSubmatch(line); found != nil {
			_, domain, _ := strings.Cut(found[1], "@")
			chunked[domain] = true
		}
	}
	for _, t := range m.targets {
		if t.chunks != chunked[t.domain] {
			m.fail("Exim to %s: chunks were used: %t, want %t", t, chunked[t.domain], t.chunks)
		}
	}
	return nil
}

// cell is what the records say of one client and one server.
type cell struct {
	sessions, accepted, most int // most messages in one session
}

// compareRecords holds each session's record against what was expected of it, and
// makes a table.
func (m *matrix) compareRecords(p *postern) string {
	m.t.Helper()
	targets := map[string]target{}
	for _, t := range m.targets {
		targets[t.address.String()] = t
	}
	senders := map[string]delivery{}
	for _, d := range m.expected {
		senders[d.helo] = d
	}
	var cells map[[2]string]*cell
	total := 0
	settle(func() bool {
		cells = map[[2]string]*cell{}
		total = 0
		for _, line := range p.lines("session") {
			var r conversation
			must(m.t, json.Unmarshal([]byte(line), &r))
			sender, server := senders[r.Client.Helo].client, targets[r.Upstream.Address].server
			key := [2]string{sender, server}
			if cells[key] == nil {
				cells[key] = &cell{}
			}
			total += cells[key].add(r)
		}
		return total >= len(m.expected)
	})
	if total != len(m.expected) {
		m.fail("%d messages are recorded as accepted, want %d", total, len(m.expected))
	}
	for _, line := range p.lines("session") {
		var r conversation
		must(m.t, json.Unmarshal([]byte(line), &r))
		m.checkRecord(r, senders[r.Client.Helo], targets[r.Upstream.Address])
	}
	alone := map[string]bool{}
	for _, c := range commandClients() {
		alone[c.name] = !c.many
	}
	for key, c := range cells {
		if !alone[key[0]] && c.most < 2 {
			m.fail("%s to %s: no session had several messages", key[0], key[1])
		}
	}
	return m.table(cells)
}

// add counts the accepted recipients of a session, of which each message has one.
func (c *cell) add(r conversation) int {
	accepted := 0
	for _, tx := range r.Transactions {
		if strings.HasPrefix(tx.Reply, "2") {
			accepted += tx.Accepted
		}
	}
	c.sessions++
	c.accepted += accepted
	c.most = max(c.most, len(r.Transactions))
	return accepted
}

func (m *matrix) checkRecord(r conversation, d delivery, t target) {
	name := fmt.Sprintf("%s (TLS %t) to %s", d.client, d.tls, t)
	clientState := "none"
	if d.tls {
		clientState = "ok"
	}
	if d.client == "" || t.server == "" {
		m.fail("a session of nobody's: %+v", r)
		return
	}
	if r.ClientTLS.State != clientState || r.UpstreamTLS.State != "ok" || r.Verdict != "allow" || r.Reason != "" ||
		(r.Rule == "partners") != t.forced || r.UpstreamTLS.Version != "TLS 1.3" {
		m.fail("%s: the record says %+v", name, r)
	}
}

// table has the clients as rows and the servers as columns.
func (m *matrix) table(cells map[[2]string]*cell) string {
	huges, utf8s := map[[2]string]int{}, map[[2]string]int{}
	messages := map[[2]string]int{}
	var clients []string
	for _, d := range m.expected {
		key := [2]string{d.client, d.target.server}
		messages[key]++
		if d.kind == huge {
			huges[key]++
		}
		if d.kind == utf8 {
			utf8s[key]++
		}
		if !slices.Contains(clients, d.client) {
			clients = append(clients, d.client)
		}
	}
	slices.SortFunc(clients, func(a, b string) int { return cmp.Compare(strings.ToLower(a), strings.ToLower(b)) })
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "messages/sessions (most in one)")
	for _, program := range mta.Programs() {
		fmt.Fprintf(w, "\t%s", program.Name)
	}
	fmt.Fprintln(w)
	for _, client := range clients {
		fmt.Fprint(w, client)
		for _, program := range mta.Programs() {
			key := [2]string{client, program.Name}
			c := cells[key]
			if c == nil {
				fmt.Fprint(w, "\tnothing")
				continue
			}
			fmt.Fprintf(w, "\t%d/%d (%d), 40 MB %d, UTF8 %d", messages[key], c.sessions, c.most, huges[key], utf8s[key])
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	for _, c := range commandClients() {
		if err := c.missing(); err != nil {
			fmt.Fprintf(&b, "Not tried: %v.\n", err)
		} else if c.lacks != "" {
			fmt.Fprintf(&b, "%s has no %s.\n", c.name, c.lacks)
		}
	}
	b.WriteString("OpenSMTPD and sendmail have no SMTPUTF8 and no CHUNKING; of the clients Exim alone sends chunks.\n" +
		"Each cell: client in clear and with STARTTLS, IPv4 and IPv6, opportunistic and forced.\n")
	return b.String()
}
