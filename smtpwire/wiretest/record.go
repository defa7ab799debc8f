package wiretest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"
)

const recordHeader = 5

// sendRecord sends a TLS record that crypto/tls would not.
func (p *player) sendRecord(st step) error {
	record := append([]byte{st.record, 3, 3}, binary.BigEndian.AppendUint16(nil, uint16(len(st.bytes)))...)
	record = append(record, st.bytes...)
	if p.secure() {
		if p.keys == nil {
			return fmt.Errorf("wiretest: line %d: records are made by hand for AES-GCM alone", st.line)
		}
		record = p.keys.seal(st.record, st.bytes)
	}
	p.trace(Event{From: p.side, TLS: p.secure(), Bytes: st.bytes, Note: fmt.Sprintf("record of type %d", st.record)})
	if _, err := p.raw.Write(record); err != nil && !p.mayGo {
		return p.mismatch(st.line, "to be able to send", nil, err)
	}
	return nil
}

// awaitRecord reads a TLS record in clear.
func (p *player) awaitRecord(st step) error {
	if p.secure() {
		return fmt.Errorf("wiretest: line %d: a record can be awaited in clear alone", st.line)
	}
	got := make([]byte, recordHeader)
	n, err := io.ReadFull(p.in, got)
	if err != nil || got[0] != st.record {
		return p.mismatch(st.line, fmt.Sprintf("a TLS record of type %d", st.record), got[:n], err)
	}
	payload := make([]byte, binary.BigEndian.Uint16(got[3:]))
	n, err = io.ReadFull(p.in, payload)
	if err != nil || !st.any && !bytes.Equal(payload, st.bytes) {
		return p.differs(st, payload[:n], err)
	}
	return nil
}

// passRecord passes over a TLS record, or the rest of one that was cut off. Behind
// a handshake that failed there may be some from when the other end did not know.
func (p *player) passRecord() bool {
	header, err := p.in.Peek(recordHeader)
	if !IsRecord(header) {
		return false
	}
	size := len(header)
	if err == nil {
		size += int(binary.BigEndian.Uint16(header[3:]))
	}
	_, err = p.in.Discard(size)
	return err == nil || p.in.Buffered() == 0
}

// IsRecord reports whether bytes begin as a TLS record does. No line of SMTP does.
func IsRecord(b []byte) bool { return len(b) > 1 && b[0] >= 20 && b[0] <= 23 && b[1] == 3 }

// A sealer encrypts records with the keys of one end's sending, beside the
// tls.Conn that has them too and does not know.
type sealer struct {
	aead    cipher.AEAD
	iv      []byte
	tls13   bool
	counter uint64
}

// wrote takes note of a record that the tls.Conn has sent: what is written here
// fits into one.
func (s *sealer) wrote() {
	if s != nil {
		s.counter++
	}
}

// newSealer finds the keys in what the handshake wrote into its key log
// (draft-ietf-tls-keylogfile); nil when the suite is none of AES-GCM.
func newSealer(side Side, state tls.ConnectionState, raw *overheard, keyLog string) *sealer {
	suite := tls.CipherSuiteName(state.CipherSuite)
	newHash, size := sha256.New, 16
	if strings.Contains(suite, "AES_256_GCM") {
		newHash, size = sha512.New384, 32
	} else if !strings.Contains(suite, "AES_128_GCM") {
		return nil
	}
	if state.Version == tls.VersionTLS13 {
		secret := logged(keyLog, strings.ToUpper(side.String())+"_TRAFFIC_SECRET_0")
		return &sealer{aead: gcm(expandLabel(newHash, secret, "key", size)), iv: expandLabel(newHash, secret, "iv", 12), tls13: true}
	}
	hello := raw.out // the server's, with the server's random (RFC 5246 §7.4.1.3)
	if side == Client {
		hello = raw.in
	}
	const random = recordHeader + 4 + 2
	if len(hello) < random+32 {
		return nil
	}
	block := keyBlock(newHash, keyLog, hello[random:random+32], 2*size+8)
	key, iv := block[:size], block[2*size:2*size+4]
	if side == Server {
		key, iv = block[size:2*size], block[2*size+4:]
	}
	return &sealer{aead: gcm(key), iv: iv, counter: 1} // 0 was the Finished
}

// seal makes the next record (RFC 8446 §5.2, RFC 5288 §3).
func (s *sealer) seal(kind byte, payload []byte) []byte {
	number := binary.BigEndian.AppendUint64(nil, s.counter)
	s.counter++
	if s.tls13 {
		nonce := bytes.Clone(s.iv)
		for i, b := range number {
			nonce[len(nonce)-8+i] ^= b
		}
		inner := append(bytes.Clone(payload), kind)
		header := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(inner)+s.aead.Overhead()))
		return append(header, s.aead.Seal(nil, nonce, inner, header)...)
	}
	additional := binary.BigEndian.AppendUint16(append(bytes.Clone(number), kind, 3, 3), uint16(len(payload)))
	sealed := s.aead.Seal(bytes.Clone(number), append(bytes.Clone(s.iv), number...), payload, additional)
	return append(binary.BigEndian.AppendUint16([]byte{kind, 3, 3}, uint16(len(sealed))), sealed...)
}

func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the size is ours
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// logged is the last field of the line of a key log that begins with label.
func logged(keyLog, label string) []byte {
	for line := range strings.Lines(keyLog) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == label {
			secret, _ := hex.DecodeString(fields[2])
			return secret
		}
	}
	return nil
}

// expandLabel is HKDF-Expand-Label (RFC 8446 §7.1) with an empty context.
func expandLabel(newHash func() hash.Hash, secret []byte, label string, size int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	info = append(info, byte(len("tls13 "+label)))
	info = append(append(info, "tls13 "+label...), 0)
	key, err := hkdf.Expand(newHash, secret, string(info), size)
	if err != nil {
		panic(err) // only for a size that is too large
	}
	return key
}

// keyBlock derives the keys of TLS 1.2 (RFC 5246 §6.3 and §5).
func keyBlock(newHash func() hash.Hash, keyLog string, serverRandom []byte, size int) []byte {
	const label = "CLIENT_RANDOM"
	var clientRandom []byte
	if fields := strings.Fields(keyLog); len(fields) > 1 && fields[0] == label {
		clientRandom, _ = hex.DecodeString(fields[1])
	}
	mac := hmac.New(newHash, logged(keyLog, label))
	sum := func(parts ...[]byte) []byte {
		mac.Reset()
		for _, part := range parts {
			mac.Write(part)
		}
		return mac.Sum(nil)
	}
	seed := append(append([]byte("key expansion"), serverRandom...), clientRandom...)
	var block []byte
	for a := sum(seed); len(block) < size; a = sum(a) {
		block = append(block, sum(a, seed)...)
	}
	return block[:size]
}
