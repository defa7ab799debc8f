"""Sends a report that demands TLS all the way (RFC 8689), and says whether that was offered and what was replied."""
import smtplib, ssl, sys

server, name, roots = sys.argv[1:4]
session = smtplib.SMTP(server, 25, local_hostname="out.hospital.example", timeout=60)
session.ehlo()
if roots:
    session._host = name  # what it verifies
    session.starttls(context=ssl.create_default_context(cafile=roots))
    session.ehlo()
print("offered" if session.has_extn("requiretls") else "not offered")
code, text = session.mail("", options=["REQUIRETLS"])
if code == 250:
    session.rcpt("nurse@partner.example")
    code, text = session.data("Subject: x\r\n\r\nx\r\n")
    print(code)
else:
    print(code, text.decode())
session.quit()
