// Package enforce is the policy of Postern: rules, the facts of a session's two
// legs, and the verdict that comes of holding facts against rules.
//
// It is pure. It has no clock (the caller says what time it is), no network, no
// disk and no log, so that the same facts under the same rules give the same
// verdict in a running proxy, in `postern explain` and in a test. It knows
// neither SMTP as bytes nor how a leg came by its facts, and it speaks to no
// peer: replies are worded elsewhere from the Reason of a Verdict.
//
// Everything leans to refusal: the zero Facts, the zero Verdict and an unknown
// Stage all refuse.
package enforce
