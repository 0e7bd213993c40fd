//! A federation of real processes, to be looked at while it trains.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use crate::processes::shell;

/// A hang, on however slow a machine.
pub(crate) const BOUND: Duration = Duration::from_secs(240);

/// The lines that a process writes, as they come.
pub(crate) fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    lines
}

/// Waits for a line that `holds`; gives it.
pub(crate) fn hear(lines: &Receiver<String>, what: &str, holds: impl Fn(&str) -> bool) -> String {
    let (deadline, mut heard) = (Instant::now() + BOUND, Vec::new());
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if holds(&line) => return line,
            Ok(line) => heard.push(line),
            Err(error) => panic!("no {what}: {error}\n{}", heard.join("\n")),
        }
    }
}

/// A process whose output is read by the test, with so much of its log.
pub(crate) fn start(dir: &Path, arguments: &str, log: &str) -> Child {
    let mut command = shell(dir, &format!("exec eranos {arguments}"));
    command.env("RUST_LOG", log);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends bytes to a port and gives whatever is answered until its end.
pub(crate) fn send(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    // It may be closed before everything is sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Asks a port for a page; gives the status and the body.
pub(crate) fn get(address: &str, path: &str) -> (u16, String) {
    let answer = send(address, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {head}")), body.to_owned())
}

/// One figure of `/metrics`.
pub(crate) fn figure(metrics: &str, name: &str) -> f64 {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name}: {metrics}"))
}
