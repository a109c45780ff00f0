//! Memory available to this process: the smallest of its cgroups' limits, its address space (RLIMIT_AS) and the host's memory.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// Mount points of cgroup hierarchies, the marker of their line in `/proc/self/cgroup`, and the file with the limit: version 2, and version 1.
const HIERARCHIES: [(&str, &str, &str); 2] = [
    ("0::", "/sys/fs/cgroup", "memory.max"),
    ("memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
];

/// Returns the bytes of memory that this process may have.
#[must_use]
pub fn of_this_process() -> usize {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let host = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let address_space = getrlimit(Resource::As).current.and_then(|bytes| bytes.try_into().ok());
    let all = [limit(&cgroups, |path| fs::read_to_string(path).ok()), host, address_space];
    all.into_iter().flatten().min().unwrap_or(usize::MAX / 64)
}

/// Returns the smallest limit of the process's cgroups and their ancestors. A container sees its own cgroup as the root, so the mount's root is read
/// even where `/proc/self/cgroup` names a path that is not visible.
fn limit(cgroups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<usize> {
    let mut least: Option<usize> = None;
    for line in cgroups.lines() {
        for (marker, mount, file) in HIERARCHIES {
            let Some(path) = path_in(line, marker) else { continue };
            for group in Path::new(path.trim_start_matches('/')).ancestors() {
                let limit = read(&Path::new(mount).join(group).join(file))
                    .and_then(|text| text.trim().parse().ok());
                least = least.into_iter().chain(limit).min();
            }
        }
    }
    least
}

/// Returns the path in a line of `/proc/self/cgroup`: `0::/path` in version 2, `9:memory:/path` in version 1.
fn path_in<'l>(line: &'l str, marker: &str) -> Option<&'l str> {
    if marker == "0::" {
        return line.strip_prefix(marker);
    }
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    controllers.split(',').any(|one| one == "memory").then_some(path)
}

/// Parses `MemTotal` of `/proc/meminfo`.
fn total(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(known: &'static [(&str, &str)]) -> impl Fn(&Path) -> Option<String> {
        |path| {
            let found = known.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        }
    }

    #[test]
    fn the_smallest_limit_of_a_cgroup_and_its_ancestors_counts() {
        let v2 = files(&[
            ("/sys/fs/cgroup/kubepods/pod7/app/memory.max", "max\n"),
            ("/sys/fs/cgroup/kubepods/pod7/memory.max", "536870912\n"),
            ("/sys/fs/cgroup/kubepods/memory.max", "8589934592\n"),
        ]);
        let v1 = files(&[
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "268435456\n"),
        ]);
        let inside = files(&[("/sys/fs/cgroup/memory.max", "134217728\n")]);

        assert_eq!(limit("0::/kubepods/pod7/app\n", v2), Some(512 << 20));
        let lines = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n";
        assert_eq!(limit(lines, v1), Some(256 << 20));
        assert_eq!(limit("0::/../../elsewhere\n", inside), Some(128 << 20));
        assert_eq!(limit("0::/\n", files(&[])), None);
    }

    #[test]
    fn the_hosts_memory_is_read() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:  2048 kB\n"), Some(2 << 20));
        assert!(of_this_process() > 0);
    }
}
