package intercept

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// ownFamilies are those in which a table of ours can stand.
var ownFamilies = []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge}

// replace puts the tables in the place of whatever tables of ours there are, in
// one transaction: no packet ever meets half of them, and when the kernel
// refuses any part everything stays as it was.
func replace(tables []table) error {
	connection, err := nftables.New()
	if err != nil {
		return fmt.Errorf("intercept: nftables: %w", err)
	}
	present, err := ownTables(connection)
	if err != nil {
		return err
	}
	for _, t := range present {
		connection.DelTable(t)
	}
	for _, t := range tables {
		if err := t.add(connection, tableName); err != nil {
			return err
		}
	}
	if err := connection.Flush(); err != nil {
		return explain(err, tables)
	}
	return nil
}

// ownTables lists the tables of ours that are in the kernel. One of our name that
// is somebody else's is an obstacle, for there cannot be two.
func ownTables(connection *nftables.Conn) ([]*nftables.Table, error) {
	var own []*nftables.Table
	for _, family := range ownFamilies {
		tables, err := connection.ListTablesOfFamily(family)
		if errors.Is(err, unix.EPERM) {
			return nil, lacksNetAdmin(err)
		}
		if err != nil {
			return nil, fmt.Errorf("intercept: listing nftables tables (CONFIG_NF_TABLES): %w", err)
		}
		for _, t := range tables {
			if t.Name != tableName || t.Family != family {
				continue
			}
			if err := checkMade(connection, t); err != nil {
				return nil, err
			}
			own = append(own, t)
		}
	}
	return own, nil
}

// signature are the chains by which a table of ours is known. They stand in it
// under every plan, and stay while Down lingers.
var signature = map[nftables.TableFamily][]string{
	nftables.TableFamilyINet:   {hookChain, takeChain},
	nftables.TableFamilyBridge: {hookChain, towardsServer + "0"},
}

func checkMade(connection *nftables.Conn, t *nftables.Table) error {
	chains, err := connection.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return fmt.Errorf("intercept: listing nftables chains: %w", err)
	}
	for _, name := range signature[t.Family] {
		if !slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == t.Name && c.Name == name }) {
			return &ObstacleError{
				What: fmt.Sprintf("the nftables table %s %s has no chain %s, so it was not made by intercept up",
					familyName(t.Family), t.Name, name),
				Remedy: fmt.Sprintf("rename it, or if nobody needs it: nft delete table %s %s", familyName(t.Family), t.Name),
			}
		}
	}
	return nil
}

// add queues the table for the transaction, which fails where there is another
// of that name.
func (t table) add(connection *nftables.Conn, name string) error {
	made := connection.CreateTable(&nftables.Table{Name: name, Family: t.family})
	for _, s := range t.sets {
		err := connection.AddSet(&nftables.Set{
			Table: made, Name: s.name, KeyType: s.kind, KeyByteOrder: s.order, Interval: s.interval,
		}, s.elements)
		if err != nil {
			return fmt.Errorf("intercept: nftables set %s: %w", s.name, err)
		}
	}
	// All chains before any rule: rules jump to them.
	chains := map[string]*nftables.Chain{}
	for _, c := range t.chains {
		chains[c.name] = connection.AddChain(c.declare(made))
	}
	for _, c := range t.chains {
		for _, r := range c.rules {
			connection.AddRule(&nftables.Rule{
				Table: made, Chain: chains[c.name], Exprs: r.exprs,
				UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment),
			})
		}
	}
	return nil
}

func (c chain) declare(t *nftables.Table) *nftables.Chain {
	declared := &nftables.Chain{Name: c.name, Table: t}
	if c.hook != nil {
		policy := nftables.ChainPolicyAccept
		declared.Type, declared.Priority = c.hook.kind, &c.hook.priority
		declared.Hooknum, declared.Policy = c.hook.number(), &policy
	}
	return declared
}

// emptyTakeChain stops taking new connections; everything else stays.
func emptyTakeChain() error {
	connection, err := nftables.New()
	if err != nil {
		return fmt.Errorf("intercept: nftables: %w", err)
	}
	present, err := ownTables(connection)
	if err != nil {
		return err
	}
	for _, t := range present {
		chains, err := connection.ListChainsOfTableFamily(t.Family)
		if err != nil {
			return fmt.Errorf("intercept: listing nftables chains: %w", err)
		}
		for _, c := range chains {
			// A bridge's chains lift only; without them answers to connections
			// under way would pass Postern by.
			if c.Table.Name == tableName && c.Name == takeChain {
				connection.FlushChain(&nftables.Chain{Name: c.Name, Table: t})
			}
		}
	}
	if err := connection.Flush(); err != nil {
		return explain(err, nil)
	}
	return nil
}

// handsOver is true of the rules that send connections to Postern. They are known
// by their comment, for the library reads no tproxy.
func handsOver(r *nftables.Rule) bool {
	comment, ok := userdata.GetString(r.UserData, userdata.TypeComment)
	return ok && strings.HasPrefix(comment, toListener)
}

// onlyBlock has new connections reset from now on, and nothing handed to Postern.
// What bypass and sources leave alone stays so.
func onlyBlock() error {
	connection, err := nftables.New()
	if err != nil {
		return fmt.Errorf("intercept: nftables: %w", err)
	}
	t := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	take := &nftables.Chain{Name: takeChain, Table: t}
	rules, err := connection.GetRules(t, take)
	if err != nil {
		return fmt.Errorf("intercept: listing nftables rules: %w", err)
	}
	blocks := false
	for _, r := range rules {
		blocks = blocks || holds[*expr.Reject](rule{exprs: r.Exprs})
		if handsOver(r) {
			if err := connection.DelRule(r); err != nil {
				return fmt.Errorf("intercept: nftables: %w", err)
			}
		}
	}
	if !blocks { // redirected ones are refused where nothing listens, without a rule
		connection.AddRule(&nftables.Rule{Table: t, Chain: take, Exprs: join(isTCP(), rejectWithReset()),
			UserData: userdata.AppendString(nil, userdata.TypeComment, "stopped: block")})
	}
	if err := connection.Flush(); err != nil {
		return explain(err, nil)
	}
	return nil
}

// describe writes the rules as Show prints them.
func (t table) describe() []string {
	var lines []string
	for _, c := range t.chains {
		for i, r := range c.rules {
			lines = append(lines, fmt.Sprintf("%s %s %d: %s", familyName(t.family), c.name, i+1, r.comment))
		}
	}
	return lines
}

func familyName(family nftables.TableFamily) string {
	switch family {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyBridge:
		return "bridge"
	}
	return strings.ToLower(fmt.Sprint(family))
}
