package intercept

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// features are what of the kernel the tables need besides nf_tables itself, to
// which meta (with skuid), lookup, payload and bitwise belong. Each row has the
// part of a table that is possible only with it; a row comes after those without
// which its part cannot be tried.
var features = []struct {
	module, purpose string
	part            func(table) table
}{
	{"nf_tables for inet (CONFIG_NF_TABLES_INET)", "any interception", ofFamily(nftables.TableFamilyINet)},
	{"nf_tables for bridges (CONFIG_NF_TABLES_BRIDGE)", "a bridge among the interfaces", ofFamily(nftables.TableFamilyBridge)},
	{"nft_chain_nat (CONFIG_NFT_NAT)", "method redirect", chainsOf(nftables.ChainTypeNAT)},
	{"nft_ct (CONFIG_NFT_CT)", "method redirect, which needs conntrack", rulesWith[*expr.Ct]},
	{"nft_socket (CONFIG_NFT_SOCKET)", "recognising packets of Postern's own connections", rulesWith[*expr.Socket]},
	{"nft_fib_inet (CONFIG_NFT_FIB_INET)", "leaving connections to this machine alone", rulesWith[*expr.Fib]},
	{"nft_tproxy (CONFIG_NFT_TPROXY)", "method tproxy", rulesWith[*expr.TProxy]},
	{"nft_redir (CONFIG_NFT_REDIR)", "method redirect", rulesWith[*expr.Redir]},
	{"nft_reject_inet (CONFIG_NFT_REJECT_INET)", "when_down = block", rulesWith[*expr.Reject]},
}

// explain finds out which part of the tables the kernel does not know.
func explain(cause error, tables []table) error {
	if errors.Is(cause, unix.EPERM) {
		return lacksNetAdmin(cause)
	}
	if obstacle := lacking(tables, table.possible); obstacle != nil {
		return obstacle
	}
	return fmt.Errorf("intercept: nftables: %w", cause)
}

// lacking names the first feature that the tables need and that is not possible.
func lacking(tables []table, possible func(table) bool) error {
	for _, feature := range features {
		for _, t := range tables {
			// A table of no family holds nothing to try.
			if part := feature.part(t); part.family != 0 && !possible(part) {
				return &ObstacleError{
					What:   fmt.Sprintf("the kernel has no %s, needed for %s", feature.module, feature.purpose),
					Remedy: "load or install it",
				}
			}
		}
	}
	return nil
}

// ofFamily has an empty table tried.
func ofFamily(family nftables.TableFamily) func(table) table {
	return func(t table) table {
		if t.family != family {
			return table{}
		}
		return table{family: family}
	}
}

// chainsOf has chains of a type tried, without rules.
func chainsOf(kind nftables.ChainType) func(table) table {
	return func(t table) table {
		var part table
		for _, c := range t.chains {
			if c.hook != nil && c.hook.kind == kind {
				part.family = t.family
				part.chains = append(part.chains, chain{name: c.name, hook: c.hook})
			}
		}
		return part
	}
}

// rulesWith has the rules tried that hold such an expression, and only those.
func rulesWith[T expr.Any](t table) table {
	part := table{sets: t.sets}
	for _, c := range t.chains {
		kept := chain{name: c.name, hook: c.hook}
		for _, r := range c.rules {
			if holds[T](r) {
				part.family = t.family
				kept.rules = append(kept.rules, r)
			}
		}
		part.chains = append(part.chains, kept)
	}
	return part
}

func holds[T expr.Any](r rule) bool {
	for _, e := range r.exprs {
		if _, ok := e.(T); ok {
			return true
		}
	}
	return false
}

// possible offers the kernel a table that the same transaction deletes again.
func (t table) possible() bool {
	connection, err := nftables.New()
	if err != nil {
		return false
	}
	const trialName = tableName + "-trial"
	if err := t.add(connection, trialName); err != nil {
		return false
	}
	connection.DelTable(&nftables.Table{Name: trialName, Family: t.family})
	return connection.Flush() == nil
}
