//! Load balancing: chooses an available endpoint by load, in turn, or by client.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use durward_model::ClientAddr;
use durward_model::upstream::Balance;

use super::endpoint::{EndpointRuntime, client_seed};

/// Endpoints already tried in this request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tried {
    first: u64,
    rest: Vec<usize>,
}

impl Tried {
    pub(crate) fn insert(&mut self, at: usize) {
        if at < 64 {
            self.first |= 1 << at;
        } else if !self.contains(at) {
            self.rest.push(at);
        }
    }

    pub(crate) fn contains(&self, at: usize) -> bool {
        if at < 64 { self.first & (1 << at) != 0 } else { self.rest.contains(&at) }
    }
}

/// Returns true if [`choose`] would find an endpoint that was not tried yet.
pub(crate) fn is_any_left(endpoints: &[EndpointRuntime], tried: &Tried) -> bool {
    let serving = |e: &EndpointRuntime| e.weight > 0 && !e.state.unhealthy.load(Relaxed);
    let all_rest = !endpoints.iter().any(|e| serving(e) && e.state.available());
    let mut all = endpoints.iter().enumerate();
    all.any(|(at, e)| serving(e) && (all_rest || e.state.available()) && !tried.contains(at))
}

/// Chooses among `endpoints`: available and untried, else available, else passively ejected, the untried first. If all of them are ejected, all are
/// tried rather than none. Endpoints that active checks found unhealthy or that have no weight are never chosen.
pub(crate) fn choose(
    endpoints: &[EndpointRuntime],
    balance: Balance,
    turn: &AtomicU32,
    client: ClientAddr,
    tried: &Tried,
    random: impl FnMut() -> u32,
) -> Option<usize> {
    let unhealthy = |e: &EndpointRuntime| e.state.unhealthy.load(Relaxed);
    if let [only] = endpoints {
        return (only.weight > 0 && !unhealthy(only)).then_some(0);
    }
    let round = |eligible: &dyn Fn(usize) -> bool| {
        let total = endpoints.iter().enumerate().filter(|(at, _)| eligible(*at));
        total.fold(0u64, |sum, (_, endpoint)| sum + u64::from(endpoint.weight))
    };
    let available = |at: usize| endpoints[at].state.available();
    let untried = |at: usize| available(at) && !tried.contains(at);
    let resting = |at: usize| !unhealthy(&endpoints[at]);
    let fresh = |at: usize| resting(at) && !tried.contains(at);
    let rounds: [&dyn Fn(usize) -> bool; 4] = [&untried, &available, &fresh, &resting];
    let (eligible, total) = rounds
        .into_iter()
        .map(|eligible| (eligible, round(eligible)))
        .find(|(_, total)| *total > 0)?;
    Draw { endpoints, eligible, total }.by(balance, turn, client, random)
}

struct Draw<'a> {
    endpoints: &'a [EndpointRuntime],
    eligible: &'a dyn Fn(usize) -> bool,
    total: u64,
}

impl Draw<'_> {
    fn by(
        &self,
        balance: Balance,
        turn: &AtomicU32,
        client: ClientAddr,
        mut random: impl FnMut() -> u32,
    ) -> Option<usize> {
        match balance {
            Balance::PowerOfTwo => {
                let (a, b) = (self.at(u64::from(random()))?, self.at(u64::from(random()))?);
                Some(if self.load(b) < self.load(a) { b } else { a })
            }
            Balance::LeastRequest => {
                let first = self.at(u64::from(random()))?;
                let least =
                    self.members().min_by(|a, b| self.load(*a).total_cmp(&self.load(*b)))?;
                Some(if self.load(least) < self.load(first) { least } else { first })
            }
            Balance::RoundRobin => self.at(u64::from(turn.fetch_add(1, Relaxed))),
            Balance::ClientHash => {
                let client = client_seed(client.0.ip());
                self.members()
                    .max_by(|a, b| self.affinity(*a, client).total_cmp(&self.affinity(*b, client)))
            }
        }
    }

    fn members(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.endpoints.len())
            .filter(|at| self.endpoints[*at].weight > 0 && (self.eligible)(*at))
    }

    /// Returns the endpoint in whose share of the total weight `point` falls.
    fn at(&self, point: u64) -> Option<usize> {
        let mut point = point % self.total;
        self.members().find(|at| {
            let weight = u64::from(self.endpoints[*at].weight);
            let found = point < weight;
            point = point.saturating_sub(weight);
            found
        })
    }

    /// Returns an endpoint's load with one more request, divided by its weight.
    fn load(&self, at: usize) -> f64 {
        let endpoint = &self.endpoints[at];
        (f64::from(endpoint.state.active.load(Relaxed)) + 1.0) / f64::from(endpoint.weight)
    }

    /// Scores an endpoint by weighted rendezvous hashing: when endpoints come or go, only their own clients move.
    fn affinity(&self, at: usize, client: u64) -> f64 {
        let endpoint = &self.endpoints[at];
        let hash = mix(endpoint.seed ^ mix(client));
        let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(endpoint.weight) / unit.ln()
    }
}

