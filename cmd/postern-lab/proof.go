package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"postern/proxy/proxytest/netlab"
)

// A proof is what crossed the gateway's two interfaces, captured, to be held
// against what records say.
type proof struct {
	inside, outside *netlab.Capture
}

// beginProof starts capturing on both interfaces of the gateway.
func beginProof(gateway *netlab.Host) (*proof, error) {
	inside, err := gateway.Capture("lan0", nil)
	if err != nil {
		return nil, err
	}
	outside, err := gateway.Capture("wan0", nil)
	if err != nil {
		_, stopped := inside.Stop()
		return nil, errors.Join(err, stopped)
	}
	return &proof{inside, outside}, nil
}

// A finding is what the capture outside showed.
type finding struct {
	packets, octets int
	// Of the messages that servers took within TLS, of those that they took in
	// clear, and of those that none took.
	tls, clear, refused tally
}

// A tally counts messages, and those that were seen in clear.
type tally struct{ all, seen int }

func (t *tally) add(seen bool) {
	t.all++
	if seen {
		t.seen++
	}
}

// end stops capturing and looks for the token of each message, which stands in
// envelope and body: in clear it must not be where the record says TLS, nor
// outside where the message was refused; and it must be where the record says
// that it went in clear, or the search would prove nothing.
func (p *proof) end(results []*result) (finding, error) {
	inside, errInside := p.inside.Stop()
	outside, errOutside := p.outside.Stop()
	if err := errors.Join(errInside, errOutside); err != nil {
		return finding{}, fmt.Errorf("a capture is incomplete and proves nothing: %w", err)
	}
	f := finding{packets: len(outside)}
	streamsIn, streamsOut := netlab.Streams(inside), netlab.Streams(outside)
	for _, s := range append(slices.Clip(streamsIn), streamsOut...) {
		if !s.Complete {
			return finding{}, fmt.Errorf("the capture of %s to %s has a gap and proves nothing", s.Flow.From, s.Flow.To)
		}
	}
	for _, s := range streamsOut {
		f.octets += len(s.Data)
	}
	for _, r := range results {
		r.judgeClear("inside", in(streamsIn, r.token), r.record.ClientTLS.State)
		leaked := in(streamsOut, r.token)
		r.judgeClear("outside", leaked, r.record.UpstreamTLS.State)
		switch {
		case len(r.arrivals) == 0:
			f.refused.add(leaked)
		case r.arrivals[0].message.TLS:
			f.tls.add(leaked)
		default:
			f.clear.add(leaked)
		}
	}
	return f, nil
}

// judgeClear holds whether a message was seen in clear on one side against the
// state of the leg there.
func (r *result) judgeClear(side string, seen bool, state string) {
	// Passed through, the ends may have agreed on TLS without Postern.
	through := r.record.End == "passed through"
	switch {
	case seen && !r.want.delivered && side == "outside":
		r.fault("refused, and yet the message was captured outside")
	case seen && state != "none" && !through:
		r.fault("captured in clear %s, where the record says TLS: %s", side, state)
	case !seen && state == "none" && r.want.delivered && !through:
		r.fault("not captured in clear %s, where the record says that it was", side)
	}
}

func in(streams []netlab.Stream, token string) bool {
	for _, s := range streams {
		if bytes.Contains(s.Data, []byte(token)) {
			return true
		}
	}
	return false
}
