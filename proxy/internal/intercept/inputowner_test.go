package intercept

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// The kernel lets nobody else change a table that a program keeps for itself.
func TestATableOfAProgramsOwnIsChangedByThatProgramAlone(t *testing.T) {
	withFirewalls(t)
	n := routed(t)
	for _, row := range []struct {
		table string
		plan  Plan
		want  string
	}{
		{"firewalld", tproxyPlan(), `firewall-cmd --permanent --zone="$(firewall-cmd --get-zone-of-interface='lan0' || firewall-cmd --get-default-zone)" --add-port=25/tcp && firewall-cmd --reload`},
		{"firewalld", redirectPlan(), "# only the program that made the table inet firewalld can change it: have it let in: ct status dnat tcp dport { 2525 } accept"},
		{"others", tproxyPlan(), "# only the program that made the table inet others can change it: have it let in: meta mark & 0x1000 == 0x1000 accept"},
	} {
		// The table lives as long as the program that owns it.
		owner := n.Gateway.Command(within(t, patience), "nft", "-i")
		words, err := owner.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- n.Gateway.Run(owner) }()
		fmt.Fprintf(words, "add table inet %[1]s { flags owner; }\nadd chain inet %[1]s input { type filter hook input priority 0; policy drop; }\n", row.table)
		var found []InputHindrance
		isThere := func() bool { return len(found) == 1 && found[0].Owned }
		for end := time.Now().Add(patience); !isThere() && time.Now().Before(end); {
			found = hindrances(t, n.Gateway, row.plan)
		}
		if !isThere() || found[0].Command != row.want {
			t.Errorf("%s, %s: %+v", row.table, row.plan.Method, found)
		}
		if _, err := outputOn(t, n.Gateway, "nft", "insert rule inet "+row.table+" input accept"); err == nil {
			t.Error("anybody can change it: this test proves nothing")
		}
		if err := errors.Join(words.Close(), <-ended); err != nil {
			t.Error(err)
		}
	}
}
