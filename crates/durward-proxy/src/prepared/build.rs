//! Builds the runtime form of a snapshot, reusing unchanged parts of the previous one.
//!
//! Total like the compile step: a part that cannot be prepared is left out with a message, the rest is served.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use durward_model::egress::Neighbours;
use durward_model::{Bind, DestinationMode, Listener, Service, Snapshot, Tenant, TenantId};

use crate::metrics::Metrics;
use crate::prepared::fate::{self, Fate};
use crate::prepared::relays;
use crate::prepared::{Binds, Prepared, PreparedBind, PreparedListener};
use crate::status::Problem;
use crate::tls::server_config::server_configs;
use crate::upstream::TenantRuntime;
use crate::upstream::UpstreamRuntime;
use crate::upstream::resolve::{Asking, Resolver};
use crate::watch::{Narrowing, Retirement};

/// Result of a build, and what to do after the swap.
pub(crate) struct Built {
    /// Value to swap in.
    pub(crate) prepared: Prepared,
    /// Parts that were left out.
    pub(crate) problems: Vec<Problem>,
    /// Listeners to retire after the swap, so that no new connection begins under them.
    pub(crate) retiring: Retiring,
}

/// Listeners that the new configuration changes or removes.
#[derive(Default)]
pub(crate) struct Retiring {
    listeners: Vec<(Arc<PreparedListener>, Fate)>,
    /// Listeners that admit only these clients from now on.
    narrowed: Vec<(Arc<PreparedListener>, Narrowing)>,
}

impl Retiring {
    /// Signals their connections to renew or end.
    pub(crate) fn retire(self) {
        for (listener, to) in self.narrowed {
            with_former(&listener, |former| former.narrow(&to));
        }
        for (listener, fate) in self.listeners {
            match fate {
                Fate::Keep => {}
                Fate::Renew => listener.retirement.renew(),
                Fate::Change => with_former(&listener, Retirement::change),
                Fate::Remove => with_former(&listener, Retirement::remove),
            }
        }
    }
}

/// Retires a listener and those of its previous forms whose connections have sent no request since.
fn with_former(listener: &PreparedListener, retire: impl Fn(&Retirement)) {
    retire(&listener.retirement);
    listener.former.iter().filter_map(std::sync::Weak::upgrade).for_each(|former| retire(&former));
}

/// Builds `snapshot`, reusing parts of `previous`.
pub(crate) fn build(snapshot: Arc<Snapshot>, previous: &Prepared, metrics: &Metrics) -> Built {
    let mut builder = Builder {
        previous,
        metrics,
        resolvers: HashMap::new(),
        problems: Vec::new(),
        retiring: Retiring::default(),
    };
    let tenants: BTreeMap<_, _> =
        snapshot.tenants.values().filter_map(|tenant| builder.tenant(tenant)).collect();
    let binds: BTreeMap<_, _> =
        snapshot.binds.values().map(|bind| (bind.address, builder.bind(bind, &tenants))).collect();
    let udp: BTreeMap<_, _> =
        snapshot.udp.values().map(|bind| (bind.address, builder.bind(bind, &tenants))).collect();
    builder.retire_missing(&binds, &udp, &snapshot);
    let Builder { problems, retiring, resolvers, .. } = builder;
    let former = &previous.snapshot;
    let neighbours = if Neighbours::are_same(former, &snapshot) {
        Arc::clone(&previous.neighbours)
    } else {
        Arc::new(Neighbours::of(&snapshot))
    };
    let prepared =
        Prepared { snapshot, binds, udp, tenants, neighbours, resolvers, problems: Vec::new() };
    Built { prepared, problems, retiring }
}

struct Builder<'a> {
    previous: &'a Prepared,
    metrics: &'a Metrics,
    resolvers: HashMap<Asking, Resolver>,
    problems: Vec<Problem>,
    retiring: Retiring,
}

