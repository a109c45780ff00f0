//! `durward agent token`: a random token, and its digest.

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use durward_link::control::Token;
use durward_model::link::TokenDigest;
use serde::Serialize;

use crate::cli::AgentToken;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen};

/// A token and its digest.
#[derive(Serialize)]
struct Made {
    token: String,
    digest: String,
}

/// Prints a token that nobody has.
pub(crate) fn token(arguments: &AgentToken) -> Result<Exit, Failure> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes)
        .map_err(|_| Failure::broken("making a token", "the kernel gives no random bytes"))?;
    let token = URL_SAFE_NO_PAD.encode(bytes);
    let digest = TokenDigest::new(Token::new(token.clone()).digest());
    let made = Made { token, digest: format!("sha256:{digest}") };
    let mut screen = Screen::stdout();
    match arguments.output.format {
        format @ (Format::Json | Format::Yaml) => screen.value(&made, format)?,
        Format::Table | Format::Wide => {
            screen.line(format!("token, for the agent:               {}", made.token))?;
            screen.line(format!("tokens, for the tenant's document:  {}", made.digest))?;
            screen.line("The token is shown only now. Keep it in a Secret, or in a file that only the agent reads (tokenFile).")?;
        }
    }
    Ok(Exit::Ok)
}
