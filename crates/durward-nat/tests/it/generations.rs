//! No packet sees a mix of two configurations: tenants come and go under thousands of new flows a second, the table is taken away, the
//! process ends, and nothing leaves with another's address or against `others: Deny`, in either family.
//!
//! `DURWARD_STRESS_RELOADS=500` runs the full form; `DURWARD_STRESS_REPORT=FILE` has each test add a line about what it saw.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use durward_model::egress::{Others, Transparent};
use durward_model::mapping::{KernelEgress, NatModel};
use durward_nat::nftables::table::{Ownership, Table};
use durward_nat::{Nat, Options};
use durward_testkit::netns::traffic::{Sender, Traffic};
use durward_testkit::netns::{add_address, in_namespace, sysctl};

use crate::lab::{Lab, P1, P1_V6, P2, P2_V6, egress, options, tenant};

/// The addresses of one family.
struct Family {
    /// The pods; the last one's tenant refuses what is not the proxy's.
    pods: [&'static str; 3],
    /// The remote address that each alone sends to.
    remotes: [&'static str; 3],
    /// The addresses of their tenants.
    own: [&'static str; 3],
    /// The beginnings of other tenants' pods and addresses, without the last digits.
    others: [&'static str; 2],
    /// The bits of an address, and of a network of them.
    bits: [u8; 2],
}

const V4: Family = Family {
    pods: [P1, P2, "10.244.0.13"],
    remotes: ["192.0.2.101", "192.0.2.102", "192.0.2.103"],
    own: ["203.0.113.21", "203.0.113.22", "203.0.113.23"],
    others: ["10.244.9.", "203.0.113."],
    bits: [32, 24],
};

const V6: Family = Family {
    pods: [P1_V6, P2_V6, "fd00:244::13"],
    remotes: ["2001:db8:ffff::101", "2001:db8:ffff::102", "2001:db8:ffff::103"],
    own: ["2001:db8:1::21", "2001:db8:1::22", "2001:db8:1::23"],
    others: ["fd00:244:9::", "2001:db8:1::"],
    bits: [128, 64],
};

fn reloads() -> u32 {
    let wanted = std::env::var("DURWARD_STRESS_RELOADS").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(60)
}

impl Family {
    /// The tenants that send, and so many others whose rules stand before theirs.
    fn model(&self, others: u32) -> Arc<NatModel> {
        let of = |name: &str, source: &str, address: &str| {
            let rule = egress(&[format!("{source}/{}", self.bits[0])], &[address]);
            KernelEgress { tenant: tenant(name), ..rule }
        };
        let [pod, address] = self.others;
        let mut rules: Vec<KernelEgress> = (0..others)
            .map(|one| {
                let (source, address) = (format!("{pod}{one}"), format!("{address}{}", 100 + one));
                of(&format!("other-{one}"), &source, &address)
            })
            .collect();
        let mut denied = of("denied", self.pods[2], self.own[2]);
        let (http, tls) = ([80].into(), [443].into());
        denied.transparent = Some(Arc::new(Transparent { http, tls, others: Others::Deny }));
        let [acme, bank] =
            [("acme", 0), ("bank", 1)].map(|(name, pod)| of(name, self.pods[pod], self.own[pod]));
        rules.extend([acme, denied, bank]);
        let names: BTreeSet<_> = rules.iter().map(|rule| rule.tenant.clone()).collect();
        Arc::new(NatModel {
            tenants: names.into_iter().zip(1..).collect(),
            egress: rules.into_iter().map(Arc::new).collect(),
            ..NatModel::default()
        })
    }

    /// The host's other interfaces forward too, and its default route leads outside: the worst case once the table is gone.
    fn lab(&self) -> Lab {
        let lab = Lab::unbridged();
        sysctl("net.ipv4.ip_forward", "1");
        sysctl("net.ipv6.conf.all.forwarding", "1");
        let [host, network] = self.bits;
        lab.p1.add_address("eth0", &format!("{}/{network}", self.pods[2]));
        let others = (100..110).map(|last| format!("{}{last}", self.others[1]));
        for address in self.own.map(str::to_owned).into_iter().chain(others) {
            add_address("ext1", &format!("{address}/{network}"));
        }
        for remote in self.remotes {
            lab.c1.add_address("lo", &format!("{remote}/{host}"));
        }
        lab
    }

    fn traffic(&self, lab: &Lab) -> Traffic {
        let [first, second, denied] = self.pods;
        let [to_first, to_second, to_denied] = self.remotes;
        let senders = [
            Sender::new(&lab.p1, first, to_first, Some(self.own[0])),
            Sender::new(&lab.p2, second, to_second, Some(self.own[1])),
            Sender::new(&lab.p1, denied, to_denied, None),
        ];
        Traffic::start(&lab.c1, senders.into())
    }

    fn tenants_come_and_go(&self, what: &str) {
        let lab = self.lab();
        let nat = Nat::start(options()).unwrap();
        nat.apply(self.model(0)).unwrap();
        let traffic = self.traffic(&lab);

        for round in 0..reloads() {
            nat.apply(self.model(round % 7 + 1)).unwrap();
            traffic.flows(20);
        }

        traffic.assert_nothing_foreign(what);
        drop(nat);
    }

    fn a_shared_table_is_taken_away(&self, what: &str) {
        let lab = self.lab();
        let nat = Nat::start(Options { own_table: false, ..options() }).unwrap();
        nat.apply(self.model(0)).unwrap();
        let traffic = self.traffic(&lab);

        for round in 0..reloads() / 3 {
            foreign("durward").delete().unwrap();
            traffic.flows(100);
            nat.apply(self.model(round % 7 + 1)).unwrap();
            traffic.flows(50);
        }

        traffic.assert_nothing_foreign(what);
        drop(nat);
    }

    fn a_table_is_taken_away_after_its_process(&self, what: &str) {
        let lab = self.lab();
        Nat::start(options()).unwrap().apply(self.model(0)).unwrap();
        let traffic = self.traffic(&lab);

        for round in 0..reloads() / 3 {
            let nat = Nat::start(options()).unwrap();
            nat.apply(self.model(round % 7 + 1)).unwrap();
            traffic.flows(50);
            drop(nat);
            foreign("durward").delete().unwrap();
            traffic.flows(100);
        }

        let nat = Nat::start(options()).unwrap();
        nat.apply(self.model(0)).unwrap();
        traffic.flows(1_000);
        traffic.assert_nothing_foreign(what);
        drop(nat);
    }
}

fn foreign(table: &str) -> Table {
    Table::open(table, Ownership::Shared, Duration::from_secs(5)).unwrap()
}

#[test]
fn tenants_come_and_go_and_no_flow_has_anothers_address() {
    in_namespace("generations::tenants_come_and_go_and_no_flow_has_anothers_address", || {
        V4.tenants_come_and_go("reloads");
    });
}

#[test]
fn tenants_come_and_go_and_no_flow_has_anothers_ipv6_address() {
    in_namespace("generations::tenants_come_and_go_and_no_flow_has_anothers_ipv6_address", || {
        V6.tenants_come_and_go("reloads, IPv6");
    });
}

#[test]
fn a_table_taken_away_by_others_lets_nothing_out() {
    in_namespace("generations::a_table_taken_away_by_others_lets_nothing_out", || {
        V4.a_shared_table_is_taken_away("a shared table taken away");
    });
}

#[test]
fn a_table_taken_away_by_others_lets_nothing_out_over_ipv6() {
    in_namespace("generations::a_table_taken_away_by_others_lets_nothing_out_over_ipv6", || {
        V6.a_shared_table_is_taken_away("a shared table taken away, IPv6");
    });
}

#[test]
fn a_table_taken_away_while_nobody_owns_it_lets_nothing_out() {
    in_namespace("generations::a_table_taken_away_while_nobody_owns_it_lets_nothing_out", || {
        V4.a_table_is_taken_away_after_its_process("an owned table taken away after its process");
    });
}

#[test]
fn a_table_taken_away_while_nobody_owns_it_lets_nothing_out_over_ipv6() {
    in_namespace(
        "generations::a_table_taken_away_while_nobody_owns_it_lets_nothing_out_over_ipv6",
        || {
            let what = "an owned table taken away after its process, IPv6";
            V6.a_table_is_taken_away_after_its_process(what);
        },
    );
}

#[test]
fn cleanup_takes_the_rules_away_that_outlive_the_table() {
    in_namespace("generations::cleanup_takes_the_rules_away_that_outlive_the_table", || {
        let _lab = V4.lab();
        let rules = || durward_testkit::netns::ip("rule") + &durward_testkit::netns::ip("-6 rule");
        let before = rules();
        let nat = Nat::start(options()).unwrap();
        let mut both = NatModel::clone(&V4.model(2));
        both.egress.push(Arc::new(KernelEgress {
            name: "v6".into(),
            ..egress(&[format!("{P1_V6}/128")], &[V6.own[0]])
        }));
        nat.apply(Arc::new(both)).unwrap();
        let between = rules();

        nat.cleanup().unwrap();

        for pod in [P1, P1_V6] {
            assert!(between.contains(&format!("from {pod} prohibit")), "{between}");
        }
        assert_eq!(rules(), before);
    });
}
