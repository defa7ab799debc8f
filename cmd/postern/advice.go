package main

import (
	"postern/cmd/internal/recorded"
	"postern/enforce"
)

// An advice says what a reason means and what would have to change.
type advice struct {
	means string  // in a sentence, for who runs mail
	there string  // on the other side: the server's, the client's, or the sender's
	here  string  // in the configuration, or on this machine
	mend  snippet // what to write for it; nil where nothing is to be written
}

// A snippet is a piece of configuration for what a record tells of.
type snippet func(*recorded.Record, dates) string

// adviceFor gives the advice for a reason as a record has it. That of a reason
// that is not known is empty.
func adviceFor(reason enforce.Reason, r *recorded.Record) advice {
	for _, table := range []map[enforce.Reason]advice{tlsAdvice(), certificateAdvice(), publishedAdvice(), clientAdvice(), wireAdvice()} {
		if a, ok := table[reason]; ok {
			if reason == enforce.TLSVersionTooLow && recorded.Version(r.UpstreamTLS.Version) >= recorded.Version("TLS 1.2") {
				a.here, a.mend = "A rule, or [tls] min_version, asks for more than TLS 1.2. A rule before it without min_version lets this server have TLS 1.2, if [tls] min_version is not the one that asks.", exceptServer("")
			}
			return a
		}
	}
	return advice{}
}

// tlsAdvice is on the TLS of the way to the server.
func tlsAdvice() map[enforce.Reason]advice {
	return map[enforce.Reason]advice{
		enforce.StartTLSNotOffered: {
			means: "TLS was demanded, and the server does not offer STARTTLS.",
			there: "The server has to offer STARTTLS with TLS 1.2 or later. If its operator says that it does, something between takes it away: ask what it offers to others.",
			here:  "A connection rule before the one that demands it lets mail to this server leave in clear. If a rule of the envelope demands it, or the recipient's domain does by what it publishes, take the domain out there: no exception reaches it.",
			mend:  exceptServer(`tls = "opportunistic"`),
		},
		enforce.StartTLSRefused: {
			means: "The server offers STARTTLS, and refused when it was asked for it.",
			there: "The server's log says why: usually a certificate or key that it cannot read.",
			here:  "Until it is mended, a rule may have this server dialled again in clear. Where TLS is demanded that does not help.",
			mend:  exceptServer(`on_handshake_failure = "cleartext"`),
		},
		enforce.StartTLSStripped: {
			means: "The server had TLS before, and does not offer it now: it gave TLS up, or somebody between takes STARTTLS away.",
			there: "Ask its operator whether TLS was switched off. If not, somebody on the way takes it away; the detail names the marks that this left, if there are any.",
			here:  "If the server really gave TLS up, let Postern forget what it had (below). To let such mail pass for all and only log it: [memory] downgrade = \"log\".",
			mend: func(r *recorded.Record, _ dates) string {
				return "# postern memory forget " + addressOr(r.Upstream.Address, "ADDRESS")
			},
		},
		enforce.TLSVersionTooLow: {
			means: "The version of TLS that the server chose is lower than what is demanded.",
			there: "The server has to speak TLS 1.2 or later. One that cannot has to be replaced, or have something in front of it that can.",
			here:  "Nothing: below TLS 1.2 no rule can allow it, and cleartext does not take its place.",
		},
		enforce.TLSCipherNotAllowed: {
			means: "The suite that the server chose is not among those that a rule allows.",
			there: "The server has to offer one of the suites in the rule.",
			here:  "Add the suite to ciphers in the rule, or leave ciphers out: all that Postern offers are above the floor.",
		},
		enforce.TLSNoForwardSecrecy: {
			means: "A rule demands forward secrecy, and the server chose a suite without.",
			there: "The server has to offer suites with an ephemeral key exchange (ECDHE) and prefer them; DHE alone is not spoken here.",
			here:  "A rule before it without forward_secrecy lets this server do without.",
			mend:  exceptServer(""),
		},
		enforce.TLSHandshakeFailed: {
			means: "The TLS handshake with the server failed, and a handshake that failed is not replaced by cleartext.",
			there: "The server's log says why. Servers that have nothing but DHE, RC4 or 3DES have nothing in common with what is offered.",
			here:  "A rule may have this server dialled again in clear; never one that showed less than TLS 1.2. If a rule has ciphers or forward_secrecy, the offer was made smaller by it.",
			mend:  exceptServer(`on_handshake_failure = "cleartext"`),
		},
	}
}

