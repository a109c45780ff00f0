#![cfg(test)]
//! Orders at the double of an authority, which connects to a small responder to validate.

mod responder;

use std::sync::Arc;
use std::time::Duration;

use durward_acme::{
    Account, Answer, Authority, Fault, Issued, Method, Name, Registration, Request, Roots,
};
use durward_testkit::acme::AcmeAuthority;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use responder::Responder;

/// Authority, and a responder at the ports where it validates.
struct Stage {
    double: AcmeAuthority,
    responder: Responder,
}

impl Stage {
    async fn new() -> Self {
        let responder = Responder::start().await;
        let double = AcmeAuthority::start(responder.http_port, responder.tls_port);
        for name in ["shop.example", "pay.example"] {
            double.resolve(name, [127, 0, 0, 1].into());
        }
        Self { double, responder }
    }

    fn roots(&self) -> Roots {
        let root = CertificateDer::from_pem_slice(self.double.web_root().as_bytes()).unwrap();
        Arc::new(vec![root])
    }

    async fn open(&self) -> Result<Authority, Fault> {
        Authority::open(&self.double.directory(), &self.roots()).await
    }

    async fn account(&self) -> (Account, String) {
        let contacts = vec!["mailto:ops@acme.example".to_owned()];
        let registration = Registration { contacts, key: None };
        self.open().await.unwrap().register(registration).await.unwrap()
    }

    async fn issue(&self, account: &Account, request: &Request) -> Result<Issued, Fault> {
        let pending = account.order(request).await?;
        self.responder.serve(pending.answers());
        let issued = pending.finish().await;
        self.responder.serve(&[]);
        issued
    }
}

fn dns(name: &str) -> Name {
    Name::Dns(name.to_owned())
}

fn request(names: &[Name], method: Method) -> Request {
    Request { names: names.to_vec(), method, profile: None, replaces: None }
}

fn short_lived(names: &[Name], method: Method) -> Request {
    Request { profile: Some("shortlived".to_owned()), ..request(names, method) }
}

// S3.48+
#[tokio::test]
async fn names_and_addresses_are_issued_by_both_challenges() {
    let stage = Stage::new().await;
    let (account, _) = stage.account().await;
    let here = Name::Ip([127, 0, 0, 1].into());

    for method in [Method::Http01, Method::TlsAlpn01] {
        let names = [dns("shop.example"), dns("pay.example")];
        let named = stage.issue(&account, &request(&names, method)).await.unwrap();
        assert!(named.pem.contains("PRIVATE KEY") && named.pem.contains("BEGIN CERTIFICATE"));
        assert_eq!(named.pem.matches("BEGIN CERTIFICATE").count(), 2, "leaf and intermediate");
        assert_eq!(named.validity.to - named.validity.from, 90 * 86_400);

        let both = [here.clone(), dns("shop.example")];
        let issued = stage.issue(&account, &short_lived(&both, method)).await.unwrap();
        assert_eq!(issued.validity.to - issued.validity.from, 160 * 3_600);
    }

    let seen = stage.double.seen();
    assert_eq!(seen.issued, 4);
    assert_eq!(seen.accounts, [["mailto:ops@acme.example"]]);
    assert_eq!(seen.validations.len(), 8, "{:?}", seen.validations);
    assert!(seen.validations.iter().all(|(_, _, outcome)| outcome.is_ok()));
    assert_eq!(seen.most_open, 1);
}

#[tokio::test]
async fn a_wrong_answer_is_told_with_the_name_and_what_the_authority_saw() {
    let stage = Stage::new().await;
    let (account, _) = stage.account().await;
    let names = [dns("shop.example")];
    let pending = account.order(&request(&names, Method::Http01)).await.unwrap();
    let Answer::Http { token, .. } = &pending.answers()[0] else { panic!("{pending:?}") };
    stage.responder.serve(&[Answer::Http { token: token.clone(), text: "wrong".into() }]);

    let fault = pending.finish().await.unwrap_err();

    let Fault::Refused(sentence) = &fault else { panic!("{fault:?}") };
    assert!(sentence.starts_with("shop.example: 127.0.0.1:"), "{sentence}");
    assert!(sentence.contains("answered another text"), "{sentence}");
}

