package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

func TestNoMessageIsLostOrChangedHoweverPosternAndAllAroundItFail(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	o := soakOptions{messages: 300, lasting: 20 * time.Second, seed: uint64(time.Now().UnixNano())}
	trial := newTrial(o)
	var out bytes.Buffer
	err := trial.run(ctx, program("postern"), &out)
	if missing := (*mta.MissingError)(nil); errors.As(err, &missing) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	trial.show(&out)
	t.Log(out.String())
	if err != nil {
		t.Error(err)
	}
	for _, finding := range trial.findings() {
		t.Error(finding)
	}
	for _, f := range soakFaults {
		if trial.faults[f.name] == 0 {
			t.Errorf("no fault of the kind %q", f.name)
		}
	}
	if trial.probe.connected.Load() == 0 || trial.book.records == 0 || trial.keeper.reloads.Load() == 0 {
		t.Error("nobody probed, recorded or reloaded")
	}
}

// Each of these would be a promise broken; the reckoning has to see it.
func TestTheReckoningSeesWhatIsLostChangedForeignOrTwiceWithoutACause(t *testing.T) {
	whole, other := [32]byte{1}, [32]byte{2}
	for _, row := range []struct {
		name     string
		arrivals []proxytest.Arrival
		doubtful int
		want     string
	}{
		{"in order", []proxytest.Arrival{{ID: "a", SHA256: whole}}, 0, ""},
		{"lost", nil, 0, "1 messages lost"},
		{"changed", []proxytest.Arrival{{ID: "a", SHA256: other}}, 0, "1 messages changed"},
		{"changed once, then whole", []proxytest.Arrival{{ID: "a", SHA256: other, Unsaid: true}, {ID: "a", SHA256: whole}}, 0, "1 messages changed"},
		{"foreign", []proxytest.Arrival{{ID: "a", SHA256: whole}, {ID: "b"}}, 0, "1 messages that nobody sent"},
		{"twice", []proxytest.Arrival{{ID: "a", SHA256: whole}, {ID: "a", SHA256: whole}}, 0, "1 messages arrived twice without a cause"},
		{"twice, the first unsaid", []proxytest.Arrival{{ID: "a", SHA256: whole, Unsaid: true}, {ID: "a", SHA256: whole}}, 0, ""},
		{"twice, the sender cut off", []proxytest.Arrival{{ID: "a", SHA256: whole}, {ID: "a", SHA256: whole}}, 1, ""},
		{"thrice, the sender cut off once", []proxytest.Arrival{{ID: "a", SHA256: whole}, {ID: "a", SHA256: whole}, {ID: "a", SHA256: whole}}, 1,
			"1 messages arrived twice without a cause"},
	} {
		trial := newTrial(soakOptions{messages: 1})
		trial.ledger.send("a", whole)
		for _, a := range row.arrivals {
			trial.ledger.arrive(a)
		}
		trial.result = postfixLog{accepted: map[string]bool{"a": true}, doubtful: attempts{"a": row.doubtful}}
		got := strings.Join(trial.findings(), "; ")
		if row.want == "" && got != "" || !strings.Contains(got, row.want) {
			t.Errorf("%s: found %q, want %q", row.name, got, row.want)
		}
	}
}

func TestPostfixsLogTellsWhatWasAcceptedAndWhatIsDoubtful(t *testing.T) {
	const deliver = "Nov 25 09:00:01 out postfix/smtp[7]: Q1: to=<office@x.example>, relay=x[192.0.2.1]:25, delay=1, dsn=4.4.2, status="
	got := readPostfixLog([]string{
		"Nov 25 09:00:00 out postfix/cleanup[5]: Q1: message-id=<p7@hospital.example>",
		deliver + "deferred (lost connection with x[192.0.2.1] while sending end of data -- message may be sent more than once)",
		deliver + "deferred (lost connection with x[192.0.2.1] while performing the EHLO handshake)",
		deliver + "sent (250 2.0.0 ok)",
		deliver + "bounced (host x said: 550 no)",
	})
	if !got.accepted["p7"] || got.doubtful["p7"] != 1 || got.deferrals != 2 || got.bounced != 1 {
		t.Errorf("%+v", got)
	}
}