// certificateAdvice is on the certificate that the server showed.
func certificateAdvice() map[enforce.Reason]advice {
	return map[enforce.Reason]advice{
		enforce.CertNotTrusted: {
			means: "The server's certificate does not lead to the roots that are trusted, or its chain is not whole.",
			there: "The server has to send the intermediate certificates with its own, from an authority that is generally known.",
			here:  "If it has an authority of its own, name its root in the rule (ca). Or pin the key that it showed, once its operator confirmed it by another way.",
			mend:  pinKey,
		},
		enforce.CertExpired: {
			means: "The server's certificate has expired, or is not valid yet.",
			there: "The server needs a new certificate, or the right one of those it has. If it is not valid yet, look at both clocks.",
			here:  "Nothing that lasts. Pinning the key takes a certificate by its key whatever its dates are.",
			mend:  pinKey,
		},
		enforce.CertNameMismatch: {
			means: "The server's certificate is for other names than the rule has.",
			there: "The server has to show a certificate with one of those names. Servers of many customers choose by the name they are asked for (SNI).",
			here:  "If the partner's servers are called otherwise now, put the names of the certificate into the rule (names). If the server chooses by SNI, a connection rule can ask for the right one (server_name).",
			mend:  namesOfCertificate,
		},
		enforce.CertFingerprintMismatch: {
			means: "The server showed another certificate, or key, than the one that was agreed on.",
			there: "Ask its operator, by another way than mail, whether it was changed; if it was not, somebody stands between.",
			here:  "Once the new one is confirmed, put it beside the old one in the rule (fingerprints). A pin of the key outlives a renewal that keeps it.",
			mend:  pinKey,
		},
		enforce.CertRevoked: {
			means: "The server's certificate was revoked by who issued it.",
			there: "The server needs a new certificate; with a new key, if the key was lost.",
			here:  "Nothing: a rule with revocation = \"off\" would trust what nobody answers for any more.",
		},
		enforce.CertMissingRevocation: {
			means: "A rule demands to know that the certificate was not revoked (revocation = \"hard\"), and that could not be found out.",
			there: "The server may staple an OCSP answer, which makes asking needless.",
			here:  "This machine has to reach the OCSP responder and the list that the certificate names, over HTTP: \"postern probe\" tells whether it does. With revocation = \"soft\" only a certificate that is known to be revoked is refused.",
		},
	}
}

// publishedAdvice is on what the recipient's domain publishes.
func publishedAdvice() map[enforce.Reason]advice {
	const probe = " \"postern probe DOMAIN\" shows what it publishes and what its servers show."
	return map[enforce.Reason]advice{
		enforce.DANEMismatch: {
			means: "The recipient's domain has TLSA records (DANE), and the server's certificate is in none of them.",
			there: "The domain has to publish the record of a new certificate before its servers show it, and to leave the old one until DNS has forgotten it. If neither was changed, the server is not the domain's.",
			here:  "Where the address is a smart host and no MX host, name it in [verify] relays. Else an exception for this server, until the domain has mended it." + probe,
			mend:  exceptServer("auto = false"),
		},
		enforce.DANERequired: {
			means: "A rule demands DANE, and the recipient's domain has no TLSA records that DNSSEC secures and that can be used.",
			there: "The domain has to sign its zone and that of its MX hosts, and to publish TLSA records with usage 2 or 3 (RFC 7672 §3.1).",
			here:  "Choose another verify in the rule: \"mta-sts\", or \"name\" with the names of its servers." + probe,
		},
		enforce.DNSSECBogus: {
			means: "The records of the recipient's domain could not be had with certainty: their signatures do not hold, or no answer came in time.",
			there: "The domain's signatures may have expired, or its servers may be out of reach.",
			here:  "Ask the resolver that [resolver] names: a SERVFAIL that goes away with \"dig +cd\" is the domain's fault, any other is the resolver's, or the network's to it.",
		},
		enforce.MTASTSCert: {
			means: "The recipient's domain has an MTA-STS policy, and the server's certificate has no name that it lists.",
			there: "The server has to show a certificate for its name in the policy; the domain, to list its servers as they are called.",
			here:  "Where the address is a smart host and no MX host, name it in [verify] relays. Else an exception for this server, until the domain has mended it." + probe,
			mend:  exceptServer("auto = false"),
		},
		enforce.MTASTSMXMismatch: {
			means: "The recipient's domain has an MTA-STS policy, and it does not list the host at this address.",
			there: "The domain's MX records and its policy have to name the same hosts. If they do, the mail was on its way to somebody else's server.",
			here:  "Where the address is a smart host and no MX host, name it in [verify] relays. Else an exception for this server, until the domain has mended it." + probe,
			mend:  exceptServer("auto = false"),
		},
		enforce.MTASTSPolicy: {
			means: "A rule demands MTA-STS, and the policy of the recipient's domain cannot be read, or asks for nothing (mode none).",
			there: "The domain has to publish a policy in the form of RFC 8461 §3.2, with mode enforce or testing.",
			here:  "Choose another verify in the rule: \"dane\", or \"name\" with the names of its servers." + probe,
		},
		enforce.MTASTSFetch: {
			means: "A rule demands MTA-STS, and the policy of the recipient's domain could not be had, or there is none.",
			there: "The domain has to serve its policy at https://mta-sts.DOMAIN/.well-known/mta-sts.txt, with a certificate for that name.",
			here:  "This machine has to reach such hosts over HTTPS: a firewall in front of it may not let it." + probe,
		},
		enforce.MXUnknown: {
			means: "A rule demands what the recipient's domain publishes, and which hosts take its mail is not known.",
			there: "The domain needs MX records, and not the null one (RFC 7505). Recipients at an address in brackets have no domain at all.",
			here:  "Look at the domain in the rule, and at the resolver that [resolver] names." + probe,
		},
		enforce.RequireTLSNotPossible: {
			means: "The sender demanded with REQUIRETLS (RFC 8689) that each server on the way offers it and proves who it is, and this one does not.",
			there: "The server has to offer REQUIRETLS inside TLS, with a certificate that verifies. Or the sender sends without REQUIRETLS.",
			here:  "Nothing: the demand is the sender's, and such a message bounces (RFC 8689 §4.2.1).",
		},
	}
}