impl Builder<'_> {
    fn tenant(&mut self, tenant: &Arc<Tenant>) -> Option<(TenantId, Arc<TenantRuntime>)> {
        let previous = self.previous.tenants.get(&tenant.id);
        if let Some(same) = previous.filter(|previous| same(&previous.tenant, tenant)) {
            return Some((tenant.id.clone(), Arc::clone(same)));
        }
        // A link's routes may be of thousands of upstreams.
        let known = previous.map_or(&[][..], |previous| &previous.upstreams);
        let known: HashMap<&str, _> =
            known.iter().map(|before| (&*before.upstream.name, before)).collect();
        let upstreams: Result<Vec<_>, String> = tenant
            .upstreams
            .iter()
            .map(|upstream| {
                let before = known.get(&*upstream.name).copied();
                UpstreamRuntime::prepare(upstream, &tenant.id, before)
            })
            .collect();
        let outside = UpstreamRuntime::outside(tenant, previous.map(|before| &before.outside));
        match upstreams.and_then(|upstreams| Ok((upstreams, outside?))) {
            Ok((upstreams, outside)) => {
                let links = previous.map_or_else(Arc::default, |before| Arc::clone(&before.links));
                links.name_only(&link_names(tenant));
                let runtime = TenantRuntime {
                    outside,
                    tenant: Arc::clone(tenant),
                    upstreams,
                    usage: previous.map_or_else(Arc::default, |before| Arc::clone(&before.usage)),
                    links,
                    metrics: self.metrics.tenant(&tenant.id),
                };
                Some((tenant.id.clone(), Arc::new(runtime)))
            }
            Err(sentence) => {
                self.problems.push(Problem { tenant: tenant.id.clone(), listener: None, sentence });
                None
            }
        }
    }

    fn bind(
        &mut self,
        bind: &Arc<Bind>,
        tenants: &BTreeMap<TenantId, Arc<TenantRuntime>>,
    ) -> Arc<PreparedBind> {
        let previous = self.previous.of(bind).get(&bind.address);
        if let Some(same) = previous.filter(|previous| is_same(previous, bind, tenants)) {
            for prepared in same.listeners.iter().flatten() {
                // Registers the resolver, so that the next configuration can reuse it.
                self.resolver(&prepared.listener, &prepared.tenant);
            }
            return Arc::clone(same);
        }
        let mut unchanged = Unchanged::of(previous, bind);
        let listeners: Vec<_> = bind
            .listeners
            .iter()
            .map(|listener| {
                let tenant = tenants.get(&listener.tenant)?;
                if let Some(same) = unchanged.next(listener, tenant) {
                    // Registers the resolver, so that the next configuration can reuse it.
                    self.resolver(listener, tenant);
                    return Some(same);
                }
                self.listener(listener, tenant, &bind.mode)
            })
            .collect();
        Arc::new(PreparedBind::new(Arc::clone(bind), listeners))
    }

    fn listener(
        &mut self,
        listener: &Arc<Listener>,
        tenant: &Arc<TenantRuntime>,
        mode: &DestinationMode,
    ) -> Option<Arc<PreparedListener>> {
        let before = in_place_of(listener, self.previous);
        let of_bind = before.map_or(Fate::Keep, |before| {
            let bind = self.previous.snapshot.bind_of(&before.listener);
            bind.map_or(Fate::Keep, |bind| fate::of_mode(&bind.mode, mode))
        });
        if let Some(before) = before
            && of_bind == Fate::Keep
            && Arc::ptr_eq(&before.tenant, tenant)
            && same(&before.listener, listener)
        {
            // Registers the resolver, so that the next configuration can reuse it.
            self.resolver(listener, tenant);
            return Some(Arc::clone(before));
        }
        let former = before.map(|before| &**before);
        let configs = configs(listener, former)
            .and_then(|configs| Ok((configs, relays::relays(listener, former)?)));
        let (server_configs, relays) = match configs {
            Ok(configs) => configs,
            Err(sentence) => {
                self.problems.push(Problem {
                    tenant: listener.tenant.clone(),
                    listener: Some(listener.to_string()),
                    sentence,
                });
                return None;
            }
        };
        let (retirement, former) =
            self.succeed(listener, tenant, before.map(|before| (before, of_bind)));
        Some(Arc::new(PreparedListener {
            listener: Arc::clone(listener),
            tenant: Arc::clone(tenant),
            server_configs,
            relays,
            resolver: self.resolver(listener, tenant),
            retirement,
            former,
        }))
    }

    /// Returns a resolver that asks a proxy's own DNS servers from its tenant's addresses. Equal settings share one resolver and its cache.
    fn resolver(&mut self, listener: &Listener, tenant: &TenantRuntime) -> Option<Resolver> {
        let service = match &listener.service {
            Service::Forward(service) => service,
            Service::Link(service) => service.out.as_ref()?,
            Service::Http(_) | Service::PassThrough(_) | Service::Tcp(_) | Service::Udp(_) => {
                return None;
            }
        };
        let servers = &service.policy.resolvers;
        if servers.is_empty() {
            return None;
        }
        let asking = Asking {
            servers: servers.clone(),
            sources: tenant.tenant.egress.clone(),
            roots: service.policy.resolver_roots.clone(),
        };
        let former = self.previous.resolvers.get(&asking);
        let resolver = self.resolvers.entry(asking.clone());
        Some(
            resolver
                .or_insert_with(|| former.map_or_else(|| Resolver::own(asking), Resolver::clone))
                .clone(),
        )
    }

    /// Decides the fate of a changed listener's connections; returns the new listener's retirement, and those of its previous forms.
    fn succeed(
        &mut self,
        listener: &Listener,
        tenant: &TenantRuntime,
        before: Option<(&Arc<PreparedListener>, Fate)>,
    ) -> (Arc<Retirement>, Vec<std::sync::Weak<Retirement>>) {
        let Some((before, of_bind)) = before else { return (Arc::default(), Vec::new()) };
        let fate = fate::of_listener(&before.listener, listener)
            .max(of_bind)
            .max(fate::of_tenant(&before.tenant.tenant, &tenant.tenant));
        for to in fate::narrowed(&before.listener, listener) {
            self.retiring.narrowed.push((Arc::clone(before), to));
        }
        let mut former = before.former.clone();
        former.retain(|former| former.strong_count() > 0);
        match fate {
            Fate::Keep => (Arc::clone(&before.retirement), former),
            Fate::Renew | Fate::Change => {
                self.retiring.listeners.push((Arc::clone(before), fate));
                former.push(Arc::downgrade(&before.retirement));
                (Arc::default(), former)
            }
            Fate::Remove => {
                self.retiring.listeners.push((Arc::clone(before), fate));
                (Arc::default(), Vec::new())
            }
        }
    }

    /// Retires listeners that are in no bind any more.
    fn retire_missing(&mut self, binds: &Binds, udp: &Binds, snapshot: &Snapshot) {
        let both = [(&self.previous.binds, binds), (&self.previous.udp, udp)];
        for (previous, present) in both {
            for (address, before) in previous {
                if present.get(address).is_some_and(|bind| Arc::ptr_eq(bind, before)) {
                    continue;
                }
                for listener in before.listeners.iter().flatten() {
                    if among(&listener.listener, present, snapshot).is_none() {
                        self.retiring.listeners.push((Arc::clone(listener), Fate::Remove));
                    }
                }
            }
        }
    }
}

