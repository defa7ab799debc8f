package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// ErrDamaged is what a file that no longer is what bbolt wrote comes to.
var ErrDamaged = errors.New("damaged")

// bbolt maps its file into memory and believes it: a page that names itself as
// its child is followed until the stack is full, and a length that is wrong until
// the mapping ends. Neither can be recovered from. So before bbolt may open a
// file, everything in it that bbolt would follow is read here, as bytes, bounded
// by the file itself. What is demanded is the format of bbolt's version 2, and
// less than it allows: only what this package writes.
const (
	pageSize       = 4096
	pageHeader     = 16
	leafElement    = 16
	branchElement  = 16
	bucketHeader   = 16
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	noFreelist     = 1<<64 - 1
	mostDepth      = 16
	mostOverflow   = 64 // pages behind the first, of one node
	mostPages      = 1 << 17
	mostFile       = mostPages * pageSize
	fewestPages    = 4
	flagBranch     = 0x01
	flagLeaf       = 0x02
	flagFreelist   = 0x10
	flagBucket     = 0x01 // of an element
	countElsewhere = 0xFFFF
)

// A meta is what a meta page says.
type meta struct {
	root, freelist, end uint64 // end: the first page that is not in use
	transaction         uint64
	whole               int // heads that are, of two
}

// readMeta gives the meta that bbolt will go by.
func readMeta(r io.ReaderAt) (meta, error) {
	var best meta
	whole := 0
	for i := range 2 {
		page := make([]byte, pageSize)
		if _, err := r.ReadAt(page, int64(i)*pageSize); err != nil && !errors.Is(err, io.EOF) {
			return meta{}, err
		}
		m, ok := parseMeta(page[pageHeader:])
		if ok && (whole == 0 || m.transaction > best.transaction) {
			best = m
		}
		if ok {
			whole++
		}
	}
	if whole == 0 {
		return meta{}, fmt.Errorf("%w: no head that is whole", ErrDamaged)
	}
	best.whole = whole
	return best, nil
}

func parseMeta(b []byte) (meta, bool) {
	u32, u64 := binary.NativeEndian.Uint32, binary.NativeEndian.Uint64
	h := fnv.New64a()
	h.Write(b[:56])
	if u32(b) != boltMagic || u32(b[4:]) != boltVersion || u32(b[8:]) != pageSize || u64(b[56:]) != h.Sum64() {
		return meta{}, false
	}
	return meta{root: u64(b[16:]), freelist: u64(b[32:]), end: u64(b[40:]), transaction: u64(b[48:])}, true
}

// A checker walks the pages of a file of which it has read nothing yet.
type checker struct {
	r    io.ReaderAt
	end  uint64
	used []bool
}

// checkPages is nil when bbolt can be trusted with a file of that size, and
// ErrDamaged, saying where, when it can't.
func checkPages(r io.ReaderAt, size int64) error {
	if size < fewestPages*pageSize || size > mostFile {
		return fmt.Errorf("%w: its size is %d octets", ErrDamaged, size)
	}
	m, err := readMeta(r)
	if err != nil {
		return err
	}
	if m.end < fewestPages || m.end > uint64(size/pageSize) {
		return fmt.Errorf("%w: it ends before its last page, %d", ErrDamaged, m.end)
	}
	c := checker{r: r, end: m.end, used: make([]bool, m.end)}
	c.used[0], c.used[1] = true, true
	if err := c.freelist(m.freelist); err != nil {
		return err
	}
	return c.node(span{page: m.root}, 0, true)
}

// page reads a page with what overflows it, and marks both as used.
func (c *checker) page(id uint64, most uint64) ([]byte, error) {
	head := make([]byte, pageHeader)
	if id < 2 || id >= c.end {
		return nil, c.bad(id, "is none")
	}
	if _, err := c.r.ReadAt(head, int64(id)*pageSize); err != nil {
		return nil, c.unread(err)
	}
	over := uint64(binary.NativeEndian.Uint32(head[12:]))
	if binary.NativeEndian.Uint64(head) != id || over > most || id+over >= c.end {
		return nil, c.bad(id, "is another")
	}
	for i := id; i <= id+over; i++ {
		if err := c.use(i); err != nil {
			return nil, err
		}
	}
	b := make([]byte, (over+1)*pageSize)
	if _, err := c.r.ReadAt(b, int64(id)*pageSize); err != nil {
		return nil, c.unread(err)
	}
	return b, nil
}

func (c *checker) use(id uint64) error {
	if id >= c.end || c.used[id] {
		return c.bad(id, "is used twice")
	}
	c.used[id] = true
	return nil
}

func (c *checker) bad(id uint64, what string) error {
	return fmt.Errorf("%w: page %d %s", ErrDamaged, id, what)
}

func (c *checker) unread(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it became shorter", ErrDamaged)
	}
	return err
}

