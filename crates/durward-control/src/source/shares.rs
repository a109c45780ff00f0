//! Divides the bytes that named files may have in memory among tenants, so that one tenant's files cannot keep out another's.

/// All files that documents name may have so many bytes together.
pub(super) const BUDGET: u64 = 128 * 1024 * 1024;

/// Returns the most bytes each tenant's files may have: tenants that need less get what they need, the others equal parts of the rest.
pub(super) fn share(mut needs: Vec<u64>, budget: u64) -> u64 {
    needs.sort_unstable();
    let (mut left, mut tenants) = (budget, needs.len() as u64);
    for need in needs {
        let equal = left / tenants;
        if need > equal {
            return equal;
        }
        left -= need;
        tenants -= 1;
    }
    budget
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_that_needs_little_gets_it_whatever_others_need() {
        assert_eq!(share(vec![1, 2, 3], 10), 10);
        assert_eq!(share(vec![1, 2, 300], 10), 7);
        assert_eq!(share(vec![500, 1, 300], 11), 5);
        assert_eq!(share(vec![6, 6], 10), 5);
        assert_eq!(share(Vec::new(), 10), 10);
    }
}
