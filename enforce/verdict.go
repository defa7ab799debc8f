package enforce

// An Action is what a verdict asks for. The zero value defers.
type Action uint8

// The actions, in the words of the record.
const (
	Defer  Action = iota // "defer": 4xx, the sender keeps the message and tries again
	Reject               // "reject": 5xx, the sender gives up
	Allow                // "allow"
)

func (a Action) String() string {
	switch a {
	case Allow:
		return "allow"
	case Reject:
		return "reject"
	}
	return "defer"
}

// A Failure is one demand that the facts did not meet.
type Failure struct {
	Reason Reason
	Detail string // what held against what: "TLS 1.0 is below TLS 1.2"
	Rule   string // the rule whose demand it was; "" is the floor or the wire itself
	Logged bool   // on_violation = "log": recorded and let pass
	ForNow bool   // it is not known whether the demand is met: deferred, whatever on_violation says
}

// A Verdict is what became of holding facts against the rules.
type Verdict struct {
	Action   Action
	Failure            // the one that decided; when Action is Allow, the first that was only logged, if any
	Failures []Failure // all of them, in the order of judgement
}

// Refused reports whether the verdict is anything but allow.
func (v Verdict) Refused() bool { return v.Action != Allow }
