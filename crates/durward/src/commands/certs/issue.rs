//! `durward certs issue`: a certificate from the authority in a directory, which is created if there is none. Existing files stay unless `--force` is
//! given.

use std::path::Path;

use crate::authority::{Authority, Wish};
use crate::cli::CertsIssue;
use crate::failure::{Exit, Failure};
use crate::output::Screen;

/// Issues one certificate and explains its use.
pub(crate) fn issue(arguments: &CertsIssue) -> Result<Exit, Failure> {
    let wish = wish(arguments);
    let stem = stem(&wish.name)?;
    let mut screen = Screen::stdout();

    let (authority, made) = Authority::keep_in(&arguments.dir)?;
    if made {
        let path = arguments.dir.join("ca.crt");
        screen.line(format!(
            "made {} (keep ca.key secret: whoever has it can issue certificates)",
            shown(&path)
        ))?;
    }
    let (certificate, key) =
        authority.issue(&wish)?.write(&arguments.dir, &stem, arguments.force)?;

    screen.line(format!("wrote {} and {}", shown(&certificate), shown(&key)))?;
    let kind = if wish.client { "client" } else { "server" };
    screen.line(format!("  {kind} certificate {}, {} days", describe(&wish), wish.days))?;
    screen.line(format!("next: {}", next(&wish, &arguments.dir, &stem)))?;
    Ok(Exit::Ok)
}

fn wish(arguments: &CertsIssue) -> Wish {
    let first = || {
        let ips = arguments.ip.iter().map(ToString::to_string);
        ips.chain(arguments.dns.iter().cloned()).next().unwrap_or_default()
    };
    Wish {
        name: arguments.name.clone().unwrap_or_else(first),
        ips: arguments.ip.clone(),
        dns: arguments.dns.clone(),
        client: arguments.client,
        days: arguments.days,
        passed: 0,
        key: arguments.key,
    }
}

fn stem(name: &str) -> Result<String, Failure> {
    let stem = name.replace('*', "_");
    let fit = !stem.is_empty()
        && stem != "ca"
        && !stem.starts_with('.')
        && stem.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:@ ".contains(c));
    if fit {
        return Ok(stem);
    }
    Err(Failure::usage(format!(
        "{name:?} cannot name a file here: use letters, digits and -_.:@, and not \"ca\""
    )))
}

fn describe(wish: &Wish) -> String {
    let ips = wish.ips.iter().map(|ip| format!("IP:{ip}"));
    let names: Vec<_> = ips.chain(wish.dns.iter().map(|name| format!("DNS:{name}"))).collect();
    if names.is_empty() { format!("CN={}", wish.name) } else { names.join(", ") }
}

fn next(wish: &Wish, dir: &Path, stem: &str) -> String {
    let ca = shown(&dir.join("ca.crt"));
    if wish.client {
        return format!(
            "clientCertificates: {{mode: Required, caFile: {ca}}} in the tenant's document"
        );
    }
    format!("certificate: {{file: {}}} in the tenant's document", shown(&dir.join(stem)))
}

fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    text.strip_prefix("./").map_or_else(|| text.clone(), str::to_owned)
}