/// Mixes bits by the finaliser of SplitMix64.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use durward_model::upstream::{Endpoint, Target};

    use super::*;

    fn endpoints(weights: &[u32]) -> Vec<EndpointRuntime> {
        let target = |at: usize| Target::Address(format!("10.0.0.{}:80", at + 1).parse().unwrap());
        weights
            .iter()
            .enumerate()
            .map(|(at, weight)| {
                let endpoint = Endpoint { target: target(at), weight: *weight };
                EndpointRuntime::new(&endpoint, None, None)
            })
            .collect()
    }

    fn client(last: u8) -> ClientAddr {
        ClientAddr(([192, 0, 2, last], 4711).into())
    }

    fn counts(endpoints: &[EndpointRuntime], balance: Balance, draws: u32) -> BTreeMap<usize, u32> {
        let turn = AtomicU32::new(0);
        let mut state = 7u64;
        let mut random = || {
            state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
            state as u32
        };
        let mut counts = BTreeMap::new();
        for _ in 0..draws {
            let tried = Tried::default();
            let at = choose(endpoints, balance, &turn, client(7), &tried, &mut random).unwrap();
            *counts.entry(at).or_default() += 1;
        }
        counts
    }

    #[test]
    fn round_robin_follows_the_weights_and_zero_is_out() {
        let counts = counts(&endpoints(&[1, 3, 0]), Balance::RoundRobin, 400);

        assert_eq!(counts, BTreeMap::from([(0, 100), (1, 300)]));
    }

    #[test]
    fn two_random_choices_avoid_the_loaded() {
        let endpoints = endpoints(&[1, 1]);
        endpoints[0].state.active.store(50, Relaxed);

        let counts = counts(&endpoints, Balance::PowerOfTwo, 1_000);

        assert!(counts[&1] > 700 && counts[&0] > 200, "{counts:?}");
    }

    #[test]
    fn least_request_takes_the_least_loaded_by_weight() {
        let endpoints = endpoints(&[1, 10]);
        endpoints[1].state.active.store(5, Relaxed);

        assert_eq!(counts(&endpoints, Balance::LeastRequest, 10), BTreeMap::from([(1, 10)]));
    }

    #[test]
    fn a_client_stays_with_its_endpoint_and_few_move_when_one_goes() {
        let endpoints = endpoints(&[1, 1, 1, 1]);
        let turn = AtomicU32::new(0);
        let tried = Tried::default();
        let place = |last| {
            choose(&endpoints, Balance::ClientHash, &turn, client(last), &tried, || 0).unwrap()
        };
        let before: Vec<_> = (0..=255).map(place).collect();

        endpoints[2].state.unhealthy.store(true, Relaxed);
        let after: Vec<_> = (0..=255).map(place).collect();

        for at in 0..4 {
            assert!(before.iter().filter(|place| **place == at).count() > 32, "{at}");
        }
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *before == 2);
        }
    }

    // S1.44+
    #[test]
    fn each_endpoint_is_left_until_it_was_tried_and_resting_ones_when_all_rest() {
        let endpoints = endpoints(&[1, 1, 0]);
        let mut tried = Tried::default();
        endpoints[1].state.ejected_until.store(9, Relaxed);

        assert!(is_any_left(&endpoints, &tried));
        tried.insert(0);
        assert!(!is_any_left(&endpoints, &tried), "the other one rests");
        endpoints[0].state.ejected_until.store(9, Relaxed);
        assert!(is_any_left(&endpoints, &tried), "all rest");
        let turn = AtomicU32::new(0);
        let again = choose(&endpoints, Balance::RoundRobin, &turn, client(7), &tried, || 0);
        assert_eq!(again, Some(1));
    }

    // S1.42 S1.44
    #[test]
    fn the_tried_and_the_ejected_come_last_and_the_unhealthy_never() {
        let endpoints = endpoints(&[1, 1, 1]);
        let turn = AtomicU32::new(0);
        let mut tried = Tried::default();
        let pick =
            |tried: &Tried| choose(&endpoints, Balance::RoundRobin, &turn, client(7), tried, || 0);

        tried.insert(0);
        endpoints[1].state.ejected_until.store(9, Relaxed);
        assert_eq!(pick(&tried), Some(2));
        endpoints[2].state.unhealthy.store(true, Relaxed);
        assert_eq!(pick(&tried), Some(0));
        endpoints[0].state.ejected_until.store(9, Relaxed);
        endpoints[1].state.unhealthy.store(true, Relaxed);
        assert_eq!(pick(&tried), Some(0));
        endpoints[0].state.unhealthy.store(true, Relaxed);
        assert_eq!(pick(&tried), None);
    }
}
