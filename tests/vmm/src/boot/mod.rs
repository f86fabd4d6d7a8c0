//! A guest from a file: one vCPU, memory from address 0 on, and a serial console.
//!
//! | file | idea |
//! |---|---|
//! | `image` | kernels, and where they begin |
//! | `memory` | the guest's memory, for the loaders |
//! | `state` | the registers of a CPU that begins |
mod image;
mod memory;
mod state;

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;

use vm_superio::{Serial, Trigger};

use crate::kvm::{Exit, Node};

/// What to boot.
#[derive(Debug)]
pub struct Guest {
    /// A bzImage, an ELF file, or code for address 0x1000 in real mode.
    pub kernel: PathBuf,
    /// A disc in memory.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub line: String,
    /// Bytes of memory, in whole pages; at most [`MOST`].
    pub memory: usize,
}

/// Bytes of memory that a guest can have: what is above is for devices.
pub const MOST: usize = 3 << 30;

/// The first port of the serial line.
const SERIAL: u16 = 0x3f8;
/// How many it has.
const PORTS: u16 = 8;
/// Where a guest asks for a reset: the keyboard controller's command port, and PCI's.
const RESETS: [u16; 2] = [0x64, 0xcf9];

/// The serial line interrupts nobody: there is no interrupt controller.
struct Silent;

impl Trigger for Silent {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Remembers what became of the guest's text: the serial line's model does not tell.
struct Console<W> {
    out: W,
    failed: Option<io::Error>,
}

impl<W: Write> Write for Console<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.out.write_all(bytes).and_then(|()| self.out.flush()) {
            self.failed = Some(error);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Guest {
    /// Runs the guest until it ends by itself, and says how. What it writes to the serial line goes
    /// to `console`.
    ///
    /// # Errors
    ///
    /// In words: the file is none that can be booted, or the console's, or the system's.
    pub fn run(&self, node: &Node, console: impl Write) -> Result<Exit, Box<dyn Error>> {
        if self.memory > MOST {
            return Err("a guest has at most 3 GiB of memory".into());
        }
        let (memory, here) = memory::make(self.memory)?;
        let start = image::load(self, &memory)?;
        let vm = node.vm()?;
        vm.set_range(0, 0, 0, (here, self.memory as u64))?;
        let vcpu = vm.vcpu(node, 0, 0)?;
        start.set(&vcpu)?;
        let mut serial = Serial::new(
            Silent,
            Console {
                out: console,
                failed: None,
            },
        );
        loop {
            match vcpu.run()? {
                Exit::Port {
                    port,
                    size,
                    input,
                    count,
                    data,
                } => {
                    for at in (0..count).map(|index| data + index * size) {
                        let mut bytes = [0xff; 4];
                        let bytes = &mut bytes[..size.min(4)];
                        let line = port.checked_sub(SERIAL).filter(|&line| line < PORTS);
                        if input {
                            if let Some(line) = line {
                                bytes[0] = serial.read(line as u8);
                            }
                            vcpu.area().write(at, bytes);
                        } else {
                            vcpu.area().read(at, bytes);
                            match line {
                                Some(line) => serial.write(line as u8, bytes[0])?,
                                None if RESETS.contains(&port) => return Ok(Exit::Shutdown),
                                None => {}
                            }
                        }
                    }
                    if let Some(error) = serial.writer_mut().failed.take() {
                        return Err(error.into());
                    }
                }
                // There is nothing.
                Exit::Device {
                    size, write, data, ..
                } => {
                    if !write {
                        vcpu.area().write(data, &[0xff; 8][..size.min(8)]);
                    }
                }
                Exit::Window | Exit::TaskPriority | Exit::Interrupted => {}
                // Without an interrupt controller nothing ever wakes it.
                end => return Ok(end),
            }
        }
    }
}
