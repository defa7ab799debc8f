// Package recorded reads session records back from a log: the JSON lines that a
// daemon writes, as they are, or as the journal hands them out, and the facts in
// them as rules look at them.
//
// What a line says came of peers and went through others' hands: every line is
// bounded, a bad one is named by its number and passed over, and nothing is shown
// of it. What a record does not say stays unknown; the package guesses nothing,
// judges nothing, and asks nobody.
package recorded
