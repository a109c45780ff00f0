//! `durward agent join`: a client certificate for the agent of a link, by a token that is good for one, or in place of the one it has.

use std::fs;
use std::path::{Path, PathBuf};

use durward_agent::config::{AgentFile, Environment};
use durward_link::carrier::{Dialler, GatewayUrl};
use durward_link::control::Token;
use rcgen::{CertificateParams, KeyPair};
use serde::{Deserialize, Serialize};

use crate::authority;
use crate::cli::AgentJoin;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen};

/// Path of the request at the gateway.
const PATH: &str = "/api/v1/gateway/join";
/// Bytes of an answer at most.
const ANSWER: u64 = 256 << 10;
/// Names of the files in the agent's directory.
const KEY: &str = "agent.key";
const CERTIFICATE: &str = "agent.crt";
const CONFIG: &str = "agent.yaml";

/// Body of the gateway's answer.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    link: String,
    #[serde(default)]
    certificate: String,
    #[serde(default)]
    not_after: u64,
    #[serde(default)]
    error: Option<Refused>,
}

#[derive(Deserialize)]
struct Refused {
    message: String,
}

/// Result of joining.
#[derive(Serialize)]
struct Joined {
    link: String,
    certificate: PathBuf,
    key: PathBuf,
    config: PathBuf,
    /// End of the certificate's validity, in seconds since 1970.
    not_after: u64,
}

/// Gets a certificate and writes the agent's files.
pub(crate) fn join(arguments: &AgentJoin) -> Result<Exit, Failure> {
    let dir = &arguments.dir;
    let certificate = dir.join(CERTIFICATE);
    if certificate.exists() != arguments.renew {
        let message = match arguments.renew {
            true => format!("there is no {}: join with a token first", certificate.display()),
            false => format!("{} exists: renew it with --renew", certificate.display()),
        };
        return Err(Failure::usage(message));
    }
    fs::create_dir_all(dir)
        .map_err(|error| Failure::broken(format!("making {}", dir.display()), error))?;
    let token = token(arguments)?;
    let file = agent_file(arguments)?;
    let (url, dialler) = dialler(&file, token.as_deref())?;
    let request = request(&key(dir)?)?;
    let answer = ask(&url, &dialler, token.as_deref(), &request)?;
    authority::write(&certificate, &answer.certificate, 0o644, true)?;
    let config = dir.join(CONFIG);
    if !config.exists() {
        authority::write(&config, &configuration(arguments, &answer.link, &file)?, 0o644, false)?;
    }
    // What was issued must fit the key.
    let own = AgentFile {
        certificate_file: Some(absolute(dir, CERTIFICATE)?),
        key_file: Some(absolute(dir, KEY)?),
        ..file
    };
    own.settings(dir, &Environment::default())
        .map_err(|error| Failure::broken("using the certificate that the gateway issued", error))?;
    let not_after = answer.not_after;
    let joined = Joined { link: answer.link, certificate, key: dir.join(KEY), config, not_after };
    report(arguments, &joined)
}

fn report(arguments: &AgentJoin, joined: &Joined) -> Result<Exit, Failure> {
    let mut screen = Screen::stdout();
    match arguments.output.format {
        format @ (Format::Json | Format::Yaml) => screen.value(joined, format)?,
        Format::Table | Format::Wide => {
            let config = joined.config.display();
            screen.line(format!("link:         {}", joined.link))?;
            screen.line(format!("certificate:  {}", joined.certificate.display()))?;
            screen.line(format!("key:          {}", joined.key.display()))?;
            screen.line(format!("Run the agent with: durward agent run -c {config}"))?;
            screen.line("Renew the certificate before it ends, 90 days from now at the latest, with --renew; a running agent takes it at once.")?;
        }
    }
    Ok(Exit::Ok)
}

/// Returns the token, or `None` where the certificate stands for it.
fn token(arguments: &AgentJoin) -> Result<Option<String>, Failure> {
    if arguments.renew {
        return Ok(None);
    }
    let text = match &arguments.token_file {
        Some(file) => fs::read_to_string(file)
            .map_err(|error| Failure::broken(format!("reading {}", file.display()), error))?,
        // Arguments of processes are shown to everybody on a host.
        None => std::env::var("DURWARD_JOIN_TOKEN").map_err(|_| {
            Failure::usage("there is no token: write it into a file and name that with --token-file, or set DURWARD_JOIN_TOKEN")
        })?,
    };
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage("the token must be one line of printable characters"));
    }
    Ok(Some(token.to_owned()))
}

