//! Fields that say how the type of the cluster is found, and which way requests go.

use std::time::Duration;

use super::{AgentFile, ConfigError, bad};
use crate::cluster::{Controller, Detection, Wanted};

/// Seconds to wait for an address of a controller's Service at most.
const LONGEST: u64 = 3_600;
/// Controllers at most.
const CONTROLLERS: usize = 64;

impl AgentFile {
    /// Returns how the type of the cluster is found.
    ///
    /// # Errors
    /// Fails on the first field that cannot be used.
    pub fn detection(&self) -> Result<Detection, ConfigError> {
        let mut detection = Detection::default();
        if let Some(written) = &self.ingress_controllers {
            if written.len() > CONTROLLERS {
                let fault = format!("is more than {CONTROLLERS} controllers");
                return Err(bad("ingressControllers", &written.len().to_string(), &fault));
            }
            let read = |(at, text): (usize, &String)| {
                Controller::read(text).ok_or_else(|| {
                    let field = format!("ingressControllers[{at}]");
                    bad(&field, text, "is neither NAMESPACE/NAME nor LABEL=VALUE")
                })
            };
            detection.controllers =
                written.iter().enumerate().map(read).collect::<Result<_, _>>()?;
        }
        if let Some(seconds) = self.endpoint_wait_seconds {
            if seconds > LONGEST {
                let fault = format!("is not a number of seconds up to {LONGEST}");
                return Err(bad("endpointWaitSeconds", &seconds.to_string(), &fault));
            }
            detection.wait = Duration::from_secs(seconds);
        }
        let of_pipeops = self.tunnels.as_ref().and_then(|tunnels| tunnels.routing.clone());
        let of_pipeops = of_pipeops.unwrap_or_default();
        let forced = self.force_tunnel.or(of_pipeops.force_tunnel_mode).unwrap_or(false);
        let dual = self.dual.or(of_pipeops.dual_mode_enabled).unwrap_or(false);
        detection.wanted = match (forced, dual) {
            (true, true) => {
                return Err(bad("dual", "true", "is beside forceTunnel: keep one of them"));
            }
            (true, false) => Wanted::Tunnel,
            (false, true) => Wanted::Dual,
            (false, false) => Wanted::Direct,
        };
        detection.offers_private = self.offer_private_endpoint.unwrap_or(false);
        detection.proof_host = self.proof.as_ref().map(|proof| proof.host.to_ascii_lowercase());
        Ok(detection)
    }
}
