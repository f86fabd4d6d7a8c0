//! How a simulated machine is made.

/// What a machine has and what it checks.
#[derive(Clone, Debug)]
pub struct MockConfig {
    pub(crate) cpus: u32,
    pub(crate) tables: usize,
    pub(crate) checking: bool,
}

impl Default for MockConfig {
    fn default() -> Self {
        let tables = if cfg!(loom) {
            8
        } else if cfg!(miri) {
            512
        } else {
            4096
        };
        Self {
            cpus: 4,
            tables,
            checking: true,
        }
    }
}

impl MockConfig {
    /// Four CPUs, all checks on, and as many page tables as the way of running
    /// suggests: 4096, under Miri 512, under loom 8.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of CPUs, all of them online.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// How many page-table pages exist.
    pub fn tables(mut self, tables: usize) -> Self {
        self.tables = tables;
        self
    }

    /// Whether rules are enforced and freed tables poisoned. Benchmarks, which
    /// count instructions, turn it off.
    pub fn checking(mut self, checking: bool) -> Self {
        self.checking = checking;
        self
    }
}
