package cluster

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestAnAddressIsReadStrictlyAndPrintedWithoutItsPassword(t *testing.T) {
	for text, want := range map[string]string{
		"redis://gw.example":                                  "redis://gw.example:6379/0",
		"redis://127.0.0.1:6380/3":                            "redis://127.0.0.1:6380/3",
		"redis://[2001:db8::1]":                               "redis://[2001:db8::1]:6379/0",
		"redis://:secret@gw/1":                                "redis://gw:6379/1",
		"rediss://postern:s%65cret@gw.example:6379/":          "rediss://gw.example:6379/0",
		"rediss://gw?ca=/etc/ca.pem":                          "rediss://gw:6379/0",
		"redis://postern@gw?password_file=/etc/secret":        "redis://gw:6379/0",
		"unix:///run/redis/redis.sock":                        "unix:///run/redis/redis.sock?db=0",
		"redis+unix://:secret@/run/redis.sock?db=2":           "unix:///run/redis.sock?db=2",
		"unix:///run/redis.sock?password_file=/etc/secret":    "unix:///run/redis.sock?db=0",
		"redis://gw?password_file=/etc/secret#":               "",
		"redis://":                                            "",
		"redis:gw":                                            "",
		"redis://gw:":                                         "",
		"redis://gw:0":                                        "",
		"redis://gw:65536":                                    "",
		"redis://gw:secret":                                   "",
		"redis://gw/secret":                                   "",
		"redis://gw/01":                                       "",
		"redis://gw/-1":                                       "",
		"redis://gw/65536":                                    "",
		"redis://gw/0/0":                                      "",
		"redis://secret@gw":                                   "",
		"redis://:secret@gw?password_file=/etc/x":             "",
		"redis://gw?password_file=secret":                     "",
		"redis://gw?password=secret":                          "",
		"redis://gw?ca=/etc/ca.pem":                           "",
		"redis://gw?db=1":                                     "",
		"redis://gw?password_file=/a&password_file=/b":        "",
		"redis://:se#cret@gw":                                 "",
		"redis://:se/cret@gw":                                 "",
		"redis://:se cret@g w":                                "",
		"redis://a%zzsecret@gw":                               "",
		"unix://run/redis.sock":                               "",
		"unix:///run/../redis.sock":                           "",
		"unix:///run/redis.sock?db=secret":                    "",
		"redis+sentinel://gw":                                 "",
		"http://gw":                                           "",
		"":                                                    "",
		"redis://gw,gw2":                                      "",
		"redis://gw\x00":                                      "",
		"redis://" + strings.Repeat("a", 5) + "?x=%gg&secret": "",
	} {
		a, err := ParseAddress(text)
		switch {
		case want == "" && err == nil:
			t.Errorf("%q is %#v", text, a)
		case want == "" && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "cret@")):
			t.Errorf("%q: %v", text, err)
		case want != "" && (err != nil || a.String() != want):
			t.Errorf("%q is %v, %v", text, a, err)
		}
		if want == "" {
			continue
		}
		j, _ := json.Marshal(struct{ A Address }{a})
		for _, printed := range []string{fmt.Sprintf("%v %+v %#v %s", a, struct{ A Address }{a}, struct{ A Address }{a}, a), string(j)} {
			if strings.Contains(printed, "ecret") && !strings.Contains(printed, "/etc/secret") {
				t.Errorf("%q is printed %s", text, printed)
			}
		}
	}
}
