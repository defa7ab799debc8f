// Package replay judges recorded sessions by another policy: what would have been
// refused, what allowed, and what a record does not say.
//
// Where a verdict rests on something that no record has, it is asked for twice,
// with the best and with the worst that this could have been. Only where both come
// to the same is it told; otherwise it is counted as not to be told, with what is
// missing. A few things are taken to be as they were, and named in the help of the
// command: the roots of rules that keep their names and of [tls.trust], what was
// remembered, and that nobody behaves otherwise because of a verdict. Nothing is
// asked of any peer, and no rule is matched here: package enforce decides.
package replay