/// Returns the part of the agent's configuration that says how the gateway is reached.
fn agent_file(arguments: &AgentJoin) -> Result<AgentFile, Failure> {
    let dir = &arguments.dir;
    let ca_file = arguments.ca_file.as_ref().map(std::path::absolute).transpose();
    let ca_file = ca_file.map_err(|error| Failure::broken("finding --ca-file", error))?;
    let own = |name| arguments.renew.then(|| absolute(dir, name)).transpose();
    Ok(AgentFile {
        gateways: vec![arguments.gateway.clone()],
        server_name: arguments.server_name.clone(),
        ca_file,
        certificate_file: own(CERTIFICATE)?,
        key_file: own(KEY)?,
        ..AgentFile::default()
    })
}

fn absolute(dir: &Path, name: &str) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(dir.join(name));
    path.map_err(|error| Failure::broken(format!("finding {}", dir.display()), error))
}

fn dialler(file: &AgentFile, token: Option<&str>) -> Result<(GatewayUrl, Dialler), Failure> {
    let mut environment = Environment::of_this_process();
    environment.api_server = None;
    environment.token = token.map(|token| Token::new(token.to_owned()));
    let settings = file.settings(Path::new("."), &environment);
    let settings = settings.map_err(|error| Failure::usage(error.to_string()))?;
    let url = settings.gateways.first().cloned();
    let url = url.ok_or_else(|| Failure::usage("name the gateway: wss://HOST[:PORT]"))?;
    Ok((url, settings.dialler))
}

/// Returns the agent's key: the one that is there, so that an answer which was lost can be asked for again, or a new one.
fn key(dir: &Path) -> Result<KeyPair, Failure> {
    let path = dir.join(KEY);
    let broken =
        |error: rcgen::Error| Failure::broken(format!("reading {}", path.display()), error);
    if path.exists() {
        let text = fs::read_to_string(&path)
            .map_err(|error| Failure::broken(format!("reading {}", path.display()), error))?;
        return KeyPair::from_pem(&text).map_err(broken);
    }
    let key = KeyPair::generate().map_err(|error| Failure::broken("making a key", error))?;
    authority::write(&path, &key.serialize_pem(), 0o600, false)?;
    Ok(key)
}

/// Returns a certificate request, PEM. The gateway takes the key alone from it.
fn request(key: &KeyPair) -> Result<String, Failure> {
    let broken = |error: rcgen::Error| Failure::broken("making a certificate request", error);
    let params = CertificateParams::default();
    params.serialize_request(key).and_then(|request| request.pem()).map_err(broken)
}

fn ask(
    url: &GatewayUrl,
    dialler: &Dialler,
    token: Option<&str>,
    request: &str,
) -> Result<Answer, Failure> {
    let authorization =
        token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nHost: {}\r\n{authorization}Content-Type: application/x-pem-file\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{request}",
        url.place,
        request.len()
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::broken("starting", error))?;
    let unreachable = |why: String| Failure::Unreachable {
        message: format!("{url} issues no certificate: {why}"),
    };
    let answer = runtime.block_on(dialler.ask(url, request.as_bytes(), ANSWER));
    let answer = answer.map_err(|error| unreachable(chain(&error)))?;
    let (status, body) =
        split(&answer).ok_or_else(|| unreachable("it does not answer in HTTP".to_owned()))?;
    let answer: Result<Answer, _> = serde_json::from_slice(body);
    match answer {
        Ok(answer) if status == 200 && !answer.certificate.is_empty() => Ok(answer),
        Ok(Answer { error: Some(refused), .. }) => {
            let message = refused.message.escape_debug();
            Err(Failure::broken("joining", format!("the gateway answers {status}: {message}")))
        }
        _ => Err(unreachable(format!("it answers with status {status}"))),
    }
}

/// Returns status and body of an answer whose end is that of the connection.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, &answer[end + 4..]))
}

/// Returns the file of an agent that joined.
fn configuration(arguments: &AgentJoin, link: &str, file: &AgentFile) -> Result<String, Failure> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Written<'w> {
        link: &'w str,
        gateways: &'w [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        server_name: Option<&'w str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ca_file: Option<&'w Path>,
        certificate_file: &'w str,
        key_file: &'w str,
    }
    let written = Written {
        link,
        gateways: &file.gateways,
        server_name: arguments.server_name.as_deref(),
        ca_file: file.ca_file.as_deref(),
        certificate_file: CERTIFICATE,
        key_file: KEY,
    };
    serde_saphyr::to_string(&written)
        .map_err(|error| Failure::broken(format!("writing {CONFIG}"), error))
}

/// Returns an error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
