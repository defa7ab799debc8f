package recorded

import (
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// mostEntries bounds a list of objects in the journal's form, whose length stands
// nowhere.
const mostEntries = 4000

// fromJournal reads a record that the daemon wrote to the journal itself, where
// each field is one of its own: POSTERN_UPSTREAM_TLS_VERSION.
func fromJournal(line []byte) (*Record, error) {
	var all map[string]any
	if err := json.Unmarshal(line, &all); err != nil {
		return nil, errNotJSON
	}
	rec, e := new(Record), newEntry(all)
	if !e.fill(reflect.ValueOf(rec).Elem(), "POSTERN") {
		return nil, errors.New("a field has another type than that of a record has")
	}
	if micros, err := strconv.ParseInt(e.text["__REALTIME_TIMESTAMP"], 10, 64); err == nil {
		rec.Time = time.UnixMicro(micros).UTC().Format(time.RFC3339)
	}
	return rec, nil
}

// An entry is one of the journal's.
type entry struct {
	text  map[string]string
	wrong map[string]bool // keys whose value is no text
	above map[string]bool // keys that others stand below
}

// longestKey bounds a name; those of the journal have 64 octets at most.
const longestKey = 200

func newEntry(all map[string]any) *entry {
	e := &entry{text: map[string]string{}, wrong: map[string]bool{}, above: map[string]bool{}}
	for key, value := range all {
		if len(key) > longestKey {
			continue
		}
		text, ok := value.(string)
		e.text[key], e.wrong[key] = text, !ok
		for i := range len(key) {
			if key[i] == '_' {
				e.above[key[:i]] = true
			}
		}
	}
	return e
}

// fill enters what stands under the key and below it into a value. It reports
// whether everything that was found could be read.
func (e *entry) fill(into reflect.Value, key string) bool {
	switch into.Kind() {
	case reflect.Struct:
		ok := true
		for i := range into.NumField() {
			if tag := into.Type().Field(i).Tag.Get("json"); tag != "-" {
				ok = e.fill(into.Field(i), key+"_"+strings.ToUpper(tag)) && ok
			}
		}
		return ok
	case reflect.Pointer:
		if !e.above[key] {
			return true
		}
		into.Set(reflect.New(into.Type().Elem()))
		return e.fill(into.Elem(), key)
	case reflect.Slice:
		if into.Type().Elem().Kind() == reflect.Struct {
			return e.fillList(into, key)
		}
	}
	text, ok := e.text[key]
	return !ok || !e.wrong[key] && set(into, text)
}

func (e *entry) fillList(into reflect.Value, key string) bool {
	ok := true
	for i := 0; i < mostEntries; i++ {
		place := key + "_" + strconv.Itoa(i)
		if !e.above[place] {
			break
		}
		one := reflect.New(into.Type().Elem()).Elem()
		ok = e.fill(one, place) && ok
		into.Set(reflect.Append(into, one))
	}
	return ok
}

func set(into reflect.Value, text string) bool {
	switch into.Kind() {
	case reflect.String:
		into.SetString(text)
	case reflect.Slice:
		into.Set(reflect.ValueOf(words(text)))
	case reflect.Bool:
		into.SetBool(text == "true")
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		into.SetInt(n)
		return err == nil
	case reflect.Uint16, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, into.Type().Bits())
		into.SetUint(n)
		return err == nil
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		into.SetFloat(f)
		return err == nil
	}
	return true
}

// words takes a list apart whose entries were joined with spaces. The entries that
// have spaces themselves are versions, "TLS 1.2", and "and 12 more".
func words(text string) []string {
	var list []string
	joined := 0 // how many words are to come that belong to the last entry
	for _, w := range strings.Fields(text) {
		if joined > 0 {
			list[len(list)-1] += " " + w
			joined--
			continue
		}
		list = append(list, w)
		switch w {
		case "TLS", "SSL":
			joined = 1
		case "and":
			joined = 2
		}
	}
	return list
}
