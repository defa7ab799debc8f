package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Loopback among the interfaces of a plan stands for the connections that this
// machine itself makes. It needs Redirect: what this machine sends passes no
// prerouting chain, and TPROXY exists in no other.
const Loopback = "lo"

// outputChain is where connections of this machine itself are taken. It jumps to
// the same chain as prerouting does, so that Down stops both.
const outputChain = "output"

func (p Plan) takesOwn() bool { return slices.Contains(p.Interfaces, Loopback) }

// elsewhere are the interfaces where connections of others come in.
func (p Plan) elsewhere() []string {
	return slices.DeleteFunc(slices.Clone(p.Interfaces), func(name string) bool { return name == Loopback })
}

// onlyOwn is true of a plan that takes nobody's connections but this machine's.
// They are redirected to the loopback address, which nobody else can reach.
func (p Plan) onlyOwn() bool { return p.takesOwn() && len(p.elsewhere()) == 0 }

// loopbackOf is the address that a family's own connections are redirected to.
func loopbackOf(v4 bool) netip.Addr {
	if v4 {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// ownConnections is the chain for them. Only the first packet of a connection
// passes it, as in prerouting.
func (p Plan) ownConnections() chain {
	return chain{
		name: outputChain,
		hook: &hook{kind: nftables.ChainTypeNAT, at: nftables.ChainHookOutput, priority: *nftables.ChainPriorityNATDest},
		rules: []rule{
			// Before anything else, or what Postern sends would come back to it.
			{"Postern's own connections, those of user " + p.User, join(
				isOfUser(p.uid), verdict(expr.VerdictReturn))},
			{"connections to this machine are its own", join(fibIsLocal(), verdict(expr.VerdictReturn))},
			{"new connections of this machine to the intercepted ports", join(
				isTCP(), portIn(destinationPort, setPorts), isSYN(), jump(takeChain))},
		},
	}
}

// isOfUser: meta skuid 997
func isOfUser(uid uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeySKUID, Register: register},
		equals(binaryutil.NativeEndian.PutUint32(uid)...),
	}
}

// findUser gives the plan the number of its user, where that is needed. A name
// that this machine does not know is no mistake of the plan.
func (p Plan) findUser() (Plan, error) {
	if !p.takesOwn() || p.Method != Redirect {
		return p, nil
	}
	if number, err := strconv.ParseUint(p.User, 10, 32); err == nil {
		p.uid = uint32(number)
		return p, nil
	}
	found, err := user.Lookup(p.User)
	if unknown := user.UnknownUserError(""); errors.As(err, &unknown) {
		return p, &ObstacleError{
			Key: "intercept.user",
			What: fmt.Sprintf("there is no user %q on this machine, whose connections would be let out past Postern",
				p.User),
			Remedy: "make that user, or name the one that Postern runs as, by name or number",
		}
	}
	if err != nil {
		return p, fmt.Errorf("intercept: user %s: %w", p.User, err)
	}
	number, err := strconv.ParseUint(found.Uid, 10, 32)
	if err != nil {
		return p, fmt.Errorf("intercept: user %s: %w", p.User, err)
	}
	p.uid = uint32(number)
	return p, nil
}

// CheckUser tells whether this process runs as the user of the plan, where that
// matters: else every connection that it makes would come back to it.
func (p Plan) CheckUser() error {
	if !p.takesOwn() || p.Method != Redirect {
		return nil
	}
	p, err := p.findUser()
	if err != nil {
		return err
	}
	if own := os.Geteuid(); own != int(p.uid) {
		return &ObstacleError{
			Key: "intercept.user",
			What: fmt.Sprintf("this process runs as user %d and not as %s: the connections that it makes would come back to it",
				own, p.User),
			Remedy: "run it as that user, or name the one that it runs as and say intercept up again",
		}
	}
	return nil
}

// bindOwn takes the address that a program of this machine chose for its
// connection, as a mail server does that has several (smtp_bind_address), and
// leaves the port for connect to choose. That takes no privilege, and it fails
// where the address is not this machine's.
func bindOwn(fd int, client netip.Addr) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return os.NewSyscallError("setsockopt IP_BIND_ADDRESS_NO_PORT", err)
	}
	return os.NewSyscallError("bind", unix.Bind(fd, sockaddr(netip.AddrPortFrom(client, 0))))
}
