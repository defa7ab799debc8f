"""Sends the messages of one session, which stdin has in JSON, with smtplib."""
import json, smtplib, ssl, sys

session = json.load(sys.stdin)
server = smtplib.SMTP(session["server"], 25, local_hostname=session["helo"], timeout=session["timeout"])
server.ehlo()
if session["tls"]:
    context = ssl.create_default_context(cafile=session["roots"])
    server._host = session["name"]  # what it verifies
    server.starttls(context=context)
    server.ehlo()
for mail in session["mails"]:
    with open(mail["file"], "rb") as file:
        content = file.read()
    options = ["BODY=8BITMIME"]
    if mail["utf8"]:
        options.append("SMTPUTF8")
    server.sendmail(mail["from"], [mail["to"]], content, mail_options=options)
server.quit()
