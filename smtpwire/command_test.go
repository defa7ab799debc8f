package smtpwire

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

func TestAVerbIsTheWholeWord(t *testing.T) {
	for line, want := range map[string]Verb{
		"DATA": DATA, "data": DATA, "dAtA ": DATA, "DATAX": Unknown, "DAT": Unknown, "": Unknown,
		"STARTTLS": STARTTLS, "STARTTLSX": Unknown, "STARTTLS x": STARTTLS, "MAIL\tFROM:<>": Unknown,
		"EHLO a": EHLO, " EHLO a": Unknown, "EHLO\u00e9": Unknown, "XCLIENT NAME=a": XCLIENT,
	} {
		cmd, err := ParseCommand([]byte(line))
		if cmd.Verb != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", line, cmd.Verb, err, want)
		}
	}
	for _, line := range []string{"NOOP\x00", "MAIL FROM:<a\x1b@x>", "RCPT TO:<a@x>\x7f"} {
		if _, err := ParseCommand([]byte(line)); err == nil {
			t.Errorf("%q is taken for a command", line)
		}
	}
}

func TestAPathIsReadAsServersReadItOrNotAtAll(t *testing.T) {
	for _, tc := range []struct{ arg, want string }{
		{"<a@x.example>", "x.example"},
		{"<>", "null"},
		{" <a@x.example> SIZE=10", "x.example SIZE=10"},
		{"a@x.example BODY=8BITMIME", "x.example BODY=8BITMIME"},
		{"<@r.example,@s.example:a@x.example>", "x.example"},
		{`<"a@evil.example"@x.example>`, "x.example"},
		{`<"a\"@evil.example>"@x.example>`, "x.example"},
		{"<a%evil.example@x.example>", "x.example"},
		{"<a@[192.0.2.1]>", "[192.0.2.1] literal"},
		{"<a@[IPv6:2001:db8::1]>", "[IPv6:2001:db8::1] literal"},
		{"<ü@bücher.example> SMTPUTF8", "bücher.example SMTPUTF8"},
		{"<a@X.Example.> ret=HDRS ENVID=q+3D1", "X.Example. RET=HDRS ENVID=q+3D1"},
		{"<a@x.example>SIZE=10", "error"},
		{"<a@x.example", "error"},
		{"<a@x.example> =10", "error"},
		{"<a@x.example> SIZE=", "error"},
		{"<a@x.example> SIZE=1=2", "error"},
		{"<a@evil.example>@x.example", "error"},
		{"<a@evil.example@x.example>", "error"},
		{"<a@evil.example,b@x.example>", "error"},
		{"<a b@x.example>", "error"},
		{`<"a@x.example>`, "error"},
		{`<"a"b@x.example>`, "error"},
		{"<a@.x.example>", "error"},
		{"<a@x..example>", "error"},
		{"<a@>", "error"},
		{"<@x.example>", "error"},
		{"<@r.example:>", "error"},
		{"<a@[192.0.2.1>", "error"},
		{"<a@(comment)x.example>", "error"},
		{"<a>", "error"},
		{"", "error"},
	} {
		path, params, err := ParseMail([]byte("FROM:" + tc.arg))
		got := path.Domain
		if path.Null {
			got = "null"
		}
		if path.Literal {
			got += " literal"
		}
		for _, p := range params {
			got += " " + p.Keyword
			if p.Value != "" {
				got += "=" + p.Value
			}
		}
		if err != nil {
			got = "error"
		}
		if got != tc.want {
			t.Errorf("%q: %q (%v), want %q", tc.arg, got, err, tc.want)
		}
	}
	for arg, ok := range map[string]bool{"TO:<postmaster>": true, "TO:<PostMaster> NOTIFY=NEVER": true, "TO:postmaster": false,
		"TO:<>": false, "TO:<root>": false, "FROM:<a@x>": false, "to:<a@x>": true, "TO <a@x>": false} {
		if _, _, err := ParseRcpt([]byte(arg)); (err == nil) != ok {
			t.Errorf("RCPT %s: %v", arg, err)
		}
	}
}

