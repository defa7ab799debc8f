package cluster

import (
	"context"
	"crypto/rand"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"postern/enforce/kept"
)

// read takes in what is new on the server, or the whole.
func (l *Link) read(ctx context.Context, now time.Time) (damaged int, err error) {
	if l.whole {
		damaged, missed, err := l.follow(ctx, now)
		if err != nil || !missed {
			return damaged, err
		}
	}
	return l.begin(ctx, now)
}

// begin reads the whole, and has what the server lacks be written. The ends of the
// streams are read before: what is written meanwhile is read twice, and not never.
func (l *Link) begin(ctx context.Context, now time.Time) (damaged int, err error) {
	answers, err := l.server.ask(ctx, func(p redis.Pipeliner) {
		p.SetNX(ctx, aboutKey, rand.Text(), 0) // a server that is full refuses, and can be read all the same
		p.Get(ctx, aboutKey)
		p.XRevRangeN(ctx, changesKey, "+", "-", 1)
	})
	if err != nil {
		return 0, err
	}
	l.dials = l.server.dials.Load()
	l.epoch, err = answers[1].(*redis.StringCmd).Result()
	if refused(err) != nil {
		return 0, err
	}
	last, err := answers[2].(*redis.XMessageSliceCmd).Result()
	if err != nil {
		return 0, err
	}
	l.changes = fewest
	for _, entry := range last {
		l.changes = entry.ID
	}
	if err := l.forgetMissed(ctx); err != nil {
		return 0, err
	}
	limit := map[string]int{}
	for _, r := range l.kinds {
		r.Offer()
		limit[r.Kind()] = r.Most()
	}
	all, damaged, err := l.server.whole(ctx, limit)
	if err != nil {
		return 0, err
	}
	for _, r := range l.kinds {
		damaged += r.Restore(all[r.Kind()], now)
	}
	l.whole = true
	return damaged, nil
}

// forgetMissed forgets what commands had forgotten while there was no connection. A
// process that is new has nothing that is older than itself.
func (l *Link) forgetMissed(ctx context.Context) error {
	after := l.forgotten
	if after == "" {
		after = strconv.FormatInt(l.began.UnixMilli(), 10) + "-0"
	}
	answers, err := l.server.ask(ctx, func(p redis.Pipeliner) {
		p.XRangeN(ctx, forgottenKey, "("+after, "+", mostForgotten)
		p.XRevRangeN(ctx, forgottenKey, "+", "-", 1)
	})
	if err != nil {
		return err
	}
	for _, one := range answers {
		if err := one.Err(); err != nil {
			return err
		}
	}
	l.forgotten = fewest
	for _, entry := range answers[1].(*redis.XMessageSliceCmd).Val() {
		l.forgotten = entry.ID
	}
	l.forget(answers[0].(*redis.XMessageSliceCmd).Val())
	return nil
}

// follow reads what changed since the last turn. missed: not all of that could be
// had, or the server is another.
func (l *Link) follow(ctx context.Context, now time.Time) (damaged int, missed bool, err error) {
	for {
		answers, err := l.server.ask(ctx, func(p redis.Pipeliner) {
			p.Get(ctx, aboutKey)
			p.XRangeN(ctx, forgottenKey, "("+l.forgotten, "+", mostForgotten)
			p.XRangeN(ctx, changesKey, "("+l.changes, "+", pieces)
			p.XRangeN(ctx, changesKey, "-", "+", 1)
		})
		if err != nil {
			return damaged, false, err
		}
		for _, one := range answers {
			if err := refused(one.Err()); err != nil {
				return damaged, false, err
			}
		}
		entries := func(i int) []redis.XMessage { return answers[i].(*redis.XMessageSliceCmd).Val() }
		first := entries(3)
		if answers[0].(*redis.StringCmd).Val() != l.epoch || len(first) > 0 && l.changes != fewest && after(first[0].ID, l.changes) {
			return damaged, true, nil
		}
		for _, entry := range entries(1) {
			l.forgotten = entry.ID
		}
		l.forget(entries(1))
		damaged += l.restore(entries(2), now)
		l.lingerOn(entries(1), now)
		if len(entries(2)) < pieces {
			return damaged, false, nil
		}
	}
}

// after reports whether the entry a of a stream stands behind b.
func after(a, b string) bool {
	parts := func(id string) (ms, n uint64) {
		x, y, _ := strings.Cut(id, "-")
		ms, _ = strconv.ParseUint(x, 10, 64) // of a server that numbers otherwise: from the beginning
		n, _ = strconv.ParseUint(y, 10, 64)
		return ms, n
	}
	ams, an := parts(a)
	bms, bn := parts(b)
	return ams > bms || ams == bms && an > bn
}

func (l *Link) forget(entries []redis.XMessage) {
	for _, entry := range entries {
		subject, _ := entry.Values[subjectField].(string)
		for _, r := range l.kinds {
			r.Forget(subject)
		}
	}
}

// lingerOn forgets anew what was forgotten a moment ago: another gateway may have
// written it once more before it heard of that.
func (l *Link) lingerOn(entries []redis.XMessage, now time.Time) {
	l.lingering = slices.DeleteFunc(l.lingering, func(f lingering) bool { return !now.Before(f.until) })
	for _, f := range l.lingering {
		l.forget(f.entries)
	}
	if len(entries) > 0 && len(l.lingering) < mostLingering { // each looks at all there is
		l.lingering = append(l.lingering, lingering{entries, now.Add(linger)})
	}
}

// restore joins what others announced.
func (l *Link) restore(entries []redis.XMessage, now time.Time) (damaged int) {
	lists := map[string][]kept.Record{}
	for _, entry := range entries {
		l.changes = entry.ID
		kind, isKind := entry.Values[kindField].(string)
		key, isKey := entry.Values[keyField].(string)
		value, isValue := entry.Values[valueField].(string)
		switch {
		case entry.Values[originField] == l.origin:
		case !isKind || !isKey || !isValue:
			damaged++
		default:
			lists[kind] = append(lists[kind], kept.Record{Key: []byte(key), Value: []byte(value)})
		}
	}
	for _, r := range l.kinds {
		damaged += r.Restore(lists[r.Kind()], now)
	}
	return damaged
}

// write gives the server what is new here.
func (l *Link) write(ctx context.Context) error {
	for _, r := range l.kinds {
		for r.Unwritten() {
			b := r.Take(pieces)
			err := l.put(ctx, r.Kind(), b.Records)
			r.Written(err == nil)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// put writes records and announces them, but for those that are kept here no longer:
// others may have room for them. Only for some time after a command had something
// forgotten are they taken from the server, too.
func (l *Link) put(ctx context.Context, kind string, list []kept.Record) error {
	for ; len(list) > 0; list = list[min(len(list), pieces):] {
		answers, err := l.server.ask(ctx, func(p redis.Pipeliner) {
			for _, r := range list[:min(len(list), pieces)] {
				name := nameOf(kind, r.Key)
				if r.Value == nil {
					if len(l.lingering) > 0 {
						p.Del(ctx, name)
					}
					continue
				}
				p.SetArgs(ctx, name, r.Value, redis.SetArgs{ExpireAt: r.Until})
				p.XAdd(ctx, &redis.XAddArgs{Stream: changesKey, MaxLen: mostChanges, Approx: true,
					Values: []any{kindField, kind, keyField, r.Key, valueField, r.Value, originField, l.origin}})
			}
		})
		if err != nil {
			return err
		}
		for _, one := range answers {
			if err := refused(one.Err()); err != nil {
				return err
			}
		}
	}
	return nil
}
