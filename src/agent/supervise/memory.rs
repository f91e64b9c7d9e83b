//! What the kernel says of the memory of the container: how often it ended a process for want of it.

/// The control group of the container itself, as containers see it: of version 2 and of version 1 (`Documentation/admin-guide/cgroup-v2.rst` and
/// `cgroup-v1/memory.rst` of the kernel).
const FILES: [&str; 2] = [
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory/memory.oom_control",
];

/// How many processes the kernel has ended since the container's memory was at its limit; 0 where it does not say.
pub(super) fn kills() -> u64 {
    let texts = FILES.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    texts.into_iter().find_map(|text| kills_in(&text)).unwrap_or_default()
}

fn kills_in(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let two = "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n";
        let one = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!([two, one, "low 0\n"].map(kills_in), [Some(1), Some(3), None]);
    }
}