/// Returns the links that a tenant's listeners and upstreams name.
fn link_names(tenant: &Tenant) -> BTreeSet<&Arc<str>> {
    let of_listeners = tenant.listeners.iter().filter_map(|listener| match &listener.service {
        Service::Link(service) => Some(service),
        _ => None,
    });
    let of_listeners = of_listeners.flat_map(|service| service.links.iter().map(|link| &link.name));
    let of_upstreams = tenant.upstreams.iter().filter_map(|upstream| upstream.link.as_ref());
    of_listeners.chain(of_upstreams).collect()
}

/// Iterator over the previous listeners of a bind in step with the present ones, so that unchanged ones are found without a search.
struct Unchanged<'a> {
    former: Option<&'a PreparedBind>,
    next: usize,
}

impl<'a> Unchanged<'a> {
    fn of(former: Option<&'a Arc<PreparedBind>>, bind: &Bind) -> Self {
        let former = former.filter(|former| former.bind.mode == bind.mode);
        Self { former: former.map(|former| &**former), next: 0 }
    }

    /// Returns the prepared form of the same listener of the same tenant.
    fn next(
        &mut self,
        listener: &Arc<Listener>,
        tenant: &Arc<TenantRuntime>,
    ) -> Option<Arc<PreparedListener>> {
        let former = self.former?;
        let all = &former.bind.listeners;
        let is_same = |at: usize| all.get(at).is_some_and(|other| Arc::ptr_eq(other, listener));
        let at = if is_same(self.next) { self.next } else { place(all, listener) };
        self.next = at + 1;
        if !is_same(at) {
            return None;
        }
        let prepared = former.listeners.get(at)?.as_ref()?;
        Arc::ptr_eq(&prepared.tenant, tenant).then(|| Arc::clone(prepared))
    }
}

