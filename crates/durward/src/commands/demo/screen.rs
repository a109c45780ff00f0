//! Output of the demo: an introduction once, then a live table on a terminal or a plain line at intervals.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use durward_model::verdict::{Finding, Outcome};

use super::bank::Ledger;
use super::stage::{ACME, APIS, GLOBEX, SHARED, Stage};
use crate::app::Gateway;
use crate::failure::Failure;
use crate::output::{Screen, Table, Tone, plain};

/// Interval of plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Columns assumed for a terminal that does not report its width.
const NARROW: usize = 80;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Names of the tenants that have an address of their own, in the order they are shown.
pub(crate) const TENANTS: [&str; 2] = ["acme", "globex"];

/// Live part of the output.
pub(crate) struct Live {
    screen: Screen,
    terminal: bool,
    began: Instant,
    drawn: usize,
    told: Option<Instant>,
    history: [VecDeque<u64>; 2],
    before: [u64; 2],
}

impl Live {
    /// Creates the live part with nothing drawn yet.
    pub(crate) fn new(screen: Screen) -> Self {
        Self {
            screen,
            terminal: std::io::stdout().is_terminal(),
            began: Instant::now(),
            drawn: 0,
            told: None,
            history: Default::default(),
            before: [0; 2],
        }
    }

    /// Redraws after one second.
    pub(crate) fn tick(&mut self, gateway: &Gateway, ledger: &Ledger) -> Result<(), Failure> {
        let totals = requests(&gateway.metrics_text());
        for ((history, before), total) in self.history.iter_mut().zip(&mut self.before).zip(totals)
        {
            history.push_back(total.saturating_sub(*before));
            *before = total;
            if history.len() > 16 {
                history.pop_front();
            }
        }
        if self.terminal {
            self.redraw(gateway, ledger)
        } else {
            self.line(totals, gateway, ledger)
        }
    }

    fn redraw(&mut self, gateway: &Gateway, ledger: &Ledger) -> Result<(), Failure> {
        let mut table = Table::new(&["TENANT", "REQUESTS", "PER SECOND", "", "THE BANK SAW IT AS"]);
        let seen = ledger.seen();
        for (at, (name, address)) in TENANTS.into_iter().zip([ACME, GLOBEX]).enumerate() {
            table.row(vec![
                (name.to_owned(), Tone::Bold),
                plain(self.before[at]),
                plain(self.history[at].back().copied().unwrap_or(0)),
                (spark(&self.history[at]), Tone::Good),
                plain(format!("{address}, {} times", seen.get(&address).copied().unwrap_or(0))),
            ]);
        }
        let mut lines = table.lines();
        let others: u64 =
            seen.iter().filter(|(ip, _)| ![ACME, GLOBEX].contains(ip)).map(|(_, n)| n).sum();
        lines.push(format!("other addresses at the bank: {others}"));
        lines.push(clipped(&configuration(gateway)));
        lines.push(Tone::Faint.paint("Ctrl-C ends the demo and removes everything it made"));
        let up = if self.drawn == 0 { String::new() } else { format!("\u{1b}[{}A", self.drawn) };
        // Clears each line to its end, so that a shorter one leaves nothing behind.
        let text: String = lines.iter().map(|line| format!("{line}\u{1b}[K\n")).collect();
        self.drawn = lines.len();
        self.screen.text(&format!("{up}{text}"))
    }

    fn line(
        &mut self,
        totals: [u64; 2],
        gateway: &Gateway,
        ledger: &Ledger,
    ) -> Result<(), Failure> {
        if self.told.is_some_and(|told| told.elapsed() < LINE_EVERY) {
            return Ok(());
        }
        self.told = Some(Instant::now());
        let seen = ledger.seen();
        let counts: Vec<String> =
            seen.iter().map(|(ip, number)| format!("{ip} {number} times")).collect();
        let saw = if counts.is_empty() { "nobody yet".to_owned() } else { counts.join(", ") };
        self.screen.line(format!(
            "{:>4} s  acme {} requests, globex {}; the bank saw {saw}; {}",
            self.began.elapsed().as_secs(),
            totals[0],
            totals[1],
            configuration(gateway)
        ))
    }
}

fn configuration(gateway: &Gateway) -> String {
    let view = gateway.view();
    let fault = view.verdicts.findings().find(|(verdict, _)| verdict.outcome != Outcome::Accepted);
    match fault {
        None => format!("configuration {} in force", view.snapshot.generation),
        Some((verdict, finding)) => format!(
            "configuration: {} {} {} ({}): {finding}",
            verdict.resource.kind,
            verdict.resource.name,
            verdict.outcome,
            place(finding)
        ),
    }
}

/// Formats the place of a finding by its file's name: the directory is on the screen already.
fn place(finding: &Finding) -> String {
    let place = finding.origin.to_string();
    place.rsplit_once('/').map_or_else(|| place.clone(), |(_, name)| name.to_owned())
}

/// Cuts a line to the terminal's width, so that it never becomes two.
fn clipped(line: &str) -> String {
    let width = rustix::termios::tcgetwinsize(std::io::stdout());
    let width = width.map_or(0, |size| usize::from(size.ws_col));
    cut(line, if width == 0 { NARROW } else { width })
}

