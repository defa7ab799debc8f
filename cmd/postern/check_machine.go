package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"postern/proxy"
)

// What a check sees of the machine that it runs on. What cannot be read is held
// against nobody, for a check may run where it is hidden.

// A carrier tells which families of addresses a machine carries for others.
type carrier struct {
	four, six bool
	bridge    func(name string) bool
}

func thisMachine() carrier {
	on := func(path string) bool {
		value, err := os.ReadFile("/proc/sys/net/" + path)
		text := strings.TrimSpace(string(value))
		return err == nil && text != "" && text != "0"
	}
	return carrier{
		four: on("ipv4/ip_forward"),
		six:  on("ipv6/conf/all/forwarding"),
		bridge: func(name string) bool {
			_, err := os.Stat(filepath.Join("/sys/class/net", name, "bridge"))
			return err == nil
		},
	}
}

// leftOut tells of connections that the machine carries and that Postern never
// sees, since none of its sources is of their family.
func leftOut(c proxy.Config, m carrier) error {
	in := c.Intercept
	if in.Method == "none" || len(in.Sources) == 0 {
		return nil
	}
	bridged := slices.ContainsFunc(in.Interfaces, m.bridge)
	var errs []error
	for _, f := range []struct {
		v4, carried bool
		name        string
	}{{true, m.four, "IPv4"}, {false, m.six, "IPv6"}} {
		if (f.carried || bridged) && !slices.ContainsFunc(in.Sources, func(p netip.Prefix) bool { return p.Addr().Is4() == f.v4 }) {
			errs = append(errs, unseen{fmt.Sprintf("no %s network found, and this machine carries %s: such connections go past Postern", f.name, f.name)})
		}
	}
	return errors.Join(errs...)
}

// unseen is something to know about intercept.sources.
type unseen struct{ problem string }

func (e unseen) Error() string     { return e.ConfigKey() + ": " + e.problem }
func (e unseen) ConfigKey() string { return "intercept.sources" }
func (e unseen) Problem() string   { return e.problem }
