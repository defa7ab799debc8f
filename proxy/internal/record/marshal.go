package record

import (
	"encoding/hex"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap/zapcore"

	"postern/enforce"
	"postern/smtpwire/tlshello"
)

// What follows is read through pointers into the Record that has it: a value, or a
// function, would be put into memory of its own to be handed to the encoder.

// object adds to an encoder what has something to say.
type object struct{ enc zapcore.ObjectEncoder }

func (o object) str(key, value string) {
	if value != "" {
		o.enc.AddString(key, value)
	}
}

func (o object) strs(key string, values *[]string) {
	if len(*values) > 0 {
		o.enc.AddArray(key, (*list)(values))
	}
}

// sum adds a digest in hexadecimal.
func (o object) sum(key string, digest *[32]byte) {
	room := rooms.Get().(*room)
	hex.Encode(room[:], digest[:])
	o.enc.AddByteString(key, room[:])
	rooms.Put(room)
}

// at adds a time, to the second and in UTC.
func (o object) at(key string, t time.Time) {
	room := rooms.Get().(*room)
	o.enc.AddByteString(key, t.UTC().AppendFormat(room[:0], time.RFC3339))
	rooms.Put(room)
}

func (o object) addr(key string, a netip.Addr) {
	room := rooms.Get().(*room)
	o.enc.AddByteString(key, a.AppendTo(room[:0]))
	rooms.Put(room)
}

// A room is where a word is put together, long enough for a digest in hexadecimal
// and for any address or time.
type room [64]byte

var rooms = sync.Pool{New: func() any { return new(room) }}

type list []string

// MarshalLogArray implements zapcore.ArrayMarshaler.
func (l *list) MarshalLogArray(enc zapcore.ArrayEncoder) error {
	for _, s := range *l {
		enc.AppendString(s)
	}
	return nil
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (p *Peer) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	o := object{enc}
	if p.Address.IsValid() {
		o.addr("address", p.Address.Addr())
		enc.AddUint16("port", p.Address.Port())
	}
	o.str("helo", p.Helo)
	o.str("banner", p.Banner)
	return nil
}

// octets are those of a Record's client leg.
type octets Record

func (r *octets) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddInt64("in", r.In)
	enc.AddInt64("out", r.Out)
	return nil
}

type (
	clientLeg   Leg
	upstreamLeg Leg
)

func (l *clientLeg) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	(*Leg)(l).marshal(object{enc}, true)
	return nil
}

func (l *upstreamLeg) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	(*Leg)(l).marshal(object{enc}, false)
	return nil
}

func (l *Leg) marshal(o object, client bool) {
	o.str("state", l.State.String())
	if l.Version != 0 {
		o.str("version", tlshello.VersionName(l.Version))
	}
	if l.Cipher != 0 {
		o.str("cipher", tlshello.CipherName(l.Cipher))
	}
	if l.Group != 0 {
		o.str("group", tlshello.GroupName(l.Group))
	}
	o.str("sni", l.SNI)
	if len(l.OfferedVersions) > 0 {
		o.enc.AddArray("offered_versions", (*versions)(&l.OfferedVersions))
	}
	if len(l.OfferedCiphers) > 0 {
		o.enc.AddArray("offered_ciphers", (*suites)(&l.OfferedCiphers))
	}
	done := l.State == enforce.StateOK || l.State == enforce.StateWatched
	if done && !client {
		o.enc.AddBool("resumed", l.Resumed)
		o.enc.AddBool("forward_secrecy", l.ForwardSecrecy)
	}
	if l.Certificate != nil {
		o.enc.AddObject("certificate", l.Certificate)
	}
	if l.State == enforce.StateOK && !client || done && l.Certificate != nil {
		o.enc.AddBool("verified", l.Verified)
		o.str("verify_error", l.VerifyError)
	}
	o.str("revocation", l.Revocation)
	o.str("dane", l.DANE)
	o.str("mta_sts", l.MTASTS)
	o.str("stripped_by", l.StrippedBy)
	if l.Replaced != nil {
		o.enc.AddObject("replaced", (*upstreamLeg)(l.Replaced))
	}
	o.str("failure", l.Failure)
	if l.Hold != nil {
		o.enc.AddObject("hold", (*hold)(l.Hold))
	}
}

type hold enforce.Hold

func (h *hold) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	o := object{enc}
	o.str("offered", tlshello.VersionName(h.Offered))
	o.at("since", h.Since)
	o.at("until", h.Until)
	enc.AddInt("refused", h.Refused)
	return nil
}

type (
	versions []uint16
	suites   []uint16
)

// mostOffered bounds what is named of a list: a ClientHello may have thousands.
const mostOffered = 64

func (v *versions) MarshalLogArray(enc zapcore.ArrayEncoder) error {
	for _, one := range (*v)[:min(len(*v), mostOffered)] {
		enc.AppendString(tlshello.VersionName(one))
	}
	return nil
}

func (s *suites) MarshalLogArray(enc zapcore.ArrayEncoder) error {
	for _, one := range (*s)[:min(len(*s), mostOffered)] {
		enc.AppendString(tlshello.CipherName(one))
	}
	return nil
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (c *Certificate) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	o := object{enc}
	o.str("subject", c.Subject)
	o.str("issuer", c.Issuer)
	o.strs("names", &c.Names)
	o.strs("chain", &c.Chain)
	o.sum("sha256", &c.SHA256)
	o.sum("spki_sha256", &c.SPKISHA256)
	o.at("not_before", c.NotBefore)
	o.at("not_after", c.NotAfter)
	o.str("key", c.Key)
	return nil
}

type (
	failures []enforce.Failure
	failure  enforce.Failure
)

func (f *failures) MarshalLogArray(enc zapcore.ArrayEncoder) error {
	for i := range *f {
		enc.AppendObject((*failure)(&(*f)[i]))
	}
	return nil
}

func (f *failure) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	o := object{enc}
	o.str("reason", string(f.Reason))
	o.str("detail", Quote(f.Detail, 200))
	o.str("rule", f.Rule)
	if f.Logged {
		enc.AddBool("logged", true)
	}
	return nil
}

type transactions []*Transaction

func (t *transactions) MarshalLogArray(enc zapcore.ArrayEncoder) error {
	for _, one := range *t {
		enc.AppendObject(one)
	}
	return nil
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (t *Transaction) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	o := object{enc}
	enc.AddString("mail_domain", t.MailDomain)
	o.strs("rcpt_domains", &t.RcptDomains)
	enc.AddInt("accepted", t.Accepted)
	if len(t.Refused) > 0 {
		enc.AddArray("refused", (*refused)(&t.Refused))
	}
	enc.AddInt64("bytes", t.Bytes)
	o.str("reply", t.Reply)
	return nil
}

type refused []Refused

func (r *refused) MarshalLogArray(enc zapcore.ArrayEncoder) error {
	for i := range *r {
		enc.AppendObject(&(*r)[i])
	}
	return nil
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (r *Refused) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	o := object{enc}
	enc.AddString("domain", r.Domain)
	o.str("rule", r.Rule)
	o.str("reason", string(r.Reason))
	o.str("reply", r.Reply)
	return nil
}