/// Cuts a line to a number of columns; the last one stays free, because some terminals begin a new line after it.
fn cut(line: &str, columns: usize) -> String {
    let columns = columns.saturating_sub(1).max(1);
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    line.chars().take(columns - 1).chain(['…']).collect()
}

fn spark(history: &VecDeque<u64>) -> String {
    let most = history.iter().copied().max().unwrap_or(0).max(1);
    let bar = |&value: &u64| BARS[usize::try_from(value * 7 / most).unwrap_or(7).min(7)];
    history.iter().map(bar).collect()
}

/// Reads the requests so far, per tenant, from our own exposition.
fn requests(exposition: &str) -> [u64; 2] {
    TENANTS.map(|tenant| {
        let label = format!("tenant=\"{tenant}\"");
        exposition
            .lines()
            .filter(|line| line.starts_with("durward_requests_total{") && line.contains(&label))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .map(|value| value as u64)
            .sum()
    })
}

/// Prints the introduction for newcomers.
pub(crate) fn introduce(screen: &mut Screen, stage: &Stage) -> Result<(), Failure> {
    let ports = stage.ports;
    let dir = stage.path().display();
    screen.line(format!(
        "{} {} · three tenants, two API servers, one gateway, one partner · state in {dir} (removed on exit)",
        Tone::Bold.paint("durward demo"),
        env!("CARGO_PKG_VERSION")
    ))?;
    if let Some(moved) = ports.moved() {
        screen.line(format!("ports: {moved}"))?;
    }
    screen.line("")?;
    let mut table =
        Table::new(&["TENANT", "COMES IN AT", "CLIENTS SHOW", "CERTIFICATE", "GOES OUT FROM"]);
    let row = |name: &str, address, clients: &str, certificate: &str, tone| {
        vec![
            (name.to_owned(), Tone::Bold),
            plain(format!("{address}:{}", ports.gateway)),
            plain(clients),
            (format!("IP:{address}, {certificate}"), tone),
            plain(address),
        ]
    };
    table.row(row("acme", ACME, "a certificate", "59 days", Tone::Good));
    table.row(row("globex", GLOBEX, "nothing", "6 days", Tone::Warn));
    table.print(screen)?;
    screen.line("")?;
    screen.line(format!(
        "partner bank   https://127.0.0.1:{} admits only {ACME} and {GLOBEX}",
        ports.bank
    ))?;
    screen.line(format!(
        "by name        https://{SHARED}:{} is shared: acme.demo is acme's, initech.demo is initech's, other names are nobody's",
        ports.gateway
    ))?;
    screen.line(format!(
        "API servers    https://{APIS}:{} is shared, too: acme-api.demo and initech-api.demo, TLS end to end",
        ports.gateway
    ))?;
    screen.line(format!(
        "forward proxy  http://{ACME}:{} takes acme's programs to the bank, and nowhere else",
        ports.proxy
    ))?;
    screen.line(format!(
        "admin          http://127.0.0.1:{}/readyz?verbose, /metrics, /snapshot",
        ports.admin
    ))?;
    screen.line(format!(
        "documents      {dir}/acme.yaml, globex.yaml, initech.yaml, api-servers.yaml: edit and save, they are live"
    ))?;
    screen.line("")?;
    suggest(screen, stage)
}

fn suggest(screen: &mut Screen, stage: &Stage) -> Result<(), Failure> {
    let (dir, ports) = (stage.path().display(), stage.ports);
    let certs = stage.certificate("");
    let certs = certs.display();
    let admin = if ports.admin == 9440 {
        String::new()
    } else {
        format!(" --admin 127.0.0.1:{}", ports.admin)
    };
    screen.line("Try in another terminal:")?;
    let lines = [
        format!(". {dir}/env"),
        "acme /pay                     # the bank saw 127.0.0.2, client certificate CN=acme"
            .to_owned(),
        "globex /pay                   # the bank saw 127.0.0.3".to_owned(),
        format!(
            "out https://127.0.0.1:{}/pay   # through acme's forward proxy: 127.0.0.2",
            ports.bank
        ),
        "named initech.demo /          # by name, at an address that acme has, too".to_owned(),
        format!(
            "kubectl --kubeconfig {dir}/acme.kubeconfig auth whoami   # acme's API server: admin"
        ),
        format!("durward explain https://{GLOBEX}:{}/pay", ports.gateway),
        format!("durward check{admin}                 # two things here are broken on purpose"),
    ];
    for line in lines {
        screen.line(format!("  {line}"))?;
    }
    screen.line("or, without changing your shell:")?;
    screen.line(format!(
        "  curl --cacert {certs}ca.crt --cert {certs}partner.crt --key {certs}partner.key https://{ACME}:{}/pay",
        ports.gateway
    ))?;
    screen.line(format!("  curl --cacert {certs}ca.crt https://{GLOBEX}:{}/pay", ports.gateway))?;
    screen.line(format!(
        "  curl --noproxy '' -x {ACME}:{} --cacert {certs}ca.crt https://127.0.0.1:{}/pay",
        ports.proxy, ports.bank
    ))?;
    screen.line("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_summed_over_their_classes() {
        let text = "durward_requests_total{tenant=\"acme\",code_class=\"2xx\"} 3\n\
                    durward_requests_total{tenant=\"acme\",code_class=\"5xx\"} 1\n\
                    durward_requests_total{tenant=\"globex\",code_class=\"2xx\"} 2\n";

        assert_eq!(requests(text), [4, 2]);
    }
}
