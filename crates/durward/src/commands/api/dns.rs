//! `durward api dns` and `durward api hosts`: records that lead clients to the gateway.

use durward_apiproxy::dns::{CLOUDFLARE_WARNING, NameServer as Language, Records};
use durward_apiproxy::settings::is_host_name;

use crate::cli::{ApiDns, ApiHosts, NameServer};
use crate::failure::{Exit, Failure};
use crate::inspect;
use crate::output::Screen;

/// Prints records for a name server.
pub(super) fn dns(arguments: &ApiDns) -> Result<Exit, Failure> {
    let zones = names("--zone", &arguments.zone)?;
    let serial = arguments.serial.or_else(|| u32::try_from(inspect::now()).ok()).unwrap_or(1);
    let records =
        Records { zones: &zones, addresses: &arguments.address, ttl: arguments.ttl, serial };
    let language = match arguments.server {
        NameServer::Bind => Language::Bind,
        NameServer::Dnsmasq => Language::Dnsmasq,
        NameServer::CoreDns => Language::CoreDns,
        NameServer::Windows => Language::Windows,
        NameServer::Infoblox => Language::Infoblox,
        NameServer::Cloudflare => Language::Cloudflare,
    };
    Screen::stdout().text(&records.text(language))?;
    if arguments.server == NameServer::Cloudflare {
        // In the output it is a comment; here it is seen when the output is piped.
        drop(std::io::Write::write_fmt(
            &mut anstream::stderr(),
            format_args!("durward: {CLOUDFLARE_WARNING}\n"),
        ));
    }
    Ok(Exit::Ok)
}

/// Prints the lines of a hosts file.
pub(super) fn hosts(arguments: &ApiHosts) -> Result<Exit, Failure> {
    let zones = names("NAME", &arguments.names)?;
    let records = Records { zones: &zones, addresses: &arguments.address, ttl: 0, serial: 0 };
    Screen::stdout().text(&records.text(Language::Hosts))?;
    Ok(Exit::Ok)
}

fn names(what: &str, given: &[String]) -> Result<Vec<String>, Failure> {
    let name = |given: &String| {
        // A wildcard is what these records are anyway.
        let name = given.trim_start_matches("*.").trim_end_matches('.').to_ascii_lowercase();
        if is_host_name(&name) {
            return Ok(name);
        }
        Err(Failure::usage(format!("{what} {given:?} is not a DNS name")))
    };
    given.iter().map(name).collect()
}
