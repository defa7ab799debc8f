package config

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkParse reads configurations of many rules, as a reload under load does.
func BenchmarkParse(b *testing.B) {
	for _, n := range []int{10, 1000, 3000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			data := manyRules(n)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse("postern.toml", data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// manyRules writes a configuration of n rules, by networks and by domains in turn.
func manyRules(n int) []byte {
	var w strings.Builder
	w.WriteString(`[intercept]
method = "redirect"
interfaces = ["lan0"]
[listen]
addresses = ["0.0.0.0:2525", "[::]:2525"]
`)
	for i := range n {
		fmt.Fprintf(&w, "\n[[rule]]\nname = \"partner %d\"\n", i)
		switch i % 3 {
		case 0:
			fmt.Fprintf(&w, "to_networks = [\"10.%d.%d.0/24\", \"2001:db8:%x::/48\"]\ntls = \"forced\"\n", i>>8, i&0xff, i)
		case 1:
			fmt.Fprintf(&w, "to_domains = [\"partner%d.example\", \"*.partner%d.example\"]\ntls = \"forced\"\nverify = \"name\"\nnames = [\"mx.partner%d.example\"]\n", i, i, i)
		default:
			fmt.Fprintf(&w, "to_mx_of = [\"hosted%d.example\"]\ntls = \"forced\"\nmin_version = \"1.3\"\n", i)
		}
	}
	return []byte(w.String())
}
