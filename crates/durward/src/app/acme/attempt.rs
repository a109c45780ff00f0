//! One attempt: account, order, answers served, certificate kept.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use durward_acme::{
    Account, Answer, Authority, Fault, Issued, Method, Name, Registration, Request, Validity,
};
use durward_control::issuance::answers_json;
use durward_model::Secret;
use durward_model::acme::{self, Challenge, Order};

use super::plan::Wanted;
use super::runner::Runner;
use crate::app::Gateway;
use crate::inspect::now;

/// An attempt for one certificate.
pub(super) struct Attempt<'a> {
    pub(super) runner: &'a mut Runner,
    pub(super) gateway: &'a Arc<Gateway>,
    pub(super) wanted: &'a Wanted,
}

impl Attempt<'_> {
    /// Gets a certificate; `None` if it is not due after all.
    pub(super) async fn run(mut self) -> Result<Option<Validity>, Fault> {
        let order = Arc::clone(&self.wanted.order);
        let roots = Arc::clone(&self.runner.options.roots);
        let authority = Authority::open(&order.directory, &roots).await?;
        self.runner.note_clock(&order.directory, &authority);
        if !self.runner.is_due(self.wanted) {
            return Ok(None);
        }
        let account = self.account(&authority).await?;
        self.runner.note_order(&order.directory);
        let pending = match account.order(&self.request()).await {
            Err(Fault::AccountGone(reason)) if order.account_key.is_none() => {
                // Deactivated or revoked: a new one takes its place, once per attempt.
                tracing::warn!(tenant = %self.wanted.tenant, reason, "the account is not valid any more: making another");
                self.io(|runner, name| runner.store.forget_account(name))?;
                let account = self.account(&authority).await?;
                self.runner.note_order(&order.directory);
                account.order(&self.request()).await?
            }
            placed => placed?,
        };
        let issued = if pending.answers().is_empty() {
            pending.finish().await
        } else {
            match self.serve(pending.answers()) {
                Ok(()) => pending.finish().await,
                Err(fault) => Err(fault),
            }
        };
        let kept = issued.and_then(|issued| self.keep(&issued, &authority));
        if kept.is_err() {
            // The error of the attempt is reported, not one of the cleanup; what is left is removed at the next start.
            drop(self.put(&[(&order.answers_file, None)]));
        }
        kept.map(Some)
    }

    /// Returns the tenant's account at the authority, a new one if need be.
    async fn account(&mut self, authority: &Authority) -> Result<Account, Fault> {
        if let Some(credentials) = self.io(|runner, name| runner.store.account(name))? {
            match authority.account(&credentials).await {
                Err(Fault::AccountGone(_)) => {}
                found => return found,
            }
        }
        let order = &self.wanted.order;
        let registration = Registration {
            contacts: order.contacts.iter().map(|contact| (**contact).to_owned()).collect(),
            key: order.account_key.as_ref().map(|key| key.expose().to_vec()),
        };
        let (account, credentials) = authority.register(registration).await?;
        self.io(|runner, name| runner.store.keep_account(name, &credentials))?;
        Ok(account)
    }

    fn io<T>(&mut self, act: impl FnOnce(&Runner, &str) -> std::io::Result<T>) -> Result<T, Fault> {
        act(self.runner, &account_name(self.wanted)).map_err(|error| not_written(&error))
    }

    fn request(&self) -> Request {
        let order = &self.wanted.order;
        let name = |name: &acme::Name| match name {
            acme::Name::Dns(name) => Name::Dns((**name).to_owned()),
            acme::Name::Ip(address) => Name::Ip(*address),
        };
        let leaf = self.wanted.certificate.as_ref().and_then(|one| one.chain.first());
        Request {
            names: order.names.iter().map(name).collect(),
            method: match order.challenge {
                Challenge::Http01 => Method::Http01,
                Challenge::TlsAlpn01 => Method::TlsAlpn01,
            },
            profile: order.profile.as_deref().map(str::to_owned),
            replaces: leaf.map(|leaf| leaf.to_vec()),
        }
    }

    /// Lets the tenant's listeners answer, and looks whether they do.
    fn serve(&mut self, answers: &[Answer]) -> Result<(), Fault> {
        let answers: Vec<acme::Answer> = answers.iter().map(answer).collect();
        let file = &self.wanted.order.answers_file;
        self.put(&[(file, Some(&answers_json(&answers)))])?;
        let view = self.gateway.view();
        let tenant = view.snapshot.tenants.get(&self.wanted.tenant);
        let served = |wanted: &acme::Answer| {
            let mut listeners = tenant.into_iter().flat_map(|tenant| &tenant.listeners);
            listeners.any(|listener| listener.acme.answers.contains(wanted))
        };
        if answers.iter().all(served) {
            return Ok(());
        }
        let sentence = "no listener of the tenant answers the challenge: see durward validate";
        Err(Fault::Unsupported(sentence.to_owned()))
    }

    /// Puts an issued certificate in the place of the former one.
    fn keep(&mut self, issued: &Issued, authority: &Authority) -> Result<Validity, Fault> {
        let now_there = now() - authority.clock_ahead();
        if issued.validity.to <= now_there {
            return Err(Fault::Refused("the certificate it issued has ended already".to_owned()));
        }
        let Order { file, answers_file, .. } = &*self.wanted.order;
        self.put(&[(file, Some(issued.pem.as_bytes())), (answers_file, None)])?;
        Ok(issued.validity)
    }

    /// Writes files, or removes them, and lets the configuration follow at once.
    fn put(&mut self, files: &[(&Path, Option<&[u8]>)]) -> Result<(), Fault> {
        for (path, bytes) in files {
            let store = &self.runner.store;
            let written = match bytes {
                Some(bytes) => store.write(path, bytes),
                None => store.remove(path),
            };
            written.map_err(|error| not_written(&error))?;
        }
        self.gateway.adopt_files(files, "a certificate by ACME");
        Ok(())
    }
}

/// Returns the name of the account's file: each tenant has its own, for an account remembers which names it has shown.
fn account_name(wanted: &Wanted) -> String {
    let order = &wanted.order;
    let contacts = order.contacts.join(",");
    let key = order.account_key.as_ref().map_or(&[][..], Secret::expose);
    let key: Vec<u8> = digest(&SHA256, key).as_ref().to_vec();
    let what = [order.directory.as_bytes(), contacts.as_bytes(), &key].join(&b'\n');
    let hash = digest(&SHA256, &what);
    let hash: String = hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{hash}", wanted.tenant)
}

fn not_written(error: &std::io::Error) -> Fault {
    Fault::Here(format!("files in the state directory cannot be used: {error}"))
}

fn answer(answer: &Answer) -> acme::Answer {
    match answer {
        Answer::Http { token, text } => {
            acme::Answer::Http { token: token.as_str().into(), text: text.as_str().into() }
        }
        Answer::TlsAlpn { server_name, certificate, key } => acme::Answer::Tls {
            server_name: server_name.as_str().into(),
            certificate: certificate.as_slice().into(),
            key: Secret::new(key.clone()),
        },
    }
}