#[tokio::test]
async fn a_profile_that_the_authority_lacks_is_told_with_those_it_has() {
    let stage = Stage::new().await;
    let (account, _) = stage.account().await;
    let wanted = Request {
        profile: Some("eternal".to_owned()),
        ..request(&[dns("shop.example")], Method::Http01)
    };

    let fault = stage.issue(&account, &wanted).await.unwrap_err();

    let sentence = "the authority has no profile \"eternal\": it has classic, shortlived";
    assert_eq!(fault, Fault::Unsupported(sentence.to_owned()));
    assert!(stage.double.seen().orders.is_empty());
}

#[tokio::test]
async fn an_account_is_found_again_by_its_credentials_and_its_end_is_noticed() {
    let stage = Stage::new().await;
    let (_, credentials) = stage.account().await;
    let authority = stage.open().await.unwrap();
    let account = authority.account(&credentials).await.unwrap();
    let wanted = request(&[dns("shop.example")], Method::TlsAlpn01);
    stage.issue(&account, &wanted).await.unwrap();

    stage.double.revoke_accounts();
    let fault = stage.issue(&account, &wanted).await.unwrap_err();

    assert!(matches!(fault, Fault::AccountGone(_)), "{fault:?}");
    assert_eq!(stage.double.seen().accounts.len(), 1);
}

#[tokio::test]
async fn a_rate_limit_is_told_with_the_time_to_wait() {
    let stage = Stage::new().await;
    let (account, _) = stage.account().await;
    stage.double.behave(|behaviour| behaviour.rate_limit = Some(1_234));

    let wanted = request(&[dns("shop.example")], Method::Http01);
    let fault = stage.issue(&account, &wanted).await.unwrap_err();

    let Fault::RateLimited { retry_after, .. } = fault else { panic!("{fault:?}") };
    assert_eq!(retry_after, Some(Duration::from_secs(1_234)));
}

#[tokio::test]
async fn renewal_information_is_read_and_a_renewal_says_what_it_replaces() {
    let stage = Stage::new().await;
    stage.double.behave(|behaviour| behaviour.renewal = Some((-60, 3_600, 7_200)));
    let (account, _) = stage.account().await;
    let first = request(&[dns("shop.example")], Method::Http01);
    let issued = stage.issue(&account, &first).await.unwrap();
    let leaf = CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap().to_vec();

    let window = stage.open().await.unwrap().renewal_window(&leaf).await.unwrap().unwrap();
    let renewal = Request { replaces: Some(leaf), ..first };
    stage.issue(&account, &renewal).await.unwrap();

    assert_eq!(window.end - window.start, 3_660);
    assert_eq!(window.look_again, Duration::from_secs(7_200));
    assert_eq!(stage.double.seen().replacements, 1);
}

#[tokio::test]
async fn an_authority_that_cannot_be_verified_or_does_not_listen_is_unreachable() {
    let stage = Stage::new().await;
    let stranger = durward_testkit::certificates::Authority::new("stranger");
    let roots: Roots = Arc::new(vec![stranger.root_der()]);

    let distrusted = Authority::open(&stage.double.directory(), &roots).await.unwrap_err();
    stage.double.server().refuse();
    let away = stage.open().await.unwrap_err();

    let text = distrusted.to_string();
    assert!(text.contains("UnknownIssuer") || text.contains("certificate"), "{text}");
    assert!(away.to_string().contains("cannot connect to 127.0.0.1:"), "{away}");
}

#[tokio::test]
async fn the_clock_of_this_host_is_compared_with_the_authoritys() {
    let stage = Stage::new().await;
    stage.double.behave(|behaviour| behaviour.clock_behind = 40 * 86_400);

    let ahead = stage.open().await.unwrap().clock_ahead();

    assert!((40 * 86_400..40 * 86_400 + 60).contains(&ahead), "{ahead}");
}
