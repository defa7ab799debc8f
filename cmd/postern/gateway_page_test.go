package main

import (
	"cmp"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"postern/cmd/internal/config"
	"postern/enforce/cluster"
	"postern/enforce/memory"
	"postern/proxy/proxytest/redislab"
)

const gatewayPage = "../../packaging/man/postern-gateway.7"

// pageText is a page as it is read, as far as single lines go.
func pageText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(`\-`, "-", `\e`, `\`, `\(aq`, "'", `\(dq`, `"`, `\(ha`, "^", `\&`, "").Replace(string(text))
}

func TestTheKeepalivedConfigurationInTheManualIsTheOneThatIsShipped(t *testing.T) {
	shipped, err := os.ReadFile("../../packaging/keepalived/keepalived.conf")
	if err != nil {
		t.Fatal(err)
	}
	var without strings.Builder // the comments
	for line := range strings.Lines(string(shipped)) {
		if text := strings.TrimSpace(line); text != "" && !strings.HasPrefix(text, "#") {
			without.WriteString(line)
		}
	}
	want := "\n.Bd -literal -offset indent\n" + without.String() + ".Ed\n"
	if !strings.Contains(pageText(t, gatewayPage), want) {
		t.Errorf("%s does not show\n%s", gatewayPage, want)
	}
}

func TestTheInputRulesInTheManualAreThoseThatUpPrints(t *testing.T) {
	page := pageText(t, gatewayPage)
	for _, method := range []string{"tproxy", "redirect"} {
		got := on(t, gateway(t), "intercept", "up", "--config", write(t, `intercept = {method = "`+method+`", interfaces = ["lan0"]}`))
		rules := 0
		for line := range strings.Lines(got.stdout) {
			rule, ok := strings.CutPrefix(line, "  nftables: ")
			if ok {
				rule = "nft 'insert rule inet FILTER INPUT " + strings.TrimSpace(rule) + "'"
			} else if rule, ok = strings.CutPrefix(line, "  iptables: "); !ok {
				continue
			}
			rules++
			if rule := strings.TrimSpace(rule); !strings.Contains(page, "\n"+rule+"\n") {
				t.Errorf("%s does not show\n%s", gatewayPage, rule)
			}
		}
		if rules != 3 {
			t.Errorf("%d rules in\n%s", rules, got.stdout)
		}
	}
}

// Pages of the project are named by the section they are in.
func TestThePagesThatTheGatewayPageNamesAreThoseThatAreShipped(t *testing.T) {
	sections := map[string]string{"postern.toml": "5", "postern-gateway": "7"} // else 8
	named := regexp.MustCompile(`(?m)^\.Xr (postern\S*) (\d)`).FindAllStringSubmatch(pageText(t, gatewayPage), -1)
	for _, m := range named {
		if section := cmp.Or(sections[m[1]], "8"); m[2] != section {
			t.Errorf("%s(%s) is named, and is in section %s", m[1], m[2], section)
		}
	}
	if len(named) == 0 {
		t.Error("none is named")
	}
}

// The user that the page has Postern be on a shared server may do all that Postern
// does there, and touch nothing else.
func TestTheUserOfASharedServerInTheManualIsEnough(t *testing.T) {
	page := pageText(t, gatewayPage)
	acl := regexp.MustCompile(`(?m)^ACL SETUSER postern .*$`).FindString(page)
	if acl == "" {
		t.Fatal("the page has no user")
	}
	server := redislab.Start(t)
	server.Do(acl)
	address, err := cluster.ParseAddress("redis://postern:password@" + server.Address)
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Probe(t.Context(), address); err != nil {
		t.Error(err)
	}
	var said []error
	link := cluster.New(cluster.Options{Address: address, Report: func(err error) { said = append(said, err) }})
	s, err := memory.Open(memory.Options{Remember: time.Hour, Keeper: link})
	if err != nil {
		t.Fatal(err)
	}
	link.Start()
	s.Learn(netip.MustParseAddrPort("203.0.113.7:25"), nil, memory.Observation{SPKI: [32]byte{1}, Verified: true, At: time.Now()})
	if err := link.Close(); err != nil || len(said) > 0 {
		t.Errorf("%v, %v", err, said)
	}
	what, _ := memory.ParseSubject("203.0.113.7")
	if n, err := memory.Forget(cluster.OnServer(address), what); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	store := regexp.MustCompile(`(?m)^store = .*$`).FindString(page)
	if _, err := config.Parse("page.toml", []byte("intercept.interfaces = [\"lan0\"]\n[memory]\n"+store+"\n")); err != nil {
		t.Errorf("%s: %v", store, err)
	}
}
