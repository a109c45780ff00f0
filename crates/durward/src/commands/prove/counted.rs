//! Counters of a running process: the source address of every connection was read from the kernel, and was the tenant's.

use std::time::Duration;

use crate::cli::Admin;
use crate::commands::check::report::Category;
use crate::commands::check::running;

const CHECKS: &str = "durward_isolation_checks_total";
const VIOLATIONS: &str = "durward_isolation_violations_total";

pub(super) fn prove(admin: Admin, timeout: Duration) -> Category {
    let mut category = Category::new("run time");
    let Admin::At(address) = admin else { return category };
    let Some(body) = running::get(address, "/metrics", timeout) else {
        category.warn(
            format!("no gateway answers at {address}: its counters cannot be read"),
            "start one with durward run, or name its --admin",
        );
        return category;
    };
    let text = String::from_utf8_lossy(&body);
    let (checks, violations) = sums(&text);
    let sentence = format!(
        "{checks} connections, {checks} getsockname() checks before the first byte, {violations} mismatches"
    );
    if violations == 0 {
        category.ok(sentence);
    } else {
        category
            .error(sentence, "they were closed before the first byte; the access log names them");
    }
    category
}

/// Returns checks and violations in a text of metrics.
pub(super) fn sums(text: &str) -> (u64, u64) {
    (sum(text, CHECKS), sum(text, VIOLATIONS))
}

/// Returns the sum of a counter's samples.
fn sum(text: &str, name: &str) -> u64 {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = rest.strip_prefix(' ').or_else(|| Some(rest.rsplit_once("} ")?.1))?;
        value.split(' ').next()?.parse::<f64>().ok()
    });
    samples.map(|value| value as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_all_tenants_are_added_up() {
        let text =
            "# TYPE a counter\na_total{tenant=\"x\"} 2\na_total{tenant=\"y} z\"} 3\nab_total{} 9\n";
        assert_eq!(sum(text, "a_total"), 5);
    }
}
