package netfilter

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// partly is a value and what is known of it.
func partly(t *rapid.T, n int) (actual []byte, b bits) {
	octets := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 0x7f, 0x80, 0xfe, 0xff}), n, n)
	actual, known := octets.Draw(t, "actual"), octets.Draw(t, "known")
	b = bits{value: slices.Clone(actual), known: known}
	for i := range b.value {
		b.value[i] &= known[i]
	}
	return actual, b
}

func TestWhatIsToldOfUnknownBitsHoldsWhateverTheyAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "octets")
		actual, b := partly(t, n)
		value, _ := partly(t, n)
		other, _ := partly(t, n)
		first, last := slices.MinFunc([][]byte{value, other}, bytes.Compare), slices.MaxFunc([][]byte{value, other}, bytes.Compare)
		if s := (span{first[:1], last[:1]}); actual[0] < s.first[0] || actual[0] > s.last[0] {
			b.never = []span{s}
		}
		for _, c := range []struct {
			name string
			told truth
			is   bool
		}{
			{"equals", b.equals(value), bytes.Equal(actual, value)},
			{"below", b.below(value), bytes.Compare(actual, value) < 0},
			{"above", b.above(value), bytes.Compare(actual, value) > 0},
			{"within", b.within(first, last), bytes.Compare(actual, first) >= 0 && bytes.Compare(actual, last) <= 0},
			{"in", element{first: first, last: last}.holds(b), bytes.Compare(actual, first) >= 0 && bytes.Compare(actual, last) <= 0},
		} {
			if c.told != maybe && c.told != truthOf(c.is) {
				t.Errorf("%s %x: told %d of %+v, and %x is %t", c.name, value, c.told, b, actual, c.is)
			}
			if b.equals(actual) == yes && c.told == maybe {
				t.Errorf("%s %x: not told of %x, of which all is known", c.name, value, actual)
			}
		}
		mask, xor := value, other
		if again := b.masked(mask, xor); again.equals(value) == no {
			for i := range actual {
				if actual[i]&mask[i]^xor[i] != value[i] {
					again.never = nil
				}
			}
			if again.never != nil {
				t.Errorf("%x & %x ^ %x is %x, told that it is not", actual, mask, xor, value)
			}
		}
		masked, joined := b.masked(mask, xor), b.or(exactly(value...))
		for i := range actual {
			if result := actual[i]&mask[i] ^ xor[i]; (result^masked.value[i])&masked.known[i] != 0 {
				t.Errorf("%x & %x ^ %x is %x, told %+v", actual, mask, xor, result, masked)
			}
			if (actual[i]^joined.value[i])&joined.known[i] != 0 || (value[i]^joined.value[i])&joined.known[i] != 0 {
				t.Errorf("%x or %x: told %+v", actual, value, joined)
			}
		}
	})
}

func TestAPrefixOfAnAddressIsWhatIsKnownOfIt(t *testing.T) {
	b := prefixBits(netip.MustParsePrefix("10.1.128.0/17"), 4)
	if !bytes.Equal(b.value, []byte{10, 1, 128, 0}) || !bytes.Equal(b.known, []byte{255, 255, 128, 0}) {
		t.Errorf("%+v", b)
	}
	for _, p := range []netip.Prefix{{}, netip.MustParsePrefix("::/0"), netip.MustParsePrefix("0.0.0.0/0")} {
		if b := prefixBits(p, 4); !bytes.Equal(b.known, make([]byte, 4)) {
			t.Errorf("%s: %+v", p, b)
		}
	}
}

// What the kernel lists of an interval set are the keys at which it begins and
// ends, in the order of a tree.
func TestRangesAreMadeOfWhereTheyBeginAndEnd(t *testing.T) {
	const end = 1
	s := new(set)
	s.add([]listedElement{{key: []byte{40}}, {key: []byte{20}, flags: end}, {key: []byte{20}}, {key: []byte{10}}, {key: []byte{30}, flags: end}, {key: []byte{0}, flags: end}}, true)
	want := [][2]byte{{10, 19}, {20, 29}, {40, 255}}
	if len(s.elements) != len(want) {
		t.Fatalf("%+v", s.elements)
	}
	for i, e := range s.elements {
		if e.first[0] != want[i][0] || e.last[0] != want[i][1] {
			t.Errorf("%d to %d, expected %v", e.first[0], e.last[0], want[i])
		}
	}
}

func TestFieldsOfAConcatenationAreRangesEach(t *testing.T) {
	e := element{first: []byte{10, 0, 0, 0, 0, 25, 0, 0}, last: []byte{10, 255, 255, 255, 0, 25, 0, 0}, fields: true}
	for _, c := range []struct {
		key  bits
		want truth
	}{
		{exactly(10, 1, 2, 3, 0, 25, 0, 0), yes},
		{exactly(11, 1, 2, 3, 0, 25, 0, 0), no},
		{exactly(10, 1, 2, 3, 0, 26, 0, 0), maybe}, // the word before is a range: it may be one field with this
		{bits{value: []byte{10, 0, 0, 0, 0, 25, 0, 0}, known: []byte{255, 0, 0, 0, 255, 255, 255, 255}}, yes},
		{bits{value: []byte{0, 0, 0, 0, 0, 25, 0, 0}, known: []byte{0, 0, 0, 0, 255, 255, 255, 255}}, maybe},
	} {
		if got := e.holds(c.key); got != c.want {
			t.Errorf("%+v: %d, expected %d", c.key, got, c.want)
		}
	}
}

func TestAMessageThatIsCutYieldsNothing(t *testing.T) {
	for _, data := range [][]byte{nil, {1}, {8, 0, 1, 0, 9}, {255, 255, 1, 0}, {0, 0, 1, 0}, bytes.Repeat([]byte{5, 0}, 9)} {
		if r := ruleOf(parse(data)); len(r.exprs) > 0 {
			t.Errorf("%x: %+v", data, r)
		}
	}
}
