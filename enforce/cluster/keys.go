package cluster

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"postern/enforce/kept"
)

// The names on the server. Another release that keeps records in another manner
// begins with another number.
const (
	prefix        = "postern:1:" // then a kind, a colon and the record's key
	aboutKey      = prefix + "about"
	changesKey    = prefix + "changes"   // a stream of what was written: kindField, keyField, valueField, originField
	forgottenKey  = prefix + "forgotten" // a stream of what commands forgot: subjectField
	kindField     = "k"
	keyField      = "n"
	valueField    = "v"
	originField   = "o"
	subjectField  = "s"
	mostChanges   = 1 << 14 // kept in the stream; who is further behind reads the whole
	mostForgotten = 1024
	fewest        = "0-0" // before every entry of a stream
	scanned       = 1000  // names looked at in a round trip
	pieces        = 128   // records read or written in one
)

func nameOf(kind string, key []byte) string { return prefix + kind + ":" + string(key) }

func partsOf(name string) (kind string, key []byte, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return "", nil, false
	}
	kind, k, ok := strings.Cut(rest, ":")
	return kind, []byte(k), ok
}

// whole reads what there is of the kinds in limit, of each at most so many. What is
// no string, or too long for a record, is damaged. A name may come twice: joining
// does not mind.
func (s *server) whole(ctx context.Context, limit map[string]int) (all map[string][]kept.Record, damaged int, err error) {
	all = map[string][]kept.Record{}
	cursor := uint64(0)
	for {
		answers, err := s.ask(ctx, func(p redis.Pipeliner) { p.Scan(ctx, cursor, prefix+"*", scanned) })
		if err != nil {
			return nil, 0, err
		}
		names, next, err := answers[0].(*redis.ScanCmd).Result()
		if err != nil {
			return nil, 0, err
		}
		for len(names) > 0 {
			n := min(len(names), pieces)
			bad, err := s.read(ctx, names[:n], limit, all)
			if err != nil {
				return nil, 0, err
			}
			damaged += bad
			names = names[n:]
		}
		if cursor = next; cursor == 0 {
			return all, damaged, nil
		}
	}
}

// read adds the values of some names to all. It asks for one octet more than a
// record may have and for no more, whatever is there.
func (s *server) read(ctx context.Context, names []string, limit map[string]int, all map[string][]kept.Record) (damaged int, err error) {
	var list []kept.Record
	var kinds []string
	taken := map[string]int{}
	for _, name := range names {
		kind, key, ok := partsOf(name)
		if !ok || len(all[kind])+taken[kind] >= limit[kind] { // a kind that is not asked for has no limit above 0
			continue
		}
		taken[kind]++
		kinds, list = append(kinds, kind), append(list, kept.Record{Key: key})
	}
	if len(list) == 0 {
		return 0, nil
	}
	answers, err := s.ask(ctx, func(p redis.Pipeliner) {
		for i, r := range list {
			p.GetRange(ctx, nameOf(kinds[i], r.Key), 0, mostRecord)
		}
	})
	if err != nil {
		return 0, err
	}
	for i, answer := range answers {
		value, err := answer.(*redis.StringCmd).Result()
		switch {
		case says(err, "WRONGTYPE"), len(value) > mostRecord:
			damaged++
		case err != nil:
			return 0, err
		case value != "": // else it ran out in between
			list[i].Value = []byte(value)
			all[kinds[i]] = append(all[kinds[i]], list[i])
		}
	}
	return damaged, nil
}

// mostRecord bounds the octets of a value.
const mostRecord = mostBulk - 1

// Probe connects, and says what keeps a gateway from working with the server. It
// changes nothing there.
func Probe(ctx context.Context, a Address) error {
	s := newServer(a)
	defer s.client.Close()
	answers, err := s.ask(ctx, func(p redis.Pipeliner) {
		p.Get(ctx, aboutKey)
		p.XRevRangeN(ctx, changesKey, "+", "-", 1)
		p.XRevRangeN(ctx, forgottenKey, "+", "-", 1)
	})
	if err != nil {
		return told(err)
	}
	for _, one := range answers {
		if err := refused(one.Err()); err != nil {
			return told(err)
		}
	}
	return nil
}

// An archive is what a server has, for commands.
type archive struct{ address Address }

// OnServer is what the server at a has. Its gateways forget within a second or two.
func OnServer(a Address) kept.Archive { return archive{a} }

func (a archive) Read(limit map[string]int) (map[string][]kept.Record, error) {
	s := newServer(a.address)
	defer s.client.Close()
	all, damaged, err := s.whole(context.Background(), limit)
	if err != nil {
		return nil, told(err)
	}
	for kind := range limit { // so that whoever reads them counts these, too
		for range damaged {
			all[kind] = append(all[kind], kept.Record{})
		}
		break
	}
	return all, nil
}

func (a archive) Forget(subject string, limit map[string]int, matches func(kind string, key []byte) bool) (int, error) {
	ctx := context.Background()
	s := newServer(a.address)
	defer s.client.Close()
	all, _, err := s.whole(ctx, limit)
	if err != nil {
		return 0, told(err)
	}
	var names []string
	for kind, list := range all {
		for _, r := range list {
			if matches(kind, r.Key) {
				names = append(names, nameOf(kind, r.Key))
			}
		}
	}
	// Gateways hear of it before it is gone: who writes it again in between forgets it
	// once more.
	answers, err := s.ask(ctx, func(p redis.Pipeliner) {
		p.XAdd(ctx, &redis.XAddArgs{Stream: forgottenKey, MaxLen: mostForgotten, Approx: true, Values: []any{subjectField, subject}})
	})
	if err == nil {
		err = answers[0].Err()
	}
	gone := map[string]bool{}
	for ; err == nil && len(names) > 0; names = names[min(len(names), pieces):] {
		some := names[:min(len(names), pieces)]
		answers, err = s.ask(ctx, func(p redis.Pipeliner) { p.Del(ctx, some...) })
		if err == nil {
			err = answers[0].Err()
		}
		for _, name := range some {
			gone[name] = true
		}
	}
	if err != nil {
		return 0, told(fmt.Errorf("not all is forgotten: %w", err))
	}
	return len(gone), nil
}
