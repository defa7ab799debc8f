package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/netlab"
)

// reckon adds both senders up.
func (t *trial) reckon() reckoning {
	accepted, doubtful := map[string]bool{}, attempts{}
	maps.Copy(accepted, t.result.accepted)
	maps.Copy(doubtful, t.result.doubtful)
	if t.chunks != nil {
		t.chunks.mu.Lock()
		defer t.chunks.mu.Unlock()
		maps.Copy(accepted, t.chunks.accepted)
		maps.Copy(doubtful, t.chunks.doubtful)
	}
	return t.ledger.reckon(accepted, doubtful)
}

// findings are what must not be.
func (t *trial) findings() []string {
	r := t.reckon()
	var all []string
	wrong := func(n int, what string) {
		if n != 0 {
			all = append(all, fmt.Sprintf("%d %s", n, what))
		}
	}
	wrong(t.messages-r.sent, "messages were never sent")
	wrong(r.sent-r.accepted, "messages were not accepted")
	wrong(r.lost, "messages lost")
	wrong(r.changed, "messages changed")
	wrong(r.foreign, "messages that nobody sent")
	wrong(t.queued, "messages are still in the queue")
	wrong(t.bounced(), "messages bounced")
	wrong(len(r.unexplained), fmt.Sprintf("messages arrived twice without a cause: %v", r.unexplained[:min(5, len(r.unexplained))]))
	// Who dropped the last reply of its own accord would cut senders off, too: they
	// may be no more than what was done to it can have cut off.
	done := 5
	for _, name := range []string{"killed (SIGKILL)", "drained (SIGTERM)", "died of little memory", "few file descriptors", "bad weather"} {
		done += t.faults[name]
	}
	wrong(max(0, r.explained[cutOff]-done), "senders more were cut off behind the end of data than faults can have done")
	wrong(int(t.probe.refused.Load()), "connections refused")
	wrong(len(t.book.crashed), fmt.Sprintf("sessions crashed: %v", t.book.crashed[:min(1, len(t.book.crashed))]))
	if t.keeper != nil {
		wrong(len(t.keeper.crashes), fmt.Sprintf("times postern ended, or did not, as it should: %v", t.keeper.crashes))
	}
	return all
}

func (t *trial) bounced() int {
	if t.chunks == nil {
		return t.result.bounced
	}
	return t.result.bounced + t.chunks.bounced
}

// show prints the table.
func (t *trial) show(w io.Writer) {
	r := t.reckon()
	row := func(name string, value any) { fmt.Fprintf(w, "  %-44s %10v\n", name, value) }
	fmt.Fprintf(w, "\nmessages, in %s (seed %d)\n", t.took.Round(time.Second), t.seed)
	row("sent", r.sent)
	row("accepted (the sender was told 250)", r.accepted)
	row("arrived", r.arrived)
	row("  by BDAT", r.chunked)
	row("  in TLS to the server", r.secret)
	row("  megabytes in all, what came twice included", t.ledger.size>>20)
	row("changed", r.changed)
	row("lost", r.lost)
	row("bounced", t.bounced())
	row("left in the queue", t.queued)
	row("arrived once more", r.duplicated)
	for _, cause := range slices.Sorted(maps.Keys(r.explained)) {
		row("  "+cause, r.explained[cause])
	}
	row("  without a cause", len(r.unexplained))
	row("attempts that Postfix put off", t.result.deferrals)
	row("sessions of Postfix in TLS", t.result.secured)
	t.showFaults(row, w)
	t.showDaemon(row, w)
}

func (t *trial) showFaults(row func(string, any), w io.Writer) {
	fmt.Fprintln(w, "\nfaults")
	for _, name := range slices.Sorted(maps.Keys(t.faults)) {
		row(name, t.faults[name])
	}
	hangups := map[proxytest.Stage]int{}
	for _, counter := range t.counters {
		for stage, n := range counter.Hangups() {
			hangups[stage] += n
		}
	}
	for _, stage := range slices.Sorted(maps.Keys(hangups)) {
		row("server hung up: "+string(stage), hangups[stage])
	}
	var sum netlab.Passed
	for _, wire := range t.wires {
		p := wire.Passed()
		sum.Frames += p.Frames
		sum.Lost += p.Lost
		sum.Duplicated += p.Duplicated
		sum.Overtaken += p.Overtaken
	}
	row("frames on the wires", sum.Frames)
	row("  lost", sum.Lost)
	row("  doubled", sum.Duplicated)
	row("  overtaken", sum.Overtaken)
}

func (t *trial) showDaemon(row func(string, any), w io.Writer) {
	fmt.Fprintln(w, "\npostern")
	if t.keeper != nil {
		row("restarts", t.keeper.restarts.Load())
		row("reloads asked for", t.keeper.reloads.Load())
		row("  of a broken configuration", t.keeper.broken.Load())
	}
	row("reloads in the log: came into force", t.book.reloaded)
	row("  everything stayed as it was", t.book.kept)
	row("failures of accepting in the log", t.book.acceptFailed)
	var connections int64
	for _, counter := range t.counters {
		connections += counter.Connections()
	}
	row("connections that reached a server", connections)
	row("session records in the log", t.book.records)
	row("lines that the full disk cost, as the log says", t.book.missing)
	row("  of which the beginning is there", t.book.unreadable)
	row("connections of the prober", t.probe.connected.Load())
	row("  refused", t.probe.refused.Load())
	row("  unanswered", t.probe.unanswered.Load())
	fmt.Fprintln(w)
}