// clientAdvice is on the client's side.
func clientAdvice() map[enforce.Reason]advice {
	return map[enforce.Reason]advice{
		enforce.ClientTLSRequired: {
			means: "A rule demands TLS of the client, and it came in clear.",
			there: "The client has to use STARTTLS, which it is offered where the way to the server is secured.",
			here:  "A rule before it for this client makes an exception, where a connection rule demands it.",
			mend:  exceptClient(""),
		},
		enforce.ClientTLSTooLow: {
			means: "The client's TLS is below the floor, in its handshake or in the one before it came back in clear.",
			there: "The client has to speak TLS 1.2 or later. Old systems have it and leave it off: Windows before 2016 wants it switched on in the registry (SCHANNEL).",
			here:  "Nothing lowers the floor. A client that has no better may come in clear where no rule demands TLS of it and [tls] hold_for does not have its network.",
		},
		enforce.ClientCertMissing: {
			means: "A rule demands a certificate of the client, and it showed none.",
			there: "The client has to be given a certificate and to show it when it is asked: in Postfix, smtp_tls_cert_file.",
			here:  "A rule before it for this client makes an exception, where a connection rule demands it.",
			mend:  exceptClient(""),
		},
		enforce.ClientCertMismatch: {
			means: "The client's certificate does not lead to the trusted roots, or is for other names than the rule has.",
			there: "The client has to show a certificate for the name that was agreed on, with its intermediates.",
			here:  "If the partner's servers are called otherwise now, put the names of the certificate into the rule (client_names).",
		},
		enforce.ClientHandshakeFailed: {
			means: "The TLS handshake of the client failed, and the connection was closed.",
			there: "The client's log says why; offered_versions and offered_ciphers in the record say what it had to offer.",
			here:  "If it fails for this client only, let its TLS pass through to the server and be looked at.",
			mend:  watchClient,
		},
		enforce.ClientRefusedCertificate: {
			means: "The client does not take the certificate that it was shown in the server's place.",
			there: "It probably checks the server itself: Postfix with smtp_tls_security_level dane or secure, Exchange to Exchange Online (hybrid), Exchange to Exchange. One that should not can be told to trust the certificate here.",
			here:  "Let this client's TLS pass through to the server and be looked at (inspect = \"watch\"), or leave its connections alone altogether (bypass). If it only looks at names and roots, [tls.authority] mints certificates that it may take.",
			mend:  watchOrBypass,
		},
	}
}

// wireAdvice is on the dialogue itself.
func wireAdvice() map[enforce.Reason]advice {
	return map[enforce.Reason]advice{
		enforce.StartTLSInjection: {
			means: "Octets in clear stood behind STARTTLS, or behind the reply to it: an attack (CVE-2011-0411), or a peer that is out of step.",
			there: "A client must wait for the reply to STARTTLS, and a server must say nothing behind it (RFC 3207 §4).",
			here:  "Nothing: what was said in clear must not count inside TLS.",
		},
		enforce.BareNewline: {
			means: "A CR or LF stood alone where a line ends with CRLF. Servers disagree on what that means, and messages are smuggled that way.",
			there: "The sending program has to end lines with CRLF (RFC 5321 §2.3.8).",
			here:  "Within messages, [smtp] bare_newline = \"normalize\" makes them whole. In commands nothing does.",
			mend: func(*recorded.Record, dates) string {
				return "[smtp]\nbare_newline = \"normalize\""
			},
		},
		enforce.ProtocolError: {
			means: "A peer said what is not SMTP, or said it out of turn.",
			there: "The detail says who and what. Scanners and web clients do so, too.",
			here:  "Nothing, unless something between changes what is said: other proxies, SMTP inspection of firewalls.",
		},
		enforce.UpstreamUnreachable: {
			means: "The server could not be reached.",
			there: "The server may be down, or a firewall may stand before it.",
			here:  "This machine has to reach it from the client's own address: see \"postern doctor\". Senders try again.",
		},
		enforce.UpstreamLost: {
			means: "The server closed the connection, or stopped answering, in the middle of a session.",
			there: "The server's log says why, if it knows.",
			here:  "If it needs longer than [timeouts] gives, give it more. The message is still the sender's.",
		},
		enforce.Overload: {
			means: "A limit of [limits] was reached: too many sessions at once, or too many of one client.",
			there: "One client that opens hundreds of connections may be told to open fewer.",
			here:  "Raise sessions or sessions_per_source, if the machine has the memory and the files for it.",
		},
	}
}
