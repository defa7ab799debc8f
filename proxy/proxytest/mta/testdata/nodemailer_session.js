// Sends the messages of one session, which stdin has in JSON, with nodemailer.
const fs = require('fs');
const session = JSON.parse(fs.readFileSync(0));
const nodemailer = require(session.module);

const transport = nodemailer.createTransport({
  pool: true, maxConnections: 1, maxMessages: Infinity,
  host: session.server, port: 25, secure: false, name: session.helo,
  requireTLS: session.tls, ignoreTLS: !session.tls,
  tls: { ca: fs.readFileSync(session.roots), servername: session.name },
  connectionTimeout: session.timeout * 1000, socketTimeout: session.timeout * 1000,
});
Promise.all(session.mails.map((mail) => transport.sendMail({
  envelope: { from: mail.from, to: [mail.to], use8BitMime: true },
  raw: fs.readFileSync(mail.file),
}))).then(() => transport.close(), (error) => { console.error(error); process.exit(1); });