func TestAChunkSizeIsANumberOrTheEnd(t *testing.T) {
	for arg, want := range map[string]string{
		"0": "0 false", "86 LAST": "86 true", "86 last ": "86 true", "999999999999999999": "999999999999999999 false",
		"1000000000000000000": "error", "99999999999999999999999999": "error", "-1": "error", "+1": "error", "0x10": "error",
		"": "error", "LAST": "error", "10 LASTING": "error", "10 LAST LAST": "error", "1e3": "error", "10  LAST": "10 true",
	} {
		size, last, err := ParseBDAT([]byte(arg))
		got := fmt.Sprint(size, " ", last)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("BDAT %s: %s (%v), want %s", arg, got, err, want)
		}
	}
}

func TestWhatIsNotSMTPIsKnown(t *testing.T) {
	for said, want := range map[string]bool{
		"GET / HTTP/1.1": true, "POST /": true, "get /": true, "\x16\x03\x01": true, "\x80\x2e\x01": true, "\xff\xfb": true,
		"EHLO a": false, "": false, "GETX": false, "HELP": false, " EHLO": false, "\t": false, "NOOP": false,
	} {
		if got := Foreign([]byte(said)); got != want {
			t.Errorf("%q: %v", said, got)
		}
	}
}

func TestCapabilitiesAreFilteredByWholeKeyword(t *testing.T) {
	caps := ParseCapabilities(Reply{Code: 250, Raw: []byte("250-mx hello\r\n250-size 10\r\n250-AUTH=LOGIN\r\n250-AUTH PLAIN LOGIN\r\n250-\r\n250 STARTTLS\r\n")})
	if !caps.Has("SIZE") || caps.Has("STARTTL") || caps.Greeting != "mx hello" || len(caps.List) != 4 {
		t.Errorf("%+v", caps)
	}
	kept := caps.Filter(func(k string) bool { return Framed(k) })
	if got := string(kept.AppendReply(nil)); got != "250-mx hello\r\n250-SIZE 10\r\n250 AUTH PLAIN LOGIN\r\n" {
		t.Errorf("%q", got)
	}
	if !kept.ParamOf("SIZE") || !kept.ParamOf("AUTH") || kept.ParamOf("BODY") || kept.ParamOf("SMTPUTF8") {
		t.Error("parameters of what is not offered")
	}
}

// A chunk size is a number of octets that all who read it agree on.
func FuzzBDAT(f *testing.F) {
	for _, arg := range []string{"86 LAST", "0", "0 last ", "-1", "9223372036854775808", "0x10", "1e3", "10  LAST", "10 LAST LAST", "+1", " 1", "1\t"} {
		f.Add([]byte(arg))
	}
	f.Fuzz(func(t *testing.T, arg []byte) {
		size, last, err := ParseBDAT(arg)
		if err != nil {
			if size != 0 || last {
				t.Fatalf("%q: %d, %v beside %v", arg, size, last, err)
			}
			return
		}
		words := strings.Fields(string(arg))
		want, err := strconv.ParseInt(words[0], 10, 64)
		if err != nil || size < 0 || size != want || last != (len(words) == 2) || last && !strings.EqualFold(words[1], "LAST") {
			t.Fatalf("%q: %d, %v", arg, size, last)
		}
	})
}

func FuzzCommand(f *testing.F) {
	for _, line := range []string{"MAIL FROM:<a@x.example> SIZE=1", "RCPT TO:<@r:\"q\\\"\"@x>", "BDAT 12 LAST", "EHLO [1.2.3.4]", "RCPT TO:<a@[IPv6:::1]>"} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		cmd, err := ParseCommand(line)
		if err != nil || len(line) > 4096 {
			return
		}
		if len(cmd.Arg) > len(line) || len(cmd.Line) != len(line) {
			t.Fatalf("%q of %q", cmd.Arg, line)
		}
		for _, parse := range []func([]byte) (Path, []Param, error){ParseMail, ParseRcpt} {
			path, params, err := parse(cmd.Arg)
			if err != nil {
				continue
			}
			// What is judged stands in the command, behind the last "@" outside of
			// quotes and before whatever ends the address.
			if !bytes.Contains(cmd.Arg, []byte(path.Domain)) || strings.ContainsAny(path.Domain, " <>\"@,") {
				t.Fatalf("%q gives domain %q", cmd.Arg, path.Domain)
			}
			if len(params) > len(cmd.Arg)/2 {
				t.Fatalf("%d parameters in %q", len(params), cmd.Arg)
			}
		}
	})
}
