//! Certificates for the cases: made once per test process, valid and faulty in every way a case needs.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::LazyLock;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
    date_time_ymd,
};

/// 2030-06-01T00:00:00Z, the time of all cases.
pub(crate) const NOW: i64 = 1_906_502_400;

/// Everything the cases refer to as `certs/…`, made once.
static FILES: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(make);

/// Writes all certificates into `directory`.
pub(crate) fn write_into(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    for (name, bytes) in &*FILES {
        fs::write(directory.join(name), bytes).unwrap();
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for entry in fs::read_dir(fixtures).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, directory.join(path.file_name().unwrap())).unwrap();
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn make() -> Vec<(String, Vec<u8>)> {
    let authority = authority("Durward test authority", (2020, 2040));
    let other = self::authority("Other authority", (2020, 2040));
    let old = self::authority("Old authority", (2020, 2024));
    let a = ["198.51.100.2"];
    let mut files = Vec::new();
    let mut leaf = |name: &str, params: CertificateParams, issuer: &Authority| {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap().pem();
        files.push((format!("{name}.crt"), format!("{certificate}{}", issuer.pem()).into_bytes()));
        files.push((format!("{name}.key"), key.serialize_pem().into_bytes()));
        (certificate, key)
    };
    let (acme, acme_key) = leaf("acme", server("acme", &a), &authority);
    leaf("tenant-A", server("tenant-A", &a), &authority);
    leaf("tenant-B", server("tenant-B", &["198.51.100.3"]), &authority);
    leaf("bank", server("bank", &["198.51.100.3"]), &authority);
    let many = ["198.51.100.2", "198.51.100.3", "198.51.100.4", "2001:db8::2"];
    leaf("many", server("many", &many), &authority);
    leaf("acme-many", server("acme-many", &many), &authority);
    leaf("bank-many", server("bank-many", &many), &authority);
    leaf("wrong-address", server("elsewhere", &["203.0.113.99"]), &authority);
    leaf("no-address", names(server("names", &[]), &["acme.example"]), &authority);
    leaf("named", names(server("named", &[]), &["acme.example", "*.acme.example"]), &authority);
    leaf("expired", years(server("expired", &a), 2020, 2024), &authority);
    leaf("future", years(server("future", &a), 2032, 2040), &authority);
    leaf("soon", until(server("soon", &a), 6, 9), &authority);
    leaf(
        "client-usage",
        usage(server("client", &a), ExtendedKeyUsagePurpose::ClientAuth),
        &authority,
    );
    let mut ca_leaf = server("authority as leaf", &a);
    ca_leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    leaf("ca-leaf", ca_leaf, &authority);
    let mut add = |name: &str, text: String| files.push((name.to_owned(), text.into_bytes()));
    add("mismatched.crt", acme.clone());
    add("mismatched.key", KeyPair::generate().unwrap().serialize_pem());
    add("not-first.crt", format!("{}{acme}", authority.pem()));
    add("not-first.key", acme_key.serialize_pem());
    add("disorder.crt", format!("{acme}{}{}", other.pem(), authority.pem()));
    add("disorder.key", acme_key.serialize_pem());
    add("keyless.crt", acme.clone());
    add("no-key-inside.crt", acme.clone());
    add("no-key-inside.key", acme);
    add(
        "damaged.crt",
        "-----BEGIN CERTIFICATE-----\nnot base64 at all!\n-----END CERTIFICATE-----\n".to_owned(),
    );
    add("damaged.key", acme_key.serialize_pem());
    add("partners.crt", authority.pem());
    add("partners-next.crt", other.pem());
    add("partners-old.crt", old.pem());
    add("empty.crt", "\n".to_owned());
    add("partners.crl", revocations(&authority, (2025, 2035)));
    add("outdated.crl", revocations(&authority, (2023, 2024)));
    add("foreign.crl", revocations(&other, (2025, 2035)));
    files
}

fn authority(name: &str, (from, to): (i32, i32)) -> Authority {
    let mut params = years(CertificateParams::default(), from, to);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn server(name: &str, addresses: &[&str]) -> CertificateParams {
    let mut params = years(CertificateParams::default(), 2024, 2034);
    params.distinguished_name.push(DnType::CommonName, name);
    let addresses = addresses.iter().map(|address| address.parse::<IpAddr>().unwrap());
    params.subject_alt_names = addresses.map(SanType::IpAddress).collect();
    params
}

fn names(mut params: CertificateParams, names: &[&str]) -> CertificateParams {
    params
        .subject_alt_names
        .extend(names.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())));
    params
}

fn usage(mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    params.extended_key_usages = vec![usage];
    params
}

fn years(mut params: CertificateParams, from: i32, to: i32) -> CertificateParams {
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    params
}

fn until(mut params: CertificateParams, month: u8, day: u8) -> CertificateParams {
    params.not_after = date_time_ymd(2030, month, day);
    params
}

fn revocations(issuer: &Authority, (from, to): (i32, i32)) -> String {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(from, 1, 1),
        next_update: date_time_ymd(to, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().pem().unwrap()
}
