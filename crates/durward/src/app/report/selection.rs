//! The parts of `/snapshot` that a request asks for: `?kind=` names parts, `?tenant=` keeps what is one tenant's.

use durward_model::TenantId;

/// Part of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Ready,
    Draining,
    Binds,
    Connections,
    Upstreams,
    Accepted,
    Rejected,
    Tenants,
    TenantConditions,
    Conditions,
    Digests,
    Kernel,
    Audit,
    Logs,
    Acme,
}

impl Part {
    /// Parts in the order of the answer.
    pub(crate) const ALL: [Self; 15] = [
        Self::Ready,
        Self::Draining,
        Self::Binds,
        Self::Connections,
        Self::Upstreams,
        Self::Accepted,
        Self::Rejected,
        Self::Tenants,
        Self::TenantConditions,
        Self::Conditions,
        Self::Digests,
        Self::Kernel,
        Self::Audit,
        Self::Logs,
        Self::Acme,
    ];

    /// Returns the key in the answer, which is the value of `kind`, too.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Binds => "binds",
            Self::Connections => "connections",
            Self::Upstreams => "upstreams",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Tenants => "tenants",
            Self::TenantConditions => "tenantConditions",
            Self::Conditions => "conditions",
            Self::Digests => "digests",
            Self::Kernel => "kernel",
            Self::Audit => "audit",
            Self::Logs => "logs",
            Self::Acme => "acme",
        }
    }

    /// Returns true if nothing in the part belongs to one tenant.
    fn is_of_the_process(self) -> bool {
        matches!(self, Self::Ready | Self::Draining | Self::Conditions | Self::Audit | Self::Logs)
    }

    /// Returns true if the part is taken from judged health.
    fn is_judged(self) -> bool {
        matches!(self, Self::Ready | Self::TenantConditions | Self::Conditions)
    }
}

/// Parts that are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// The only tenant that is asked for; `None` for all.
    pub(crate) tenant: Option<TenantId>,
    kinds: Vec<Part>,
}

/// Reason a query cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unanswerable {
    /// The query is wrong; the message says what it may be.
    Query(String),
    /// No tenant has the name.
    Tenant,
}

impl Selection {
    /// Reads the query's pairs. `kind` may be given several times, or with several words between commas.
    ///
    /// # Errors
    /// Fails on unknown parameters and kinds, on two tenants, and on what is no tenant's name.
    pub(crate) fn read(pairs: &[(String, String)]) -> Result<Self, Unanswerable> {
        let mut selection = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "tenant" if selection.tenant.is_some() => {
                    return Err(wrong("tenant is given twice: ask for one".to_owned()));
                }
                "tenant" => {
                    let id = TenantId::new(value).map_err(|_| Unanswerable::Tenant)?;
                    selection.tenant = Some(id);
                }
                "kind" => {
                    for word in value.split(',') {
                        selection.kinds.push(part(word)?);
                    }
                }
                _ => return Err(wrong("the parameters are tenant and kind".to_owned())),
            }
        }
        Ok(selection)
    }

    /// Returns true if the part is in the answer.
    pub(crate) fn has(&self, part: Part) -> bool {
        if self.kinds.is_empty() {
            return self.tenant.is_none() || !part.is_of_the_process();
        }
        self.kinds.contains(&part)
    }

    /// Returns true if the answer needs judged health.
    pub(crate) fn is_judged(&self) -> bool {
        Part::ALL.iter().any(|part| part.is_judged() && self.has(*part))
    }
}

fn part(word: &str) -> Result<Part, Unanswerable> {
    Part::ALL.into_iter().find(|part| part.word() == word).ok_or_else(|| {
        let known = Part::ALL.map(Part::word).join(", ");
        wrong(format!("this kind is not known; the kinds are {known}"))
    })
}

fn wrong(sentence: String) -> Unanswerable {
    Unanswerable::Query(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Selection, Unanswerable> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Selection::read(&pairs.iter().map(owned).collect::<Vec<_>>())
    }

    fn words(pairs: &[(&str, &str)]) -> Vec<&'static str> {
        let selection = read(pairs).unwrap();
        Part::ALL.into_iter().filter(|part| selection.has(*part)).map(Part::word).collect()
    }

    #[test]
    fn everything_is_asked_for_unless_the_query_says_less() {
        assert_eq!(words(&[]).len(), Part::ALL.len());
        assert_eq!(words(&[("kind", "binds")]), ["binds"]);
        assert_eq!(
            words(&[("kind", "rejected,binds"), ("kind", "logs")]),
            ["binds", "rejected", "logs"]
        );
        let of_tenant = words(&[("tenant", "acme")]);
        assert!(of_tenant.contains(&"tenants") && of_tenant.contains(&"tenantConditions"));
        assert!(!of_tenant.contains(&"conditions") && !of_tenant.contains(&"ready"));
        assert_eq!(words(&[("tenant", "acme"), ("kind", "logs")]), ["logs"], "asked by its name");
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        let Err(Unanswerable::Query(sentence)) = read(&[("kind", "tenats")]) else {
            panic!("an unknown kind")
        };
        for part in Part::ALL {
            assert!(sentence.contains(part.word()), "{sentence}");
        }
        for bad in [
            &[("kind", "")][..],
            &[("kind", "binds,")],
            &[("tenat", "acme")],
            &[("tenant", "a"), ("tenant", "a")],
        ] {
            assert!(matches!(read(bad), Err(Unanswerable::Query(_))), "{bad:?}");
        }
        assert_eq!(read(&[("tenant", "../x")]), Err(Unanswerable::Tenant));
        assert_eq!(read(&[("tenant", "")]), Err(Unanswerable::Tenant));
    }

    #[test]
    fn health_is_judged_only_where_it_is_shown() {
        let judged = |pairs: &[(&str, &str)]| read(pairs).unwrap().is_judged();

        assert!(judged(&[]) && judged(&[("tenant", "acme")]) && judged(&[("kind", "ready")]));
        assert!(!judged(&[("kind", "tenants,binds,kernel")]));
    }
}
