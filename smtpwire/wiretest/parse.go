package wiretest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

func parseStep(line string) (step, error) {
	if word, rest, _ := strings.Cut(line, " "); word == "TLS" {
		return parseHandshake(rest)
	}
	if len(line) < 2 || line[0] != byte(Client) && line[0] != byte(Server) {
		return step{}, fmt.Errorf("%q begins with neither C nor S nor TLS", line)
	}
	st := step{side: Side(line[0])}
	rest := strings.TrimPrefix(line[2:], " ")
	var err error
	switch line[1] {
	case ':':
		st.bytes, st.isLine = []byte(rest+"\r\n"), true
	case '>':
		st.bytes, err = unquote(rest)
	case '*':
		st.kind = repeated
		count, text, _ := strings.Cut(rest, " ")
		if st.count, err = strconv.Atoi(count); err != nil || st.count < 1 {
			return step{}, fmt.Errorf("%q is no number of times", count)
		}
		st.bytes, err = unquote(text)
	case '~':
		st.kind = matching
		st.pattern, err = regexp.Compile("^(?:" + rest + ")$")
	case ' ':
		err = st.parseDeed(strings.TrimSpace(rest))
	default:
		err = fmt.Errorf("%q is none of C: C> C* C~ C close", line)
	}
	if err != nil {
		return step{}, err
	}
	return st, nil
}

func unquote(text string) ([]byte, error) {
	said, err := strconv.Unquote(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("%s is no Go string", text)
	}
	return []byte(said), nil
}

// parseHandshake reads what follows TLS: a name, "cut" and a number, "fails".
func parseHandshake(text string) (step, error) {
	st := step{kind: handshake}
	words := strings.Fields(text)
	if n := len(words); n > 0 && words[n-1] == "fails" {
		st.kind, words = handshakeFails, words[:n-1]
	}
	if n := len(words); n > 1 && words[n-2] == "cut" {
		count, err := strconv.Atoi(words[n-1])
		if err != nil || count < 1 {
			return step{}, fmt.Errorf("%q is no number of bytes", words[n-1])
		}
		st.count, words = count, words[:n-2]
	}
	if len(words) > 1 {
		return step{}, fmt.Errorf("%q is not the name of a configuration", strings.Join(words, " "))
	}
	st.name = strings.Join(words, "")
	return st, nil
}

// parseDeed reads a step that is a word and not what is said.
func (st *step) parseDeed(text string) (err error) {
	word, rest, _ := strings.Cut(text, " ")
	switch {
	case text == "close":
		st.kind = closing
	case text == "half":
		st.kind = halfClosing
	case word == "tells" && rest != "":
		st.kind, st.name = telling, rest
	case word == "waits" && rest != "":
		st.kind, st.name = waiting, rest
	case word == "drips":
		st.kind = dripping
		st.bytes, err = unquote(rest)
	case word == "clear":
		st.kind = bypassing
		st.bytes, err = unquote(rest)
	case word == "record":
		st.kind = recording
		number, payload, given := strings.Cut(rest, " ")
		kind, err := strconv.ParseUint(number, 10, 8)
		if err != nil {
			return fmt.Errorf("%q is no type of a record", number)
		}
		st.record, st.any = byte(kind), !given
		if given {
			st.bytes, err = unquote(payload)
		}
		return err
	default:
		return fmt.Errorf("%q is neither close nor half, nor another deed", text)
	}
	return err
}
