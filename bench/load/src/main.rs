//! Load for the bench that wrk and h2load cannot make: full TLS handshakes, CONNECT tunnels, idle connections, bytes, packets.
//! It measures only what a client sees; the cost of a proxy is read from /proc by the caller. Results are JSON lines on stdout.

mod connections;
mod idle;
mod packets;
mod passthrough;
mod tls;
mod tunnel;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

const USAGE: &str = "usage:
  bench-load connections --target ADDR [--origin ADDR [--form tunnel|absolute] | --sni NAME] --threads N --seconds S --body BYTES
  bench-load idle --target ADDR [--origin ADDR | --sni NAME] --threads N --connections N --body BYTES
  bench-load sink --target ADDR [--origin ADDR] --sni NAME --connections N --bytes N
  bench-load source --listen ADDR
  bench-load packets --target ADDR --source ADDR --cpu N --established N --new N --connections N
  bench-load pod --port N
with --origin the target is a forward proxy, and the way to the origin is a tunnel; with --sni it passes TLS through to a source; without both it is TLS";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let outcome = match (Options::parse(words), command.as_str()) {
        (Some(options), "connections") => connections::run(&options),
        (Some(options), "idle") => idle::run(&options),
        (Some(options), "sink") => passthrough::sink(&options),
        (Some(options), "source") => passthrough::source(&options),
        (Some(options), "packets") => packets::run(&options),
        (Some(options), "pod") => packets::pod(&options),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

/// The command line as `--name value` pairs.
struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut pairs = BTreeMap::new();
        while let Some(word) = words.next() {
            pairs.insert(word.strip_prefix("--")?.to_owned(), words.next()?);
        }
        Some(Self(pairs))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn text(&self, name: &str) -> Result<&str, String> {
        self.0.get(name).map(String::as_str).ok_or_else(|| format!("--{name} is missing\n{USAGE}"))
    }

    fn number(&self, name: &str) -> Result<usize, String> {
        let text = self.text(name)?;
        text.parse().map_err(|_| format!("--{name} \"{text}\" is not a number"))
    }

    fn parsed(&self, name: &str) -> Result<SocketAddr, String> {
        let text = self.text(name)?;
        text.parse().map_err(|_| format!("--{name} \"{text}\" is not an address and port"))
    }

    /// An address of a namespace: one for documentation, or one that is private.
    fn documentation(&self, name: &str) -> Result<SocketAddr, String> {
        let address = self.parsed(name)?;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_documentation() || ip.is_private() => Ok(address),
            _ => Err(format!("--{name} {address} is not an address of a namespace of the bench")),
        }
    }

    fn address(&self, name: &str) -> Result<SocketAddr, String> {
        let address = self.parsed(name)?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "--{name} {address} is not a loopback address, and this load goes nowhere else"
            ));
        }
        Ok(address)
    }
}

/// A string as a JSON string; control characters become spaces.
fn json_string(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("\"{}\"", clean.replace('\\', "\\\\").replace('"', "\\\""))
}
