//! Accounts, orders and authorizations of the double.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Shared;

/// Everything the authority remembers.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) nonces: BTreeSet<String>,
    /// Signed requests so far.
    pub(crate) requests: u64,
    pub(crate) accounts: BTreeMap<u64, Account>,
    pub(crate) orders: BTreeMap<u64, Order>,
    pub(crate) authorizations: BTreeMap<u64, Authorization>,
    pub(crate) certificates: BTreeMap<u64, String>,
    /// Last number given to anything.
    last: u64,
}

pub(crate) struct Account {
    /// Public key as an uncompressed point.
    pub(crate) key: Vec<u8>,
    pub(crate) thumbprint: String,
    pub(crate) valid: bool,
    /// Names that it has shown.
    pub(crate) validated: BTreeSet<String>,
}

pub(crate) struct Order {
    pub(crate) account: u64,
    pub(crate) identifiers: Vec<Value>,
    pub(crate) profile: Option<String>,
    pub(crate) replaces: Option<String>,
    pub(crate) authorizations: Vec<u64>,
    pub(crate) certificate: Option<u64>,
    pub(crate) failed: bool,
}

pub(crate) struct Authorization {
    pub(crate) account: u64,
    pub(crate) identifier: Value,
    pub(crate) token: String,
    pub(crate) status: &'static str,
    pub(crate) error: Option<Value>,
}

impl Authorization {
    pub(crate) fn name(&self) -> String {
        self.identifier["value"].as_str().unwrap_or_default().to_owned()
    }
}

impl State {
    pub(crate) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Returns the status of an order, which follows from its authorizations.
    pub(crate) fn status(&self, order: &Order) -> &'static str {
        let statuses = || {
            let all = order.authorizations.iter().filter_map(|id| self.authorizations.get(id));
            all.map(|authorization| authorization.status)
        };
        match order.certificate {
            Some(_) => "valid",
            None if order.failed || statuses().any(|status| status == "invalid") => "invalid",
            None if statuses().all(|status| status == "valid") => "ready",
            None => "pending",
        }
    }

    pub(crate) fn open_orders(&self) -> usize {
        let is_open = |order: &&Order| matches!(self.status(order), "pending" | "ready");
        self.orders.values().filter(is_open).count()
    }

    pub(crate) fn order_json(&self, shared: &Shared, id: u64) -> Option<Value> {
        let order = self.orders.get(&id)?;
        let authorizations: Vec<String> =
            order.authorizations.iter().map(|id| shared.url(&format!("/authz/{id}"))).collect();
        let mut json = json!({
            "status": self.status(order),
            "identifiers": order.identifiers,
            "authorizations": authorizations,
            "finalize": shared.url(&format!("/finalize/{id}")),
        });
        if let Some(certificate) = order.certificate {
            json["certificate"] = shared.url(&format!("/cert/{certificate}")).into();
        }
        if let Some(replaces) = &order.replaces {
            json["replaces"] = replaces.as_str().into();
        }
        if let Some(profile) = &order.profile {
            json["profile"] = profile.as_str().into();
        }
        Some(json)
    }

    pub(crate) fn authorization_json(&self, shared: &Shared, id: u64) -> Option<Value> {
        let authorization = self.authorizations.get(&id)?;
        let challenge = |kind: &str| {
            let mut json = json!({
                "type": kind,
                "url": shared.url(&format!("/chall/{id}/{kind}")),
                "token": authorization.token,
                "status": authorization.status,
            });
            if let Some(error) = &authorization.error {
                json["error"] = error.clone();
            }
            json
        };
        Some(json!({
            "status": authorization.status,
            "identifier": authorization.identifier,
            "challenges": [challenge("http-01"), challenge("tls-alpn-01")],
        }))
    }
}
