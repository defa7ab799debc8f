package keyring

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"postern/enforce"
)

const (
	// shards divide the lock, for every session comes by here twice.
	shards = 16
	// maxChains and maxChainOctets bound what is kept of chains, by number and by the
	// memory that they hold: the usual chain has two certificates of 1,300 octets
	// besides the root, and is reckoned at 9 KiB.
	maxChains      = 4096
	maxChainOctets = 32 << 20
	// maxChainKept bounds one of them, so that it does not put out a hundred others.
	maxChainKept = 64 << 10
	// seenSlots is of how many chains that came once it is known that they did.
	seenSlots = 16384
	// verifiedFor and failedFor are how long what came of a chain is taken for granted.
	verifiedFor = 10 * time.Minute
	failedFor   = 30 * time.Second
)

// chains keeps what came of chains that were looked at, so that a peer's is verified
// once and not at each of its sessions. It lives and dies with the roots of its Ring.
//
// Anybody can come with a chain that nobody has seen, as often as they like. One
// that comes for the first time leaves no more than a mark, in a table of fixed
// size; it is kept when it comes again. And of what is kept that goes first which
// nobody asked for since the last round (SIEVE: a hand goes round, and passes over
// what was used). So who floods with chains that come once keeps newcomers from
// being kept, and puts out nothing; who shows each of them twice puts out others
// like it before those that are in use.
type chains [shards]shard

type shard struct {
	mu     sync.RWMutex
	at     map[chainKey]*judged
	ring   []*judged // those of at, in the order that the hand goes
	hand   int
	octets int
	seen   [seenSlots / shards]uint64 // part of the key of what came last; 0: nothing
}

// A chainKey stands for a chain as it was shown, the roots that it was held against
// and the use.
type chainKey [sha256.Size]byte

// A judged chain is what came of one, from a moment to another.
type judged struct {
	key         chainKey
	result      enforce.ChainResult
	built       []*x509.Certificate
	from, until time.Time // both included
	octets      int
	used        atomic.Bool
}

// keyOf gives the key of a chain of at most maxChain certificates.
func keyOf(ca string, chain []*x509.Certificate, usage x509.ExtKeyUsage) chainKey {
	var parts [(1 + maxChain) * sha256.Size]byte
	all := append(parts[:0], byte(usage))
	sum := sha256.Sum256([]byte(ca))
	all = append(all, sum[:]...)
	for _, c := range chain {
		sum = sha256.Sum256(c.Raw)
		all = append(all, sum[:]...)
	}
	return sha256.Sum256(all)
}

func (c *chains) shard(key chainKey) *shard { return &c[key[0]%shards] }

// find gives what is known of a chain and still holds at the time now, nil if nothing
// is.
func (c *chains) find(key chainKey, now time.Time) *judged {
	s := c.shard(key)
	s.mu.RLock()
	j := s.at[key]
	s.mu.RUnlock()
	if j == nil || now.Before(j.from) || now.After(j.until) {
		return nil
	}
	if !j.used.Load() {
		j.used.Store(true)
	}
	return j
}

// keep keeps j if its chain came before.
func (c *chains) keep(j *judged) {
	if j.octets > maxChainKept {
		return
	}
	s := c.shard(j.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.at[j.key]; old != nil {
		s.ring[slices.Index(s.ring, old)] = j
		s.octets += j.octets - old.octets
		s.at[j.key] = j
		j.used.Store(true)
	} else if s.again(j.key) {
		if s.at == nil {
			s.at = map[chainKey]*judged{}
		}
		s.ring = append(s.ring, j)
		s.octets += j.octets
		s.at[j.key] = j
	}
	for len(s.ring) > maxChains/shards || s.octets > maxChainOctets/shards {
		s.forgetOne(j)
	}
}

// again reports whether a chain was seen before, and notes that it was now.
func (s *shard) again(key chainKey) bool {
	mark := binary.BigEndian.Uint64(key[8:]) | 1
	slot := &s.seen[binary.BigEndian.Uint32(key[4:])%uint32(len(s.seen))]
	was := *slot == mark
	*slot = mark
	return was
}

// forgetOne forgets the first that the hand comes to and that was not used since it
// last came by, but for the one that was only just put there.
func (s *shard) forgetOne(newest *judged) {
	for {
		s.hand %= len(s.ring)
		j := s.ring[s.hand]
		if j == newest || j.used.Swap(false) {
			s.hand++
			continue
		}
		s.ring = slices.Delete(s.ring, s.hand, s.hand+1)
		s.octets -= j.octets
		delete(s.at, j.key)
		return
	}
}

// judge says of a chain that was verified at the time now how long that holds, nil
// where it would have to be verified again at once.
//
// A chain that verified is one as long as each of its certificates is within its
// dates: nothing else in it depends on the time. It is built anew now and then, for
// there may be several to choose from.
//
// Why a chain did not verify may change with the dates of all that was shown, and of
// roots that were not: only one is kept of which all are within theirs and none is
// named as its issuer by any, so that no root had a part in it.
func (r *Ring) judge(ca string, chain, built []*x509.Certificate, result enforce.ChainResult, now time.Time) *judged {
	j := &judged{result: result, built: slices.Clip(built), from: now, until: now.Add(verifiedFor), octets: 1024 + len(result.Detail)}
	bound := built
	if !result.Verified {
		j.until, bound = now.Add(failedFor), chain
	}
	for _, c := range bound {
		if outside(c, now) || !result.Verified && r.subjects[ca][string(c.RawIssuer)] {
			return nil
		}
		if c.NotAfter.Before(j.until) {
			j.until = c.NotAfter
		}
	}
	for _, c := range built[:max(0, len(built)-1)] { // the root is kept anyway
		// What it is parsed to is twice of what was parsed, and more where it is names.
		j.octets += 3*len(c.Raw) + 48*(len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses)+len(c.URIs))
	}
	return j
}
