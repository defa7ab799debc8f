package main

import (
	"crypto/tls"

	"postern/enforce"
)

// leavesTLS reports whether the session's rule leaves TLS to client and server.
func (x *explainer) leavesTLS() bool {
	return x.rule.Inspect == enforce.Watch && x.startTLS
}

// watched judges the TLS that client and server agree on by themselves. Behind it
// nothing is seen.
func (x *explainer) watched() {
	x.facts.Client.State = enforce.StateNone
	floor := x.file.Policy.Floor()
	if x.clientVersion < floor {
		x.facts.Upstream = enforce.Leg{State: enforce.StateNone} // it is not asked
		x.facts.Client = enforce.Leg{State: enforce.StateFailed, Failure: enforce.ClientTLSTooLow,
			Detail: tls.VersionName(x.clientVersion) + " is below " + tls.VersionName(floor)}
		x.judge(enforce.AfterClientTLS, nil, stageResult{Notes: x.cutWords()})
		return
	}
	agreed := enforce.Leg{State: enforce.StateWatched, Version: min(x.version, x.clientVersion), Cipher: x.cipher, Group: uint16(tls.X25519)}
	switch {
	case x.version == 0:
		agreed = enforce.Leg{State: enforce.StateFailed, Failure: enforce.TLSHandshakeFailed, Detail: "the TLS handshake failed"}
	case agreed.Version >= tls.VersionTLS13 && agreed.Cipher == 0:
		agreed.Cipher = tls.TLS_AES_128_GCM_SHA256
	case agreed.Cipher == 0:
		agreed.Cipher = tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
	}
	x.facts.Upstream, x.facts.Client = agreed, agreed
	passes := x.judge(enforce.AfterUpstreamTLS, nil, stageResult{})
	last := &x.out.Stages[len(x.out.Stages)-1]
	last.Notes = []string{"the TLS of client and server passes through; nothing inside it is seen, so sender and recipients are not judged"}
	if !passes || last.Verdict != allowed {
		last.Notes = x.cutWords()
	}
}

func (x *explainer) cutWords() []string {
	if x.file.Proxy.Observe {
		return []string{"observed: it passes all the same"}
	}
	return []string{"no reply: both connections are cut before they carry mail"}
}
