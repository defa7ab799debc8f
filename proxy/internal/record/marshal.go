package record

import (
	"encoding/hex"
	"time"

	"go.uber.org/zap/zapcore"

	"postern/enforce"
	"postern/smtpwire/tlshello"
)

// object adds to an encoder what has something to say.
type object struct{ enc zapcore.ObjectEncoder }

func (o object) str(key, value string) {
	if value != "" {
		o.enc.AddString(key, value)
	}
}

func (o object) strs(key string, values []string) {
	if len(values) > 0 {
		o.enc.AddArray(key, list(values))
	}
}

func (o object) obj(key string, fields func(object)) {
	o.enc.AddObject(key, zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
		fields(object{enc})
		return nil
	}))
}

type list []string

func (l list) MarshalLogArray(enc zapcore.ArrayEncoder) error {
	for _, s := range l {
		enc.AppendString(s)
	}
	return nil
}

func (l Leg) marshal(o object, client bool) {
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
	o.strs("offered_versions", names(l.OfferedVersions, tlshello.VersionName))
	o.strs("offered_ciphers", names(l.OfferedCiphers, tlshello.CipherName))
	done := l.State == enforce.StateOK || l.State == enforce.StateWatched
	if done && !client {
		o.enc.AddBool("resumed", l.Resumed)
		o.enc.AddBool("forward_secrecy", l.ForwardSecrecy)
	}
	if l.Certificate != nil {
		o.obj("certificate", l.Certificate.marshal)
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
		o.obj("replaced", func(o object) { l.Replaced.marshal(o, false) })
	}
	o.str("failure", l.Failure)
	if h := l.Hold; h != nil {
		o.obj("hold", func(o object) {
			o.str("offered", tlshello.VersionName(h.Offered))
			o.str("since", h.Since.UTC().Format(time.RFC3339))
			o.str("until", h.Until.UTC().Format(time.RFC3339))
			o.enc.AddInt("refused", h.Refused)
		})
	}
}

func names(values []uint16, name func(uint16) string) []string {
	const most = 64 // a ClientHello may list thousands
	out := make([]string, 0, min(len(values), most))
	for _, v := range values[:min(len(values), most)] {
		out = append(out, name(v))
	}
	return out
}

func (c *Certificate) marshal(o object) {
	o.str("subject", c.Subject)
	o.str("issuer", c.Issuer)
	o.strs("names", c.Names)
	o.strs("chain", c.Chain)
	o.str("sha256", hex.EncodeToString(c.SHA256[:]))
	o.str("spki_sha256", hex.EncodeToString(c.SPKISHA256[:]))
	o.str("not_before", c.NotBefore.UTC().Format(time.RFC3339))
	o.str("not_after", c.NotAfter.UTC().Format(time.RFC3339))
	o.str("key", c.Key)
}

type failures []enforce.Failure

func (f failures) MarshalLogArray(enc zapcore.ArrayEncoder) error {
	for _, one := range f {
		enc.AppendObject(zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
			o := object{enc}
			o.str("reason", string(one.Reason))
			o.str("detail", Quote(one.Detail, 200))
			o.str("rule", one.Rule)
			if one.Logged {
				enc.AddBool("logged", true)
			}
			return nil
		}))
	}
	return nil
}

type transactions []*Transaction

func (t transactions) MarshalLogArray(enc zapcore.ArrayEncoder) error {
	for _, one := range t {
		enc.AppendObject(one)
	}
	return nil
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (t *Transaction) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	o := object{enc}
	enc.AddString("mail_domain", t.MailDomain)
	o.strs("rcpt_domains", t.RcptDomains)
	enc.AddInt("accepted", t.Accepted)
	if len(t.Refused) > 0 {
		enc.AddArray("refused", refused(t.Refused))
	}
	enc.AddInt64("bytes", t.Bytes)
	o.str("reply", t.Reply)
	return nil
}

type refused []Refused

func (r refused) MarshalLogArray(enc zapcore.ArrayEncoder) error {
	for _, one := range r {
		enc.AppendObject(zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
			o := object{enc}
			enc.AddString("domain", one.Domain)
			o.str("rule", one.Rule)
			o.str("reason", string(one.Reason))
			o.str("reply", one.Reply)
			return nil
		}))
	}
	return nil
}
