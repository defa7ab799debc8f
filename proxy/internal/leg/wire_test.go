package leg

import (
	"testing"

	"pgregory.net/rapid"
)

func TestRecordsAreCountedHoweverTheyComeInPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(0, 70), 1, 10).Draw(t, "sizes")
		var stream []byte
		for _, size := range sizes {
			stream = append(stream, 23, 3, 3, 0, byte(size))
			stream = append(stream, make([]byte, size)...)
		}
		var f framing
		n := 0
		for len(stream) > 0 {
			piece := rapid.IntRange(1, len(stream)).Draw(t, "piece")
			n += f.ends(stream[:piece])
			stream = stream[piece:]
		}
		if n != len(sizes) || f != (framing{}) {
			t.Fatalf("%d records, counted %d, %+v", len(sizes), n, f)
		}
	})
}