/// Returns true if a bind can be reused: all its listeners are prepared, for unchanged tenants.
fn is_same(
    previous: &PreparedBind,
    bind: &Arc<Bind>,
    tenants: &BTreeMap<TenantId, Arc<TenantRuntime>>,
) -> bool {
    let ready = |prepared: &Option<Arc<PreparedListener>>| {
        prepared.as_ref().is_some_and(|prepared| {
            let tenant = tenants.get(&prepared.listener.tenant);
            tenant.is_some_and(|tenant| Arc::ptr_eq(tenant, &prepared.tenant))
        })
    };
    Arc::ptr_eq(&previous.bind, bind) && previous.listeners.iter().all(ready)
}

/// Returns the tenant's listener in the place of `listener`: on the same bind, or on the one that replaced it. Wherever it is accepted, that is the
/// listener with the address and port that clients know.
pub(crate) fn in_place_of<'a>(
    listener: &Listener,
    prepared: &'a Prepared,
) -> Option<&'a Arc<PreparedListener>> {
    among(listener, prepared.at(listener.transport()), &prepared.snapshot)
}

/// Returns the tenant's listener in the place of `listener` among binds of its transport protocol.
fn among<'a>(
    listener: &Listener,
    binds: &'a Binds,
    snapshot: &Snapshot,
) -> Option<&'a Arc<PreparedListener>> {
    let here = binds.get(&listener.bind).and_then(|bind| find(bind, listener));
    here.or_else(|| {
        let tenant = snapshot.tenants.get(&listener.tenant)?;
        let at = tenant
            .listeners
            .binary_search_by_key(&listener.full_key(), |one| one.full_key())
            .ok()?;
        find(binds.get(&tenant.listeners[at].bind)?, listener)
    })
}

/// Returns the tenant's listener with the same address and port.
fn find<'a>(bind: &'a PreparedBind, listener: &Listener) -> Option<&'a Arc<PreparedListener>> {
    let at = place(&bind.bind.listeners, listener);
    let found = bind.bind.listeners.get(at)?;
    let is_same = (found.key(), &found.tenant) == (listener.key(), &listener.tenant);
    bind.listeners.get(at)?.as_ref().filter(|_| is_same)
}

/// Returns the position of a listener among those of a bind, or where it would be inserted.
fn place(all: &[Arc<Listener>], listener: &Listener) -> usize {
    all.partition_point(|other| {
        let order = other.key().cmp(&listener.key());
        order.then_with(|| other.tenant.cmp(&listener.tenant)).is_lt()
    })
}

/// Returns the previous TLS configurations, with their session tickets, if nothing about TLS and its owner differs; new ones otherwise.
fn configs(
    listener: &Listener,
    before: Option<&PreparedListener>,
) -> Result<Vec<Arc<rustls::ServerConfig>>, String> {
    let Some(tls) = listener.tls() else { return Ok(Vec::new()) };
    if let Some(before) = before
        && before.listener.tenant == listener.tenant
        && before.listener.tls() == Some(tls)
    {
        return Ok(before.server_configs.clone());
    }
    server_configs(tls)
}

fn same<T: PartialEq>(before: &Arc<T>, now: &Arc<T>) -> bool {
    Arc::ptr_eq(before, now) || before == now
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
