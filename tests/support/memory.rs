//! The memory of a host's processes, from /proc.

pub struct Memory {
    processes: Vec<u32>,
}

impl Memory {
    /// The memory of the process with this id and of all processes below it.
    pub fn of(process: u32) -> Self {
        Self { processes: descendants(process) }
    }

    /// Resets the recorded peak: a host needs more memory to compile a component than to serve.
    pub fn reset_peak(&self) {
        for process in &self.processes {
            std::fs::write(format!("/proc/{process}/clear_refs"), "5").expect("a process of ours");
        }
    }

    pub fn now_bytes(&self) -> u64 {
        self.sum("VmRSS:")
    }

    pub fn peak_bytes(&self) -> u64 {
        self.sum("VmHWM:")
    }

    fn sum(&self, field: &str) -> u64 {
        self.processes
            .iter()
            .map(|process| {
                let status = std::fs::read_to_string(format!("/proc/{process}/status"));
                let status = status.expect("the host still runs");
                let line = status.lines().find(|line| line.starts_with(field));
                let mut words = line.expect("a field of memory").split_whitespace();
                let kibibytes: u64 = words.nth(1).expect("a number").parse().expect("a number");
                kibibytes * 1024
            })
            .sum()
    }
}

fn descendants(process: u32) -> Vec<u32> {
    let children = format!("/proc/{process}/task/{process}/children");
    let children = std::fs::read_to_string(children).unwrap_or_default();
    let below = children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(descendants);
    std::iter::once(process).chain(below).collect()
}