func (c *checker) freelist(id uint64) error {
	b, err := c.page(id, mostPages)
	if err != nil {
		return err
	}
	flags, count := header(b)
	if flags != flagFreelist {
		return c.bad(id, "is no list of free pages")
	}
	ids := b[pageHeader:]
	n := uint64(count)
	if count == countElsewhere {
		n, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if n > uint64(len(ids)/8) {
		return c.bad(id, "is too short")
	}
	for i := range n {
		if err := c.use(binary.NativeEndian.Uint64(ids[i*8:])); err != nil {
			return err
		}
	}
	return nil
}

func header(b []byte) (flags, count uint16) {
	return binary.NativeEndian.Uint16(b[8:]), binary.NativeEndian.Uint16(b[10:])
}

// A span is a page and the keys that may be below it: min first, and none from max
// on. bbolt finds the entry of a page that it has changed by the first key there;
// where that is another, it makes a second.
type span struct {
	page     uint64
	min, max []byte // nil: no limit
}

// has reports whether key may come behind last, which is nil before the first.
func (s span) has(key, last []byte) bool {
	switch {
	case len(key) == 0 || s.max != nil && bytes.Compare(key, s.max) >= 0:
		return false
	case last == nil:
		return s.min == nil || bytes.Equal(key, s.min)
	}
	return bytes.Compare(last, key) < 0
}

// node checks a page of a tree and all below it. Only the outermost tree has
// buckets.
func (c *checker) node(s span, depth int, buckets bool) error {
	if depth > mostDepth {
		return c.bad(s.page, "is too deep")
	}
	b, err := c.page(s.page, mostOverflow)
	if err != nil {
		return err
	}
	switch flags, _ := header(b); flags {
	case flagLeaf:
		return c.leaf(b, s, buckets)
	case flagBranch:
		return c.branch(b, s, depth, buckets)
	}
	return c.bad(s.page, "is of no kind")
}

func (c *checker) branch(b []byte, s span, depth int, buckets bool) error {
	_, count := header(b)
	below := make([]span, count)
	var last []byte
	for i := range below {
		at := pageHeader + i*branchElement
		if at+branchElement > len(b) {
			return c.bad(s.page, "is too full")
		}
		key, ok := part(b, at, binary.NativeEndian.Uint32(b[at:]), binary.NativeEndian.Uint32(b[at+4:]))
		if !ok || !s.has(key, last) {
			return c.bad(s.page, "is out of order")
		}
		below[i] = span{page: binary.NativeEndian.Uint64(b[at+8:]), min: key, max: s.max}
		if i > 0 {
			below[i-1].max = key
		}
		last = key
	}
	if count == 0 {
		return c.bad(s.page, "leads nowhere")
	}
	for _, child := range below {
		if err := c.node(child, depth+1, buckets); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) leaf(b []byte, s span, buckets bool) error {
	_, count := header(b)
	if count == 0 && s.min != nil {
		return c.bad(s.page, "is empty") // below another; a whole tree may be
	}
	var last []byte
	for i := range int(count) {
		at := pageHeader + i*leafElement
		if at+leafElement > len(b) {
			return c.bad(s.page, "is too full")
		}
		u32 := func(off int) uint32 { return binary.NativeEndian.Uint32(b[at+off:]) }
		key, ok := part(b, at, u32(4), u32(8))
		value, whole := part(b, at, u32(4)+u32(8), u32(12)) // both below 2^31, or the key is not there
		if !ok || !whole || !s.has(key, last) {
			return c.bad(s.page, "is out of order")
		}
		last = key
		if isBucket := u32(0) == flagBucket; isBucket != buckets || !isBucket && u32(0) != 0 {
			return c.bad(s.page, "has what is not ours")
		}
		if buckets {
			if err := c.bucket(value, s.page); err != nil {
				return err
			}
		}
	}
	return nil
}

// bucket checks the tree of one, which may lie in the value itself.
func (c *checker) bucket(value []byte, page uint64) error {
	if len(value) < bucketHeader {
		return c.bad(page, "has half a bucket")
	}
	root := binary.NativeEndian.Uint64(value)
	if root != 0 {
		return c.node(span{page: root}, 1, false)
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader {
		return c.bad(page, "has half a bucket")
	}
	if flags, _ := header(inline); flags != flagLeaf || binary.NativeEndian.Uint64(inline) != 0 {
		return c.bad(page, "has a bucket of no kind")
	}
	return c.leaf(inline, span{page: page}, false)
}

// part is what lies size octets long pos octets behind at.
func part(b []byte, at int, pos, size uint32) ([]byte, bool) {
	from := uint64(at) + uint64(pos)
	to := from + uint64(size)
	if to > uint64(len(b)) {
		return nil, false
	}
	return b[from:to:to], true
}
